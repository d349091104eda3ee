/**
 * What the protocol says of subscriptions (PROTOCOL §6, §7), kept beside those of a world: which streams each has, how far it was
 * worked off for certain, which wakes it had. It is told what was asked and answered, and compares when nothing is under way.
 */

import type { Link } from "../../src/features/subscriptions/links.ts";
import type { SubscriptionConfig } from "../../src/features/subscriptions/subscription-config.ts";
import type { SubscriptionRecord } from "../../src/features/subscriptions/subscription-port.ts";
import { parseOffset } from "../../src/protocol/offset.ts";
import type { StreamHead } from "../../src/protocol/stream.ts";
import type { Delivery, SubscriptionWorld } from "./subscription-world.ts";

export const WAKE_STREAMS = "w/";

/** An ack on its way, or cut off by a crash: it may have happened. */
export interface PossibleAck {
  readonly streamId: number;
  readonly seq: number;
}

/** Fencing credentials, as a claim or a webhook gives them out. */
export interface Credentials {
  readonly model: ModelledSubscription;
  readonly token: string;
  readonly wakeId: string;
  readonly generation: number;
}

export class ModelledSubscription {
  readonly id: string;
  readonly config: SubscriptionConfig;
  /** Streams that were there before it was asked for, with their tails: nothing before them is ever told. */
  readonly oldTails: ReadonlyMap<number, number>;
  /** `making`, `removing`: asked for, not answered. */
  state: "making" | "present" | "removing" = "making";
  explicit: ReadonlySet<string>;
  /** What it would be after a change that is not answered. */
  explicitNext: ReadonlySet<string> | null = null;
  /** By stream id; a stream that is not here is at its start. */
  readonly acked = new Map<number, number>();
  readonly possible = new Set<PossibleAck>();
  /** Streams whose cursor the model does not know, after changes that ran into each other. */
  readonly unknown = new Set<string>();
  isAllUnknown = false;
  generation = 0;
  toldGeneration = 0;
  readonly wakeIds = new Map<number, string>();
  /** In a row; null: not known, after answers that ran into each other. */
  failures: number | null = 0;
  notBeforeMs = 0;
  /** `mayBeOver`: its end was asked for. */
  held: { readonly wakeId: string; untilMs: number; mayBeOver: boolean } | null = null;

  constructor(id: string, config: SubscriptionConfig, oldTails: ReadonlyMap<number, number>) {
    this.id = id;
    this.config = config;
    this.oldTails = oldTails;
    this.explicit = new Set(config.streams);
  }

  matches(name: string): boolean {
    return this.explicit.has(name) || (this.config.pattern !== null && globMatches(this.config.pattern, name));
  }
}

export class Model {
  readonly world: SubscriptionWorld;
  readonly subscriptions = new Map<string, ModelledSubscription>();
  /** Deleted since the last comparison: their last wakes may still lie in wake streams. */
  readonly removed = new Map<string, ModelledSubscription>();
  readonly deliveries: { readonly delivery: Delivery; readonly model: ModelledSubscription; readonly life: number }[] =
    [];
  readonly credentials: Credentials[] = [];
  readonly violations: string[] = [];
  readonly #eventsSeen = new Map<number, number>();

  constructor(world: SubscriptionWorld) {
    this.world = world;
    world.onDelivery = (delivery) => this.#onDelivery(delivery);
  }

  violated(what: string): void {
    this.violations.push(what);
  }

  /** Webhooks that wait for their answer. */
  open(): { readonly delivery: Delivery; readonly model: ModelledSubscription }[] {
    return this.deliveries.filter(
      ({ delivery, life }) => life === this.world.life && !delivery.isAnswered && !delivery.signal.aborted,
    );
  }

  noteWake(model: ModelledSubscription, generation: number, wakeId: string): void {
    const known = model.wakeIds.get(generation);
    if (known !== undefined && known !== wakeId)
      this.violated(`${model.id}: generation ${generation} is of two wakes, ${known} and ${wakeId}`);
    if (generation < model.generation)
      this.violated(`${model.id}: a wake of generation ${generation} after ${model.generation}`);
    model.wakeIds.set(generation, wakeId);
    model.generation = Math.max(model.generation, generation);
  }

  noteStreams(model: ModelledSubscription, streams: Delivery["wake"]["streams"], when: string): void {
    const paths = streams.map(({ path }) => path);
    if (new Set(paths).size !== paths.length)
      this.violated(`${model.id}: ${when} tells a stream twice: ${paths.join()}`);
    for (const { path, acked_offset, tail_offset, has_pending } of streams) {
      const [from, to] = [seqOf(acked_offset), seqOf(tail_offset)];
      if (has_pending !== to > from)
        this.violated(`${model.id}: ${when} tells ${path} ${from}..${to} as ${has_pending}`);
      const floor = model.acked.get(epochOf(tail_offset)) ?? 0;
      if (model.state === "present" && !model.isAllUnknown && !model.unknown.has(path) && from < floor)
        this.violated(`${model.id}: ${when} tells ${path} from ${from}, acked up to ${floor}`);
    }
  }

  /** After a crash: what was not answered has happened or not. */
  afterCrash(): void {
    for (const [id, model] of this.subscriptions) {
      const record = this.world.subscriptions.get(id)?.record;
      if (record === undefined) {
        if (model.state === "present") this.violated(`${id} is gone after a crash`);
        this.subscriptions.delete(id);
        this.removed.set(id, model);
        continue;
      }
      // It begins at the old tails, or behind them.
      if (model.state === "making") model.isAllUnknown = true;
      model.state = "present";
      model.explicit = this.#explicitAfterCrash(model, record);
      model.explicitNext = null;
      if (model.held?.mayBeOver === true) model.held = null;
      model.notBeforeMs = Math.max(model.notBeforeMs, record.retry?.atMs ?? 0);
    }
  }

  /** Compares, when nothing is under way. */
  async compare(): Promise<void> {
    const heads = await this.world.heads();
    await this.#readWakeStreams(heads);
    for (const id of this.removed.keys())
      if (this.world.subscriptions.get(id) !== undefined) this.violated(`${id} is there after it was deleted`);
    for (const { delivery, model } of this.open())
      if (this.subscriptions.get(model.id) !== model)
        this.violated(`${delivery.id}: its webhook goes on after it was deleted`);
    this.removed.clear();
    for (const model of this.subscriptions.values()) this.#compareOne(model, heads);
  }

  isPending(model: ModelledSubscription, heads: readonly StreamHead[]): boolean {
    const links = this.world.subscriptions.get(model.id)?.links;
    return heads.some(({ id, config, next }) => {
      const link = links?.get(id);
      return link !== undefined && !config.name.startsWith(WAKE_STREAMS) && next > link.acked;
    });
  }

  #compareOne(model: ModelledSubscription, heads: readonly StreamHead[]): void {
    const { id } = model;
    const subscription = this.world.subscriptions.get(id);
    if (subscription === undefined) return this.violated(`${id} is not there`);
    const { record, links } = subscription;
    const expected = heads.filter(({ config }) => model.matches(config.name));
    const linked = expected.filter((head) => links.get(head.id) !== undefined);
    if (linked.length !== expected.length || links.size !== expected.length) {
      const names = links
        .first(Infinity)
        .map(({ link: { name, streamId } }) => `${name}#${streamId}`)
        .sort();
      const wanted = expected.map(({ config, id: streamId }) => `${config.name}#${streamId}`).sort();
      this.violated(`${id} is linked to ${names.join()} instead of ${wanted.join()}`);
    }
    for (const head of linked) this.#compareLink(model, head, links.get(head.id));
    model.possible.clear();
    model.unknown.clear();
    model.isAllUnknown = false;
    this.#compareWake(model, record, this.isPending(model, heads));
  }

  #compareLink(model: ModelledSubscription, head: StreamHead, link: Link | undefined): void {
    if (link === undefined) return;
    const { name } = head.config;
    const about = `${model.id}, ${name}#${head.id}`;
    const floor = model.acked.get(head.id) ?? 0;
    const allowed = [floor, ...[...model.possible].flatMap(({ streamId, seq }) => (streamId === head.id ? [seq] : []))];
    if (model.isAllUnknown || model.unknown.has(name)) {
      const oldTail = model.oldTails.get(head.id) ?? 0;
      if (link.acked < oldTail) this.violated(`${about} begins at ${link.acked}, before its old tail ${oldTail}`);
    } else if (!allowed.includes(link.acked)) {
      const how = link.acked < floor ? "has gone back" : "has moved";
      this.violated(`${about} ${how} to ${link.acked}; acknowledged or possible were ${allowed.join()}`);
    }
    if (link.acked > head.next) this.violated(`${about} is at ${link.acked}, past the tail ${head.next}`);
    if (!name.startsWith(WAKE_STREAMS) && link.tail !== head.next)
      this.violated(`${about} ends at ${link.tail} instead of ${head.next}`);
    model.acked.set(head.id, link.acked);
  }

  #compareWake(model: ModelledSubscription, { wake, retry, generation }: SubscriptionRecord, isPending: boolean): void {
    const { id } = model;
    const nowMs = this.world.time.ms;
    if (generation < model.generation)
      this.violated(`${id}: its generation is ${generation}, after wakes of ${model.generation}`);
    if (wake !== null) this.noteWake(model, generation, wake.id);
    const retryMs = retry?.atMs ?? null;
    if (isPending && wake === null && retryMs === null) this.violated(`${id} has news and wakes nobody`);
    if (wake !== null && retryMs === null && wake.untilMs <= nowMs)
      this.violated(`${id}: a lease ended ${nowMs - wake.untilMs} ms ago and nothing happened`);
    if (retryMs !== null && retryMs <= nowMs)
      this.violated(`${id}: a retry was due ${nowMs - retryMs} ms ago and nothing happened`);
    const open = this.open().filter((one) => one.model === model);
    if (open.length > 1) this.violated(`${id} has ${open.length} webhooks under way`);
    for (const { delivery } of open)
      if (wake !== null && delivery.wake.wake.id !== wake.id)
        this.violated(`${id}: the webhook of ${delivery.wake.wake.id} goes on`);
    if (retryMs !== null) model.notBeforeMs = retryMs;
    // There was nothing left to be tried again.
    if (retry === null && wake === null) model.failures = null;
  }

  #onDelivery(delivery: Delivery): void {
    const { id, type, wake, token, atMs } = delivery;
    const model = this.subscriptions.get(id);
    if (type !== "webhook") this.violated(`a webhook for ${id}, which is a ${type} subscription`);
    if (model === undefined) return this.violated(`a webhook for ${id}, which was deleted`);
    this.deliveries.push({ delivery, model, life: this.world.life });
    this.noteWake(model, wake.generation, wake.wake.id);
    this.noteStreams(model, wake.streams, "a webhook");
    if (atMs < model.notBeforeMs) this.violated(`${id} is tried again ${model.notBeforeMs - atMs} ms too early`);
    model.notBeforeMs = 0;
    this.credentials.push({ model, token, wakeId: wake.wake.id, generation: wake.generation });
  }

  async #readWakeStreams(heads: readonly StreamHead[]): Promise<void> {
    for (const { id: streamId, config } of heads.filter((head) => head.config.name.startsWith(WAKE_STREAMS))) {
      const events = (await this.world.records(config.name)) as { subscription_id: string; generation: number }[];
      for (const { subscription_id: id, generation } of events.slice(this.#eventsSeen.get(streamId) ?? 0)) {
        const model = this.subscriptions.get(id) ?? this.removed.get(id);
        if (model === undefined) this.violated(`a wake of ${id}, which was deleted`);
        else if (generation <= model.toldGeneration)
          this.violated(`${id}: a wake of generation ${generation} after ${model.toldGeneration} in ${config.name}`);
        else model.toldGeneration = generation;
        if (model !== undefined) model.generation = Math.max(model.generation, generation);
      }
      this.#eventsSeen.set(streamId, events.length);
    }
  }

  #explicitAfterCrash(model: ModelledSubscription, record: SubscriptionRecord): ReadonlySet<string> {
    const actual = new Set(record.explicit);
    const known = [model.explicit, ...(model.explicitNext === null ? [] : [model.explicitNext])];
    if (!known.some((names) => names.size === actual.size && names.isSubsetOf(actual)))
      this.violated(`${model.id}: after a crash it names ${record.explicit.join()}`);
    for (const names of known) for (const name of names.symmetricDifference(model.explicit)) model.unknown.add(name);
    return actual;
  }
}

/** The glob as the protocol says it, by trying. */
export function globMatches(pattern: string, name: string): boolean {
  const match = (parts: readonly string[], segments: readonly string[]): boolean => {
    const [part, ...rest] = parts;
    if (part === undefined) return segments.length === 0;
    if (part === "**") return match(rest, segments) || (segments.length > 0 && match(parts, segments.slice(1)));
    return segments.length > 0 && (part === "*" || part === segments[0]) && match(rest, segments.slice(1));
  };
  return match(pattern.split("/"), name.split("/"));
}

export function seqOf(offset: string): number {
  const token = parseOffset(offset);
  return token?.kind === "at" ? token.seq : 0;
}

export function epochOf(offset: string): number {
  const token = parseOffset(offset);
  return token?.kind === "at" ? token.epoch : 0;
}
