/**
 * The embeddable server: composes store, engine and HTTP app. `serve` is this plus a port; an application can mount `fetch`
 * in its own `Bun.serve`. The only place that chooses concrete stores.
 */

import { Engine } from "../engine/engine.ts";
import { stateProtocol } from "../features/state-protocol/index.ts";
import { createTouch } from "../features/touch/index.ts";
import { createApp } from "../http/app.ts";
import type { RequestTimeouts } from "../http/context.ts";
import { type Clock, systemClock } from "../kit/clock.ts";
import { DEFAULT_MAX_BODY_BYTES } from "../protocol/limits.ts";
import { MemoryStore } from "../storage/memory/memory-store.ts";
import { SqliteStore } from "../storage/sqlite/sqlite-store.ts";

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
  /** Largest request body in bytes. */
  readonly maxBodyBytes?: number;
  /** Refuse Host headers that are not loopback names (default). */
  readonly loopbackOnly?: boolean;
  /** Told of every fault: operation and cause. Default: one line on stderr. */
  readonly onFault?: (operation: string, cause: unknown) => void;
  readonly clock?: Clock;
}

export interface StreamsServer {
  /** Answers one request. Pass Bun's server as second argument so that live requests may outlast its idle timeout. */
  fetch(request: Request, server?: RequestTimeouts): Promise<Response>;
  /** For `Bun.serve`'s `websocket` option. No route upgrades yet; a socket that arrives all the same is closed. */
  readonly websocket: { readonly message: (socket: { close(code?: number, reason?: string): void }) => void };
  /** `/ready` turns 503 and live requests end with what they need to resume; appends still finish. Idempotent. */
  beginDrain(): void;
  /** Drains, makes everything durable and closes the store. Idempotent. */
  close(): Promise<void>;
}

/**
 * Opens the data directory, recovers and answers. Throws with a message for the operator when the directory is in use, from a
 * newer release, or damaged.
 */
export async function open(options: OpenOptions): Promise<StreamsServer> {
  const clock = options.clock ?? systemClock;
  const onFault = options.onFault ?? printFault;
  const { dataDir, durability = "fsync", acceptLoss = false } = options;
  const store =
    dataDir === null
      ? new MemoryStore(clock)
      : await SqliteStore.open({ directory: dataDir, durability, acceptLoss, clock });
  const engine = new Engine({ store, clock, onFault, random: Math.random, profiles: [stateProtocol] });
  const touch = createTouch({
    engine,
    onFault,
    hash64: (bytes) => Bun.hash.xxHash3(bytes),
    hash32: (text) => Bun.hash.xxHash32(text),
  });
  const app = createApp({
    engine,
    onFault,
    subResources: touch.routes,
    longPollTimeoutMs: options.longPollTimeoutMs ?? 20_000,
    maxBodyBytes: options.maxBodyBytes ?? DEFAULT_MAX_BODY_BYTES,
    corsOrigins: options.corsOrigins ?? [],
    publicUrl: options.publicUrl ?? null,
    loopbackOnly: options.loopbackOnly ?? true,
  });
  let closed: Promise<void> | null = null;
  return {
    fetch: (request, server) => app(request, server ?? null),
    websocket: { message: (socket) => socket.close(1008, "this server has no WebSocket endpoint") },
    beginDrain: () => engine.beginDrain(),
    close: () => (closed ??= engine.close()),
  };
}

function printFault(operation: string, cause: unknown): void {
  console.error(`fault in ${operation}:`, cause);
}
