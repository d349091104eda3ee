/**
 * Who waits for what in one stream: waiters by exact key, by 32-bit key id, and in the sets that coarse changes wake. Owns the
 * parked waiters. Invariant: a waiter is in every index of its interest or in none; leaving costs its own keys, no scan.
 */

import { keyIdOf } from "../../protocol/touch-keys.ts";

/** Everything that may wake one wait. */
export interface Interest {
  readonly keys: readonly bigint[];
  /** Ids of keys that the client did not send in full. */
  readonly keyIds: readonly number[];
  /** Ids of the active templates that its keys belong to. */
  readonly templates: readonly string[];
  /** Ids of templates whose own key it named: whatever such a template sees wakes it. */
  readonly wholeTemplates: readonly string[];
  /** Its keys may belong to any active template. */
  readonly unnamed: boolean;
  /** Nothing known explains its keys: every change wakes it. */
  readonly everything: boolean;
}

/** A parked wait. `since`: only changes at or after this seq concern it. */
export interface Waiter {
  readonly interest: Interest;
  readonly since: number;
  wake(): void;
}

/** One entry is the waiter itself: nearly every key has one. */
type Entry = Waiter | Set<Waiter>;

class Index<K> {
  readonly #entries = new Map<K, Entry>();

  get size(): number {
    return this.#entries.size;
  }

  get(key: K): Entry | undefined {
    return this.#entries.get(key);
  }

  add(key: K, waiter: Waiter): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) this.#entries.set(key, waiter);
    else if (entry instanceof Set) entry.add(waiter);
    else if (entry !== waiter) this.#entries.set(key, new Set([entry, waiter]));
  }

  delete(key: K, waiter: Waiter): void {
    const entry = this.#entries.get(key);
    if (entry === waiter) this.#entries.delete(key);
    else if (entry instanceof Set && entry.delete(waiter) && entry.size === 0) this.#entries.delete(key);
  }
}

/** Counts of waited-for keys by their low bits: nearly every key that a change touches is waited for by nobody. */
const SLOTS = 16_384;

export class Interests {
  #slots: Uint32Array | null = null;
  readonly #byKey = new Index<bigint>();
  readonly #byId = new Index<number>();
  readonly #byTemplate = new Index<string>();
  readonly #byWhole = new Index<string>();
  readonly #unnamed = new Set<Waiter>();
  readonly #everything = new Set<Waiter>();
  readonly #all = new Set<Waiter>();
  readonly #parked = new Map<string, number>();

  get size(): number {
    return this.#all.size;
  }

  /** Entries in all indexes; 0 when nobody waits. For leak checks. */
  get entries(): number {
    return (
      this.#byKey.size +
      this.#byId.size +
      this.#byTemplate.size +
      this.#byWhole.size +
      this.#unnamed.size +
      this.#everything.size
    );
  }

  /** Parked waits by how they will be woken; `broad` ones are fine ones that name no template. */
  counts(): { fine: number; coarse: number; broad: number } {
    const [coarse, broad] = [this.#everything.size, this.#unnamed.size];
    return { fine: this.size - coarse, coarse, broad };
  }

  /** Whether fine keys of a template may concern somebody who is parked: such a template is never retired. */
  wants(templateId: string): boolean {
    return this.#unnamed.size > 0 || this.#parked.has(templateId);
  }

  /** Whether somebody waits whose keys may belong to any active template. */
  get hasUnnamed(): boolean {
    return this.#unnamed.size > 0;
  }

  /** Whether a waiter names the template. */
  isNamed(templateId: string): boolean {
    return this.#parked.has(templateId);
  }

  has(waiter: Waiter): boolean {
    return this.#all.has(waiter);
  }

  add(waiter: Waiter): void {
    const { keys, keyIds, templates, wholeTemplates, unnamed, everything } = waiter.interest;
    this.#all.add(waiter);
    const slots = (this.#slots ??= new Uint32Array(SLOTS));
    for (const key of keys) {
      this.#byKey.add(key, waiter);
      const slot = keyIdOf(key) % SLOTS;
      slots[slot] = (slots[slot] ?? 0) + 1;
    }
    for (const id of keyIds) this.#byId.add(id, waiter);
    for (const template of wholeTemplates) this.#byWhole.add(template, waiter);
    for (const template of templates) {
      this.#byTemplate.add(template, waiter);
      this.#parked.set(template, (this.#parked.get(template) ?? 0) + 1);
    }
    if (unnamed) this.#unnamed.add(waiter);
    if (everything) this.#everything.add(waiter);
  }

  /** Takes a waiter out; false when it was not parked. */
  remove(waiter: Waiter): boolean {
    if (!this.#all.delete(waiter)) return false;
    const { keys, keyIds, templates, wholeTemplates } = waiter.interest;
    for (const key of keys) {
      this.#byKey.delete(key, waiter);
      const slot = keyIdOf(key) % SLOTS;
      if (this.#slots !== null) this.#slots[slot] = (this.#slots[slot] ?? 0) - 1;
    }
    for (const id of keyIds) this.#byId.delete(id, waiter);
    for (const template of wholeTemplates) this.#byWhole.delete(template, waiter);
    for (const template of templates) {
      this.#byTemplate.delete(template, waiter);
      const left = (this.#parked.get(template) ?? 1) - 1;
      if (left === 0) this.#parked.delete(template);
      else this.#parked.set(template, left);
    }
    this.#unnamed.delete(waiter);
    this.#everything.delete(waiter);
    return true;
  }

  /** Wakes who waits for a key that the record `seq` touched. `keyId` is its low half. */
  touchKey(key: bigint, keyId: number, seq: number): void {
    if (this.#slots === null) return;
    if (this.#slots[keyId % SLOTS] !== 0) wake(this.#byKey.get(key), seq);
    if (this.#byId.size > 0) wake(this.#byId.get(keyId), seq);
  }

  /** Wakes who waits for whatever a template sees. */
  touchWhole(templateId: string, seq: number): void {
    if (this.#byWhole.size > 0) wake(this.#byWhole.get(templateId), seq);
  }

  /** Wakes who waits for any key of a template. */
  touchTemplate(templateId: string, seq: number): void {
    wake(this.#byTemplate.get(templateId), seq);
    wake(this.#unnamed, seq);
  }

  /** Wakes those whom every change wakes. */
  touchAny(seq: number): void {
    wake(this.#everything, seq);
  }

  touchAll(seq: number): void {
    wake(this.#all, seq);
  }

  all(): Iterable<Waiter> {
    return this.#all;
  }
}

/** Waking removes the waiter from the set that is walked; a Set allows that. */
function wake(entry: Entry | undefined, seq: number): void {
  if (entry === undefined) return;
  if (!(entry instanceof Set)) {
    if (entry.since <= seq) entry.wake();
    return;
  }
  for (const waiter of entry) if (waiter.since <= seq) waiter.wake();
}
