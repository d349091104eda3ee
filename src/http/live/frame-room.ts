/**
 * Room for what live readers are being sent, beyond small frames: from before it is read until their sockets have taken it, each
 * frame counts, for each of its readers. Who finds no room keeps its position and its place in line, and reads from the log when it is
 * its turn. Bounded: what is held by the room, the line by the live requests that there may be.
 */

import { assert } from "../../kit/assert.ts";
import { READ_CHUNK_BYTES } from "../../protocol/limits.ts";

/** A place in the line. */
export interface PlaceInLine {
  /** Idempotent. */
  leave(): void;
}

interface Waiting {
  readonly bytes: number;
  readonly enter: () => void;
}

export class FrameRoom {
  readonly #limit: number;
  readonly #line = new Set<Waiting>();
  #used = 0;
  #isOpen = false;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get used(): number {
    return this.#used;
  }

  /** Somebody waits: who holds room has to make haste. */
  get isShort(): boolean {
    return this.#line.size > 0;
  }

  /** False when there is none; then nothing is taken. */
  take(bytes: number): boolean {
    if (!this.#fits(bytes)) return false;
    this.#used += bytes;
    return true;
  }

  give(bytes: number): void {
    this.#used -= bytes;
    assert(this.#used >= 0, "more room was given back than taken");
    for (const first of this.#line) {
      if (!this.take(first.bytes)) return;
      this.#line.delete(first);
      first.enter();
    }
  }

  /** Takes the bytes for the caller when it is its turn, and says so. */
  wait(bytes: number, enter: () => void): PlaceInLine {
    const waiting: Waiting = { bytes, enter };
    this.#line.add(waiting);
    // Not past those who wait already.
    if (this.#line.size === 1) this.give(0);
    return { leave: () => this.#leave(waiting) };
  }

  /** Everybody may enter from now on: the server shuts down, nobody will read more. */
  open(): void {
    this.#isOpen = true;
    this.give(0);
  }

  #leave(waiting: Waiting): void {
    // Those behind it may need less.
    if (this.#line.delete(waiting)) this.give(0);
  }

  /** What is alone always fits. Large frames leave a quarter to chunks, so that the few who follow them hold up nobody else. */
  #fits(bytes: number): boolean {
    const limit = bytes > READ_CHUNK_BYTES ? 0.75 * this.#limit : this.#limit;
    return this.#isOpen || this.#used === 0 || this.#used + bytes <= limit;
  }
}
