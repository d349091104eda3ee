/** A server that is killed: its live views come back as the log has them, from rows that were kept, and without them. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const start = temporaryServers();
const ROWS = 2_000;
const NAME = "views/restart";

interface Shown {
  readonly key?: string;
  readonly value?: { readonly n: number };
}

async function keysShown(server: TestServer): Promise<string[]> {
  const answer = await call("GET", `${streamAt(server, NAME).url}/_view?limit=10000`);
  expect(answer.status).toBe(200);
  return ((await answer.json()) as Shown[]).flatMap(({ key, value }) =>
    key === undefined ? [] : [`${key}=${value?.n}`],
  );
}

async function bytesRead(server: TestServer): Promise<number> {
  const text = await (await call("GET", `${server.url}/metrics`)).text();
  return Number(/^streams_read_bytes_total (\S+)$/m.exec(text)?.[1]);
}

async function upsert(server: TestServer, from: number, to: number, n: number): Promise<void> {
  const records = Array.from({ length: to - from }, (_, index) => {
    const key = String(from + index).padStart(6, "0");
    return { type: "t", key, value: { n, text: "x".repeat(100) }, headers: { operation: "upsert" } };
  });
  expect((await streamAt(server, NAME).post(JSON.stringify(records))).status).toBe(204);
}

function keptRows(server: TestServer): number {
  const db = new Database(join(server.dataDir, "derived.db"), { readonly: true });
  const found = db.query<{ seq: number }, []>("SELECT seq FROM checkpoints").get();
  db.close();
  return found?.seq ?? 0;
}

test("killed and started again: the same rows, and only the tail is read", async () => {
  const first = await start();
  const stream = await newStream(first, NAME);
  const profile = { kind: "state-protocol" };
  await call("POST", `${stream.url}/_profile`, { body: JSON.stringify({ profile }) });
  for (let n = 0; n < 3; n++) await upsert(first, 0, ROWS, n);
  await keysShown(first);
  await until("the rows are kept", () => keptRows(first) === 3 * ROWS, 10_000);
  await upsert(first, 0, 10, 9);
  const shown = await keysShown(first);
  expect(shown.length).toBe(ROWS);
  await first.kill("SIGKILL");

  const second = await start({ dataDir: first.dataDir });
  const before = await bytesRead(second);
  expect(await keysShown(second)).toEqual(shown);
  expect((await bytesRead(second)) - before).toBeLessThan(10_000);
  await second.kill("SIGKILL");

  writeFileSync(join(first.dataDir, "derived.db"), "not a database at all");
  const third = await start({ dataDir: first.dataDir });
  expect(await keysShown(third)).toEqual(shown);
  expect(await third.kill("SIGTERM")).toBe(0);
  expect(existsSync(join(first.dataDir, "derived.db"))).toBe(true);

  const fourth = await start({ dataDir: first.dataDir });
  await streamAt(fourth, NAME).delete();
  await newStream(fourth, NAME);
  await call("POST", `${streamAt(fourth, NAME).url}/_profile`, { body: JSON.stringify({ profile }) });
  await upsert(fourth, 0, 3, 1);
  expect((await keysShown(fourth)).length).toBe(3);
}, 60_000);

test("rows whose keys differ in what is no text are kept apart", async () => {
  const name = "views/surrogates";
  const first = await start();
  const stream = await newStream(first, name);
  await call("POST", `${stream.url}/_profile`, { body: JSON.stringify({ profile: { kind: "state-protocol" } }) });
  const keys = ["k\\ud800", "k\\ud801", "z\\u0000q", "plain"];
  const rows = keys.map((key, n) => `{"type":"t","key":"${key}","value":{"n":${n}},"headers":{"operation":"insert"}}`);
  expect((await stream.post(`[${rows.join(",")}]`)).status).toBe(204);
  const shown = async (server: TestServer): Promise<number[]> => {
    const answer = (await (await call("GET", `${streamAt(server, name).url}/_view`)).json()) as Shown[];
    return answer
      .flatMap(({ value }) => (value === undefined ? [] : [value.n]))
      .toSorted((left, right) => left - right);
  };
  expect(await shown(first)).toEqual([0, 1, 2, 3]);
  await until("the rows are kept", () => keptRows(first) === keys.length, 10_000);
  expect(await first.kill("SIGTERM")).toBe(0);
  const second = await start({ dataDir: first.dataDir });
  expect(await shown(second)).toEqual([0, 1, 2, 3]);
}, 60_000);
