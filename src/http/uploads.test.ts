/** How bodies are judged while they arrive: on a clock of its own, with bodies that the test feeds by hand. */

import { expect, test } from "bun:test";
import { Admission } from "../engine/admission.ts";
import type { Clock } from "../kit/clock.ts";
import { Deadlines } from "../kit/deadlines.ts";
import { MAX_PREPAID_BODY_BYTES } from "../protocol/limits.ts";
import { isProblem } from "./errors.ts";
import type { BodyClient } from "./body-room.ts";
import { Uploads } from "./uploads.ts";

const MiB = 1024 * 1024;
const LIMIT_BYTES = 32 * MiB;

function world() {
  let nowMs = 0;
  const clock: Clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
  const deadlines = new Deadlines(clock);
  const bodyBytes = new Admission(LIMIT_BYTES);
  const uploads = new Uploads({ bodyBytes, budget: { bodyBytes: LIMIT_BYTES }, clock, deadlines });
  const idleSeconds: number[] = [];
  const server = { timeout: (_request: Request, seconds: number) => void idleSeconds.push(seconds) };

  /** What the client was told to pay for. */
  const paid: number[] = [];
  const client: BodyClient = {
    spend: (bytes) => void paid.push(bytes),
    takeBytes: () => true,
    giveBytes: () => undefined,
  };

  /** A body that never says how long it will be. */
  function begin(headers: Record<string, string> = {}) {
    const controllers: ReadableStreamDefaultController<Uint8Array>[] = [];
    const body = new ReadableStream<Uint8Array>({ start: (made) => void controllers.push(made) });
    const request = new Request("http://a/", { method: "POST", body, headers });
    const received = uploads.receive({ request, server, client }, LIMIT_BYTES);
    let outcome: Awaited<typeof received> | null = null;
    void received.then((value) => (outcome = value));
    return {
      feed: (length: number) => controllers[0]?.enqueue(new Uint8Array(length)),
      end: () => controllers[0]?.close(),
      received,
      status: () => (outcome === null ? null : isProblem(outcome) ? outcome.status : 200),
    };
  }
  /** A second passes, and whatever was fed arrives. */
  async function second(): Promise<void> {
    await Bun.sleep(0);
    nowMs += 1000;
    deadlines.tick();
    await Bun.sleep(0);
  }
  return {
    begin,
    second,
    uploads,
    bodyBytes,
    deadlines,
    idleSeconds,
    client,
    paid,
    jump: (ms: number) => void (nowMs += ms),
  };
}

type Upload = ReturnType<ReturnType<typeof world>["begin"]>;

/** Seconds until it is answered, fed at `rate` bytes a second; at most `limit`. */
async function secondsUntilAnswered(
  { second }: ReturnType<typeof world>,
  upload: Upload,
  rate: number,
  limit: number,
): Promise<number> {
  for (let passed = 0; passed < limit; passed++) {
    if (upload.status() !== null) return passed;
    if (rate > 0) upload.feed(rate);
    await second();
  }
  return limit;
}

test("a body that stalls, or drips, is cut after its grace, and gives its bytes back", async () => {
  for (const rate of [0, 1, 999]) {
    const here = world();
    const upload = here.begin();
    upload.feed(5_000);
    const seconds = await secondsUntilAnswered(here, upload, rate, 60);
    expect(upload.status()).toBe(408);
    expect(seconds).toBeGreaterThanOrEqual(10);
    expect(seconds).toBeLessThanOrEqual(24);
    expect([here.bodyBytes.used, here.uploads.size]).toEqual([0, 0]);
  }
});

test("a body that goes on is never cut, keeps its connection, and then lets the idle timeout come back", async () => {
  const here = world();
  const upload = here.begin();
  expect(await secondsUntilAnswered(here, upload, 2_000, 3_600)).toBe(3_600);
  expect(here.idleSeconds).toEqual([0]);
  upload.end();
  const body = await upload.received;
  if (isProblem(body)) throw new Error(`refused with ${body.status}`);
  expect(body.bytes.length).toBe(3_600 * 2_000);
  expect(here.idleSeconds).toEqual([0, 120]);
  expect(here.paid).toEqual([3_600 * 2_000]);
  body.release();
  expect(here.bodyBytes.used).toBe(0);
});

test("a crowded server asks for more of it", async () => {
  const here = world();
  const other = here.begin();
  other.feed(17 * MiB);
  const upload = here.begin();
  expect(await secondsUntilAnswered(here, upload, 100_000, 60)).toBeLessThanOrEqual(24);
  expect(upload.status()).toBe(408);
  // The one that crowded it stalls: its first window was a quick one, its second is not.
  expect(await secondsUntilAnswered(here, other, 0, 20)).toBeLessThanOrEqual(12);
  expect(other.status()).toBe(408);
  const next = here.begin();
  expect(await secondsUntilAnswered(here, next, 50_000, 30)).toBe(30);
});

test("a short body that was announced gets the time that its length needs at the lowest rate", async () => {
  for (const [length, least, most] of [
    [10, 10, 13],
    [16_384, 26, 30],
    [MAX_PREPAID_BODY_BYTES, 75, 79],
  ] as const) {
    const here = world();
    const upload = here.begin({ "content-length": String(length) });
    const seconds = await secondsUntilAnswered(here, upload, 0, 90);
    expect(upload.status()).toBe(408);
    expect(seconds).toBeGreaterThanOrEqual(least);
    expect(seconds).toBeLessThanOrEqual(most);
    expect(here.bodyBytes.used).toBe(0);
  }
});

test("on a crowded server it gets only its grace", async () => {
  const here = world();
  here.bodyBytes.take(LIMIT_BYTES / 2);
  const upload = here.begin({ "content-length": String(MAX_PREPAID_BODY_BYTES) });
  expect(await secondsUntilAnswered(here, upload, 0, 60)).toBeLessThanOrEqual(13);
  expect(upload.status()).toBe(408);
});

test("a loop that was deaf cuts nobody for it", async () => {
  const here = world();
  const upload = here.begin();
  upload.feed(1);
  for (let passed = 0; passed < 3; passed++) await here.second();
  for (let hour = 0; hour < 5; hour++) {
    here.jump(3_600_000);
    await here.second();
    expect(upload.status()).toBeNull();
  }
  // Control: with an ear for it, it is cut.
  await secondsUntilAnswered(here, upload, 0, 30);
  expect(upload.status()).toBe(408);
});

test("nothing under way, no timer", async () => {
  const here = world();
  const upload = here.begin();
  expect(here.deadlines.size).toBe(1);
  upload.feed(3);
  upload.end();
  await upload.received;
  for (let passed = 0; passed < 2; passed++) await here.second();
  expect(here.deadlines.size).toBe(0);
});

test("a client that goes away in the middle gives its bytes back", async () => {
  const here = world();
  const broken = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(new Uint8Array(1000)),
    pull: (controller) => controller.error(new Error("gone")),
  });
  const request = new Request("http://a/", { method: "POST", body: broken });
  const received = await here.uploads.receive({ request, server: null, client: here.client }, LIMIT_BYTES);
  expect(isProblem(received) && received.code).toBe("body-incomplete");
  expect(here.paid).toEqual([1000]);
  expect([here.bodyBytes.used, here.uploads.size]).toEqual([0, 0]);
});
