/**
 * Engine, touch and LiveMetricsV2 in this process, without timers: tests decide when it ticks, what the time is, and which append to
 * the metrics stream fails.
 */

import { Engine } from "../../src/engine/engine.ts";
import {
  LIVE_METRICS_DEFAULTS,
  LiveMetricsV2,
  type LiveMetricsOptions,
} from "../../src/features/live-metrics/index.ts";
import { stateProtocol } from "../../src/features/state-protocol/index.ts";
import { createTouch } from "../../src/features/touch/index.ts";
import { Followers } from "../../src/http/live/follower.ts";
import { createApp } from "../../src/http/app.ts";
import type { Clock } from "../../src/kit/clock.ts";
import { EventLoopLag } from "../../src/kit/event-loop-lag.ts";
import { Histogram } from "../../src/kit/histogram.ts";
import type { Outcome } from "../../src/protocol/intents.ts";
import type { StreamStore } from "../../src/storage/port.ts";

export const METRICS = LIVE_METRICS_DEFAULTS.stream;
export const IDENTITY = { instanceId: "test-1", region: "here" };

export interface WorldOptions {
  readonly store: StreamStore;
  readonly clock: Clock;
  /** Called before each append to the metrics stream: throws, answers instead, or lets it through with null. */
  readonly sabotage?: () => Outcome | null;
  readonly liveMetrics?: Partial<LiveMetricsOptions>;
}

export type ObservedWorld = ReturnType<typeof observedWorld>;

export function observedWorld({ store, clock, sabotage = () => null, liveMetrics = {} }: WorldOptions) {
  const faults: string[] = [];
  const onFault = (operation: string, cause: unknown): void => {
    faults.push(`${operation}: ${cause instanceof Error ? cause.message : String(cause)}`);
  };
  const engine = new Engine({ store, clock, onFault, random: () => 0, profiles: [stateProtocol] });
  const lag = new EventLoopLag(clock, engine.deadlines, new Histogram([1]), () => clock.monotonicMs());
  const { touch, routes } = createTouch({
    engine,
    onFault,
    onTemplate: (stream, event) => metrics.emitLifecycle(stream, event),
    hash64: (bytes) => Bun.hash.xxHash3(bytes),
    hash32: (text) => Bun.hash.xxHash32(text),
  });
  const log = {
    find: engine.find.bind(engine),
    createOwn: engine.createOwn.bind(engine),
    setProfile: engine.setProfile.bind(engine),
    retain: engine.retain.bind(engine),
    record: async (...given: Parameters<Engine["record"]>): Promise<Outcome> =>
      sabotage() ?? (await engine.record(...given)),
  };
  const metrics = new LiveMetricsV2({ engine, log, source: touch, lag, identity: IDENTITY, onFault }, liveMetrics);
  engine.follow((commit) => metrics.onCommit(commit));
  const app = createApp({
    engine,
    onFault,
    reserved: () => null,
    gatekeeper: null,
    limits: null,
    secure: false,
    subResources: routes,
    serverResources: {},
    onAnswer: null,
    onClientEdge: null,
    followers: new Followers(engine, onFault),
    views: null,
    spans: null,
    longPollTimeoutMs: 1000,
    maxBodyBytes: 1024 * 1024,
    corsOrigins: [],
    publicUrl: null,
    loopbackOnly: true,
  });
  const base = "http://localhost/v1/stream";
  const ask = (method: string, path: string, body?: unknown, type = "application/json"): Promise<Response> => {
    const headers = { host: "localhost", "content-type": type };
    const init = body === undefined ? { method, headers } : { method, headers, body: JSON.stringify(body) };
    return app(new Request(`${base}/${path}`, init), null);
  };
  const json = async (method: string, path: string, body?: unknown): Promise<Record<string, unknown>> => {
    const response = await ask(method, path, body);
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    const text = await response.text();
    return text === "" ? {} : (JSON.parse(text) as Record<string, unknown>);
  };
  return {
    engine,
    touch,
    metrics,
    faults,
    ask,
    json,
    /** A stream with touch on. */
    touchStream: async (name: string, settings: object = {}): Promise<void> => {
      await json("PUT", name);
      await json("POST", `${name}/_profile`, {
        profile: { kind: "state-protocol", touch: { enabled: true, ...settings } },
      });
    },
    /** What is in the metrics stream. */
    told: async (): Promise<Told[]> => {
      const response = await ask("GET", `${METRICS}?offset=-1`);
      return response.status === 404 ? [] : ((await response.json()) as Told[]);
    },
  };
}

export interface Told {
  readonly type: string;
  readonly stream: string;
  readonly [group: string]: unknown;
}

/** The number at a path such as `wait.touched`, summed over all ticks of a stream. */
export function summed(records: readonly Told[], stream: string, path: string): number {
  let sum = 0;
  for (const record of records) {
    if (record.type !== "live.tick" || record.stream !== stream) continue;
    sum += Number(path.split(".").reduce<unknown>((found, name) => (found as Record<string, unknown>)[name], record));
  }
  return sum;
}
