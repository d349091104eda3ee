/**
 * A connection of a protocol that answers record by record. Sends a request and waits for all its replies; finding them in
 * the bytes is the protocol's part. Invariant: exactly one call of `done` per `start`, also when the connection breaks
 * (status 0).
 */

import { WireSocket } from "./wire-socket.ts";
import type { WireConnection } from "./wire.ts";

/** Finds the replies in what comes, cut anywhere. */
export interface Replies {
  /** A request leaves that has so many replies. */
  expect(replies: number): void;
  /** Whether the last reply is here with these bytes. */
  take(bytes: Buffer): boolean;
  /** Whether one of the replies since `expect` was an error. */
  readonly isRefused: boolean;
}

/** As in HTTP, so that one load loop counts them all. */
const ACKNOWLEDGED = 200;
const REFUSED = 500;
const BROKEN = 0;

export class ReplyConnection implements WireConnection {
  readonly #replies: Replies;
  readonly #perRequest: number;
  #socket: WireSocket | null = null;
  #isClosed = false;
  #done: ((status: number) => void) | null = null;

  private constructor(replies: Replies, perRequest: number) {
    this.#replies = replies;
    this.#perRequest = perRequest;
  }

  static async open(url: string, replies: Replies, perRequest: number): Promise<ReplyConnection> {
    const connection = new ReplyConnection(replies, perRequest);
    connection.#socket = await WireSocket.open(url, {
      received: (bytes) => connection.#receive(bytes),
      ended: () => connection.#break(),
    });
    return connection;
  }

  start(request: Uint8Array, done: (status: number) => void): void {
    this.#send(request, this.#perRequest, done);
  }

  /** One request with so many replies; an error among them rejects. */
  async exchange(request: Uint8Array, replies = 1): Promise<void> {
    const status = await new Promise<number>((resolve) => this.#send(request, replies, resolve));
    if (status !== ACKNOWLEDGED)
      throw new Error(status === BROKEN ? "the connection broke" : "the request was refused");
  }

  /** Sends what has no reply. */
  say(bytes: Uint8Array): void {
    if (this.#socket?.send(bytes) === false) this.#break();
  }

  close(): void {
    this.#socket?.end();
    this.#break();
  }

  #send(request: Uint8Array, replies: number, done: (status: number) => void): void {
    if (this.#isClosed) return done(BROKEN);
    if (this.#done !== null) throw new Error("a request is already under way on this connection");
    this.#done = done;
    this.#replies.expect(replies);
    this.say(request);
  }

  #receive(bytes: Buffer): void {
    const isWhole = this.#replies.take(bytes);
    if (!isWhole || this.#done === null) return;
    const done = this.#done;
    this.#done = null;
    done(this.#replies.isRefused ? REFUSED : ACKNOWLEDGED);
  }

  #break(): void {
    this.#isClosed = true;
    this.#socket?.cut();
    const done = this.#done;
    this.#done = null;
    done?.(BROKEN);
  }
}
