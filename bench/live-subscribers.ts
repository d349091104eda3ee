/**
 * Many subscribers on raw sockets in one process: opens them a few at a time, counts what each received, and takes the
 * latencies. Owns its sockets. Invariants: a record counts once per subscriber and only in rising order, anything else is
 * counted as disordered; a subscriber that stalls has read nothing since the piece that brought its response head.
 */

import type { Socket, SocketHandler } from "bun";
import { LatencySamples } from "./load-client.ts";
import { MarkScanner, sharedNowMs } from "./live-records.ts";
import { liveTransports, type LiveOffset, type LiveTransport, type LiveTransportName } from "./live-transport.ts";

export interface OpenOrder {
  readonly url: string;
  readonly path: string;
  readonly transport: LiveTransportName;
  readonly offset: LiveOffset;
  readonly count: number;
  /** Stops reading when the response head is here. */
  readonly stalls: boolean;
  /** Records with a smaller sequence number are warm-up: neither counted nor timed. */
  readonly firstCounted: number;
}

export interface OpenOutcome {
  readonly opened: number;
  /** How many were not accepted, by reason. */
  readonly refused: Readonly<Record<string, number>>;
}

export interface SettleOrder {
  /** Records each reading subscriber is to have. */
  readonly records: number;
  readonly timeoutMs: number;
}

export interface DeliveryOutcome {
  /** Subscribers that read: all but the stalled ones. */
  readonly reading: number;
  /** Those of them that have every record. */
  readonly complete: number;
  readonly delivered: number;
  readonly missing: number;
  readonly disordered: number;
  /** Subscribers whose connection has ended, stalled ones included. */
  readonly closed: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

const OPENING_AT_ONCE = 32;
const OPEN_TIMEOUT_MS = 10_000;
const SETTLE_LOOK_MS = 10;
const MAX_HEAD_BYTES = 64 * 1024;
const NOTHING: Buffer = Buffer.alloc(0);

export class LiveSubscribers {
  readonly #all: Subscriber[] = [];
  readonly #latencies = new LatencySamples();

  /** Opens so many more. */
  async open(order: OpenOrder): Promise<OpenOutcome> {
    const refused: Record<string, number> = {};
    let left = order.count;
    let opened = 0;
    const openSome = async (): Promise<void> => {
      while (left > 0) {
        left--;
        const subscriber = new Subscriber(order, this.#latencies);
        const reason = await subscriber.open(order.url);
        if (reason !== null) {
          refused[reason] = (refused[reason] ?? 0) + 1;
          continue;
        }
        opened++;
        this.#all.push(subscriber);
      }
    };
    await Promise.all(Array.from({ length: Math.min(OPENING_AT_ONCE, order.count) }, openSome));
    return { opened, refused };
  }

  /** Lets all that stall read on. */
  wake(): void {
    for (const subscriber of this.#all) if (subscriber.isStalled) subscriber.wake();
  }

  /** Waits until every reading subscriber has its records or its end, or until the time is up. */
  async settle({ records, timeoutMs }: SettleOrder): Promise<DeliveryOutcome> {
    const reading = this.#all.filter((one) => !one.isStalled);
    const endMs = performance.now() + timeoutMs;
    while (performance.now() < endMs && reading.some((one) => !one.isClosed && one.delivered < records)) {
      await Bun.sleep(SETTLE_LOOK_MS);
    }
    const sum = (of: (one: Subscriber) => number): number => reading.reduce((total, one) => total + of(one), 0);
    const [p50Ms = Number.NaN, p99Ms = Number.NaN, maxMs = Number.NaN] = this.#latencies.quantiles(0.5, 0.99, 1);
    return {
      reading: reading.length,
      complete: reading.filter((one) => one.delivered >= records).length,
      delivered: sum((one) => one.delivered),
      missing: sum((one) => Math.max(0, records - one.delivered)),
      disordered: sum((one) => one.disordered),
      closed: this.#all.filter((one) => one.isClosed).length,
      p50Ms,
      p99Ms,
      maxMs,
    };
  }
}

class Subscriber {
  readonly #order: OpenOrder;
  readonly #transport: LiveTransport;
  readonly #latencies: LatencySamples;
  #socket: Socket<Subscriber> | null = null;
  #opened: (reason: string | null) => void = () => {};
  #head: Buffer = NOTHING;
  #decode: ((bytes: Buffer) => void) | null = null;
  #last = -1;
  #receivedMs = 0;
  delivered = 0;
  disordered = 0;
  isStalled = false;
  isClosed = false;

  constructor(order: OpenOrder, latencies: LatencySamples) {
    this.#order = order;
    this.#transport = liveTransports[order.transport];
    this.#latencies = latencies;
  }

  /** Null when the subscription was accepted, otherwise why not. */
  async open(url: string): Promise<string | null> {
    const { hostname, port } = new URL(url);
    const accepted = Promise.withResolvers<string | null>();
    this.#opened = accepted.resolve;
    const timer = setTimeout(() => accepted.resolve(`no response in ${OPEN_TIMEOUT_MS} ms`), OPEN_TIMEOUT_MS);
    try {
      this.#socket = await Bun.connect({ hostname, port: Number(port), data: this, socket: handlers });
    } catch (cause) {
      accepted.resolve(`connect: ${cause instanceof Error ? cause.message : String(cause)}`);
    }
    const reason = await accepted.promise;
    clearTimeout(timer);
    if (reason !== null) this.#socket?.terminate();
    return reason;
  }

  wake(): void {
    this.isStalled = false;
    this.#socket?.resume();
  }

  connected(socket: Socket<Subscriber>): void {
    const { url, path, offset } = this.#order;
    socket.write(this.#transport.request(url, path, offset));
  }

  receive(socket: Socket<Subscriber>, bytes: Buffer): void {
    // Once for the whole piece: what came together was received together.
    this.#receivedMs = sharedNowMs();
    if (this.#decode === null) this.#readHead(socket, bytes);
    else this.#decode(bytes);
  }

  ended(): void {
    this.isClosed = true;
    this.#opened("closed before it was accepted");
  }

  #readHead(socket: Socket<Subscriber>, bytes: Buffer): void {
    this.#head = Buffer.concat([this.#head, bytes]);
    const { headEnd } = this.#transport;
    const end = this.#head.indexOf(headEnd);
    if (end === -1) {
      if (this.#head.length > MAX_HEAD_BYTES) this.#opened("the response head does not end");
      return;
    }
    const head = this.#head.toString("latin1", 0, end);
    const rest = this.#head.subarray(end + headEnd.length);
    this.#head = NOTHING;
    const refusal = this.#transport.refusal(head);
    if (refusal !== null) return this.#opened(refusal);
    if (this.#order.stalls) {
      this.isStalled = true;
      socket.pause();
    }
    const scanner = new MarkScanner((sequence, dueMs) => this.#take(sequence, dueMs));
    const greeting = this.#transport.greeting(this.#order.path, this.#order.offset);
    if (greeting !== null) socket.write(greeting);
    const { url, path } = this.#order;
    const send = (request: Uint8Array): void => void socket.write(request);
    this.#decode = this.#transport.decoder(head, (piece) => scanner.receive(piece), { url, path, send });
    this.#decode(rest);
    this.#opened(null);
  }

  #take(sequence: number, dueMs: number): void {
    if (sequence < this.#order.firstCounted) return;
    if (sequence <= this.#last) {
      this.disordered++;
      return;
    }
    this.#last = sequence;
    this.delivered++;
    this.#latencies.add(this.#receivedMs - dueMs);
  }
}

/** One object for all sockets: each finds its subscriber in `socket.data`. */
const handlers: SocketHandler<Subscriber> = {
  open: (socket) => socket.data.connected(socket),
  data: (socket, bytes) => socket.data.receive(socket, bytes),
  close: (socket) => socket.data.ended(),
  error: (socket) => socket.data.ended(),
};
