/**
 * Encoded data events of the last few commits, shared by every live reader of a stream: a record is encoded once, however
 * many connections send it. Bounded, oldest out first.
 */

import { MAX_SHARED_FRAME_BYTES, MAX_SHARED_FRAMES } from "../protocol/limits.ts";

export class SharedFrames {
  readonly #frames = new Map<string, Uint8Array>();
  #bytes = 0;

  /** The frame of records `from`..`to` of one incarnation, encoded by `encode` when nobody has yet. */
  get(streamId: number, from: number, to: number, encode: () => Uint8Array): Uint8Array {
    const place = `${streamId}:${from}:${to}`;
    const known = this.#frames.get(place);
    if (known !== undefined) return known;
    const frame = encode();
    this.#frames.set(place, frame);
    this.#bytes += frame.length;
    for (const [oldest, { length }] of this.#frames) {
      if (this.#frames.size <= MAX_SHARED_FRAMES && this.#bytes <= MAX_SHARED_FRAME_BYTES) break;
      this.#frames.delete(oldest);
      this.#bytes -= length;
    }
    return frame;
  }
}
