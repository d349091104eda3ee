/**
 * Every live connection, what its socket has not taken yet, and whether it is slow. A socket that takes what it is given costs two
 * set operations per frame; only those that hold a frame are looked at, once a second. Owns the edge between healthy and slow:
 * who watches hears it once, and at most every few seconds per client.
 */

import type { Engine } from "../../engine/engine.ts";
import { nextTurn } from "../../kit/turn.ts";
import type { Counter } from "../../kit/metrics.ts";
import {
  CROWDED_FRAME_MS,
  LAG_NOTICE_MS,
  MAX_LAG_RECORDS,
  SLOW_CLIENT_LOG_MS,
  SLOW_CLIENT_TIMEOUT_MS,
} from "../../protocol/limits.ts";
import { meanRecordBytes } from "../../protocol/stream.ts";
import { type ClientBufferMetrics, DEFAULT_MAX_SIZE } from "./client-buffer.ts";
import type { ReadPlan } from "../../engine/reader.ts";

export type ClientKind = "sse" | "websocket";

/** What a connection follows, as far as its health goes. */
export interface Followed {
  readonly plan: Pick<ReadPlan, "id" | "name" | "from">;
  readonly offset: string;
  /** What becomes of what its client is too slow for. */
  readonly overflow: string;
  /** Records that it skipped. */
  readonly dropped: number;
  /** When it missed the first step that it has not caught up with; null when it is not behind. */
  readonly behindSinceMs: number | null;
}

/** What a connection follows, each by the name that its client knows it by. */
export type Subscriptions = Iterable<readonly [id: string, followed: Followed]>;

export interface ClientParts {
  readonly kind: ClientKind;
  readonly subscriptions: () => Subscriptions;
  /** Ends the connection of a client that was slow for too long. Must not throw. */
  readonly cut: () => void;
  /** Whether what it has not taken yet stands in the way of others. Default: never. */
  readonly crowds?: () => boolean;
  /** Ends the connection because the server shuts down. Must not throw. Default: its subscriptions end by themselves. */
  readonly drain?: () => void;
}

/** A client became slow, or takes what it is sent again. */
export interface ClientEdge {
  readonly clientId: string;
  readonly kind: ClientKind;
  readonly healthy: boolean;
  /** How long its socket has not taken, or did not take, what it was given. */
  readonly stalledMs: number;
  readonly lagRecords: number;
}

/** How far a reader is behind the tail: `bytes` by the mean size of the stream's records; `ms` since it missed the first. */
export interface Lag {
  readonly records: number;
  readonly bytes: number;
  readonly ms: number;
}

export interface ClientHealth {
  readonly clientId: string;
  readonly kind: ClientKind;
  readonly healthy: boolean;
  readonly connectedMs: number;
  readonly stalledMs: number;
  /** As a client buffer tells them; what is buffered lies in the log. */
  readonly metrics: ClientBufferMetrics;
  readonly lag: Lag;
  readonly streams: readonly ClientStream[];
}

export interface ClientStream {
  readonly id: string;
  readonly stream: string;
  readonly offset: string;
  readonly overflow: string;
  readonly dropped: number;
  readonly lag: Lag;
}

/** Clients described in one turn: each looks at the heads of what it follows. */
const CLIENTS_PER_TURN = 20;

export class LiveClients {
  readonly #engine: Engine;
  readonly #onEdge: ((edge: ClientEdge) => void) | null;
  readonly #clients = new Map<string, LiveClient>();
  readonly #holding = new Set<LiveClient>();
  readonly #count: Record<ClientKind, number> = { sse: 0, websocket: 0 };
  readonly #frames: Counter;
  readonly #cut: Counter;
  #made = 0;
  #slow = 0;
  #looks = false;

  constructor(engine: Engine, onEdge: ((edge: ClientEdge) => void) | null) {
    const { metrics } = engine;
    this.#engine = engine;
    this.#onEdge = onEdge;
    this.#frames = metrics.counter("streams_live_frames_total", "Frames handed to the sockets of live clients.");
    this.#cut = metrics.counter(
      "streams_live_cut_total",
      "Live connections ended because nobody took what they were sent.",
    );
    engine.onDrain(() => {
      for (const client of this.#clients.values()) client.parts.drain?.();
    });
    metrics.gauge("streams_sse_clients", "Open live=sse connections.", () => this.#count.sse);
    metrics.gauge("streams_websocket_clients", "Open WebSocket connections.", () => this.#count.websocket);
    metrics.gauge(
      "streams_slow_clients",
      "Live clients that have not taken a frame for over a second.",
      () => this.#slow,
    );
  }

  open(parts: ClientParts): LiveClient {
    const client = new LiveClient(this, `c${++this.#made}`, parts, this.#engine.clock.monotonicMs());
    this.#clients.set(client.id, client);
    this.#count[parts.kind]++;
    return client;
  }

  /** Clients in the order they came, from behind `after` on, and the id to ask the next page with. */
  async page(after: string | null, limit: number): Promise<{ clients: ClientHealth[]; next: string | null }> {
    const nowMs = this.#engine.clock.monotonicMs();
    const clients: ClientHealth[] = [];
    const from = after === null ? 0 : numberOf(after);
    let last: string | null = null;
    for (const client of this.#clients.values()) {
      if (numberOf(client.id) <= from) continue;
      if (clients.length === limit) return { clients, next: last };
      clients.push(await this.#health(client, nowMs));
      if (clients.length % CLIENTS_PER_TURN === 0) await nextTurn();
      last = client.id;
    }
    return { clients, next: null };
  }

  sent(client: LiveClient): number {
    this.#frames.add();
    this.#holding.add(client);
    this.#lookLater();
    return this.#engine.clock.monotonicMs();
  }

  taken(client: LiveClient): number {
    this.#holding.delete(client);
    return this.#engine.clock.monotonicMs();
  }

  /** The client has crossed the edge. */
  crossed(client: LiveClient, stalledMs: number, tell: boolean): void {
    this.#slow += client.healthy ? -1 : 1;
    if (!tell || this.#onEdge === null) return;
    const { id: clientId, kind, healthy } = client;
    this.#onEdge({ clientId, kind, healthy, stalledMs: Math.round(stalledMs), lagRecords: this.#lagRecords(client) });
  }

  closed(client: LiveClient): void {
    if (!this.#clients.delete(client.id)) return;
    this.#holding.delete(client);
    this.#count[client.kind]--;
    if (!client.healthy) this.#slow--;
  }

  #look(): void {
    this.#looks = false;
    const nowMs = this.#engine.clock.monotonicMs();
    for (const client of this.#holding) {
      client.look(nowMs);
      if (!this.#isTooSlow(client, nowMs)) continue;
      this.#cut.add();
      client.parts.cut();
    }
    if (this.#holding.size > 0) this.#lookLater();
  }

  #lookLater(): void {
    if (this.#looks) return;
    this.#looks = true;
    this.#engine.deadlines.after(LAG_NOTICE_MS, () => this.#look());
  }

  #isTooSlow(client: LiveClient, nowMs: number): boolean {
    const stalledMs = client.stalledMs(nowMs);
    // Far behind, and taking what it is sent: it is catching up.
    if (stalledMs < LAG_NOTICE_MS) return false;
    if (stalledMs >= CROWDED_FRAME_MS && client.parts.crowds?.() === true) return true;
    for (const [, follower] of client.parts.subscriptions()) {
      if (follower.overflow !== "disconnect") continue;
      if (stalledMs >= SLOW_CLIENT_TIMEOUT_MS || this.#lagOf(follower) > MAX_LAG_RECORDS) return true;
    }
    return false;
  }

  #lagRecords(client: LiveClient): number {
    let records = 0;
    for (const [, follower] of client.parts.subscriptions()) records += this.#lagOf(follower);
    return records;
  }

  /** By the head in memory: a stream that is being read has one. */
  #lagOf({ plan }: Followed): number {
    const head = this.#engine.peek(plan.name);
    return head === undefined || head.id !== plan.id ? 0 : Math.max(0, head.next - plan.from);
  }

  async #health(client: LiveClient, nowMs: number): Promise<ClientHealth> {
    const stalledMs = client.stalledMs(nowMs);
    const streams: ClientStream[] = [];
    for (const [id, follower] of client.parts.subscriptions()) {
      const { plan, offset, overflow, dropped, behindSinceMs } = follower;
      const head = await this.#engine.byId(plan.id);
      const records = head === undefined ? 0 : Math.max(0, head.next - plan.from);
      const perRecord = (head === undefined ? null : meanRecordBytes(head)) ?? 0;
      const ms = records === 0 ? 0 : Math.max(stalledMs, behindSinceMs === null ? 0 : nowMs - behindSinceMs);
      const lag = { records, bytes: Math.round(records * perRecord), ms: Math.round(ms) };
      streams.push({ id, stream: plan.name, offset, overflow, dropped, lag });
    }
    const lag: Lag = {
      records: sum(streams, (stream) => stream.lag.records),
      bytes: sum(streams, (stream) => stream.lag.bytes),
      ms: Math.max(0, ...streams.map((stream) => stream.lag.ms)),
    };
    return {
      clientId: client.id,
      kind: client.kind,
      healthy: client.healthy,
      connectedMs: Math.round(nowMs - client.sinceMs),
      stalledMs: Math.round(stalledMs),
      metrics: {
        buffered: lag.records,
        dropped: sum(streams, (stream) => stream.dropped),
        maxSize: DEFAULT_MAX_SIZE,
        lastFlushLatencyMs: Math.round(client.latencyMs * 1000) / 1000,
      },
      lag,
      streams,
    };
  }
}

/** One connection: whether its socket holds a frame that it has not passed on yet, and since when. */
export class LiveClient {
  readonly id: string;
  readonly parts: ClientParts;
  readonly sinceMs: number;
  readonly #clients: LiveClients;
  #heldSinceMs: number | null = null;
  #latencyMs = 0;
  #healthy = true;
  #toldMs = -Infinity;

  constructor(clients: LiveClients, id: string, parts: ClientParts, nowMs: number) {
    this.#clients = clients;
    this.id = id;
    this.parts = parts;
    this.sinceMs = nowMs;
  }

  get kind(): ClientKind {
    return this.parts.kind;
  }

  /** False while it has held a frame for over a second. */
  get healthy(): boolean {
    return this.#healthy;
  }

  /** How long the last frame took until the socket had passed it on. */
  get latencyMs(): number {
    return this.#latencyMs;
  }

  stalledMs(nowMs: number): number {
    return this.#heldSinceMs === null ? 0 : nowMs - this.#heldSinceMs;
  }

  /** The socket was given a frame; answers with the time. */
  sent(): number {
    const nowMs = this.#clients.sent(this);
    this.#heldSinceMs ??= nowMs;
    return nowMs;
  }

  /** The socket has passed on all it was given. */
  taken(): void {
    if (this.#heldSinceMs === null) return;
    const nowMs = this.#clients.taken(this);
    this.#latencyMs = nowMs - this.#heldSinceMs;
    this.#heldSinceMs = null;
    if (!this.#healthy) this.#cross(true, this.#latencyMs, nowMs);
  }

  look(nowMs: number): void {
    const stalledMs = this.stalledMs(nowMs);
    if (this.#healthy && stalledMs >= LAG_NOTICE_MS) this.#cross(false, stalledMs, nowMs);
  }

  /** Idempotent. */
  close(): void {
    this.#clients.closed(this);
  }

  #cross(healthy: boolean, stalledMs: number, nowMs: number): void {
    this.#healthy = healthy;
    const tell = nowMs - this.#toldMs >= SLOW_CLIENT_LOG_MS;
    if (tell) this.#toldMs = nowMs;
    this.#clients.crossed(this, stalledMs, tell);
  }
}

/** Ids are made in order. */
function numberOf(clientId: string): number {
  return Number(clientId.slice(1));
}

function sum<T>(all: readonly T[], of: (one: T) => number): number {
  return all.reduce((total, one) => total + of(one), 0);
}
