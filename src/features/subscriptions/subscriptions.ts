/** All subscriptions: made, found again at a start, and woken by the commit feed. */

import type { Engine } from "../../engine/engine.ts";
import { nextTurn } from "../../kit/turn.ts";
import { offsetAt, parseOffset, resolveOffset } from "../../protocol/offset.ts";
import { type Commit, INTERNAL, lineageOf } from "../../protocol/stream.ts";
import { parsePattern, type Pattern } from "./glob.ts";
import { type Linkable, Linker } from "./linker.ts";
import type { Link } from "./links.ts";
import { MAX_EXPLICIT_STREAMS, MAX_SUBSCRIPTIONS } from "./limits.ts";
import { Subscription } from "./subscription.ts";
import { sameConfig, type SubscriptionConfig } from "./subscription-config.ts";
import {
  type Answer,
  type LinkedStream,
  type Refusal,
  type SubscriptionCounters,
  type SubscriptionParts,
  isRefused,
} from "./subscription-port.ts";
import { type StoredSubscription, SubscriptionStore } from "./subscription-store.ts";
import type { WakeTokens } from "./wake-tokens.ts";

export interface SubscriptionsParts {
  readonly engine: Engine;
  readonly tokens: WakeTokens;
  readonly newId: () => string;
  readonly deliver: SubscriptionParts["deliver"];
  readonly onFault: (operation: string, cause: unknown) => void;
  /** Tests fill it up. */
  readonly maxLinks?: number;
}

export interface SubscriptionSummary {
  readonly id: string;
  readonly status: "active" | "failed";
  readonly lagRecords: number;
  readonly pendingStreams: number;
  readonly failures: number;
}

/** A subscription with where it is kept. */
interface Kept extends Linkable {
  readonly home: number;
}

/** Subscriptions that have figures of their own in `/metrics`. */
const MAX_METERED = 50;
/** Subscriptions looked at in one turn: most are awake already, the others begin to write. */
const POKES_PER_TURN = 200;

export class Subscriptions {
  readonly #parts: SubscriptionsParts;
  readonly #store: SubscriptionStore;
  readonly #kept = new Map<string, Kept>();
  readonly #linker: Linker<Kept>;
  /** Being made, changed or deleted: one at a time for each id. */
  readonly #changing = new Map<string, Promise<unknown>>();
  readonly #counters: SubscriptionCounters;
  readonly #ready = Promise.withResolvers<void>();
  readonly #poked = new Set<Subscription>();
  #isPumping = false;
  #isClosed = false;

  constructor(parts: SubscriptionsParts) {
    this.#parts = parts;
    const { engine, onFault, maxLinks } = parts;
    this.#linker = new Linker({
      engine,
      onFault,
      maxLinks,
      poke: (subscription) => this.#poke(subscription),
      alone: (kept, change) => this.#whileThere(kept, change),
    });
    this.#store = new SubscriptionStore(engine, onFault);
    const { metrics } = engine;
    this.#counters = {
      wakes: metrics.labelled("streams_subscription_wakes_total", "Wakes told.", "type", ["webhook", "pull-wake"]),
      failures: metrics.counter("streams_subscription_failures_total", "Wakes that could not be told."),
      expired: metrics.counter("streams_subscription_expired_total", "Leases and wakes that ended by their time."),
    };
    metrics.gauge("streams_subscriptions", "Subscriptions.", () => this.#kept.size);
    metrics.gauge("streams_subscription_links", "Streams linked to subscriptions.", () => this.#linker.index.size);
    const missing = "Subscriptions that lack streams, because there are as many links as may be.";
    metrics.gauge("streams_subscriptions_short", missing, () => this.#linker.short);
    metrics.gauges(
      "streams_subscription_lag_records",
      "Records that a subscription has not worked off, of the 50 furthest behind.",
      "subscription",
      () => this.describe(MAX_METERED).map(({ id, lagRecords }) => [id, lagRecords]),
    );
    metrics.gauges(
      "streams_subscription_failed_attempts",
      "Wakes of a subscription that failed in a row, of the 50 furthest behind.",
      "subscription",
      () => this.describe(MAX_METERED).map(({ id, failures }) => [id, failures]),
    );
    engine.follow((commit) => this.#onCommit(commit));
  }

  /** Finds the subscriptions of the log; before the first request. */
  async load(): Promise<void> {
    for await (const stored of this.#store.all()) this.#keep(stored);
  }

  /** Links the streams that are there, and wakes for what is pending. */
  async start(): Promise<void> {
    try {
      await this.#linker.linkAll([...this.#kept.values()]);
    } finally {
      for (const { subscription } of this.#kept.values()) subscription.start();
      this.#ready.resolve();
    }
  }

  /** Resolves once the streams of all subscriptions are known; right after a start they are not. */
  whenReady(): Promise<void> {
    return this.#ready.promise;
  }

  get(id: string): Subscription | undefined {
    const subscription = this.#kept.get(id)?.subscription;
    return subscription?.isStarted === true ? subscription : undefined;
  }

  /** In the order of their ids. */
  list(after: string, limit: number): { readonly page: readonly Subscription[]; readonly next: string | null } {
    const all = [...this.#kept.keys()].filter((id) => id > after).sort();
    const ids = all.slice(0, limit);
    // One that is being made is not shown yet.
    const page = ids.flatMap((id) => this.get(id) ?? []);
    return { page, next: all.length > limit ? (ids.at(-1) ?? null) : null };
  }

  /** Those furthest behind, for operators. */
  describe(limit: number): readonly SubscriptionSummary[] {
    const all = [...this.#kept.values()].sort((left, right) => right.links.lag - left.links.lag);
    return all.slice(0, limit).map(({ subscription }) => summaryOf(subscription));
  }

  /** Makes a subscription, or confirms one that is the same. */
  put(id: string, config: SubscriptionConfig, base: string): Promise<Answer<{ readonly created: boolean }>> {
    return this.#alone(id, async () => {
      const known = this.get(id);
      if (known !== undefined) {
        if (!sameConfig(known.record.config, config)) return { refused: alreadyExists };
        const moved = known.record.base === base ? {} : await known.setBase(base);
        return isRefused(moved) ? moved : { created: false };
      }
      if (this.#kept.size >= MAX_SUBSCRIPTIONS) return { refused: tooMany("subscriptions") };
      return this.#make(id, config, base);
    });
  }

  /** Nothing of it is told or moved any more. Idempotent. */
  async remove(id: string): Promise<void> {
    await this.#alone(id, async () => {
      this.#forget(id);
      await this.#store.remove(id);
      return {};
    });
  }

  /** Links streams by name, those that exist at their tail. */
  addStreams(id: string, names: readonly string[]): Promise<Answer<object>> {
    return this.#alone(id, async () => {
      const kept = this.#kept.get(id);
      if (kept === undefined) return { refused: notFound };
      const { explicit } = kept.subscription.record;
      const added = names.filter((name) => !explicit.includes(name));
      if (explicit.length + added.length > MAX_EXPLICIT_STREAMS) return { refused: tooMany("streams by name") };
      if (kept.wakeStream !== null && added.includes(kept.wakeStream)) return { refused: ownWakeStream };
      let isSaved = false;
      try {
        for (const name of added) this.#linker.index.name(kept, name);
        const linked = await this.#linker.linkOld(kept, added, null);
        if (linked === null) return { refused: tooMany("linked streams") };
        const cursors = () =>
          new Map([...linked.keys()].map((streamId) => [streamId, kept.links.get(streamId)?.acked ?? null]));
        const answer = await kept.subscription.setExplicit([...explicit, ...added], cursors);
        isSaved = !isRefused(answer);
        return answer;
      } finally {
        // What is refused has not happened: asked for again, each is linked, and its cursor saved, as for the first time.
        if (!isSaved) for (const name of added) this.#linker.unname(kept, name);
      }
    });
  }

  /** Takes a name away; a pattern that matches keeps the stream linked. */
  removeStream(id: string, name: string): Promise<Answer<object>> {
    return this.#alone(id, async () => {
      const kept = this.#kept.get(id);
      if (kept === undefined) return { refused: notFound };
      const { explicit } = kept.subscription.record;
      if (!explicit.includes(name)) return {};
      const rest = explicit.filter((other) => other !== name);
      const cursors = (): Map<number, null> => {
        const link = kept.links.byName(name);
        return new Map(link === undefined || link.isGlob ? [] : [[link.streamId, null]]);
      };
      return kept.subscription.setExplicit(rest, cursors, () => this.#linker.unname(kept, name));
    });
  }

  /** A link with its offsets; null when its stream is gone. */
  async describeLink({ streamId, name, acked, isExplicit }: Link, tail: number): Promise<LinkedStream | null> {
    const head = await this.#parts.engine.byId(streamId);
    if (head === undefined) return null;
    const lineage = lineageOf(head);
    const acknowledged = acked === 0 ? START : offsetAt(lineage, acked);
    const link_type = isExplicit ? "explicit" : "glob";
    return { path: name, link_type, acked_offset: acknowledged, tail_offset: offsetAt(lineage, tail) };
  }

  close(): void {
    this.#isClosed = true;
    this.#linker.close();
    for (const { subscription } of this.#kept.values()) subscription.close();
  }

  async #make(id: string, config: SubscriptionConfig, base: string): Promise<Answer<{ readonly created: boolean }>> {
    const createdMs = this.#parts.engine.clock.nowMs();
    const home = await this.#store.make(id);
    const record = { config, createdMs, base, explicit: config.streams, generation: 0, wake: null, retry: null };
    // From here on new streams are linked at their start; those that are there are linked at their tail.
    const kept = this.#keep({ id, home, record, cursors: new Map() });
    try {
      const cursors = await this.#linker.linkOld(kept, record.explicit, kept.pattern);
      // One that came meanwhile may have found no room, or the next will.
      if (cursors === null || this.#linker.isShort(kept) || this.#linker.index.isFull) {
        await this.#undo(id);
        return { refused: tooMany("linked streams") };
      }
      await this.#store.saveCursors(home, cursors);
      await this.#store.saveWhole(home, record);
    } catch (cause) {
      await this.#undo(id);
      throw cause;
    }
    kept.subscription.start();
    return { created: true };
  }

  async #undo(id: string): Promise<void> {
    this.#forget(id);
    await this.#store.remove(id);
  }

  #keep({ id, home, record, cursors }: StoredSubscription): Kept {
    const { engine, tokens, newId, deliver, onFault } = this.#parts;
    const subscription = new Subscription(id, record, {
      clock: engine.clock,
      deadlines: engine.deadlines,
      random: engine.random,
      newId,
      tokens,
      subject: `${id} ${home}`,
      counters: this.#counters,
      onFault,
      deliver,
      save: (state, moved) => this.#store.save(home, state, moved),
      saveBase: (moved) => this.#store.saveFixed(home, { ...record, base: moved }),
      saveExplicit: (names, moved) => this.#store.saveExplicit(home, names, moved),
      tell: (wakeStream, event, next) => this.#store.tell(home, wakeStream, event, next),
      describe: (link, tail) => this.describeLink(link, tail),
      seqOf: (streamId, offset) => this.#seqOf(streamId, offset),
    });
    const { links } = subscription;
    const { wakeStream, pattern } = record.config;
    const kept: Kept = { subscription, links, home, cursors, wakeStream, pattern: patternOf(pattern) };
    this.#kept.set(id, kept);
    this.#linker.index.add(kept, record.explicit);
    return kept;
  }

  #forget(id: string): void {
    const kept = this.#kept.get(id);
    if (kept === undefined) return;
    kept.subscription.close();
    this.#kept.delete(id);
    this.#linker.forget(kept);
  }

  #onCommit({ changes }: Commit): void {
    if (this.#kept.size === 0) return;
    for (const { id, created, next, deletion, profile } of changes) {
      const head = created === undefined ? undefined : this.#parts.engine.peek(created.name);
      if (head !== undefined) this.#linker.linkNew(head);
      if (next !== undefined)
        for (const { subscription } of this.#linker.index.moveTail(id, next)) this.#poke(subscription);
      if (deletion !== undefined || profile?.kind === INTERNAL) this.#onGone(id);
    }
  }

  #onGone(streamId: number): void {
    for (const kept of this.#linker.index.linked(streamId)) {
      this.#linker.index.unlink(kept, streamId);
      this.#store
        .saveCursors(kept.home, new Map([[streamId, null]]))
        .catch((cause: unknown) => this.#parts.onFault(`a cursor of ${kept.subscription.id}`, cause));
    }
  }

  /** Not in the turn of the commit: a stream may have thousands of subscriptions. */
  #poke(subscription: Subscription): void {
    this.#poked.add(subscription);
    if (this.#isPumping) return;
    this.#isPumping = true;
    this.#pump().catch((cause: unknown) => this.#parts.onFault("waking subscriptions", cause));
  }

  async #pump(): Promise<void> {
    while (this.#poked.size > 0 && !this.#isClosed) {
      await nextTurn();
      for (const subscription of [...this.#poked].slice(0, POKES_PER_TURN)) {
        this.#poked.delete(subscription);
        subscription.poke();
      }
    }
    this.#isPumping = false;
  }

  async #seqOf(streamId: number, offset: string): Promise<number | null> {
    const head = await this.#parts.engine.byId(streamId);
    const token = parseOffset(offset);
    if (head === undefined || token?.kind !== "at") return null;
    const position = resolveOffset(lineageOf(head), token);
    return position.kind === "seq" ? position.seq : null;
  }

  async #whileThere(kept: Kept, change: () => Promise<void>): Promise<void> {
    const { id } = kept.subscription;
    await this.#alone(id, async () => {
      if (this.#kept.get(id) === kept) await change();
      return {};
    });
  }

  #alone<T extends object>(id: string, change: () => Promise<Answer<T>>): Promise<Answer<T>> {
    const before = this.#changing.get(id) ?? Promise.resolve();
    const result = before.then(change, change);
    const settled = result.then(
      () => undefined,
      () => undefined,
    );
    this.#changing.set(id, settled);
    void settled.then(() => {
      if (this.#changing.get(id) === settled) this.#changing.delete(id);
    });
    return result;
  }
}

/** Nothing was worked off yet. */
export const START = "-1";

function patternOf(text: string | null): Pattern | null {
  const parsed = text === null ? null : parsePattern(text);
  return typeof parsed === "string" ? null : parsed;
}

export const notFound: Refusal = { code: "SUBSCRIPTION_NOT_FOUND", message: "no such subscription" };
const alreadyExists: Refusal = {
  code: "SUBSCRIPTION_ALREADY_EXISTS",
  message: "a subscription with this id exists, with another configuration",
};
const ownWakeStream: Refusal = {
  code: "INVALID_REQUEST",
  message: "a wake stream cannot wake its own subscription",
};

function tooMany(what: string): Refusal {
  return { code: "OVERLOADED", message: `there are too many ${what}` };
}

export function summaryOf({ id, record, links }: Subscription): SubscriptionSummary {
  return {
    id,
    status: record.retry === null ? "active" : "failed",
    lagRecords: links.lag,
    pendingStreams: links.pendingStreams,
    failures: record.retry?.attempts ?? 0,
  };
}
