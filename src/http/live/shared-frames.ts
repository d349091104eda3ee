/**
 * What one step of a live stream looks like on the wire, encoded once for all readers that are sent the same bytes. Lives as long
 * as the step. Bounded: past a few encodings they are made for each reader.
 */

/** Readers differ in the transport, in the name they gave a subscription, seldom in a cursor. */
const MAX_SHARED_FRAMES = 16;

export class SharedFrames<T> {
  readonly #frames = new Map<string, T>();

  /** The frame known as `key`, made by `encode` when nobody has yet. */
  get(key: string, encode: () => T): T {
    const known = this.#frames.get(key);
    if (known !== undefined) return known;
    const frame = encode();
    if (this.#frames.size < MAX_SHARED_FRAMES) this.#frames.set(key, frame);
    return frame;
  }
}
