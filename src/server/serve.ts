/**
 * The server as a process: opens the store, listens, announces itself, and ends well. SIGTERM or SIGINT drains: no new
 * work, live requests end with what they need to resume, appends in flight finish, the store closes. A second signal
 * ends it at once. The application behind `open` knows nothing of ports, signals or stdout.
 */

import { resolve } from "node:path";
import { getLogger } from "@logtape/logtape";
import { banner } from "./banner.ts";
import { Defect } from "../kit/assert.ts";
import { JUMP_HOLD_MS, systemClock } from "../kit/clock.ts";
import { TokenBucket } from "../kit/token-bucket.ts";
import { IDLE_TIMEOUT_MS } from "../protocol/limits.ts";
import type { Answered } from "../http/app.ts";
import type { ClientEdge } from "../http/live/clients.ts";
import type { FaultListener } from "../http/context.ts";
import { isEventSource } from "../http/request-parts.ts";
import type { ServerConfig } from "./config.ts";
import { dieOnDefects, dieWithLastWords } from "./last-words.ts";
import { configureLogging } from "./logging.ts";
import { open, type StreamsServer } from "./open.ts";

/** After a signal, requests in flight get this long while the port is still open, and this long again once it is not. */
const QUIET_LIMIT_MS = 5_000;
const STOP_LIMIT_MS = 5_000;
const QUIET_POLL_MS = 10;
/** Then every request is refused, until none has come for so long: one that meets a closing connection would be reset unanswered. */
const SILENCE_MS = 100;
const SILENCE_LIMIT_MS = 1_000;
/** The store gets this long to checkpoint and close. */
const CLOSE_LIMIT_MS = 60_000;
/** The application answers bodies beyond its own limit with an explaining 413; far beyond, Bun cuts them off. */
const BODY_SLACK_BYTES = 1024 * 1024;
/** Bun does not extend it while a body arrives: uploads that go on switch it off for themselves, and so do live requests. */
const IDLE_TIMEOUT_SECONDS = IDLE_TIMEOUT_MS / 1000;

const log = getLogger(["streams", "server"]);
const httpLog = getLogger(["streams", "http"]);

/** The server could not start; the message says why and what to do. */
export class StartFailure extends Error {
  readonly hint: string | null;

  constructor(message: string, hint: string | null, cause: unknown) {
    super(message, { cause });
    this.name = "StartFailure";
    this.hint = hint;
  }
}

/** Serves until a signal ends it. @throws StartFailure when it cannot start. */
export async function serve(config: ServerConfig): Promise<void> {
  configureLogging(config.logLevel);
  dieOnDefects();
  // Before anything is announced: a signal that comes during the start ends the server right after it.
  const stopping = firstSignal();
  const dataDir = config.dataDir === null ? null : resolve(config.dataDir);
  const app = await openStore(config, dataDir);
  const door: Door = { isClosing: false, lastBusyMs: -Infinity };
  const server = await listen(app, config, door);

  // The banner is a courtesy: a parent that closed our stdout does not end the server.
  process.stdout.on("error", (cause) => log.warning("stdout is closed: {reason}", { reason: cause.message }));
  const url = `${config.tls === null ? "http" : "https"}://${config.host.includes(":") ? `[${config.host}]` : config.host}:${server.port}`;
  process.stdout.write(banner(config, { url, dataDir, pid: process.pid }, process.stdout.isTTY));

  const signal = await stopping;
  log.info("{signal}: finishing requests in flight", { signal });
  await shutDown(app, server, door);
}

/** What a stop has to know of the requests that come. */
interface Door {
  /** All are sent away. */
  isClosing: boolean;
  /** When a request last came, or was last seen to be in flight while the server drains. */
  lastBusyMs: number;
}

async function openStore(config: ServerConfig, dataDir: string | null): Promise<StreamsServer> {
  try {
    return await open({
      dataDir,
      durability: config.durability,
      longPollTimeoutMs: config.longPollTimeoutMs,
      corsOrigins: config.corsOrigins,
      publicUrl: config.publicUrl,
      allowLocalWebhooks: config.allowLocalWebhooks,
      acceptLoss: config.acceptLoss,
      maxBodyBytes: config.maxBodyBytes,
      maxStoredBytes: config.maxStoredBytes,
      loopbackOnly: config.loopbackOnly,
      auth: config.auth,
      keysFile: config.keysFile,
      clientRates: config.clientRates,
      secure: config.tls !== null,
      identity: config.identity,
      memoryLimitBytes: config.memoryLimitBytes,
      liveMetrics: config.liveMetrics,
      onFault,
      onAnswer: config.logLevel === "debug" ? logAnswer : null,
      onClientEdge: logClientEdge,
      onClockJump: logClockJump,
    });
  } catch (cause) {
    throw cannotOpen(cause);
  }
}

const onFault: FaultListener = (operation, cause, request) => {
  const about = request === undefined ? {} : { requestId: request.requestId, ...traceOf(request.traceparent) };
  log.error("{operation} failed: {stack}", { operation, stack: stackOf(cause), ...about });
};

function logAnswer({ traceparent, ms, ...answer }: Answered): void {
  const about = { ...answer, ms: Number(ms.toFixed(2)), ...traceOf(traceparent) };
  httpLog.debug("{method} {path} {status} in {ms} ms", about);
}

/** A thousand clients that stall together are not a thousand lines. */
const edgeLines = new TokenBucket(1, 20, systemClock);
let edgesUntold = 0;

function logClientEdge({ healthy, ...edge }: ClientEdge): void {
  if (!edgeLines.take()) {
    edgesUntold++;
    return;
  }
  if (edgesUntold > 0) {
    httpLog.warning("{count} more clients became slow or healthy: see /health/clients", { count: edgesUntold });
    edgesUntold = 0;
  }
  if (healthy) httpLog.info("{kind} client {clientId} takes what it is sent again, after {stalledMs} ms", edge);
  else
    httpLog.warning(
      "{kind} client {clientId} is slow: nothing taken for {stalledMs} ms, {lagRecords} records behind",
      edge,
    );
}

function logClockJump(byMs: number): void {
  const by = `${byMs < 0 ? "" : "+"}${Math.round(byMs / 1000)}`;
  log.warning(
    "the machine's clock jumped by {by} s; time goes on as before, and follows if the clock holds for {holdMinutes} min",
    { by, holdMinutes: JUMP_HOLD_MS / 60_000 },
  );
}

/** The trace that a `traceparent` belongs to. */
function traceOf(traceparent: string | null): { readonly traceId?: string } {
  const traceId = traceparent?.split("-")[1];
  return traceId === undefined ? {} : { traceId };
}

function stackOf(cause: unknown): string {
  return cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
}

/** What the world did wrong is told in words; a defect of ours keeps its stack. */
function cannotOpen(cause: unknown): unknown {
  if (!(cause instanceof Error) || cause instanceof Defect || cause instanceof TypeError) return cause;
  return new StartFailure(cause.message, "hint" in cause && typeof cause.hint === "string" ? cause.hint : null, cause);
}

async function listen(app: StreamsServer, config: ServerConfig, door: Door): Promise<Bun.Server<unknown>> {
  try {
    return Bun.serve({
      hostname: config.host,
      port: config.port,
      development: false,
      // Outside development Bun shares ports by default: a second server would start and take half of the connections.
      reusePort: false,
      idleTimeout: IDLE_TIMEOUT_SECONDS,
      maxRequestBodySize: config.maxBodyBytes + BODY_SLACK_BYTES,
      fetch: (request, server) => {
        door.lastBusyMs = performance.now();
        // The application tells them to come back, and asks nothing of the store for it.
        const mayCome = !door.isClosing || isEventSource(request);
        return mayCome ? app.fetch(request, server) : answerClosing();
      },
      websocket: app.websocket,
      error: answerDefect,
      ...(config.tls !== null && { tls: { cert: Bun.file(config.tls.cert), key: Bun.file(config.tls.key) } }),
    });
  } catch (cause) {
    await app.close();
    throw cannotListen(config, cause);
  }
}

function cannotListen(config: ServerConfig, cause: unknown): StartFailure {
  const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
  const where = `${config.host}:${config.port}`;
  if (code === "EADDRINUSE") {
    const hint = "stop the other server, or choose another port with --port (0 picks a free one)";
    return new StartFailure(`${where} is already in use`, hint, cause);
  }
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new StartFailure(`cannot listen on ${where}: ${reason}`, null, cause);
}

/** The last resort for an exception in a handler: the log gets everything, the client nothing it could misuse. */
function answerDefect(cause: Error): Response {
  onFault("a request", cause);
  return problem(500, "internal", "The server failed to answer this request; its log says why.");
}

/** The application may not hear of it any more; nor is the connection to be used again. */
function answerClosing(): Response {
  const headers = { connection: "close", "retry-after": "2" };
  return problem(503, "closing", "the server is shutting down", headers);
}

/** An answer beside the application, with the headers that all of its answers have. */
function problem(status: number, code: string, message: string, headers: Record<string, string> = {}): Response {
  return Response.json(
    { error: { code, message } },
    {
      status,
      headers: {
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "cross-origin",
        ...headers,
      },
    },
  );
}

/** Resolves with the first SIGTERM or SIGINT; the second one ends the process. */
function firstSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolveFirst) => {
    let signals = 0;
    const onSignal = (signal: NodeJS.Signals): void => {
      if (++signals > 1) process.exit(1);
      resolveFirst(signal);
    };
    process.on("SIGTERM", onSignal);
    process.on("SIGINT", onSignal);
  });
}

async function shutDown(app: StreamsServer, server: Bun.Server<unknown>, door: Door): Promise<void> {
  app.beginDrain();
  await quiet(server, door);
  await silence(door);
  if (!(await settlesWithin(STOP_LIMIT_MS, server.stop()))) {
    log.warning("{pending} requests did not finish in time, dropping them", { pending: server.pendingRequests });
    await server.stop(true);
  }
  if (!(await settlesWithin(CLOSE_LIMIT_MS, app.close()))) {
    dieWithLastWords("the store did not close in time", new Error(`not closed after ${CLOSE_LIMIT_MS} ms`));
  }
}

/** Waits until nothing is in flight. The port stays open meanwhile: a load balancer sees `/ready` turn 503. */
async function quiet(server: Bun.Server<unknown>, door: Door): Promise<void> {
  const deadlineMs = performance.now() + QUIET_LIMIT_MS;
  while (server.pendingRequests > 0 && performance.now() < deadlineMs) {
    await Bun.sleep(QUIET_POLL_MS);
    // A client that has just been answered may already be sending its next one.
    door.lastBusyMs = performance.now();
  }
}

/** Sends away whoever comes, until nobody does. */
async function silence(door: Door): Promise<void> {
  door.isClosing = true;
  const limitMs = performance.now() + SILENCE_LIMIT_MS;
  for (;;) {
    const nowMs = performance.now();
    const untilMs = Math.min(limitMs, door.lastBusyMs + SILENCE_MS);
    if (nowMs >= untilMs) return;
    await Bun.sleep(untilMs - nowMs);
  }
}

/** Whether the work finished in time; its failure is thrown. */
async function settlesWithin(limitMs: number, work: Promise<void>): Promise<boolean> {
  const { promise: late, resolve: giveUp } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => giveUp(false), limitMs);
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}
