/** ClientBuffer as documented, and each of its edge cases; the founding guide's own test stands first. */

import { describe, expect, it, test } from "bun:test";
import * as fc from "fast-check";
import { Deadlines } from "../../kit/deadlines.ts";
import { nextTurn } from "../../kit/turn.ts";
import { ClientBuffer, type ClientBufferMetrics } from "./client-buffer.ts";
import { ANALYTICS, DASHBOARD, Flusher, type FlushStrategy, MOBILE, STANDARD } from "./flush-strategy.ts";

describe("ClientBuffer integration", () => {
  it("handles slow client scenario", async () => {
    const buffer = new ClientBuffer<{ id: number }>({ maxSize: 10 });
    const sent: { id: number }[] = [];
    const slowSend = (data: { id: number }) =>
      new Promise<void>((resolve) => {
        setTimeout(() => {
          sent.push(data);
          resolve();
        }, 100);
      });
    for (let i = 0; i < 20; i++) buffer.enqueue({ id: i }, slowSend);
    expect(buffer.size).toBe(10);
    expect(buffer.droppedCount).toBe(10);
    await buffer.flush();
    expect(buffer.size).toBe(0);
    expect(sent.length).toBe(10);
    expect(sent[0]?.id).toBe(10);
  });
});

const ignore = (): void => undefined;

/** Sends that wait until they are let go, in order. */
function gate<T>() {
  const sent: T[] = [];
  const waiting: { resolve: () => void; reject: (cause: unknown) => void }[] = [];
  const send = (data: T): Promise<void> =>
    new Promise<void>((resolve, reject) => waiting.push({ resolve, reject })).then(() => void sent.push(data));
  const release = async (count = 1): Promise<void> => {
    for (let at = 0; at < count; at++) {
      waiting.shift()?.resolve();
      await nextTurn();
    }
  };
  return { sent, send, release, fail: (cause: unknown) => waiting.shift()?.reject(cause), waiting };
}

test("defaults: 1,000 items, half of it is the threshold", () => {
  const buffer = new ClientBuffer<number>();
  expect([buffer.maxSize, buffer.size, buffer.droppedCount, buffer.isHealthy()]).toEqual([1000, 0, 0, true]);
  expect(buffer.getMetrics()).toEqual({ buffered: 0, dropped: 0, maxSize: 1000, lastFlushLatencyMs: 0 });
  for (let at = 0; at < 500; at++) buffer.enqueue(at, ignore);
  expect(buffer.isHealthy()).toBe(true);
  buffer.enqueue(500, ignore);
  expect(buffer.isHealthy()).toBe(false);
});

test.each([
  { maxSize: 0 },
  { maxSize: -1 },
  { maxSize: 1.5 },
  { maxSize: NaN },
  { maxBytes: 0 },
  { backpressureThreshold: 0 },
  { backpressureThreshold: -0.1 },
  { backpressureThreshold: 1.01 },
  { backpressureThreshold: NaN },
])("%p is refused", (options) => {
  expect(() => new ClientBuffer(options)).toThrow(RangeError);
});

test("a threshold of 1 is allowed: never slow", () => {
  const buffer = new ClientBuffer<number>({ maxSize: 3, backpressureThreshold: 1 });
  for (let at = 0; at < 10; at++) buffer.enqueue(at, ignore);
  expect([buffer.isHealthy(), buffer.droppedCount]).toEqual([true, 7]);
});

test("enqueue never sends", async () => {
  let sends = 0;
  const buffer = new ClientBuffer<number>();
  buffer.enqueue(1, () => void sends++);
  await nextTurn();
  expect(sends).toBe(0);
});

test("the event comes at every enqueue above the threshold, with what was dropped so far", () => {
  const heard: ClientBufferMetrics[] = [];
  const buffer = new ClientBuffer<number>({ maxSize: 3 });
  const off = buffer.on("backpressure", (metrics) => heard.push(metrics));
  for (let at = 0; at < 5; at++) buffer.enqueue(at, ignore);
  expect(heard.map(({ buffered, dropped, maxSize }) => [buffered, dropped, maxSize])).toEqual([
    [2, 0, 3],
    [3, 0, 3],
    [3, 1, 3],
    [3, 2, 3],
  ]);
  off();
  buffer.enqueue(6, ignore);
  expect(heard).toHaveLength(4);
});

test("drained comes once, at half the threshold, and again only after it was slow again", async () => {
  let drained = 0;
  const buffer = new ClientBuffer<number>({ maxSize: 8 });
  buffer.on("drained", () => drained++);
  const { send, release } = gate<number>();
  for (let at = 0; at < 6; at++) buffer.enqueue(at, send);
  const flushed = buffer.flush();
  await release(3);
  expect([buffer.size, drained]).toEqual([3, 0]);
  await release(1);
  expect([buffer.size, drained]).toEqual([2, 1]);
  await release(2);
  await flushed;
  expect(drained).toBe(1);
  for (let at = 0; at < 5; at++) buffer.enqueue(at, ignore);
  await buffer.flush();
  expect(drained).toBe(2);
});

test("a flush sends in order, one after the other, and what comes meanwhile too", async () => {
  const { sent, send, release, waiting } = gate<number>();
  const buffer = new ClientBuffer<number>();
  buffer.enqueue(1, send);
  buffer.enqueue(2, send);
  const flushed = buffer.flush();
  await release();
  expect([sent, waiting.length]).toEqual([[1], 1]);
  buffer.enqueue(3, send);
  await release(2);
  await flushed;
  expect([sent, buffer.size]).toEqual([[1, 2, 3], 0]);
});

test("an empty flush does nothing, and keeps the last latency", async () => {
  const time = { ms: 0 };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const buffer = new ClientBuffer<number>({ clock });
  buffer.enqueue(1, () => void (time.ms += 30));
  await buffer.flush();
  await buffer.flush();
  expect(buffer.getMetrics().lastFlushLatencyMs).toBe(30);
});

test("a flush during a flush is the same one: nothing twice, and it ends when all is sent", async () => {
  const { sent, send, release } = gate<number>();
  const buffer = new ClientBuffer<number>();
  for (const value of [1, 2, 3]) buffer.enqueue(value, send);
  const [first, second] = [buffer.flush(), buffer.flush()];
  expect(second).toBe(first);
  await release(3);
  await second;
  expect(sent).toEqual([1, 2, 3]);
});

test("a flush sends what was queued before it, whenever that is: also in the turn in which the one before ends", async () => {
  for (let ticks = 0; ticks < 12; ticks++) {
    const buffer = new ClientBuffer<string>();
    const sent: string[] = [];
    const going = Promise.withResolvers<void>();
    buffer.enqueue("a", (text) => going.promise.then(() => void sent.push(text)));
    const first = buffer.flush();
    going.resolve();
    for (let tick = 0; tick < ticks; tick++) await Promise.resolve();
    buffer.enqueue("b", (text) => void sent.push(text));
    await buffer.flush();
    expect(sent).toEqual(["a", "b"]);
    await first;
  }
  const buffer = new ClientBuffer<string>();
  const sent: string[] = [];
  const empty = buffer.flush();
  buffer.enqueue("c", (text) => void sent.push(text));
  await buffer.flush();
  expect(sent).toEqual(["c"]);
  await empty;
});

test("a failing send rejects the flush; its item stays first for the next one", async () => {
  const { sent, send, release, fail } = gate<number>();
  const buffer = new ClientBuffer<number>();
  for (const value of [1, 2]) buffer.enqueue(value, send);
  const flushed = buffer.flush();
  fail(new Error("gone"));
  expect(await flushed.catch((cause: unknown) => String(cause))).toBe("Error: gone");
  expect(buffer.size).toBe(2);
  const again = buffer.flush();
  await release(2);
  await again;
  expect([sent, buffer.size]).toEqual([[1, 2], 0]);
});

test("a send that throws at once is the same as one that rejects", async () => {
  const buffer = new ClientBuffer<number>();
  buffer.enqueue(1, () => {
    throw new Error("closed");
  });
  expect(await buffer.flush().catch((cause: unknown) => String(cause))).toBe("Error: closed");
  expect(buffer.size).toBe(1);
});

test("what is being sent is never dropped, and never sent twice", async () => {
  const { sent, send, release } = gate<number>();
  const buffer = new ClientBuffer<number>({ maxSize: 2 });
  buffer.enqueue(0, send);
  const flushed = buffer.flush();
  for (let value = 1; value <= 5; value++) buffer.enqueue(value, send);
  expect([buffer.size, buffer.droppedCount]).toEqual([3, 3]);
  await release(3);
  await flushed;
  expect(sent).toEqual([0, 4, 5]);
});

test("bounded by bytes as well; one item larger than the bound is kept alone", () => {
  const buffer = new ClientBuffer<string>({ maxBytes: 10 });
  for (const text of ["aaaa", "bbbb", "cccc"]) buffer.enqueue(text, ignore);
  expect([buffer.size, buffer.bytes, buffer.droppedCount]).toEqual([2, 8, 1]);
  buffer.enqueue("x".repeat(50), ignore);
  expect([buffer.size, buffer.bytes, buffer.droppedCount]).toEqual([1, 50, 3]);
  const counted = new ClientBuffer<object>({ maxBytes: 10, sizeOf: () => 6 });
  for (let at = 0; at < 3; at++) counted.enqueue({}, ignore);
  expect([counted.size, counted.bytes]).toEqual([1, 6]);
});

test("reset forgets what is buffered and counted; what is on its way arrives", async () => {
  const { sent, send, release } = gate<number>();
  const buffer = new ClientBuffer<number>({ maxSize: 2 });
  for (let value = 0; value < 5; value++) buffer.enqueue(value, send);
  const flushed = buffer.flush();
  buffer.reset();
  expect([buffer.size, buffer.droppedCount, buffer.getMetrics().lastFlushLatencyMs]).toEqual([1, 0, 0]);
  await release();
  await flushed;
  expect([sent, buffer.size, buffer.bytes]).toEqual([[3], 0, 0]);
});

test("any order of enqueues and flushes: in order, bounded, and every item sent or counted as dropped", async () => {
  const steps = fc.array(fc.oneof(fc.constant("flush" as const), fc.nat(30)), { maxLength: 60 });
  await fc.assert(
    fc.asyncProperty(steps, fc.integer({ min: 1, max: 20 }), async (actions, maxSize) => {
      const buffer = new ClientBuffer<number>({ maxSize });
      const sent: number[] = [];
      let made = 0;
      for (const action of actions) {
        if (action === "flush") await buffer.flush();
        else for (let at = 0; at < action; at++) buffer.enqueue(made++, (value) => void sent.push(value));
        expect(buffer.size).toBeLessThanOrEqual(maxSize);
      }
      await buffer.flush();
      expect(sent.length + buffer.droppedCount).toBe(made);
      expect(sent).toEqual(sent.toSorted((left, right) => left - right));
    }),
  );
});

test("the presets are those of the guide", () => {
  expect(DASHBOARD).toEqual({ maxSize: 100, backpressureThreshold: 0.3, flush: { kind: "periodic", everyMs: 50 } });
  expect(ANALYTICS).toEqual({ maxSize: 5000, backpressureThreshold: 0.8, flush: { kind: "batch", items: 100 } });
  expect(MOBILE).toEqual({ maxSize: 2000, backpressureThreshold: 0.5, flush: { kind: "adaptive", everyMs: 200 } });
  expect(STANDARD).toEqual({ maxSize: 1000, backpressureThreshold: 0.5, flush: { kind: "periodic", everyMs: 100 } });
});

test("an application needs the two public modules only, and no clock of ours", async () => {
  const { ClientBuffer: PublicBuffer } = await import("streams-server/client-buffer");
  const { DASHBOARD: preset, Flusher: PublicFlusher } = await import("streams-server/flush-strategy");
  const { flush, ...bounds } = preset;
  const buffer = new PublicBuffer<string>(bounds);
  const sent = Promise.withResolvers<string>();
  const flusher = new PublicFlusher(buffer, flush, { onError: sent.reject });
  buffer.enqueue("hello", sent.resolve);
  flusher.enqueued();
  expect(await sent.promise).toBe("hello");
  flusher.stop();
});

function flushing(strategy: FlushStrategy, maxSize = 10) {
  const time = { ms: 0 };
  const deadlines = new Deadlines({ nowMs: () => time.ms, monotonicMs: () => time.ms });
  const sent: number[] = [];
  const log: string[] = [];
  const buffer = new ClientBuffer<number>({ maxSize });
  const flusher = new Flusher(buffer, strategy, {
    deadlines,
    onError: (cause) => log.push(String(cause)),
    pause: () => log.push("pause"),
    resume: () => log.push("resume"),
  });
  const pass = async (ms: number): Promise<void> => {
    time.ms += ms;
    deadlines.tick();
    await nextTurn();
  };
  const add = (value: number, send: (value: number) => void | Promise<void> = (it) => void sent.push(it)): void => {
    buffer.enqueue(value, send);
    flusher.enqueued();
  };
  return { buffer, flusher, deadlines, sent, log, pass, add };
}

test("periodic: every so often, until it is stopped", async () => {
  const { flusher, deadlines, sent, pass, add } = flushing({ kind: "periodic", everyMs: 50 });
  add(1);
  await pass(49);
  expect(sent).toEqual([]);
  await pass(1);
  add(2);
  await pass(50);
  expect(sent).toEqual([1, 2]);
  flusher.stop();
  expect(deadlines.size).toBe(0);
});

test("event: in the turn after, once for all items of a turn", async () => {
  const { sent, add, flusher, deadlines } = flushing({ kind: "event" });
  add(1);
  add(2);
  expect(sent).toEqual([]);
  await nextTurn();
  await nextTurn();
  expect(sent).toEqual([1, 2]);
  add(3);
  flusher.stop();
  await nextTurn();
  await nextTurn();
  expect([sent, deadlines.size]).toEqual([[1, 2], 0]);
});

test("batch: after so many items", async () => {
  const { sent, add } = flushing({ kind: "batch", items: 3 });
  for (const value of [1, 2]) add(value);
  await nextTurn();
  expect(sent).toEqual([]);
  for (const value of [3, 4]) add(value);
  await nextTurn();
  expect(sent).toEqual([1, 2, 3, 4]);
});

test("adaptive: pauses the subscription while the client is slow, and resumes it", async () => {
  const { log, pass, add } = flushing({ kind: "adaptive", everyMs: 200 });
  const { send, release } = gate<number>();
  for (let value = 0; value < 8; value++) add(value, send);
  await pass(200);
  expect(log).toEqual(["pause"]);
  await pass(200);
  expect(log).toEqual(["pause"]);
  await release(8);
  expect(log).toEqual(["pause", "resume"]);
});

test("a failing send is reported, and goes again with the next flush", async () => {
  const { sent, log, pass, add } = flushing({ kind: "periodic", everyMs: 50 });
  let failures = 1;
  add(1, (value) => {
    if (failures-- > 0) throw new Error("broken pipe");
    sent.push(value);
  });
  await pass(50);
  expect([log, sent]).toEqual([["Error: broken pipe"], []]);
  await pass(50);
  expect(sent).toEqual([1]);
});
