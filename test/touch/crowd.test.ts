/**
 * Touch with ten thousand clients that really wait, over HTTP: a change wakes exactly those it concerns, at once or after the
 * longest wait there is, and clients that leave take everything with them.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { formatKey, KeyWriter } from "../../src/protocol/touch-keys.ts";
import { makeTemplate } from "../../src/features/touch/template.ts";
import { sharedServer } from "../support/shared-server.ts";
import { until } from "../support/wait.ts";
import { type TouchUnderTest, touchStream } from "./touch-client.ts";

const WAITERS = 10_000;
const LONGEST_MS = 120_000;
const server = sharedServer();
const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));
const byUser = makeTemplate({ entity: "todo", fields: [{ name: "userId", encoding: "string" }] }, writer);
const template = byUser ?? expect.unreachable("the template is valid");
const keyOf = (user: number): string => formatKey(writer.watch(template.idWords, [`u${user}`]));

let longest: Promise<{ readonly tookMs: number; readonly touched: unknown }>;
let crowd: TouchUnderTest;
const sockets: Bun.Socket[] = [];
/** Users whose wait was answered, with the answer. */
const answered = new Map<number, string>();

beforeAll(async () => {
  crowd = await touchStream(server, "crowd", [template]);
  const quiet = await touchStream(server, "quiet", [template]);
  const startMs = performance.now();
  longest = quiet
    .wait({ keys: [keyOf(0)], cursor: "now", timeoutMs: LONGEST_MS, templateIdsUsed: [template.id] })
    .then(({ touched }) => ({ tookMs: performance.now() - startMs, touched }));
}, 60_000);

afterAll(() => {
  for (const socket of sockets) socket.terminate();
});

async function waitOnSocket(user: number): Promise<void> {
  const { hostname, port, host } = new URL(server.url);
  const body = JSON.stringify({
    keys: [keyOf(user)],
    cursor: "now",
    timeoutMs: LONGEST_MS,
    templateIdsUsed: [template.id],
  });
  const head = `POST /v1/stream/crowd/touch/wait HTTP/1.1\r\nHost: ${host}\r\nContent-Length: ${body.length}\r\n\r\n`;
  const socket = await Bun.connect({
    hostname,
    port: Number(port),
    socket: { data: (_, bytes) => void answered.set(user, (answered.get(user) ?? "") + bytes.toString()) },
  });
  socket.write(head + body);
  sockets.push(socket);
}

function change(row: string, from: number | null, to: number | null) {
  const value = { id: row, userId: to === null ? null : `u${to}`, title: "t" };
  const old = { ...value, userId: from === null ? null : `u${from}` };
  return { type: "todo", key: row, value, old_value: old, headers: { operation: "update" } };
}

async function expectAnswered(...users: readonly number[]): Promise<void> {
  const wanted = users.toSorted((left, right) => left - right);
  await until(`${users.length} more waits are answered`, () => answered.size >= users.length, 10_000);
  // Whoever was woken besides has been answered by now, too.
  await crowd.settled();
  expect([...answered.keys()].sort((left, right) => left - right)).toEqual(wanted);
  for (const answer of answered.values()) expect(answer).toContain('"touched":true');
  answered.clear();
}

test(`${WAITERS} waits on keys of their own: each change wakes exactly the right ones`, async () => {
  for (let from = 0; from < WAITERS; from += 500) {
    await Promise.all(Array.from({ length: 500 }, (_, index) => waitOnSocket(from + index)));
  }
  await until("all are parked", async () => (await crowd.meta())["activeWaiters"] === WAITERS, 20_000);
  await crowd.append(change("r1", 1234, 1234));
  await expectAnswered(1234);
  await crowd.append(change("r2", 5, 77));
  await expectAnswered(5, 77);
  await crowd.append(change("r3", null, 9999), change("r4", 4321, null), change("r5", null, null));
  await expectAnswered(4321, 9999);
  const many = Array.from({ length: 1000 }, (_, index) => 2000 + index * 2);
  await crowd.append(...many.map((user) => change(`m${user}`, user, user)));
  await expectAnswered(...many);
  expect(await crowd.meta()).toMatchObject({
    activeWaiters: WAITERS - 5 - 1000,
    waitTouched: 1005,
    coarseChanges: 0,
    settled: true,
  });
}, 60_000);

test("what tells nothing of the row before wakes every wait of its template, and only these", async () => {
  const left = WAITERS - 5 - 1000;
  await crowd.append({ type: "other", key: "1", value: {}, headers: { operation: "update" } });
  await crowd.settled();
  expect(answered.size).toBe(0);
  await crowd.append({ type: "todo", key: "1", headers: { operation: "delete" } });
  await until("everybody is answered", () => answered.size === left, 20_000);
  answered.clear();
}, 60_000);

test("waits that were aborted leave nothing behind", async () => {
  for (const socket of sockets.splice(0)) socket.terminate();
  for (let user = 0; user < 500; user++) await waitOnSocket(user);
  await until("all are parked", async () => (await crowd.meta())["activeWaiters"] === 500, 20_000);
  expect(await crowd.meta()).toMatchObject({ hotTemplatesActive: 1 });
  for (const socket of sockets.splice(0)) socket.terminate();
  await until("all have left", async () => (await crowd.meta())["activeWaiters"] === 0, 20_000);
  expect(await crowd.meta()).toMatchObject({ activeWaiters: 0, hotFineKeysActive: 0, hotTemplatesActive: 0 });
  const health = (await (await fetch(`${server.url}/health`)).json()) as { liveRequests: number };
  // The longest wait is still there.
  expect(health.liveRequests).toBe(1);
}, 60_000);

test(
  "a wait of 120 s takes 120 s",
  async () => {
    const { tookMs, touched } = await longest;
    expect(touched).toBe(false);
    expect(tookMs).toBeGreaterThanOrEqual(LONGEST_MS - 50);
    expect(tookMs).toBeLessThan(LONGEST_MS + 2_000);
  },
  LONGEST_MS + 10_000,
);
