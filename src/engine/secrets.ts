/**
 * What the server keeps to itself: random secrets and private keys, as attributes of an internal stream that nobody can read from
 * outside. Durable like everything that goes through the log.
 */

import { Damage } from "../protocol/faults.ts";
import { INTERNAL } from "../protocol/stream.ts";
import type { Engine } from "./engine.ts";

const HOME = "__ds/keys";
const SECRET_BYTES = 32;

/** The id of the stream that holds them; made when there is none. */
export async function secretsHome(engine: Engine): Promise<number> {
  let head = await engine.find(HOME, "look");
  if ("kind" in head) {
    await engine.createOwn(HOME);
    head = await engine.find(HOME, "look");
  }
  if ("kind" in head) throw new Error(`${HOME} cannot be made: ${head.kind}`);
  const { id, profile } = head;
  if (profile?.kind !== INTERNAL) await engine.setProfile(HOME, id, { kind: INTERNAL, config: {} });
  return id;
}

/** What is kept there. Without it nothing that was signed could be told from a forgery: damage to it ends a start. */
export async function secretsIn(engine: Engine, home: number): Promise<ReadonlyMap<string, string>> {
  try {
    return await engine.attributes(home);
  } catch (cause) {
    if (!(cause instanceof Damage)) throw cause;
    throw new Error(
      `the keys that tokens and webhooks are signed with cannot be read (${cause.message}). They are in the stream ${HOME}: ` +
        "restore the data directory from a backup",
      { cause },
    );
  }
}

/** The secret of this name, 32 bytes; made when there is none. `randomBytes`: of cryptographic quality. */
export async function secretOf(
  engine: Engine,
  name: string,
  randomBytes: (count: number) => Uint8Array,
): Promise<Uint8Array> {
  const home = await secretsHome(engine);
  const known = (await secretsIn(engine, home)).get(name);
  if (known !== undefined) return Uint8Array.fromBase64(known);
  const made = randomBytes(SECRET_BYTES);
  const outcome = await engine.annotate(home, new Map([[name, made.toBase64()]]));
  if (outcome.kind === "rejected") throw new Error(`the secret ${name} was not saved: ${outcome.rejection.kind}`);
  return made;
}
