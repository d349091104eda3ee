/**
 * The embeddable server: composes store, engine, features and HTTP app. `serve` is this plus a port; an application can mount
 * `fetch` in its own `Bun.serve`. The only place that chooses concrete stores.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Engine } from "../engine/engine.ts";
import { analyticsProfile, createAnalytics } from "../features/analytics/index.ts";
import { type AuthParts, createAuth } from "../features/auth/index.ts";
import {
  createLiveMetrics,
  type FeatureTick,
  type Identity,
  type LiveMetricsOptions,
} from "../features/live-metrics/index.ts";
import { stateProtocol } from "../features/state-protocol/index.ts";
import { createLiveViews } from "../features/live-views/index.ts";
import { createSubscriptions } from "../features/subscriptions/index.ts";
import { createTouch } from "../features/touch/index.ts";
import { type Answered, createApp } from "../http/app.ts";
import { ClientLimits, type ClientRates } from "../http/client-limits.ts";
import type { ClientEdge } from "../http/live/clients.ts";
import { Followers } from "../http/live/follower.ts";
import { socketHandlers } from "../http/live/socket-handlers.ts";
import { StreamQuota } from "../http/stream-quota.ts";
import type { FaultListener, LiveServer } from "../http/context.ts";
import { present } from "../kit/assert.ts";
import { type Clock, steadyClock, systemClock } from "../kit/clock.ts";
import { EventLoopLag } from "../kit/event-loop-lag.ts";
import type { Spans } from "../kit/spans.ts";
import { LATENCY_SECONDS, Metrics } from "../kit/metrics.ts";
import { memoryBudget, MIN_MEMORY_LIMIT_BYTES } from "../protocol/budget.ts";
import { DEFAULT_MAX_BODY_BYTES } from "../protocol/limits.ts";
import { DerivedStates } from "../storage/sqlite/derived.ts";
import { MemoryStore } from "../storage/memory/memory-store.ts";
import { SqliteStore } from "../storage/sqlite/sqlite-store.ts";
import { keyFileIn, KeyFileWatch } from "./key-file.ts";
import { type MemoryLimit, memoryLimit } from "./memory-limit.ts";
import { registerProcessMetrics } from "./process-metrics.ts";
import { serverDetails } from "./server-details.ts";
import { openSpans } from "./spans.ts";

export interface OpenOptions {
  /** Directory of all data; null keeps everything in memory. */
  readonly dataDir: string | null;
  /** `fsync` (default): acknowledged survives a power cut. `os`: it survives a crash of the process only. */
  readonly durability?: "fsync" | "os";
  readonly longPollTimeoutMs?: number;
  readonly corsOrigins?: "*" | readonly string[];
  /** Base of absolute links; null = the Host a client used. */
  readonly publicUrl?: string | null;
  /** Start although acknowledged commits are missing or damaged. */
  readonly acceptLoss?: boolean;
  /** Most bytes of records to keep, sealed or not; null (default) = as many as the disk has room for. */
  readonly maxStoredBytes?: number | null;
  /** Largest request body in bytes. */
  readonly maxBodyBytes?: number;
  /** Refuse Host headers that are not loopback names; default while nobody is asked who they are. */
  readonly loopbackOnly?: boolean;
  /** How callers are told apart; null (default) = they are not. */
  readonly auth?: AuthParts["strategy"] | null;
  /** File of the API keys; null (default) = `keys.json` in the data directory. */
  readonly keysFile?: string | null;
  /** What one client may ask; null (default) = no limit of its own. */
  readonly clientRates?: ClientRates | null;
  /** Clients reach the server over TLS of its own. Default: no. */
  readonly secure?: boolean;
  /** Webhooks of subscriptions may go to this machine: for development. Default: no. */
  readonly allowLocalWebhooks?: boolean;
  /** Name and region of this server in its metrics. */
  readonly identity?: Identity;
  /** Bytes the process may use; null (default) = what its control group allows. */
  readonly memoryLimitBytes?: number | null;
  /** The stream that the server observes itself in. */
  readonly liveMetrics?: Partial<LiveMetricsOptions>;
  /** Told of every fault: operation, cause and, where there was one, the request. Default: one line on stderr. */
  readonly onFault?: FaultListener;
  /** Told of every answer; default: nobody. */
  readonly onAnswer?: ((answer: Answered) => void) | null;
  /** Told when a live client becomes slow, and when it takes what it is sent again; default: nobody. */
  readonly onClientEdge?: ((edge: ClientEdge) => void) | null;
  /** Told when the machine's clock was set by more than a minute, and by how much. Default: one line on stderr. */
  readonly onClockJump?: (byMs: number) => void;
  /** Default: the machine's, which a jump does not move at once (`steadyClock`). */
  readonly clock?: Clock;
}

export interface StreamsServer {
  /** Answers one request. Pass Bun's server as second argument: live requests outlast its idle timeout, and WebSockets work. */
  fetch(request: Request, server?: LiveServer): Promise<Response>;
  /** For `Bun.serve`'s `websocket` option. */
  readonly websocket: typeof socketHandlers;
  /** `/ready` turns 503 and live requests end with what they need to resume; appends still finish. Idempotent. */
  beginDrain(): void;
  /** Drains, makes everything durable and closes the store. Idempotent. */
  close(): Promise<void>;
}

const LOCAL: Identity = { instanceId: "local", region: "local" };

/**
 * Opens the data directory, recovers and answers. Throws with a message for the operator when the directory is in use, from a
 * newer release, or damaged, and when the memory limit leaves no room to work.
 */
export async function open(options: OpenOptions): Promise<StreamsServer> {
  const onJump = options.onClockJump ?? printClockJump;
  const clock = options.clock ?? steadyClock({ wall: () => Date.now(), monotonic: () => performance.now(), onJump });
  const onFault = options.onFault ?? printFault;
  const { dataDir, durability = "fsync", acceptLoss = false, maxStoredBytes = null } = options;
  const limit = memoryLimit(options.memoryLimitBytes ?? null, readText);
  if (limit.bytes !== null && limit.bytes < MIN_MEMORY_LIMIT_BYTES) throw new TooLittleMemory(limit.bytes);
  const budget = memoryBudget(limit.bytes);
  const metrics = new Metrics();
  const spans = await openSpans();
  registerProcessMetrics(metrics);
  const store =
    dataDir === null
      ? new MemoryStore(clock)
      : await SqliteStore.open({ directory: dataDir, durability, acceptLoss, maxStoredBytes, clock, metrics, budget });
  const memory = limit.bytes === null ? null : { limitBytes: limit.bytes, residentBytes, collect };
  const profiles = [stateProtocol, analyticsProfile];
  const engine = new Engine({ store, clock, onFault, random: Math.random, profiles, metrics, budget, spans, memory });
  try {
    return await compose(options, { engine, limit, spans, onFault });
  } catch (cause) {
    await engine.close();
    throw cause;
  }
}

interface Opened {
  readonly engine: Engine;
  readonly limit: MemoryLimit;
  readonly spans: Spans | null;
  readonly onFault: FaultListener;
}

function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Features and HTTP over an engine that is open. Starts nothing before everything is made. */
async function compose(options: OpenOptions, { engine, limit, spans, onFault }: Opened): Promise<StreamsServer> {
  const { dataDir, durability = "fsync", acceptLoss = false } = options;
  const { clock, metrics, budget } = engine;
  const identity = options.identity ?? LOCAL;
  const lagSeconds = metrics.histogram(
    "streams_event_loop_lag_seconds",
    "How late the event loop was.",
    LATENCY_SECONDS,
  );
  const lag = new EventLoopLag(clock, engine.deadlines, lagSeconds, cpuMs);
  const withLiveMetrics = options.liveMetrics?.enabled ?? true;
  const { touch, routes } = createTouch({
    engine,
    onFault,
    onTemplate: withLiveMetrics ? (stream, event) => liveMetrics.emitLifecycle(stream, event) : null,
    hash64: (bytes) => Bun.hash.xxHash3(bytes),
    hash32: (text) => Bun.hash.xxHash32(text),
  });
  const newId = (): string => crypto.randomUUID();
  const randomBytes = (count: number): Uint8Array => crypto.getRandomValues(new Uint8Array(count));
  const strategy = options.auth ?? null;
  const publicUrl = options.publicUrl ?? null;
  const auth =
    strategy === null
      ? null
      : await createAuth({
          engine,
          clock: options.clock ?? systemClock,
          strategy,
          publicUrl,
          newId,
          randomBytes,
          onFault,
        });
  const features = (): Iterable<FeatureTick> => analytics.takeTicks();
  const metricsParts = { source: touch, features, lag, identity, onFault };
  const liveMetrics = createLiveMetrics(engine, metricsParts, options.liveMetrics ?? {});
  const http = {
    longPollTimeoutMs: options.longPollTimeoutMs ?? 20_000,
    maxBodyBytes: Math.min(options.maxBodyBytes ?? DEFAULT_MAX_BODY_BYTES, budget.bodyBytes),
    corsOrigins: options.corsOrigins ?? [],
    publicUrl,
    loopbackOnly: options.loopbackOnly ?? auth === null,
    secure: options.secure ?? false,
  };
  const clientRates = options.clientRates ?? null;
  const maxStreams = clientRates?.streams ?? Infinity;
  const quota = maxStreams === Infinity ? null : new StreamQuota(engine, maxStreams);
  const shown = { auth: strategy?.kind ?? "none", clientRates, liveMetrics: liveMetrics.options };
  const config = { dataDir, durability, acceptLoss, ...http, ...shown };
  const followers = new Followers(engine, onFault);
  const hash64 = (text: string): bigint => Bun.hash.xxHash3(text);
  const { analytics, routes: analyticsRoutes } = createAnalytics({ engine, hash: hash64, onFault });
  const derived = dataDir === null ? null : openDerived(join(dataDir, "derived.db"), acceptLoss);
  const liveViews = createLiveViews({ engine, followers, onFault, hash64, newId, store: derived });
  const allowLocal = options.allowLocalWebhooks ?? false;
  const { subscriptions, reserved } = await createSubscriptions({ engine, allowLocal, newId, randomBytes, onFault });
  const app = createApp({
    ...http,
    engine,
    followers,
    views: liveViews.views,
    onFault,
    spans,
    onAnswer: options.onAnswer ?? null,
    onClientEdge: options.onClientEdge ?? null,
    subResources: { ...routes, ...liveViews.routes, ...analyticsRoutes },
    reserved,
    gatekeeper: auth?.gatekeeper ?? null,
    limits: clientRates === null ? null : new ClientLimits(clientRates, clock, quota, budget),
    serverResources: {
      ...auth?.resources,
      ...serverDetails({
        engine,
        followers,
        touch,
        liveMetrics,
        views: liveViews.views,
        analytics,
        subscriptions,
        identity,
        config,
        limit,
      }),
    },
  });
  const keyFile =
    strategy?.kind === "api-key" ? (options.keysFile ?? keyFileIn(present(dataDir, "a keys file"))) : null;
  const keyWatch = keyFile === null ? null : new KeyFileWatch(keyFile, (keys) => auth?.replaceKeys(keys), onFault);
  lag.start();
  liveMetrics.start();
  analytics.start();
  subscriptions.start().catch((cause: unknown) => onFault("taking up the subscriptions", cause));
  let closed: Promise<void> | null = null;
  return {
    fetch: (request, server) => app(request, server ?? null),
    websocket: socketHandlers,
    beginDrain: () => engine.beginDrain(),
    close: () =>
      (closed ??= (async () => {
        engine.beginDrain();
        // What was counted since the last tick: every stream's waits have just ended.
        await liveMetrics.tick();
        await liveMetrics.stop();
        lag.stop();
        keyWatch?.close();
        await liveViews.views.close();
        await analytics.close();
        subscriptions.close();
        await engine.close();
      })()),
  };
}

/** After a loss that was accepted, what was derived may be of records that are no more. */
function openDerived(file: string, afterLoss: boolean): DerivedStates {
  if (afterLoss) DerivedStates.remove(file);
  return DerivedStates.open(file, readText("/proc/sys/kernel/random/boot_id"));
}

class TooLittleMemory extends Error {
  readonly hint = "raise --memory-limit, or the limit of its control group";

  constructor(bytes: number) {
    const [has, needs] = [bytes, MIN_MEMORY_LIMIT_BYTES].map((size) => Math.floor(size / 1024 / 1024));
    super(`the process may use ${has} MiB of memory, and needs ${needs} MiB to work`);
    this.name = "TooLittleMemory";
  }
}

function residentBytes(): number {
  return process.memoryUsage.rss();
}

function collect(): void {
  Bun.gc(true);
}

/** A file of the kernel's; null when it is not there. */
function readText(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // No control groups of that kind on this machine.
    return null;
  }
}

function printFault(operation: string, cause: unknown): void {
  console.error(`fault in ${operation}:`, cause);
}

function printClockJump(byMs: number): void {
  console.error(`the machine's clock jumped by ${byMs} ms; it is believed once it has held for 10 minutes`);
}
