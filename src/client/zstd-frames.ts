/**
 * Cuts a body of zstd frames into its frames, without unpacking them. Hostile until it passed here: a frame has to say how much it unpacks
 * to, no more than the limit, and to carry a checksum; it may not be longer than such a content needs.
 */

import {
  BLOCK_HEADER_BYTES,
  FRAME_CHECKSUM_BYTES,
  MAX_FRAME_HEADER_BYTES,
  readFrameHeader,
} from "../protocol/zstd-frame.ts";

/** One whole frame, and what it says that it unpacks to. */
export interface Frame {
  readonly bytes: Uint8Array;
  readonly contentBytes: number;
}

/** The body is not what it should be. */
export class FrameError extends Error {}

/** Room for headers and the checksum: a block's three bytes for every 3 KiB of content, where encoders make one for 128 KiB. */
const EXTRA_BYTES = 1024;
const EXTRA_SHARE = 1 / 1024;
const FIRST_HELD_BYTES = 64 * 1024;
const RLE_BLOCK = 1;
const RESERVED_BLOCK = 3;

export class FrameSplitter {
  readonly #maxContentBytes: number;
  /** What came lies in `#held` from `#start` to `#end`. */
  #held = new Uint8Array(FIRST_HELD_BYTES);
  #start = 0;
  #end = 0;
  /** Nothing is whole before so many bytes are there. */
  #wanted = 1;

  constructor(maxContentBytes: number) {
    this.#maxContentBytes = maxContentBytes;
  }

  /** The frames that are whole now. Throws `FrameError`. */
  push(piece: Uint8Array): readonly Frame[] {
    this.#hold(piece);
    const frames: Frame[] = [];
    while (this.#end - this.#start >= this.#wanted) {
      const held = this.#held.subarray(this.#start, this.#end);
      const { length, contentBytes } = this.#measure(held);
      this.#wanted = length;
      if (contentBytes === null || held.length < length) continue;
      frames.push({ bytes: held.slice(0, length), contentBytes });
      this.#start += length;
      this.#wanted = 1;
    }
    return frames;
  }

  /** Throws `FrameError` when the body ended inside a frame. */
  end(): void {
    if (this.#end > this.#start) throw new FrameError("it ends in the midst of a zstd frame");
  }

  #hold(piece: Uint8Array): void {
    const length = this.#end - this.#start;
    if (this.#end + piece.length > this.#held.length) {
      const isRoomy = 2 * (length + piece.length) <= this.#held.length;
      const held = isRoomy ? this.#held : new Uint8Array(2 * (length + piece.length));
      held.set(this.#held.subarray(this.#start, this.#end));
      this.#held = held;
      this.#start = 0;
      this.#end = length;
    }
    this.#held.set(piece, this.#end);
    this.#end += piece.length;
  }

  /** The frame's length and its content's, or how many bytes it takes to know more. */
  #measure(frame: Uint8Array): { readonly length: number; readonly contentBytes: number | null } {
    const header = readFrameHeader(frame);
    if (header === null) {
      if (frame.length >= MAX_FRAME_HEADER_BYTES) throw new FrameError("it is not made of zstd frames");
      return { length: frame.length + 1, contentBytes: null };
    }
    const { contentBytes, hasChecksum } = header;
    if (contentBytes === null || !hasChecksum) throw new FrameError("a zstd frame lacks its size or its checksum");
    if (contentBytes > this.#maxContentBytes) {
      throw new FrameError(`a zstd frame says it has ${contentBytes} bytes, more than ${this.#maxContentBytes}`);
    }
    let at = header.headerBytes;
    for (let isLast = false; !isLast;) {
      if (at > contentBytes * (1 + EXTRA_SHARE) + EXTRA_BYTES)
        throw new FrameError("a zstd frame is longer than it says");
      if (frame.length < at + BLOCK_HEADER_BYTES) return { length: at + BLOCK_HEADER_BYTES, contentBytes: null };
      const block = (frame[at] ?? 0) | ((frame[at + 1] ?? 0) << 8) | ((frame[at + 2] ?? 0) << 16);
      const type = (block >> 1) & 3;
      if (type === RESERVED_BLOCK) throw new FrameError("a zstd frame is damaged");
      isLast = (block & 1) === 1;
      at += BLOCK_HEADER_BYTES + (type === RLE_BLOCK ? 1 : block >> 3);
    }
    return { length: at + FRAME_CHECKSUM_BYTES, contentBytes };
  }
}
