/**
 * What subscribers were told, read and acked while the server was killed again and again, and what of it was promised: acknowledged
 * appends, acknowledged acks. Says at any time what does not fit, and at the end what is missing.
 */

import { globMatches, seqOf } from "./subscription-model.ts";

export interface ToldStream {
  readonly path: string;
  readonly acked_offset: string;
  readonly tail_offset: string;
  readonly has_pending: boolean;
}

export interface Ack {
  readonly stream: string;
  readonly offset: string;
}

interface Append {
  readonly stream: string;
  readonly ids: readonly string[];
  readonly startedMs: number;
}

/** Where one subscription stands with one stream, in seqs. */
class Place {
  /** Acknowledged by the server, or shown by it: never less again. */
  floor = 0;
  /** The furthest that anybody has said, or where it began: never more. */
  ceiling = 0;
  readonly processed = new Set<number>();
}

export class Subscriber {
  readonly id: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly pattern: string | null;
  readonly streams: readonly string[];
  /** When it was there for certain. */
  madeMs = Infinity;
  generation = 0;
  readonly wakeIds = new Map<number, string>();
  readonly claimed = new Set<number>();
  failuresInARow = 0;
  readonly #places = new Map<string, Place>();

  constructor(id: string, config: Readonly<Record<string, unknown>>, streams: readonly string[]) {
    this.id = id;
    this.config = config;
    this.pattern = typeof config["pattern"] === "string" ? config["pattern"] : null;
    this.streams = streams;
  }

  get wakeStream(): string | null {
    return typeof this.config["wake_stream"] === "string" ? this.config["wake_stream"] : null;
  }

  matches(stream: string): boolean {
    return this.streams.includes(stream) || (this.pattern !== null && globMatches(this.pattern, stream));
  }

  place(stream: string): Place {
    const place = this.#places.get(stream) ?? new Place();
    this.#places.set(stream, place);
    return place;
  }

  floors(): ReadonlyMap<string, number> {
    return new Map([...this.#places].map(([stream, { floor }]) => [stream, floor]));
  }
}

export class DeliveryLedger {
  readonly subscribers = new Map<string, Subscriber>();
  readonly violations = new Set<string>();
  readonly counts = new Map<string, number>();
  readonly #appends: Append[] = [];

  /** For people who watch the test. */
  count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  violated(what: string): void {
    this.violations.add(what);
  }

  appended(append: Append): void {
    this.#appends.push(append);
  }

  get records(): number {
    return this.#appends.reduce((sum, { ids }) => sum + ids.length, 0);
  }

  noteWake(subscriber: Subscriber, generation: number, wakeId: string, least: number): void {
    const known = subscriber.wakeIds.get(generation);
    if (known !== undefined && known !== wakeId)
      this.violated(`${subscriber.id}: generation ${generation} is of two wakes`);
    if (generation < least) this.violated(`${subscriber.id}: a wake of generation ${generation} after ${least}`);
    subscriber.wakeIds.set(generation, wakeId);
    subscriber.generation = Math.max(subscriber.generation, generation);
  }

  /** What the server shows of a subscription. `floors`: those from before it was asked. */
  noteShown(
    subscriber: Subscriber,
    streams: readonly Pick<ToldStream, "path" | "acked_offset">[],
    floors: ReadonlyMap<string, number>,
    when: string,
  ): void {
    for (const [stream, floor] of floors) {
      const shown = streams.find(({ path }) => path === stream);
      const acked = shown === undefined ? null : seqOf(shown.acked_offset);
      if (floor > 0 && (acked === null || acked < floor))
        this.violated(`${subscriber.id}, ${stream}, ${when}: at ${acked ?? "nothing"}, acknowledged up to ${floor}`);
    }
    for (const { path, acked_offset } of streams) {
      const place = subscriber.place(path);
      const acked = seqOf(acked_offset);
      if (acked > place.ceiling)
        this.violated(`${subscriber.id}, ${path}, ${when}: at ${acked}, and nobody acked more than ${place.ceiling}`);
      place.floor = Math.max(place.floor, acked);
    }
  }

  /** Where streams that were there before are begun. */
  noteMade(subscriber: Subscriber, streams: readonly Pick<ToldStream, "path" | "acked_offset">[]): void {
    subscriber.madeMs = performance.now();
    for (const { path, acked_offset } of streams) {
      const place = subscriber.place(path);
      place.ceiling = Math.max(place.ceiling, seqOf(acked_offset));
      place.floor = Math.max(place.floor, seqOf(acked_offset));
    }
  }

  /** Somebody is about to say it. */
  noteSaid(subscriber: Subscriber, acks: readonly Ack[]): void {
    for (const { stream, offset } of acks) {
      const place = subscriber.place(stream);
      place.ceiling = Math.max(place.ceiling, seqOf(offset));
    }
  }

  /** It was processed and said; `isAcknowledged`: the server says so too. */
  noteProcessed(
    subscriber: Subscriber,
    told: readonly ToldStream[],
    acks: readonly Ack[],
    isAcknowledged: boolean,
  ): void {
    for (const { stream, offset } of acks) {
      const place = subscriber.place(stream);
      const from = seqOf(told.find(({ path }) => path === stream)?.acked_offset ?? "");
      for (let seq = from; seq < seqOf(offset); seq++) place.processed.add(seq);
      if (isAcknowledged) place.floor = Math.max(place.floor, seqOf(offset));
    }
  }

  /** What is missing at the end: `stored` are the ids of the records of each stream, in order. */
  settle(stored: ReadonlyMap<string, readonly string[]>): void {
    const seqs = new Map([...stored].map(([stream, ids]) => [stream, new Map(ids.map((id, seq) => [id, seq]))]));
    for (const { stream, ids, startedMs } of this.#appends) {
      for (const id of ids) {
        const seq = seqs.get(stream)?.get(id);
        if (seq === undefined) this.violated(`${id} of ${stream} is gone`);
        else this.#settleOne(stream, seq, startedMs);
      }
    }
  }

  #settleOne(stream: string, seq: number, startedMs: number): void {
    for (const subscriber of this.subscribers.values()) {
      if (startedMs <= subscriber.madeMs || !subscriber.matches(stream)) continue;
      if (!subscriber.place(stream).processed.has(seq))
        this.violated(`${subscriber.id} was never told of ${stream} ${seq}, or it was not processed`);
    }
  }
}
