/** The tracker against a real analytics stream: what was tracked arrives, once, whatever else was tracked beside it. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { connect, Refused, type TrackedEvent } from "../../src/client/client.ts";
import { analyticsStreams, batchesOf, type CommandEvent, fatesOf, times } from "../support/analytics-client.ts";
import { chromiumOrSkip, sharedBrowser } from "../support/browser.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { call, newStream, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const temporary = temporaryServers();
const chromium = chromiumOrSkip("a tracker on a page that ends");
const browser = sharedBrowser(chromium);
const { analyticsStream } = analyticsStreams(server, "client-track", {
  batchIntervalMs: 20,
  samplingRates: {},
  aggregate: [],
});
/** A browser on a busy machine. */
const ARRIVAL_DEADLINE_MS = 10_000;
const RETRY = { maxAttempts: 3, baseDelayMs: 5, maxDelayMs: 20 };

const named = (commandName: string): TrackedEvent => ({ type: "command", data: { commandName, success: true } });

/** In the order of their names: what waits is stored by priority, not as it came. */
async function namesIn(stream: StreamUnderTest): Promise<string[]> {
  const batches = await batchesOf<CommandEvent>(stream);
  return batches.flatMap(({ events }) => events.map(({ data }) => data.commandName)).sort();
}

test("everything that was tracked is stored, once", async () => {
  const stream = await analyticsStream("all");
  const tracker = connect({ url: server.url }).stream(stream.name).tracker({ maxBatchEvents: 40 });
  const names = times(250, (at) => `c${String(at).padStart(3, "0")}`);
  for (const name of names) expect(tracker.track(named(name))).toBe(true);
  expect((await tracker.close()).isOk()).toBe(true);
  expect(await namesIn(stream)).toEqual(names);
  expect(fatesOf(await batchesOf(stream))).toMatchObject({ received: 250, stored: 250, dropped: 0 });
  expect([tracker.droppedEvents, tracker.queuedEvents]).toEqual([0, 0]);
});

test("an event that is none is dropped, and no other with it", async () => {
  const stream = await analyticsStream("bad");
  const tracker = connect({ url: server.url, retry: RETRY }).stream(stream.name).tracker();
  const names = times(20, (at) => `c${String(at).padStart(2, "0")}`);
  for (const [at, name] of names.entries()) {
    if (at === 7) tracker.track({ type: "performance", data: { metric: "x" } });
    tracker.track(named(name));
  }
  const flushed = await tracker.flush();
  expect(flushed.isErr() && Refused.is(flushed.error) && flushed.error.code).toBe("record-invalid");
  expect(tracker.droppedEvents).toBe(1);
  expect(await namesIn(stream)).toEqual(names);
  await tracker.close();
});

test("events wait until their stream is there, and go by themselves", async () => {
  const name = "client-track/later";
  const tracker = connect({ url: server.url, retry: RETRY }).stream(name).tracker({ flushIntervalMs: 30 });
  tracker.track(named("early"));
  const failed = await tracker.flush();
  expect(failed.isErr() && Refused.is(failed.error) && failed.error.status).toBe(404);
  expect(tracker.queuedEvents).toBe(1);
  const stream = await newStream(server, name);
  const profile = { kind: "analytics", batchIntervalMs: 20 };
  expect((await call("POST", `${stream.url}/_profile`, { body: JSON.stringify({ profile }) })).status).toBe(200);
  await until("it is sent", async () => (await namesIn(stream)).length === 1);
  expect(await namesIn(stream)).toEqual(["early"]);
  await tracker.close();
});

test.skipIf(chromium === null)(
  "a page that ends has sent what it tracked",
  async () => {
    const open = await temporary({ args: ["--cors-origin", browser.origin] });
    const streams = analyticsStreams(open, "client-track", { batchIntervalMs: 20, samplingRates: {} });
    const stream = await streams.analyticsStream("page");
    const entry = join(import.meta.dir, "track-page.ts");
    const built = await Bun.build({ entrypoints: [entry], target: "browser", format: "iife" });
    const page = await browser.open((await built.outputs[0]?.text()) ?? "");
    await page.run(`trackTwo(${JSON.stringify(open.url)}, ${JSON.stringify(stream.name)})`);
    expect(await namesIn(stream)).toEqual([]);
    await page.run("void setTimeout(() => (location.href = 'about:blank'), 0)");
    await until("it has arrived", async () => (await namesIn(stream)).length > 0, ARRIVAL_DEADLINE_MS);
    expect([await namesIn(stream), page.uncaught()]).toEqual([["seen"], []]);
  },
  3 * ARRIVAL_DEADLINE_MS,
);
