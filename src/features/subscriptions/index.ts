/** Subscriptions that wake workers: webhooks and pull-wake, durable (PROTOCOL §6, §7; docs/subscriptions.md). */

import type { Engine } from "../../engine/engine.ts";
import { INTERNAL } from "../../protocol/stream.ts";
import { subscriptionRoutes } from "./routes.ts";
import { type KeyStore, SigningKeys } from "./signing-keys.ts";
import { Subscriptions } from "./subscriptions.ts";
import { WakeTokens } from "./wake-tokens.ts";
import { WebhookClient } from "./webhook-client.ts";
import { WebhookDelivery } from "./webhook-delivery.ts";

export interface SubscriptionsOptions {
  readonly engine: Engine;
  /** Webhooks to this machine are allowed: for development. */
  readonly allowLocal: boolean;
  /** An id that nobody can guess, and so many random bytes. */
  readonly newId: () => string;
  readonly randomBytes: (count: number) => Uint8Array;
  readonly onFault: (operation: string, cause: unknown) => void;
}

const KEYS = "__ds/keys";
const SECRET = "secret";
const KEY = "key/";
const SECRET_BYTES = 32;

/** Finds what the log has of them. Awaited before the first request. */
export async function createSubscriptions(options: SubscriptionsOptions) {
  const { engine, allowLocal, newId, randomBytes, onFault } = options;
  const { clock, deadlines } = engine;
  const home = await keyHome(engine);
  const attributes = await engine.attributes(home);
  let secret = attributes.get(SECRET);
  if (secret === undefined) {
    secret = randomBytes(SECRET_BYTES).toBase64();
    await engine.annotate(home, new Map([[SECRET, secret]]));
  }
  const tokens = new WakeTokens(Uint8Array.fromBase64(secret));
  const keys = new SigningKeys(keyStore(engine, home));
  await keys.load();
  const client = new WebhookClient({ deadlines, allowLocal });
  const delivery = new WebhookDelivery({ client, keys, tokens, clock });
  const subscriptions = new Subscriptions({
    engine,
    tokens,
    newId: () => `w_${newId()}`,
    deliver: (...wake) => delivery.deliver(...wake),
    onFault,
  });
  await subscriptions.load();
  return { subscriptions, reserved: subscriptionRoutes({ subscriptions, keys, allowLocal }) };
}

/** The internal stream that holds the secrets; nobody can read attributes from outside. */
async function keyHome(engine: Engine): Promise<number> {
  let head = await engine.find(KEYS, "look");
  if ("kind" in head) {
    await engine.createOwn(KEYS);
    head = await engine.find(KEYS, "look");
  }
  if ("kind" in head) throw new Error(`${KEYS} cannot be made: ${head.kind}`);
  const { id, profile } = head;
  if (profile?.kind !== INTERNAL) await engine.setProfile(KEYS, id, { kind: INTERNAL, config: {} });
  return id;
}

function keyStore(engine: Engine, home: number): KeyStore {
  const write = async (kid: string, key: string | null): Promise<void> => {
    const outcome = await engine.annotate(home, new Map([[KEY + kid, key]]));
    if (outcome.kind === "rejected") throw new Error(`a signing key was not saved: ${outcome.rejection.kind}`);
  };
  return {
    load: async () =>
      [...(await engine.attributes(home))].flatMap(([key, text]) => (key.startsWith(KEY) ? [text] : [])),
    add: (kid, key) => write(kid, key),
    remove: (kid) => write(kid, null),
  };
}
