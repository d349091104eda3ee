/**
 * A queue in a ring of a power of two: O(1) at both ends, grows by doubling. What left it is not kept alive.
 * The caller bounds its length.
 */

const FIRST_CAPACITY = 8;

export class Ring<T> {
  #slots: (T | undefined)[] = Array.from({ length: FIRST_CAPACITY });
  /** Position of the oldest; positions only grow modulo the capacity. */
  #head = 0;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** Adds at the end. */
  push(value: T): void {
    this.#grow();
    this.#slots[(this.#head + this.#length++) & (this.#slots.length - 1)] = value;
  }

  /** Adds at the front: the oldest again. */
  unshift(value: T): void {
    this.#grow();
    this.#head = (this.#head - 1) & (this.#slots.length - 1);
    this.#slots[this.#head] = value;
    this.#length++;
  }

  /** The oldest; undefined when empty. */
  peek(): T | undefined {
    return this.#length === 0 ? undefined : this.#slots[this.#head];
  }

  /** Takes the oldest; undefined when empty. */
  shift(): T | undefined {
    if (this.#length === 0) return undefined;
    const value = this.#slots[this.#head];
    this.#slots[this.#head] = undefined;
    this.#head = (this.#head + 1) & (this.#slots.length - 1);
    this.#length--;
    return value;
  }

  /** Oldest first. Not to be used across a change. */
  *values(): Generator<T> {
    for (let at = 0; at < this.#length; at++) yield this.#slots[(this.#head + at) & (this.#slots.length - 1)] as T;
  }

  clear(): void {
    this.#slots = Array.from({ length: FIRST_CAPACITY });
    this.#head = this.#length = 0;
  }

  #grow(): void {
    if (this.#length < this.#slots.length) return;
    const grown: (T | undefined)[] = Array.from({ length: this.#slots.length * 2 });
    for (let at = 0; at < this.#length; at++) grown[at] = this.#slots[(this.#head + at) & (this.#slots.length - 1)];
    this.#slots = grown;
    this.#head = 0;
  }
}
