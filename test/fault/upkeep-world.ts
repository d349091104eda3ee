/**
 * A data directory with everything in it that doctor and backup have to know: sealed and unsealed records, JSON and bytes, producers, a
 * chain of forks, soft- and hard-deleted streams, a trimmed one, attributes, records in files of `large/`. Also the digest of a directory's files.
 */

import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join, relative } from "node:path";
import type { TestServer } from "../support/server.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";

/** Small enough for batches, where most damage is planted. */
const RECORD_BYTES = 60_000;
const RECORDS = 208;
/** Each lies in a file of its own. */
const LARGE_BYTES = 300_000;
const LARGE_RECORDS = 4;
const UNSEALED_TARGET_BYTES = 8 * 1024 * 1024;

/** Noise, so that the stored bytes are as many as the sent ones. */
function noise(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}

/** Fills a fresh server, so that all of it is sealed but what came last. */
export async function fillServer(server: TestServer): Promise<void> {
  const json = await newStream(server, "json/orders");
  for (let n = 0; n < 20; n++) {
    const producer = { "producer-id": `p${n % 3}`, "producer-epoch": "0", "producer-seq": String(Math.floor(n / 3)) };
    await succeed(json.post(JSON.stringify([{ n }, { n, again: true }]), producer));
  }
  const source = await newStream(server, "forks/source");
  await succeed(source.post("[1,2,3,4]"));
  await forkOf(server, "forks/child", source.path, await source.tail());
  await succeed(streamAt(server, "forks/child").post("[5,6]"));
  await forkOf(server, "forks/grandchild", "/v1/stream/forks/child", await streamAt(server, "forks/child").tail());
  await succeed(source.delete());
  await newStream(server, "trimmed", "application/octet-stream", { headers: { "stream-retention": "max-bytes=1MiB" } });
  const gone = await newStream(server, "gone");
  await succeed(gone.post("[1,2,3]"));
  const large = await newStream(server, "bytes/large", "application/octet-stream");
  for (let n = 0; n < LARGE_RECORDS; n++) await succeed(large.post(noise(LARGE_BYTES)));
  const bytes = await newStream(server, "bytes/noise", "application/octet-stream");
  for (let n = 0; n < RECORDS; n++) {
    const to = n % 4 === 3 ? streamAt(server, "trimmed", "application/octet-stream") : bytes;
    await until("the append is taken", async () => (await to.post(noise(RECORD_BYTES))).status === 204);
  }
  await succeed(gone.delete());
  await until("the first pass of the sealer is over", () => isSealed(server), 20_000);
  // What comes now stays in the commits.
  for (let n = 20; n < 40; n++) await succeed(json.post(JSON.stringify({ n })));
  await succeed(streamAt(server, "forks/grandchild").post("[7]"));
  await succeed(large.post(noise(LARGE_BYTES)));
}

async function isSealed(server: TestServer): Promise<boolean> {
  const health = (await (await call("GET", `${server.url}/health`)).json()) as { storage: { unsealedBytes: number } };
  const metrics = await (await call("GET", `${server.url}/metrics`)).text();
  const passes = Number(/^streams_seal_seconds_count(?:\{[^}]*\})? (\d+)/m.exec(metrics)?.[1] ?? 0);
  return passes > 0 && health.storage.unsealedBytes < UNSEALED_TARGET_BYTES;
}

async function forkOf(server: TestServer, name: string, source: string, offset: string): Promise<void> {
  const headers = { "stream-forked-from": source, "stream-fork-offset": offset };
  await succeed(call("PUT", `${server.url}/v1/stream/${name}`, { headers }));
}

async function succeed(answer: Promise<Response>): Promise<void> {
  const response = await answer;
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
}

/** Content of every file by name, as a digest. SQLite's `-shm` files are scratch: only that they are there counts. */
export async function digestOf(directory: string): Promise<Record<string, string>> {
  const digests: Record<string, string> = {};
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  for (const { name, parentPath } of entries.filter((entry) => entry.isFile())) {
    const path = join(parentPath, name);
    const content = name.endsWith("-shm") ? "scratch" : await readFile(path);
    digests[relative(directory, path)] = createHash("sha256").update(content).digest("hex");
  }
  return digests;
}

/** Copies in another process: SQLite's locks die with any descriptor closed in ours. */
export async function copyDirectory(from: string, to: string): Promise<string> {
  const copied = Bun.spawn(["cp", "-a", from, to]);
  if ((await copied.exited) !== 0) throw new Error(`cannot copy ${from}`);
  return to;
}
