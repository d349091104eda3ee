/**
 * Analytics streams in a few words, for tests: streams with the profile `analytics`, events to send them, and what is read of them:
 * batches, windows, aggregates, and the same figures computed naively. An answer that a test does not ask for is an error. Every
 * wait has a deadline.
 */

import { expect } from "bun:test";
import { call, newStream, streamAt, type StreamUnderTest } from "./streams.ts";
import { jsonOf } from "./subscription-client.ts";
import { until } from "./wait.ts";

type At = { readonly url: string };

export type Settings = Readonly<Record<string, unknown>>;

/** How many events met which fate. */
export type Counts = Readonly<Record<"received" | "stored" | "aggregated" | "sampledOut" | "dropped", number>>;

/** What a batch holds, be it in the record itself or compressed. */
export interface BatchContent<Event = unknown> {
  readonly events: readonly Event[];
  readonly times?: readonly number[];
  readonly weights?: readonly number[];
  readonly windows: readonly {
    readonly type: string;
    readonly name: string;
    readonly start: number;
    readonly end: number;
    readonly stats: { readonly observed: number };
  }[];
}

/** What every batch shows. */
export interface BatchFrame {
  readonly type: string;
  readonly batch: number;
  readonly at: number;
  readonly counts: Counts;
  readonly encoding?: string;
  readonly content?: string;
}

/** A batch that is not compressed. */
export interface Batch<Event = unknown> extends BatchFrame, BatchContent<Event> {}

/** An event of which a test reads the command alone. */
export interface CommandEvent {
  readonly priority?: string;
  readonly data: { readonly commandName: string };
}

/** The statistics of some values. */
export interface Figures {
  readonly count: number;
  readonly sum: number;
  readonly min: number;
  readonly max: number;
  readonly avg: number;
  readonly median: number;
  readonly stdDev: number;
  readonly percentiles: Readonly<Record<string, number>>;
}

export type Dimensions = Readonly<Record<string, string | number | boolean>>;

/** A record of the windows, or of a rollup. */
export interface Window<Context = Dimensions> extends Figures {
  readonly type: string;
  readonly windowId: string;
  readonly eventType: string;
  readonly eventKey: string;
  readonly startTime: number;
  readonly endTime: number;
  readonly patterns: readonly unknown[];
  readonly metadata: { readonly context?: Context };
  readonly stats: object;
}

/** The answer to `GET …/aggregate`: a result, or groups. */
export interface Aggregate<Result = Figures> {
  readonly result?: Result | null;
  readonly groups?: readonly (Result & { readonly group?: unknown })[];
}

/** The answer to `GET …/_analytics`. */
export interface AnalyticsShown {
  readonly settings: Settings;
  readonly metrics: Readonly<Record<string, number>>;
  readonly health: { readonly healthy: boolean; readonly errors: readonly unknown[] };
}

export function setProfile(stream: StreamUnderTest, settings: Settings, kind = "analytics"): Promise<Response> {
  return call("POST", `${stream.url}/_profile`, { body: JSON.stringify({ profile: { kind, ...settings } }) });
}

/** Sets a profile that must be taken. */
export async function configure(stream: StreamUnderTest, settings: Settings, kind?: string): Promise<void> {
  await jsonOf(setProfile(stream, settings, kind));
}

/** A stream that must be new, with the profile `analytics`. */
export async function newAnalyticsStream(server: At, name: string, settings: Settings): Promise<StreamUnderTest> {
  const stream = await newStream(server, name);
  await configure(stream, settings);
  return stream;
}

/** The analytics streams of a test file: all under one path, and alike but for what a test sets. */
export interface AnalyticsStreams {
  readonly analyticsStream: (name: string, settings?: Settings) => Promise<StreamUnderTest>;
  /** Sets the profile anew: what is not given is again as in all of them. */
  readonly reconfigure: (stream: StreamUnderTest, settings?: Settings) => Promise<void>;
}

export function analyticsStreams(server: At, path: string, common: Settings = {}): AnalyticsStreams {
  return {
    analyticsStream: (name, settings) => newAnalyticsStream(server, `${path}/${name}`, { ...common, ...settings }),
    reconfigure: (stream, settings) => configure(stream, { ...common, ...settings }),
  };
}

export const command = <Name>(commandName: Name, more: object = {}) => ({
  type: "command",
  data: { commandName },
  ...more,
});

/** A value; `more` is set beside its data. */
export const performanceOf = (metric: string, value: number, more: object = {}) => ({
  type: "performance",
  data: { metric, value },
  ...more,
});

/** A value of a time and of dimensions. */
export const measured = (metric: string, value: number, timestamp?: number, context?: object) => ({
  type: "performance",
  data: { metric, value, ...(context !== undefined && { context }) },
  ...(timestamp !== undefined && { timestamp }),
});

/** The answer must have that status, and nothing to say. */
export async function accepted(response: Response, status = 204): Promise<void> {
  expect([response.status, await response.text()]).toEqual([status, ""]);
}

/** Sends events in one request, which must be accepted. */
export async function postAll(stream: StreamUnderTest, events: readonly unknown[], status = 204): Promise<void> {
  await accepted(await stream.post(JSON.stringify(events)), status);
}

export async function post(stream: StreamUnderTest, ...events: readonly unknown[]): Promise<void> {
  await postAll(stream, events);
}

export async function batchesOf<Event = unknown>(stream: StreamUnderTest): Promise<Batch<Event>[]> {
  return (await stream.records()) as Batch<Event>[];
}

/** The counts of batches, added up; a count that one of them lacks is no number. */
export function fatesOf(batches: readonly Pick<BatchFrame, "counts">[]): Counts {
  const none: Counts = { received: 0, stored: 0, aggregated: 0, sampledOut: 0, dropped: 0 };
  const fates = new Set([none, ...batches.map(({ counts }) => counts)].flatMap((counts) => Object.keys(counts)));
  const total = (fate: string): number => sum(batches.map(({ counts }) => counts[fate as keyof Counts]));
  return { ...none, ...Object.fromEntries([...fates].map((fate) => [fate, total(fate)])) };
}

/** What `GET …/aggregate?<query>` tells. */
export function aggregateOf<Result = Figures>(stream: StreamUnderTest, query: string): Promise<Aggregate<Result>> {
  return jsonOf(call("GET", `${stream.url}/aggregate?${query}`));
}

export function shownOf(stream: StreamUnderTest): Promise<AnalyticsShown> {
  return jsonOf(call("GET", `${stream.url}/_analytics`));
}

/** Waits until exactly that many events wait. */
export async function waiting(stream: StreamUnderTest, count: number): Promise<void> {
  await until(`${count} events wait`, async () => (await shownOf(stream)).metrics["queueDepth"] === count);
}

/** A stream that the server writes beside an analytics stream. */
export function outputOf({ name, path, url }: StreamUnderTest, suffix: string): StreamUnderTest {
  return streamAt({ url: url.slice(0, -path.length) }, `${name}/${suffix}`);
}

/** The windows, or the records of a rollup, that are there now. */
export async function windowsSoFar<Context = Dimensions>(
  stream: StreamUnderTest,
  suffix = "windows",
): Promise<Window<Context>[]> {
  const response = await call("GET", `${stream.url}/${suffix}`);
  return response.status === 404 ? [] : jsonOf(response);
}

/** Its windows once they hold that many values. */
export function windowsOf(stream: StreamUnderTest, count: number): Promise<Window[]> {
  const windows = outputOf(stream, "windows");
  return until(`windows hold ${count} values`, async () => {
    if ((await windows.head()).status !== 200) return false;
    const records = (await windows.records()) as Window[];
    return sum(records.map((window) => window.count)) >= count && records;
  });
}

export const sum = (numbers: readonly number[]): number => numbers.reduce((total, one) => total + one, 0);

export const times = <T>(count: number, of: (at: number) => T): T[] => Array.from({ length: count }, (_, at) => of(at));

/** With linear interpolation between the two neighbours. */
function percentile(sorted: readonly number[], p: number): number {
  const rank = ((sorted.length - 1) * p) / 100;
  const below = sorted[Math.floor(rank)] ?? 0;
  return below + (rank % 1) * ((sorted[Math.ceil(rank)] ?? 0) - below);
}

/** The figures as the documentation defines them, computed over all values at once. */
export function naive(values: readonly number[], percentiles: readonly number[] = [50, 90, 95, 99]): Figures {
  const sorted = values.toSorted((left, right) => left - right);
  const avg = sum(values) / values.length;
  return {
    count: values.length,
    sum: sum(values),
    min: sorted[0] ?? 0,
    max: sorted.at(-1) ?? 0,
    avg,
    median: percentile(sorted, 50),
    stdDev: Math.sqrt(sum(values.map((value) => (value - avg) ** 2)) / values.length),
    percentiles: Object.fromEntries(percentiles.map((p) => [String(p), percentile(sorted, p)])),
  };
}
