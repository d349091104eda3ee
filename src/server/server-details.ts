/** `GET /v1/server/_details`: what the server was told, what bounds it, and what it holds now. Nothing secret is among the settings. */

import manifest from "../../package.json" with { type: "json" };
import type { Engine } from "../engine/engine.ts";
import type { createAnalytics } from "../features/analytics/index.ts";
import type { Identity, LiveMetricsV2 } from "../features/live-metrics/index.ts";
import type { createLiveViews } from "../features/live-views/index.ts";
import type { createSubscriptions } from "../features/subscriptions/index.ts";
import type { createTouch } from "../features/touch/index.ts";
import { type Methods, readsServer } from "../http/access.ts";
import { type Exchange, respondJson } from "../http/context.ts";
import type { Followers } from "../http/live/follower.ts";
import { largest } from "../kit/largest.ts";
import type { MemoryLimit } from "./memory-limit.ts";

/** Streams named per list. */
const TOP_STREAMS = 10;

export interface ServerParts {
  readonly engine: Engine;
  readonly followers: Followers;
  readonly touch: ReturnType<typeof createTouch>["touch"];
  readonly liveMetrics: LiveMetricsV2;
  readonly views: ReturnType<typeof createLiveViews>["views"];
  readonly analytics: ReturnType<typeof createAnalytics>["analytics"];
  readonly subscriptions: Awaited<ReturnType<typeof createSubscriptions>>["subscriptions"];
  readonly identity: Identity;
  readonly config: Readonly<Record<string, unknown>>;
  readonly limit: MemoryLimit;
}

export function serverDetails(parts: ServerParts): Readonly<Record<string, Methods>> {
  const route = async (exchange: Exchange): Promise<Response> => respondJson(exchange, 200, await describe(parts));
  return { "/v1/server/_details": { GET: readsServer(route), HEAD: readsServer(route) } };
}

async function describe(parts: ServerParts) {
  const { engine, followers, touch, liveMetrics, views, analytics, subscriptions, identity, config, limit } = parts;
  const { heapUsed, heapTotal, external, arrayBuffers, rss } = process.memoryUsage();
  const { unsealedBytes, unsealedRanges, streamsInMemory, walBytes, storedBytes, freeDiskBytes, durableCommit } =
    engine.status();
  return {
    server: {
      ...identity,
      version: manifest.version,
      runtime: `Bun ${Bun.version}`,
      pid: process.pid,
      uptimeSeconds: Math.floor(process.uptime()),
    },
    config,
    limits: { memory: { ...limit, shedding: engine.memory?.shedding ?? false }, ...engine.budget },
    ready: engine.refusals().map(({ kind }) => kind),
    queues: {
      commitIntents: engine.queuedIntents,
      requestBodyBytes: engine.bodyBytes.used,
      liveRequests: engine.liveRequests.used,
      waiters: engine.waiters.size,
      deadlines: engine.deadlines.size,
    },
    storage: { durableCommit, storedBytes, walBytes, freeDiskBytes },
    memory: {
      process: { residentBytes: rss, heapUsed, heapTotal, external, arrayBuffers },
      window: { bytes: unsealedBytes, ranges: unsealedRanges },
      heads: streamsInMemory,
      touch: touch.holdings(),
      liveMetrics: liveMetrics.getMemoryStats(),
    },
    liveViews: views.describe(TOP_STREAMS),
    analytics: analytics.describe(TOP_STREAMS),
    subscriptions: subscriptions.describe(TOP_STREAMS),
    topStreams: {
      unsealedBytes: await named(engine, await engine.largestUnsealed(TOP_STREAMS)),
      liveRequests: await named(engine, await largest(followers.sizes(), TOP_STREAMS, (of) => of.liveRequests)),
      touchWaiters: await named(engine, await largest(touch.sizes(), TOP_STREAMS, ({ waiters }) => waiters)),
    },
  };
}

/** Names instead of ids; streams that went away meanwhile are left out. */
async function named<T extends { readonly id: number }>(engine: Engine, entries: readonly T[]) {
  const found = await Promise.all(
    entries.map(async ({ id, ...size }) => {
      const head = await engine.byId(id);
      return head === undefined ? [] : [{ stream: head.config.name, ...size }];
    }),
  );
  return found.flat();
}
