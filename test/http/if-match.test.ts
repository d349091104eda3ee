/** `If-Match: <offset>` on append: 412 when the tail is elsewhere, which makes compare-and-append. */

import { expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { errorOf, newStream, nextOffset } from "../support/streams.ts";

const server = sharedServer();

test("appends at the expected tail only, and tells the real one", async () => {
  const stream = await newStream(server, "if-match/one");
  const empty = await stream.tail();
  const first = await stream.post("1", { "if-match": empty });
  expect(first.status).toBe(204);
  const refused = await stream.post("2", { "if-match": empty });
  expect(refused.status).toBe(412);
  expect(nextOffset(refused)).toBe(nextOffset(first));
  expect((await errorOf(refused)).message).not.toBe("");
  expect((await stream.post("3", { "if-match": nextOffset(first) })).status).toBe(204);
  expect(await stream.records()).toEqual([1, 3]);
});

test("of many writers at one tail exactly one wins", async () => {
  const stream = await newStream(server, "if-match/race");
  const winners: number[] = [];
  const writer = async (id: number): Promise<void> => {
    let tail = await stream.tail();
    for (let tries = 0; tries < 2000; tries++) {
      const appended = await stream.post(String(id), { "if-match": tail });
      tail = nextOffset(appended);
      if (appended.status === 412) continue;
      expect(appended.status).toBe(204);
      winners.push(id);
      return;
    }
    throw new Error(`writer ${id} never won`);
  };
  const ids = Array.from({ length: 24 }, (_, id) => id);
  await Promise.all(ids.map(writer));
  expect(winners.toSorted((left, right) => left - right)).toEqual(ids);
  expect(await stream.records()).toHaveLength(24);
});

test("a counter that is read, incremented and appended loses no step", async () => {
  const stream = await newStream(server, "if-match/counter");
  const increment = async (): Promise<void> => {
    for (let tries = 0; tries < 2000; tries++) {
      const response = await stream.get("tail=1");
      const last = ((await response.json()) as number[]).at(-1) ?? 0;
      const appended = await stream.post(String(last + 1), { "if-match": nextOffset(response) });
      if (appended.status === 204) return;
      expect(appended.status).toBe(412);
    }
    throw new Error("an increment never got through");
  };
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      for (let step = 0; step < 10; step++) await increment();
    }),
  );
  expect(await stream.records()).toEqual(Array.from({ length: 40 }, (_, index) => index + 1));
}, 60_000);

test("a refusal consumes no producer sequence, and a retry of an accepted append is a duplicate", async () => {
  const stream = await newStream(server, "if-match/producer");
  const producer = { "producer-id": "p", "producer-epoch": "0", "producer-seq": "0" };
  const empty = await stream.tail();
  await stream.post("0");
  expect((await stream.post("1", { ...producer, "if-match": empty })).status).toBe(412);
  const tail = await stream.tail();
  expect((await stream.post("1", { ...producer, "if-match": tail })).status).toBe(200);
  expect((await stream.post("1", { ...producer, "if-match": tail })).status).toBe(204);
  expect(await stream.records()).toEqual([0, 1]);
});

test("applies to a close as well", async () => {
  const stream = await newStream(server, "if-match/close");
  const empty = await stream.tail();
  await stream.post("1");
  expect((await stream.post("2", { "stream-closed": "true", "if-match": empty })).status).toBe(412);
  expect((await stream.head()).headers.get("stream-closed")).toBeNull();
  expect((await stream.post("2", { "stream-closed": "true", "if-match": await stream.tail() })).status).toBe(204);
});

test.each(["nonsense", "", "-1x", "9999999999999999_9999999999999999", "a, b"])(
  "refuses If-Match: %p",
  async (value) => {
    const stream = await newStream(server, `if-match/bad-${Bun.hash(value)}`);
    const refused = await stream.post("1", { "if-match": value });
    expect([400, 412]).toContain(refused.status);
    await errorOf(refused);
    expect(await stream.records()).toEqual([]);
  },
);

test("an offset of a former stream of the same name never matches", async () => {
  const former = await newStream(server, "if-match/recreated");
  const offset = await former.tail();
  await former.delete();
  const stream = await newStream(server, "if-match/recreated");
  expect([400, 410, 412]).toContain((await stream.post("1", { "if-match": offset })).status);
  expect(await stream.records()).toEqual([]);
});
