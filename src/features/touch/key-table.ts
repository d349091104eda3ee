/**
 * From 64-bit keys to seqs in typed arrays: 16 bytes an entry, open addressing, never more than half full. Allocated on first
 * use, doubled as it fills, emptied whole.
 */

const FIRST_CAPACITY = 1024;

export class KeyTable {
  #low = new Uint32Array(0);
  #high = new Uint32Array(0);
  /** Seq + 1; 0 marks a free slot. */
  #value = new Float64Array(0);
  #size = 0;

  get bytes(): number {
    return this.#low.byteLength + this.#high.byteLength + this.#value.byteLength;
  }

  /** Raises the seq of a key, given by its halves; a smaller one than it has changes nothing. */
  raise(low: number, high: number, seq: number): void {
    if ((this.#size + 1) * 2 > this.#value.length) this.#grow();
    const mask = this.#value.length - 1;
    let at = low & mask;
    for (; this.#value[at] !== 0; at = (at + 1) & mask) {
      if (this.#low[at] !== low || this.#high[at] !== high) continue;
      if ((this.#value[at] ?? 0) <= seq) this.#value[at] = seq + 1;
      return;
    }
    this.#low[at] = low;
    this.#high[at] = high;
    this.#value[at] = seq + 1;
    this.#size++;
  }

  /** The seq of a key, or -1. Without a high half: the largest seq of the keys with that low half. */
  seqOf(low: number, high: number | null): number {
    const mask = this.#value.length - 1;
    let found = 0;
    if (mask < 0) return -1;
    for (let at = low & mask; this.#value[at] !== 0; at = (at + 1) & mask) {
      if (this.#low[at] !== low || (high !== null && this.#high[at] !== high)) continue;
      found = Math.max(found, this.#value[at] ?? 0);
      if (high !== null) break;
    }
    return found - 1;
  }

  clear(): void {
    this.#low = new Uint32Array(0);
    this.#high = new Uint32Array(0);
    this.#value = new Float64Array(0);
    this.#size = 0;
  }

  #grow(): void {
    const [low, high, value] = [this.#low, this.#high, this.#value];
    const capacity = Math.max(FIRST_CAPACITY, value.length * 2);
    this.#low = new Uint32Array(capacity);
    this.#high = new Uint32Array(capacity);
    this.#value = new Float64Array(capacity);
    for (let from = 0; from < value.length; from++) {
      if (value[from] === 0) continue;
      let at = (low[from] ?? 0) & (capacity - 1);
      while (this.#value[at] !== 0) at = (at + 1) & (capacity - 1);
      this.#low[at] = low[from] ?? 0;
      this.#high[at] = high[from] ?? 0;
      this.#value[at] = value[from] ?? 0;
    }
  }
}
