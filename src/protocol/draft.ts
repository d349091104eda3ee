/**
 * A head with the pending changes of a group on top: what the rules of the group look at and write to. The head itself is not touched.
 */

import type { AppendView } from "./append-rules.ts";
import type { SplitRecords } from "./json-records.ts";
import { encodeOffset, offsetAt } from "./offset.ts";
import type { Retention } from "./retention.ts";
import {
  type AppendMark,
  lineageOf,
  type ProducerClaim,
  type ProducerState,
  type StreamChange,
  type StreamConfig,
  type StreamHead,
  type StreamProfile,
} from "./stream.ts";

/** The heads a group is decided on. Each look-up may throw a `Damage`. */
export interface HeadSource {
  byName(name: string): StreamHead | undefined;
  byId(id: number): StreamHead | undefined;
  producer(head: StreamHead, id: string): ProducerState | undefined;
}

/** A head with the pending changes of this group on top. */
export class Draft implements AppendView {
  readonly head: StreamHead;
  readonly change: StreamChange;
  readonly #source: HeadSource;
  dirty = false;

  constructor(head: StreamHead, source: HeadSource) {
    this.head = head;
    this.change = { id: head.id };
    this.#source = source;
  }

  get id(): number {
    return this.head.id;
  }
  get next(): number {
    return this.change.next ?? this.head.next;
  }
  get closed(): boolean {
    return this.change.closed ?? this.head.closed;
  }
  get closedBy(): ProducerClaim | null {
    return this.change.closedBy ?? this.head.closedBy;
  }
  get contentType(): string {
    return this.config.contentType;
  }
  get streamSeq(): string | null {
    return this.change.streamSeq ?? this.head.streamSeq;
  }
  get producerCount(): number {
    return this.change.producerCount ?? this.head.producerCount;
  }
  get config(): StreamConfig {
    return this.head.config;
  }
  get retention(): Retention {
    return this.change.retention ?? this.head.retention;
  }
  get profile(): StreamProfile | null {
    return this.change.profile === undefined ? this.head.profile : this.change.profile;
  }
  get deletion() {
    return this.change.deletion ?? this.head.deletion;
  }
  get forks(): number {
    return this.change.forks ?? this.head.forks;
  }
  get offset(): string {
    const inherits = this.config.fork !== null && this.next === this.config.from;
    return inherits ? offsetAt(lineageOf(this.head), this.next) : encodeOffset(this.head.id, this.next);
  }

  producer(id: string): ProducerState | undefined {
    return this.change.producers?.get(id) ?? this.#source.producer(this.head, id);
  }

  /** Adds records at the pending tail; the run's appends say which of them came together, under which key. */
  push(body: SplitRecords): AppendMark[] {
    const run = (this.change.run ??= { firstSeq: this.head.next, lengths: [], appends: [], parts: [] });
    let bytes = this.change.bytes ?? this.head.bytes;
    for (const length of body.lengths) {
      run.lengths.push(length);
      bytes += length;
    }
    run.parts.push(body.payload);
    this.change.bytes = bytes;
    this.change.next = run.firstSeq + run.lengths.length;
    this.dirty = true;
    return run.appends;
  }

  /** Adds records as one append. */
  pushAppend(body: SplitRecords, key: string | null): void {
    const count = body.lengths.length;
    this.push(body).push(body.digest === undefined ? { count, key } : { count, key, digest: body.digest });
  }
}
