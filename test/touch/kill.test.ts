/** Touch across `kill -9`: a cursor is a position in the log, so it is good on the next server as it was on the last. */

import { expect, test } from "bun:test";
import { formatKey, KeyWriter } from "../../src/protocol/touch-keys.ts";
import { MAX_REPLAY_RECORDS } from "../../src/features/touch/limits.ts";
import { makeTemplate } from "../../src/features/touch/template.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { until } from "../support/wait.ts";
import { touchAt, touchStream } from "./touch-client.ts";

const server = temporaryServers();
const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));
const made = makeTemplate({ entity: "todo", fields: [{ name: "userId", encoding: "string" }] }, writer);
const template = made ?? expect.unreachable("a valid template");
const key = (user: string): string => formatKey(writer.watch(template.idWords, [user]));
const insert = (userId: string) => ({ type: "todo", key: "1", value: { userId }, headers: { operation: "insert" } });
const wait = (user: string, cursor: unknown) => ({
  keys: [key(user)],
  cursor,
  timeoutMs: 0,
  templateIdsUsed: [template.id],
});

test("a client that waited across a kill is answered from its old cursor: touched if and only if it was", async () => {
  const first = await server();
  const touch = await touchStream(first, "s", [template]);
  await touch.append(insert("x"));
  const { cursor } = await touch.meta();
  const waiting = touch.wait({ ...wait("a", cursor), timeoutMs: 60_000 }).then(
    () => "answered",
    () => "cut off",
  );
  await until("it is parked", async () => (await touch.meta())["activeWaiters"] === 1);
  await first.kill("SIGKILL");
  expect(await waiting).toBe("cut off");

  const second = await server({ dataDir: first.dataDir });
  const after = touchAt(`${second.url}/v1/stream/s`);
  expect(await after.wait(wait("a", cursor))).toMatchObject({ touched: false, effectiveWaitKind: "fineKey" });
  await after.append(insert("b"));
  expect(await after.wait(wait("a", cursor))).toMatchObject({ touched: false });
  await after.append(insert("a"));
  await second.kill("SIGKILL");

  // Acknowledged while nobody waited, and never seen by the server that answers.
  const third = await server({ dataDir: first.dataDir });
  const last = touchAt(`${third.url}/v1/stream/s`);
  expect(await last.wait(wait("a", cursor))).toMatchObject({ touched: true });
  expect(await last.wait(wait("b", cursor))).toMatchObject({ touched: true });
  expect(await last.wait(wait("c", cursor))).toMatchObject({ touched: false });
  const { replays } = await last.meta();
  // What one wait has read again is known to the others.
  expect(await last.wait(wait("d", cursor))).toMatchObject({ touched: false });
  expect(await last.meta()).toMatchObject({ replays });
}, 60_000);

test("within the replay bound a cursor is exact, beyond it stale", async () => {
  const first = await server();
  const touch = await touchStream(first, "long", [template]);
  const { cursor } = await touch.meta();
  const many = Array.from({ length: 1000 }, () => insert("b"));
  for (let sent = 0; sent < MAX_REPLAY_RECORDS; sent += many.length) await touch.append(...many);
  await first.kill("SIGKILL");
  const second = await server({ dataDir: first.dataDir });
  const after = touchAt(`${second.url}/v1/stream/long`);
  expect(await after.wait(wait("a", cursor))).toMatchObject({ touched: false });
  expect(await after.wait(wait("b", cursor))).toMatchObject({ touched: true });
  await second.kill("SIGKILL");
  const third = await server({ dataDir: first.dataDir });
  const last = touchAt(`${third.url}/v1/stream/long`);
  await last.append(insert("b"));
  const answer = await last.wait(wait("a", cursor));
  expect(answer).toMatchObject({ stale: true, error: { code: "stale" } });
  expect(answer["cursor"]).toBe((await last.meta())["cursor"]);
  expect(await last.wait(wait("a", answer["cursor"]))).toMatchObject({ touched: false });
}, 60_000);
