/**
 * Links streams to subscriptions: those that are there when a subscription is made, new ones as they come, all of them at a start, and
 * those that found no room once there is some. A stream that is not linked loses nothing: its records wait in the log, and its cursor
 * is the stored one, or the stream's start. Bound: `LinkIndex`; what found no room is kept as the subscriptions that lack it.
 */

import type { Engine } from "../../engine/engine.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import { nextTurn } from "../../kit/turn.ts";
import type { StreamHead } from "../../protocol/stream.ts";
import type { Pattern } from "./glob.ts";
import { LinkIndex, type Linked } from "./link-index.ts";
import { RELINK_MS } from "./limits.ts";
import type { Subscription } from "./subscription.ts";

/** A subscription with its links. */
export interface Linkable extends Linked {
  readonly subscription: Subscription;
}

export interface LinkerParts<T extends Linkable> {
  readonly engine: Engine;
  readonly onFault: (operation: string, cause: unknown) => void;
  /** It may have news. */
  readonly poke: (subscription: Subscription) => void;
  /** Runs `change` while nothing else changes the subscription; not at all when it is gone. */
  readonly alone: (kept: T, change: () => Promise<void>) => Promise<void>;
  readonly maxLinks?: number | undefined;
}

const PAGE = 1_000;
const LINKING = "linking streams to subscriptions";

export class Linker<T extends Linkable> {
  readonly index: LinkIndex<T>;
  readonly #parts: LinkerParts<T>;
  /** They want streams that found no room. */
  readonly #short = new Set<T>();
  /** Until the next look for those streams. */
  #relinking: Deadline | null = null;
  #isClosed = false;

  constructor(parts: LinkerParts<T>) {
    this.#parts = parts;
    this.index = new LinkIndex(parts.maxLinks);
  }

  /** Subscriptions that lack streams. */
  get short(): number {
    return this.#short.size;
  }

  isShort(kept: T): boolean {
    return this.#short.has(kept);
  }

  forget(kept: T): void {
    this.#short.delete(kept);
    this.index.remove(kept, kept.subscription.record.explicit);
  }

  close(): void {
    this.#isClosed = true;
    this.#relinking?.cancel();
  }

  /** Links all streams that are there, at a start. A damaged one is told, and keeps no other from being linked. */
  async linkAll(subscriptions: readonly T[]): Promise<void> {
    const prefixes = subscriptions.flatMap(({ pattern }) => (pattern === null ? [] : [pattern.prefix]));
    await this.#scan(prefixes, (head) => this.linkNew(head));
    for (const name of this.index.names) {
      try {
        await this.#withHead(name, (head) => this.linkNew(head));
      } catch (cause) {
        this.#parts.onFault(`linking the stream ${name}`, cause);
      }
    }
  }

  /** A stream that no subscription has met: each has it at its cursor, or at its start, since it is newer than the subscription. */
  linkNew(head: StreamHead): void {
    for (const kept of this.index.wanting(head)) this.#linkAtCursor(kept, head);
  }

  /** Links the streams that are there, by name and by pattern, at their tail; their cursors by id, or null when there is no room. */
  async linkOld(
    kept: T,
    names: readonly string[],
    pattern: Pattern | null,
  ): Promise<ReadonlyMap<number, number> | null> {
    const cursors = new Map<number, number>();
    let isFull = false;
    const link = (head: StreamHead): void => {
      if (!this.index.wanting(head).has(kept)) return;
      const outcome = this.index.link(kept, head, head.next);
      if (outcome === "linked") cursors.set(head.id, head.next);
      isFull ||= outcome === "full";
    };
    if (pattern !== null) await this.#scan([pattern.prefix], link);
    for (const name of names) await this.#withHead(name, link);
    return isFull ? null : cursors;
  }

  /** Not linked by name any more; a pattern that matches keeps the stream linked. */
  unname(kept: T, name: string): void {
    this.index.unname(kept, name);
    const link = kept.links.byName(name);
    if (link !== undefined && !link.isGlob) this.index.unlink(kept, link.streamId);
  }

  async #withHead(name: string, found: (head: StreamHead) => void): Promise<void> {
    const head = await this.#parts.engine.find(name, "look");
    if (!("kind" in head)) found(head);
  }

  /** Every stream whose name begins with one of the prefixes, once. */
  async #scan(prefixes: readonly string[], found: (head: StreamHead) => void): Promise<void> {
    const sorted = [...new Set(prefixes)].sort();
    const apart = sorted.filter((prefix, at) => !sorted.slice(0, at).some((shorter) => prefix.startsWith(shorter)));
    for (const prefix of apart) {
      for (let after = ""; ;) {
        const heads = await this.#parts.engine.list({ prefix, after, limit: PAGE });
        for (const head of heads) found(head);
        after = heads.at(-1)?.config.name ?? "";
        if (heads.length < PAGE) break;
        await nextTurn();
      }
    }
  }

  #linkAtCursor(kept: T, head: StreamHead): void {
    const outcome = this.index.link(kept, head, kept.cursors.get(head.id) ?? 0);
    if (outcome === "full") this.#noteShort(kept, head);
    if (outcome !== "linked") return;
    kept.cursors.delete(head.id);
    this.#parts.poke(kept.subscription);
  }

  /** Told once, until all that found no room is linked. */
  #noteShort(kept: T, { config }: StreamHead): void {
    this.#short.add(kept);
    if (this.#relinking !== null) return;
    const hint = "delete subscriptions or narrow their patterns: what is missing is linked when there is room";
    const what = `there are as many links as may be, ${this.index.size}: ${config.name} does not wake ${kept.subscription.id}`;
    this.#parts.onFault(LINKING, new Error(`${what}; ${hint}`));
    this.#relinkLater();
  }

  #relinkLater(): void {
    this.#relinking = this.#parts.engine.deadlines.after(RELINK_MS, () => {
      this.#relink().catch((cause: unknown) => this.#parts.onFault(LINKING, cause));
    });
  }

  async #relink(): Promise<void> {
    // As they are now: what stays short is noted anew.
    const waiting = [...this.#short];
    for (const kept of waiting) {
      if (this.index.isFull || this.#isClosed) break;
      // Not while names are added: those streams are to be linked at their tail.
      await this.#parts.alone(kept, () => this.#linkMissing(kept));
    }
    this.#relinking = null;
    if (this.#short.size > 0 && !this.#isClosed) this.#relinkLater();
  }

  async #linkMissing(kept: T): Promise<void> {
    this.#short.delete(kept);
    const link = (head: StreamHead): void => {
      if (this.index.wanting(head).has(kept)) this.#linkAtCursor(kept, head);
    };
    try {
      if (kept.pattern !== null) await this.#scan([kept.pattern.prefix], link);
      for (const name of kept.subscription.record.explicit) await this.#withHead(name, link);
    } catch (cause) {
      this.#short.add(kept);
      this.#parts.onFault(LINKING, cause);
    }
  }
}
