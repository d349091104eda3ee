/**
 * The real server, killed: in durable mode every event that was answered is in the log after `kill -9`, in the statistics too;
 * in memory mode SIGTERM loses no event that was queued.
 */

import { expect, test } from "bun:test";
import { decodeBatch } from "../../src/features/analytics/batch-record.ts";
import { newStream, type StreamUnderTest } from "../support/streams.ts";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { until } from "../support/wait.ts";

const KILLS = 3;
const WRITERS = 8;
const server = temporaryServers();

interface Aggregate {
  readonly result: { readonly count: number; readonly sum: number } | null;
}

test("kill -9 in durable mode: no acknowledged event is lost, stored or aggregated", async () => {
  const acknowledged = new Set<number>();
  let [measuredAcknowledged, measuredSent, id] = [0, 0, 0];
  let current = await server();
  await analyticsStream(current, { batchIntervalMs: 20, aggregationWindowMs: 1_000, allowedLatenessMs: 300 });
  for (let kill = 0; kill < KILLS; kill++) {
    const { url } = current;
    const run = { isOver: false };
    const writers = Array.from({ length: WRITERS }, async () => {
      while (!run.isOver) {
        const ids = [id++, id++];
        const events = [
          ...ids.map((at) => ({ type: "command", data: { commandName: "c", id: at } })),
          { type: "performance", data: { metric: "m", value: 1 } },
        ];
        measuredSent++;
        const answer = await post(url, events);
        if (answer !== 204) continue;
        for (const at of ids) acknowledged.add(at);
        measuredAcknowledged++;
      }
    });
    const before = acknowledged.size;
    await until("events flow", () => acknowledged.size > before + 300);
    await current.kill("SIGKILL");
    run.isOver = true;
    await Promise.all(writers);
    current = await server({ dataDir: current.dataDir });
  }
  const stored = new Set(await storedIds(current));
  expect([...acknowledged].filter((at) => !stored.has(at))).toEqual([]);
  expect(acknowledged.size).toBeGreaterThan(KILLS * 300);
  // Windows that were open at the kill are made again and closed without another event.
  await until("every window is told", async () => (await openSeries(current)) === 0);
  const { result } = await aggregateOf(current);
  expect(result?.count).toBeGreaterThanOrEqual(measuredAcknowledged);
  expect(result?.count).toBeLessThanOrEqual(measuredSent);
  expect(result?.sum).toBe(result?.count);
}, 60_000);

test("SIGTERM in memory mode: no queued event is lost", async () => {
  const first = await server();
  await analyticsStream(first, { ack: "memory", batchIntervalMs: 60_000 });
  let sent = 0;
  for (let at = 0; at < 20; at++) {
    const events = Array.from({ length: 7 }, () => ({ type: "command", data: { commandName: "c", id: sent++ } }));
    expect(await post(first.url, [...events, { type: "performance", data: { metric: "m", value: 1 } }])).toBe(202);
  }
  await first.stop();
  const second = await server({ dataDir: first.dataDir });
  expect(await storedIds(second)).toHaveLength(sent);
  expect((await aggregateOf(second)).result?.count).toBe(20);
}, 60_000);

async function analyticsStream(on: TestServer, settings: object): Promise<StreamUnderTest> {
  const stream = await newStream(on, "app", "application/json");
  const profile = { kind: "analytics", samplingRates: {}, ...settings };
  const response = await fetch(`${stream.url}/_profile`, { method: "POST", body: JSON.stringify({ profile }) });
  expect(response.status).toBe(200);
  return stream;
}

/** The status; 0 when the connection was cut. */
async function post(url: string, events: readonly unknown[]): Promise<number> {
  try {
    const headers = { "Content-Type": "application/json" };
    const response = await fetch(`${url}/v1/stream/app`, { method: "POST", headers, body: JSON.stringify(events) });
    return response.status;
  } catch {
    // The server is gone.
    return 0;
  }
}

async function storedIds({ url }: TestServer): Promise<number[]> {
  const records = (await (await fetch(`${url}/v1/stream/app`)).json()) as unknown[];
  const events = records.flatMap((record) => decodeBatch(record)?.events ?? []);
  return events.map(({ event }) => (event as { data: { id: number } }).data.id);
}

async function aggregateOf({ url }: TestServer): Promise<Aggregate> {
  return (await (await fetch(`${url}/v1/stream/app/aggregate?metric=m`)).json()) as Aggregate;
}

/** Open series of windows; rollups stay open for longer. */
async function openSeries({ url }: TestServer): Promise<number> {
  const answer = (await (await fetch(`${url}/v1/stream/app/_analytics`)).json()) as {
    readonly levels: readonly { readonly openSeries: number }[];
  };
  return answer.levels[0]?.openSeries ?? -1;
}
