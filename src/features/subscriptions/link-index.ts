/**
 * Which subscriptions a stream belongs to, by its id and by its name. A commit costs what is linked to its streams, a new stream what its
 * name is long. Bound: links of all subscriptions.
 */

import { isReservedName } from "../../protocol/names.ts";
import { isInternal, type StreamHead } from "../../protocol/stream.ts";
import { type Pattern, PatternTree } from "./glob.ts";
import type { Link, Links } from "./links.ts";
import { MAX_LINKS } from "./limits.ts";

/** A subscription as the index sees it. */
export interface Linked {
  readonly links: Links;
  readonly pattern: Pattern | null;
  /** Streams that wakes are written to. */
  readonly wakeStream: string | null;
  /** Cursors of streams that are not linked yet: found at a start, taken as their streams are met. */
  readonly cursors: Map<number, number>;
}

/** `known`: it was linked before. `full`: there is no room. */
type LinkOutcome = "linked" | "known" | "full";

export class LinkIndex<T extends Linked> {
  readonly #maxLinks: number;
  readonly #byStream = new Map<number, Set<T>>();
  readonly #byName = new Map<string, Set<T>>();
  readonly #patterns = new PatternTree<T>();
  /** Their records wake nobody: wakes would wake each other for ever. */
  readonly #wakeStreams = new Map<string, number>();
  #size = 0;

  constructor(maxLinks = MAX_LINKS) {
    this.#maxLinks = maxLinks;
  }

  get size(): number {
    return this.#size;
  }

  get isFull(): boolean {
    return this.#size >= this.#maxLinks;
  }

  /** Names that are linked one by one. */
  get names(): readonly string[] {
    return [...this.#byName.keys()];
  }

  add(subscription: T, names: readonly string[]): void {
    const { pattern, wakeStream } = subscription;
    if (pattern !== null) this.#patterns.add(pattern, subscription);
    for (const name of names) this.name(subscription, name);
    if (wakeStream !== null) this.#wakeStreams.set(wakeStream, (this.#wakeStreams.get(wakeStream) ?? 0) + 1);
  }

  remove(subscription: T, names: readonly string[]): void {
    const { pattern, wakeStream, links } = subscription;
    if (pattern !== null) this.#patterns.remove(pattern, subscription);
    for (const name of names) this.unname(subscription, name);
    for (const streamId of links.ids()) this.unlink(subscription, streamId);
    if (wakeStream === null) return;
    const others = (this.#wakeStreams.get(wakeStream) ?? 1) - 1;
    if (others === 0) this.#wakeStreams.delete(wakeStream);
    else this.#wakeStreams.set(wakeStream, others);
  }

  /** Links a name, whether or not a stream has it. */
  name(subscription: T, name: string): void {
    const named = this.#byName.get(name);
    if (named === undefined) this.#byName.set(name, new Set([subscription]));
    else named.add(subscription);
    const link = subscription.links.byName(name);
    if (link !== undefined) link.isExplicit = true;
  }

  unname(subscription: T, name: string): void {
    const named = this.#byName.get(name);
    named?.delete(subscription);
    if (named?.size === 0) this.#byName.delete(name);
    const link = subscription.links.byName(name);
    if (link !== undefined) link.isExplicit = false;
  }

  /** The subscriptions that a stream belongs to by its name. */
  wanting(head: StreamHead): Set<T> {
    const { name } = head.config;
    if (head.deletion !== "none" || isInternal(head) || isReservedName(name)) return new Set();
    const wanting = this.#patterns.match(name);
    for (const subscription of this.#byName.get(name) ?? []) wanting.add(subscription);
    return wanting;
  }

  /** Links a stream; what is behind `acked` is pending. */
  link(subscription: T, head: StreamHead, acked: number): LinkOutcome {
    const { links, pattern } = subscription;
    if (links.get(head.id) !== undefined) return "known";
    if (this.isFull) return "full";
    const { name } = head.config;
    const tail = this.#wakeStreams.has(name) ? acked : head.next;
    const isExplicit = this.#byName.get(name)?.has(subscription) === true;
    const isGlob = pattern !== null && this.#patterns.match(name).has(subscription);
    links.add({ streamId: head.id, name, acked, tail, isExplicit, isGlob });
    this.#size++;
    const linked = this.#byStream.get(head.id);
    if (linked === undefined) this.#byStream.set(head.id, new Set([subscription]));
    else linked.add(subscription);
    return "linked";
  }

  unlink(subscription: T, streamId: number): void {
    if (subscription.links.remove(streamId) === undefined) return;
    this.#size--;
    const linked = this.#byStream.get(streamId);
    linked?.delete(subscription);
    if (linked?.size === 0) this.#byStream.delete(streamId);
  }

  linked(streamId: number): readonly T[] {
    return [...(this.#byStream.get(streamId) ?? [])];
  }

  /** The tail of a stream has moved; those that have news of it. */
  *moveTail(streamId: number, tail: number): Generator<T> {
    for (const subscription of this.#byStream.get(streamId) ?? []) {
      const link = subscription.links.get(streamId);
      if (link === undefined || this.#isWakeStream(link)) continue;
      subscription.links.moveTail(link, tail);
      yield subscription;
    }
  }

  #isWakeStream({ name }: Link): boolean {
    return this.#wakeStreams.has(name);
  }
}
