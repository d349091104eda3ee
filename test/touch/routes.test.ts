/** The touch routes over HTTP: fields, limits, errors, and what a client is told when things change under it. */

import { expect, test } from "bun:test";
import { formatKey, keyIdOf, KeyWriter } from "../../src/protocol/touch-keys.ts";
import { makeTemplate, type Template } from "../../src/features/touch/template.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { call, errorOf, newStream } from "../support/streams.ts";
import { rejection, until, within } from "../support/wait.ts";
import { touchAt, touchStream } from "./touch-client.ts";

const server = sharedServer();
const temporary = temporaryServers();
const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));

function template(entity: string, ...names: readonly string[]): Template {
  const made = makeTemplate({ entity, fields: names.map((name) => ({ name, encoding: "string" })) }, writer);
  return made ?? expect.unreachable("a valid template");
}

const byUser = template("todo", "userId");
const watch = (user: string): bigint => writer.watch(byUser.idWords, [user]);
const key = (user: string): string => formatKey(watch(user));
const insert = (id: string, userId: string, type = "todo") => ({
  type,
  key: id,
  value: { id, userId },
  headers: { operation: "insert" },
});
const used = { templateIdsUsed: [byUser.id] };
let turn = 0;
const fresh = (templates: readonly Template[] = [byUser], settings = {}) =>
  touchStream(server, `touch-${turn++}`, templates, settings);

test("a change wakes the wait it concerns, and the cursor it gives goes on from there", async () => {
  const touch = await fresh();
  const waiting = touch.wait({ keys: [key("a")], cursor: "now", ...used });
  await until("it is parked", async () => (await touch.meta())["activeWaiters"] === 1);
  await touch.append(insert("1", "b"));
  await touch.append(insert("2", "a"));
  const answer = await within("the wake", waiting);
  expect(answer).toMatchObject({ touched: true, effectiveWaitKind: "fineKey", bucketMaxSourceOffsetSeq: "1" });
  expect(answer["cursor"]).toMatch(/^\d+:2$/);
  expect(answer["flushAtMs"]).toBeNumber();
  expect(answer["bucketStartMs"]).toBeNumber();
  const next = await touch.wait({ keys: [key("a")], cursor: answer["cursor"], timeoutMs: 0, ...used });
  expect(next).toMatchObject({ touched: false, cursor: answer["cursor"] });
});

test("what happened between a wake and the next wait is not missed", async () => {
  const touch = await fresh();
  const { cursor } = await touch.meta();
  await touch.append(insert("1", "a"));
  expect(await touch.wait({ keys: [key("a")], cursor, timeoutMs: 0, ...used })).toMatchObject({ touched: true });
  expect(await touch.wait({ keys: [key("b")], cursor, timeoutMs: 0, ...used })).toMatchObject({ touched: false });
});

test("a wait that nothing touches ends in time, with a cursor as far as it looked", async () => {
  const touch = await fresh();
  await touch.append(insert("1", "b"));
  const startMs = performance.now();
  const answer = await touch.wait({ keys: [key("a")], cursor: "now", timeoutMs: 300, ...used });
  expect(performance.now() - startMs).toBeGreaterThanOrEqual(295);
  expect(answer).toMatchObject({ touched: false, bucketMaxSourceOffsetSeq: "0" });
});

test("table keys, template keys, key ids and keys in any writing are honoured", async () => {
  const touch = await fresh([byUser, template("note", "userId")]);
  const { cursor } = await touch.meta();
  await touch.append(insert("1", "a"));
  const touched = async (body: object): Promise<unknown> =>
    (await touch.wait({ cursor, timeoutMs: 0, ...body }))["touched"];
  expect(await touched({ keys: [formatKey(writer.table("todo"))] })).toBe(true);
  expect(await touched({ keys: [formatKey(writer.table("note"))] })).toBe(false);
  expect(await touched({ keys: [formatKey(byUser.key)] })).toBe(true);
  expect(await touched({ keys: [formatKey(template("note", "userId").key)] })).toBe(false);
  expect(await touched({ keyIds: [keyIdOf(watch("a"))], ...used })).toBe(true);
  expect(await touched({ keyIds: [keyIdOf(watch("b"))], ...used })).toBe(false);
  expect(await touched({ keyIds: [keyIdOf(byUser.key)], ...used })).toBe(true);
  expect(await touched({ keys: [key("a").toUpperCase()], ...used })).toBe(true);
  expect(await touched({ keys: ["todo:a"], ...used })).toBe(false);
  expect(await touched({ keys: [key("b"), key("a")], keyIds: [1, 2], ...used })).toBe(true);
  expect(await touched({ keys: [key("a")], exact: true, ...used })).toBe(true);
});

test("interestMode coarse waits for the tables of the templates it names", async () => {
  const touch = await fresh([byUser, template("note", "userId")]);
  const { cursor } = await touch.meta();
  await touch.append(insert("1", "a", "note"));
  const coarse = { cursor, timeoutMs: 0, interestMode: "coarse" };
  expect(await touch.wait({ ...coarse, ...used })).toMatchObject({ touched: false, effectiveWaitKind: "tableKey" });
  await touch.append(insert("1", "b"));
  expect(await touch.wait({ ...coarse, ...used, keys: [key("a")] })).toMatchObject({ touched: true });
});

test("templates can be declared by a wait, for what is already in the log, too", async () => {
  const touch = await fresh([]);
  const { cursor } = await touch.meta();
  await touch.append(insert("1", "a"));
  const declared = { declareTemplates: [{ entity: "todo", fields: byUser.fields }], timeoutMs: 0, cursor };
  expect(await touch.wait({ keys: [key("b")], ...declared })).toMatchObject({
    touched: false,
    effectiveWaitKind: "fineKey",
  });
  expect(await touch.wait({ keys: [key("a")], ...declared })).toMatchObject({ touched: true });
  expect(await touch.meta()).toMatchObject({ activeTemplates: 1 });
  const bad = await touch.wait({ ...declared, keys: [key("b")], declareTemplates: [{ entity: "todo", fields: [] }] });
  expect(bad).toMatchObject({
    touched: true,
    effectiveWaitKind: "tableKey",
    denied: [{ templateId: "0000000000000000", reason: "invalid" }],
  });
});

test("what nothing known explains is woken by every change, and says so", async () => {
  const touch = await fresh([]);
  const { cursor } = await touch.meta();
  await touch.append(insert("1", "b"));
  const unnamed = { keys: [key("a")], cursor, timeoutMs: 0 };
  expect(await touch.wait(unnamed)).toMatchObject({ touched: true, effectiveWaitKind: "tableKey" });
  expect(await touch.wait({ ...unnamed, ...used })).toMatchObject({ touched: true, effectiveWaitKind: "tableKey" });
});

test("a retired template that a client still names wakes it by its table", async () => {
  const touch = await fresh([byUser], { templates: { maxActiveTemplatesPerEntity: 1 } });
  await touch.ask("POST", "touch/templates/activate", {
    templates: [{ entity: "todo", fields: [{ name: "status", encoding: "string" }] }],
  });
  const { cursor } = await touch.meta();
  await touch.append(insert("1", "a", "note"));
  const asked = { keys: [key("a")], cursor, timeoutMs: 0, ...used };
  expect(await touch.wait(asked)).toMatchObject({ touched: false, effectiveWaitKind: "tableKey" });
  await touch.append(insert("1", "b"));
  expect(await touch.wait(asked)).toMatchObject({ touched: true });
});

test("reset wakes everyone, other control records nobody", async () => {
  const touch = await fresh();
  const waiting = touch.wait({ keys: [key("a")], cursor: "now", ...used });
  await until("it is parked", async () => (await touch.meta())["activeWaiters"] === 1);
  await touch.append({ headers: { control: "snapshot-start" } }, { headers: { control: "snapshot-end" } });
  await touch.settled();
  expect(await touch.meta()).toMatchObject({ activeWaiters: 1 });
  await touch.append({ headers: { control: "reset" } });
  expect(await within("the wake", waiting)).toMatchObject({ touched: true });
});

test("a cursor of another stream, past the tail, or of a former incarnation is stale", async () => {
  const touch = await fresh();
  const { cursor } = await touch.meta();
  const [epoch] = String(cursor).split(":");
  for (const other of [`${Number(epoch) + 1000}:0`, `${epoch}:99`]) {
    const answer = await touch.wait({ keys: [key("a")], cursor: other, ...used });
    expect(answer).toMatchObject({ stale: true, cursor, epoch, generation: 0, error: { code: "stale" } });
  }
  const waiting = touch.wait({ keys: [key("a")], cursor, ...used });
  await until("it is parked", async () => (await touch.meta())["activeWaiters"] === 1);
  await call("DELETE", touch.url);
  expect((await rejection(waiting)).message).toContain("404");
  await touchStream(server, touch.url.slice(touch.url.lastIndexOf("/") + 1), [byUser]);
  const again = await touch.wait({ keys: [key("a")], cursor, ...used });
  expect(again).toMatchObject({ stale: true });
  expect(again["epoch"]).not.toBe(epoch);
});

test("when the profile changes under a wait, it is stale, or touch is off", async () => {
  const touch = await fresh();
  const parked = async () => {
    const waiting = touch.wait({ keys: [key("a")], cursor: "now", ...used });
    await until("it is parked", async () => (await touch.meta())["activeWaiters"] === 1);
    return waiting;
  };
  const first = parked();
  await until("it is parked", async () => (await touch.meta())["activeWaiters"] === 1);
  const skip = { enabled: true, onMissingBefore: "skipBefore" };
  await touch.ask("POST", "_profile", { profile: { kind: "state-protocol", touch: skip } });
  expect(await within("the answer", first)).toMatchObject({ stale: true });
  const second = parked();
  await until("it is parked", async () => (await touch.meta())["activeWaiters"] === 1);
  await touch.ask("POST", "_profile", { profile: { kind: "state-protocol", touch: skip } });
  await touch.ask("POST", "_profile", { profile: { kind: "generic" } });
  expect((await rejection(second)).message).toContain("404");
});

test("without touch, or without the stream, every route is 404", async () => {
  const stream = await newStream(server, "no-touch");
  for (const url of [stream.url, `${server.url}/v1/stream/not-there`]) {
    const touch = touchAt(url);
    const answers = [
      await touch.ask("GET", "touch/meta"),
      await touch.ask("POST", "touch/wait", { keys: [key("a")], cursor: "now" }),
      await touch.ask("POST", "touch/templates/activate", { templates: [{ entity: "t", fields: byUser.fields }] }),
    ];
    expect(answers.map(({ status }) => status)).toEqual([404, 404, 404]);
    const codes = await Promise.all(answers.map(async (answer) => (await errorOf(answer)).code));
    expect(new Set(codes)).toEqual(new Set([url === stream.url ? "touch-off" : "not-found"]));
  }
  expect((await touchAt(stream.url).ask("GET", "touch/wait")).status).toBe(405);
  expect((await touchAt(stream.url).ask("POST", "touch/meta")).status).toBe(405);
});

const keys = (count: number): string[] => Array.from({ length: count }, (_, index) => formatKey(BigInt(index)));

test.each<[string, unknown]>([
  ["no body", undefined],
  ["no object", []],
  ["no cursor", { keys: keys(1) }],
  ["a cursor that is none", { keys: keys(1), cursor: "1-2" }],
  ["a cursor that is no string", { keys: keys(1), cursor: 7 }],
  ["no keys", { cursor: "now" }],
  ["coarse without anything named", { cursor: "now", interestMode: "coarse" }],
  ["too many keys", { keys: keys(1025), cursor: "now" }],
  ["too many ids", { keyIds: Array.from({ length: 1025 }, () => 1), cursor: "now" }],
  ["an id that is no uint32", { keyIds: [2 ** 32], cursor: "now" }],
  ["a negative id", { keyIds: [-1], cursor: "now" }],
  ["a key that is no string", { keys: [1], cursor: "now" }],
  ["too long a wait", { keys: keys(1), cursor: "now", timeoutMs: 120_001 }],
  ["a negative wait", { keys: keys(1), cursor: "now", timeoutMs: -1 }],
  ["another mode", { keys: keys(1), cursor: "now", interestMode: "all" }],
  ["exact without keys", { keyIds: [1], cursor: "now", exact: true }],
  ["exact with many keys", { keys: keys(17), cursor: "now", exact: true }],
  ["exact with a key that is not hex", { keys: ["todo"], cursor: "now", exact: true }],
  ["exact and coarse", { keys: keys(1), cursor: "now", exact: true, interestMode: "coarse" }],
  ["a template id that is none", { keys: keys(1), cursor: "now", templateIdsUsed: ["x"] }],
  ["an unknown field", { keys: keys(1), cursor: "now", timeout: 1 }],
  ["a time to live of nothing", { keys: keys(1), cursor: "now", inactivityTtlMs: 0 }],
])("a wait with %s is a 400", async (_, body) => {
  const touch = touchAt((await shared()).url);
  const response = await touch.ask("POST", "touch/wait", body);
  expect(response.status).toBe(400);
  expect((await errorOf(response)).code).toBe("body-invalid");
});

test.each(["settle=now", "timeoutMs=120001", "timeoutMs=-1", "timeoutMs=x", "settle=flush&settle=flush"])(
  "meta with %s is a 400",
  async (query) => {
    expect((await (await shared()).ask("GET", `touch/meta?${query}`)).status).toBe(400);
  },
);

let one: ReturnType<typeof fresh> | undefined;
const shared = () => (one ??= fresh());

test("activation answers per template; too large or empty requests are refused", async () => {
  const touch = await fresh([]);
  const ask = (templates: unknown) => touch.ask("POST", "touch/templates/activate", { templates });
  const specs = [
    { entity: "todo", fields: byUser.fields },
    { entity: "", fields: byUser.fields },
    { entity: "todo", fields: Array.from({ length: 4 }, (_, index) => ({ name: `f${index}`, encoding: "string" })) },
    { entity: "todo", fields: [{ name: "a", encoding: "float" }] },
    7,
  ];
  const answer = (await (await ask(specs)).json()) as Record<string, unknown>;
  expect(answer).toEqual({
    activated: [{ templateId: byUser.id, state: "active", activeFromTouchOffset: expect.stringMatching(/^\d+:0$/) }],
    denied: Array.from({ length: 4 }, () => ({ templateId: "0000000000000000", reason: "invalid" })),
    limits: { maxActiveTemplatesPerStream: 2048, maxActiveTemplatesPerEntity: 256 },
  });
  expect((await ask([])).status).toBe(400);
  expect((await ask(Array.from({ length: 257 }, () => specs[0]))).status).toBe(400);
  expect((await touch.ask("POST", "touch/templates/activate", { templates: specs, more: 1 })).status).toBe(400);
  const huge = await call("POST", `${touch.url}/touch/wait`, { body: `{"keys":["${"x".repeat(600_000)}"]}` });
  expect(huge.status).toBe(413);
});

test("a change too wide to derive is coarse, and keeps nobody waiting", async () => {
  const touch = await fresh();
  const many = Array.from({ length: 120 }, (_, index) => ({
    entity: "wide",
    fields: [{ name: `f${index}`, encoding: "string" }],
  }));
  await touch.ask("POST", "_profile", {
    profile: { kind: "state-protocol", touch: { enabled: true, templates: { activationRateLimitPerMinute: 0 } } },
  });
  await touch.ask("POST", "touch/templates/activate", { templates: many });
  const value = Object.fromEntries(Array.from({ length: 20_000 }, (_, index) => [`f${index}`, "x"]));
  const startMs = performance.now();
  await touch.append({ type: "wide", key: "1", value, old_value: { f0: "y" }, headers: { operation: "update" } });
  expect(await touch.settled()).toMatchObject({ coarseChanges: 1, settled: true });
  expect(performance.now() - startMs).toBeLessThan(1_000);
});

test("an append that takes too long to parse is refused", async () => {
  const touch = await fresh();
  const value = { text: "x".repeat(1024 * 1024) };
  const body = JSON.stringify({ type: "t", key: "1", value, headers: { operation: "insert" } });
  const response = await call("POST", touch.url, { body, headers: { "content-type": "application/json" } });
  expect(response.status).toBe(413);
  expect((await errorOf(response)).code).toBe("append-too-large");
});

test("a client that hangs up leaves no wait behind", async () => {
  const touch = await fresh();
  const leaving = new AbortController();
  const waiting = touch.wait({ keys: [key("a")], cursor: "now", ...used }, leaving.signal);
  await until("it is parked", async () => (await touch.meta())["activeWaiters"] === 1);
  leaving.abort();
  expect((await rejection(waiting)).name).toBe("AbortError");
  await until("it has left", async () => (await touch.meta())["activeWaiters"] === 0);
  expect(await touch.meta()).toMatchObject({ hotFineKeysActive: 0 });
});

test("a server that stops answers its waits with a cursor to go on from, and templates outlive it", async () => {
  const first = await temporary();
  const touch = await touchStream(first, "drained", [byUser]);
  await touch.append(insert("1", "b"));
  const waiting = touch.wait({ keys: [key("a")], cursor: "now", ...used });
  await until("it is parked", async () => (await touch.meta())["activeWaiters"] === 1);
  await first.stop();
  const answer = await within("the answer", waiting);
  expect(answer).toMatchObject({ touched: false });
  const second = await temporary({ dataDir: first.dataDir });
  const again = touchAt(`${second.url}/v1/stream/drained`);
  expect(await again.meta()).toMatchObject({ activeTemplates: 1, cursor: answer["cursor"] });
  await again.append(insert("2", "a"));
  expect(await again.wait({ keys: [key("a")], cursor: answer["cursor"], timeoutMs: 0, ...used })).toMatchObject({
    touched: true,
  });
});
