/**
 * What differs between protocols, as far as appends, counting and catch-up reads need it: how a connection is opened, how an
 * append is written into a reused buffer, how its answer is recognised, how a stream is made and read back. One value of
 * `Wire` for all HTTP servers, one for each other protocol. Types only: the values are in `http-wire.ts`, `redis-wire.ts`
 * and `nats-wire.ts`.
 */

import type { LiveTransportName } from "./live-transport.ts";
import type { Workload } from "./workloads.ts";

/** One connection with one request in flight. A request may be a batch that is answered record by record. */
export interface WireConnection {
  /** Sends one request, which must stay untouched until `done`. No promise, no allocation: for the load loop. */
  start(request: Uint8Array, done: (status: number) => void): void;
  close(): void;
}

/** Writes appends into one reused buffer per connection. */
export interface AppendWriter {
  /** An append of the next body of the pool; valid until the connection's next request. */
  next(connection: number, stream: number): Uint8Array;
}

/** Reads on a connection of its own, one page after the other. */
export interface WireReader {
  /** How many records a stream holds. */
  count(stream: number): Promise<number>;
  /** Reads a stream from its first record to its last; the bytes of the bodies. */
  readAll(stream: number): Promise<number>;
  close(): void;
}

export interface Wire {
  /** Whether a workload can be done, and means the same, in this protocol. */
  does(workload: Workload): boolean;
  /** How subscribers follow a stream; null: by the transport that the workload names. */
  readonly follows: LiveTransportName | null;
  /** Whether the server answers requests by now. */
  isReady(url: string): Promise<boolean>;
  /**
   * A connection whose every request appends so many records. `index` is its number among those that are open at one time.
   * `done` gets a status as in HTTP: 2xx when all of the request is acknowledged, 0 when the connection broke.
   */
  open(url: string, index: number, recordsPerRequest: number): Promise<WireConnection>;
  appendWriter(url: string, connections: number, recordsPerRequest: number): AppendWriter;
  /** One append of one record by the connection with index 0, for what need not be cheap. */
  appendRequest(url: string, path: string, record: string): Uint8Array;
  /** Null where the first append makes the stream. */
  createRequest(url: string, stream: number, connection: number): Uint8Array | null;
  openReader(url: string, index: number): Promise<WireReader>;
}
