/**
 * What suites about large bodies share: bodies that lie in files of `large/`, the files that are there, passes of the sealer on demand, and
 * appends that share a commit. Every test sees by the files that its bodies were large enough.
 * The log of a server is read over a connection of this process: only the server's own descriptors matter to its locks.
 */

import { Database } from "bun:sqlite";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { TestServer } from "../support/server.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";

type At = { readonly url: string };

export const BYTES_TYPE = "application/octet-stream";
export const LARGE_BYTES = 300_000;

/** Small enough to stay out of `large/`, whatever shares its commit. */
const FILLER_BYTES = 60_000;
const FILLERS = 16;
const SEAL_DEADLINE_MS = 20_000;

/** Bytes that do not compress and differ everywhere. */
export function noise(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}

export function sameBytes(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}

/** Numbers of the files in `large/`, in order. */
export function filesOf(dataDir: string): readonly number[] {
  const directory = join(dataDir, "large");
  if (!existsSync(directory)) return [];
  return (
    readdirSync(directory)
      .map(Number)
      // What an accepted loss left has another kind of name.
      .filter(Number.isSafeInteger)
      .sort((left, right) => left - right)
  );
}

export function fileAt(dataDir: string, file: number): string {
  return join(dataDir, "large", String(file));
}

/** The number of the last commit that is durable. */
export async function lastCommitOf(server: At): Promise<number> {
  const details = (await (await call("GET", `${server.url}/v1/server/_details`)).json()) as {
    storage: { durableCommit: number };
  };
  return details.storage.durableCommit;
}

/** Appends until `isOver`, so that the sealer has work: everything that was appended before is sealed and freed with it. */
export async function fillUntil(server: At, what: string, isOver: () => boolean | Promise<boolean>): Promise<void> {
  const name = `filler/${crypto.randomUUID()}`;
  const filler = await newStream(server, name, BYTES_TYPE);
  const body = noise(FILLER_BYTES);
  const once = async (): Promise<boolean> => {
    const answers = await Promise.all(Array.from({ length: FILLERS }, () => filler.post(body)));
    const refused = answers.find(({ status }) => status !== 204 && status !== 429);
    if (refused !== undefined) throw new Error(`the filler was refused: ${refused.status} ${await refused.text()}`);
    return isOver();
  };
  await until(what, once, SEAL_DEADLINE_MS);
}

/** Seals everything that was appended before. */
export async function sealAll(server: TestServer): Promise<void> {
  const last = await lastCommitOf(server);
  const select = "SELECT value FROM meta WHERE key = 'sealed_no'";
  const sealedNo = (): number =>
    lookInto(server.dataDir, (db) => db.query<{ value: number }, []>(select).get()?.value ?? 0);
  await fillUntil(server, "all is sealed", () => sealedNo() >= last);
}

/** Appends one body to each of the streams so that some share a commit; returns the bodies. Call it on a quiet server. */
export async function appendTogether(server: At, names: readonly string[]): Promise<readonly Uint8Array[]> {
  const bodies = names.map(() => noise(LARGE_BYTES));
  const appends = bodies.map((body, index) => streamAt(server, names[index] ?? "", BYTES_TYPE).post(body));
  for (const { status } of await Promise.all(appends)) if (status !== 204) throw new Error(`append: ${status}`);
  return bodies;
}

export async function bytesOf(server: At, name: string, query = "offset=-1"): Promise<Uint8Array> {
  const response = await streamAt(server, name, BYTES_TYPE).get(query);
  if (response.status !== 200) throw new Error(`GET ${name}?${query}: ${response.status} ${await response.text()}`);
  return response.bytes();
}

/** What became of a read: how many bytes came, the refusal, or that the answer broke off. */
export async function readOutcome(server: At, name: string): Promise<string> {
  try {
    const response = await streamAt(server, name, BYTES_TYPE).get("offset=-1");
    const body = await response.bytes();
    return response.status === 200 ? `${body.length} bytes` : `${response.status} ${new TextDecoder().decode(body)}`;
  } catch (cause) {
    if (!(cause instanceof Error)) throw cause;
    return `broken off: ${cause.message}`;
  }
}

/** One look at a server's log; closes what it opened. */
export function lookInto<T>(dataDir: string, look: (db: Database) => T): T {
  const db = new Database(join(dataDir, "log.db"), { readonly: true });
  try {
    return look(db);
  } finally {
    db.close();
  }
}

/** Files that batches of more than one of the streams lie in. */
export function sharedFiles(dataDir: string): readonly number[] {
  const select = "SELECT file FROM batches WHERE file IS NOT NULL GROUP BY file HAVING count(DISTINCT stream) > 1";
  return lookInto(dataDir, (db) => db.query<{ file: number }, []>(select).all()).map(({ file }) => file);
}
