/**
 * Encoded data events of the last few commits, shared by every live reader of a stream: a record is encoded once, however
 * many connections send it. Bounded, oldest out first.
 */

import { MAX_SHARED_FRAMES } from "../protocol/limits.ts";

export class SharedFrames {
  readonly #frames = new Map<string, Uint8Array>();

  /** The frame of records `from`..`to` of one incarnation, encoded by `encode` when nobody has yet. */
  get(streamId: number, from: number, to: number, encode: () => Uint8Array): Uint8Array {
    const place = `${streamId}:${from}:${to}`;
    const known = this.#frames.get(place);
    if (known !== undefined) return known;
    const frame = encode();
    this.#frames.set(place, frame);
    if (this.#frames.size > MAX_SHARED_FRAMES) {
      for (const oldest of this.#frames.keys()) {
        this.#frames.delete(oldest);
        break;
      }
    }
    return frame;
  }
}
