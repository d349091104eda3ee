/**
 * Reading: from what a client asks for to a fixed range of seqs, and from the range to chunks. A read never waits and never
 * sees more than was durable when it was planned. Forks are stitched along their lineage without copying.
 * A chunk is planned and read in one turn; nothing of the store lives across an await.
 */

import { nextTurn, TurnGate } from "../kit/turn.ts";
import type { Clock } from "../kit/clock.ts";
import type { Metrics } from "../kit/metrics.ts";
import { isJson } from "../protocol/content-type.ts";
import type { Filter } from "../protocol/filter.ts";
import { RecordsGone } from "../protocol/faults.ts";
import { READ_BYTES_PER_TURN, READ_CHUNK_BYTES, SMALL_READ_BYTES } from "../protocol/limits.ts";
import { type Lineage, offsetAt, type OffsetToken, resolveOffset } from "../protocol/offset.ts";
import { lineageOf, meanRecordBytes, type StreamHead } from "../protocol/stream.ts";
import type { Rejection } from "../protocol/verdicts.ts";
import type { StreamStore } from "../storage/port.ts";
import { filterRecords } from "./record-filter.ts";
import { type MemoryGuard, SHORT_OF_MEMORY } from "./memory-guard.ts";

/** Where a read begins. */
export type ReadStart =
  | { readonly kind: "offset"; readonly token: OffsetToken }
  /** The first record appended at or after this time. */
  | { readonly kind: "time"; readonly atMs: number }
  /** A seq this server itself has reached before. */
  | {
      readonly kind: "seq";
      readonly seq: number;
      /** What is read is counted by who reads it, and bounded there. */
      readonly isCounted?: boolean;
    }
  /** The last so many records. */
  | { readonly kind: "tail"; readonly records: number };

/** Which records of a range are wanted; null = all. */
export interface Selection {
  /** Only those appended under this key. */
  readonly key: string | null;
  /** Only JSON records that match. */
  readonly filter: Filter | null;
}

export const EVERY_RECORD: Selection = { key: null, filter: null };

export function selectsAll({ key, filter }: Selection): boolean {
  return key === null && filter === null;
}

/** A range of one stream, fixed when it was planned. */
export interface ReadPlan extends Selection {
  readonly id: number;
  readonly name: string;
  readonly contentType: string;
  readonly json: boolean;
  readonly lineage: Lineage;
  readonly from: number;
  /** Exclusive: the durable tail. */
  readonly to: number;
  readonly closed: boolean;
  /** Payload of one record, on average. */
  readonly recordBytes: number;
}

/** How the bytes of a read are handed out. */
export type ReadCoding = "identity" | "zstd";

/** One chunk, and the plan for what follows it. */
export interface ReadStep {
  readonly parts: readonly Uint8Array[];
  /** What the parts are: payload, or zstd frames of it. */
  readonly coding: ReadCoding;
  readonly rest: ReadPlan;
}

export class Reader {
  readonly #store: StreamStore;
  readonly #clock: Clock;
  readonly #memory: MemoryGuard | null;
  /** Clients that come together and ask for much would otherwise be served in one turn, in which nobody else is. */
  readonly #gate = new TurnGate(READ_BYTES_PER_TURN);
  readonly #chunks;
  readonly #bytes;

  constructor(store: StreamStore, clock: Clock, metrics: Metrics, memory: MemoryGuard | null) {
    this.#store = store;
    this.#clock = clock;
    this.#memory = memory;
    this.#chunks = metrics.counter("streams_read_chunks_total", "Chunks read for catch-up and live readers.");
    this.#bytes = metrics.counter("streams_read_bytes_total", "Payload bytes read for catch-up and live readers.");
  }

  async plan(head: StreamHead, start: ReadStart, { key, filter }: Selection): Promise<ReadPlan | Rejection> {
    const json = isJson(head.config.contentType);
    if (filter !== null && !json) return { kind: "filter-needs-json" };
    const lineage = lineageOf(head);
    const { closed, next: to, id, config } = head;
    const earliest = await this.earliest(head);
    const from = await this.#resolveStart(lineage, start, earliest, to);
    if (typeof from !== "number") return from;
    // Of what a fork inherited nothing is known: those may be as large as a chunk.
    const recordBytes = meanRecordBytes(head) ?? READ_CHUNK_BYTES;
    const isCounted = start.kind === "seq" && start.isCounted === true;
    if (this.#memory !== null && !isCounted && from < to) {
      const bytes = heldBytes(recordBytes, to - from);
      // Who follows and is at most a chunk behind goes on: to be thrown out and to come back costs more.
      const isFollowing = start.kind === "seq" && bytes <= READ_CHUNK_BYTES;
      if (this.#memory.shedding && !isFollowing) return SHORT_OF_MEMORY;
      // Told before it is read: a thousand reads that arrive together would all be let in otherwise.
      this.#memory.note(bytes);
    }
    return {
      id,
      name: config.name,
      contentType: config.contentType,
      json,
      lineage,
      from,
      to,
      closed,
      key,
      filter,
      recordBytes,
    };
  }

  /**
   * Reads a plan in order, until its end or until `signal`, one chunk ahead of its consumer: while a chunk is sent the next one is
   * decompressed. Not while the first one is on its way: somebody waits for that. Joins of parts are the caller's: JSON parts by commas.
   * With `zstd`, what is stored as frames comes as frames, the rest does not.
   */
  async *chunks(plan: ReadPlan, signal: AbortSignal, coding: ReadCoding = "identity"): AsyncGenerator<ReadStep> {
    let isFirst = true;
    let step = await this.#ahead(plan, signal, coding);
    while (step !== null && !signal.aborted) {
      const ahead = isFirst ? null : this.#ahead(step.rest, signal, coding);
      // Its error is heard when it is awaited; a consumer that stops before never asks.
      ahead?.catch(() => undefined);
      if (step.parts.length > 0) {
        isFirst = false;
        yield step;
      }
      // A selection may pass over a whole stream: never in one turn, and not for a client that has gone.
      else await nextTurn();
      step = await (ahead ?? this.#ahead(step.rest, signal, coding));
    }
  }

  /** The next step, or null at the end of the plan. */
  async #ahead(plan: ReadPlan, signal: AbortSignal, coding: ReadCoding): Promise<ReadStep | null> {
    if (plan.from >= plan.to) return null;
    return (coding === "zstd" && selectsAll(plan) ? await this.#frames(plan) : null) ?? this.step(plan, signal);
  }

  /** What is stored of the plan from its start on; null when that has to be read otherwise. */
  async #frames(plan: ReadPlan): Promise<ReadStep | null> {
    const segment = plan.lineage.find((candidate) => plan.from < candidate.to);
    if (segment === undefined) return null;
    await this.#gate.pass(READ_CHUNK_BYTES);
    const to = Math.min(segment.to, plan.to);
    const request = { id: segment.epoch, from: plan.from, to, maxBytes: READ_CHUNK_BYTES };
    const chunk = await this.#store.log.readFrames(request);
    if (chunk === null) return null;
    this.#chunks.add();
    this.#bytes.add(chunk.rawBytes);
    return { parts: chunk.frames, coding: "zstd", rest: { ...plan, from: chunk.next } };
  }

  /** The next chunk from `plan.from`, and the plan for what follows it. Nothing is read for whom `signal` says has gone. */
  async step(plan: ReadPlan, signal: AbortSignal | null = null): Promise<ReadStep> {
    const segment = plan.lineage.find((candidate) => plan.from < candidate.to);
    if (segment === undefined || plan.from >= plan.to) return { parts: [], coding: "identity", rest: plan };
    const to = Math.min(segment.to, plan.to);
    const bytes = Math.min(Math.max(READ_CHUNK_BYTES, plan.recordBytes), (to - plan.from) * plan.recordBytes);
    if (bytes > SMALL_READ_BYTES) await this.#gate.pass(bytes);
    if (signal?.aborted === true) return { parts: [], coding: "identity", rest: plan };
    const { parts, next } = await this.#store.log.read({
      id: segment.epoch,
      from: plan.from,
      to,
      maxBytes: READ_CHUNK_BYTES,
      key: plan.key,
    });
    this.#chunks.add();
    for (const part of parts) this.#bytes.add(part.length);
    if (next === plan.from) throw new RecordsGone(`records from ${plan.from} of ${plan.name} are gone`);
    const wanted = plan.filter === null ? parts : await filterRecords(parts, plan.filter, this.#clock);
    return { parts: wanted, coding: "identity", rest: { ...plan, from: next } };
  }

  /** First seq that is still kept. A fork's depends on what its ancestors keep of what it inherited. */
  async earliest(stream: StreamHead): Promise<number> {
    if (stream.config.fork === null) return stream.retainedFrom;
    let earliest = 0;
    for (const segment of lineageOf(stream).toReversed()) {
      const head = await this.#store.catalog.byId(segment.epoch);
      const retainedFrom = head?.retainedFrom ?? segment.to;
      earliest = segment.from;
      if (retainedFrom > segment.from) return Math.min(retainedFrom, segment.to);
    }
    return earliest;
  }

  async #resolveStart(lineage: Lineage, start: ReadStart, earliest: number, tail: number): Promise<number | Rejection> {
    switch (start.kind) {
      case "seq":
        if (start.seq < earliest) return { kind: "offset-trimmed", earliest: offsetAt(lineage, earliest) };
        return start.seq;
      case "tail":
        return Math.max(earliest, tail - start.records);
      case "time":
        return Math.max(earliest, await this.#seekTime(lineage, start.atMs, tail));
      case "offset": {
        const position = resolveOffset(lineage, start.token);
        if (position.kind === "gone") return { kind: "offset-gone" };
        if (position.kind === "invalid") return { kind: "offset-invalid", reason: position.reason };
        if (start.token.kind === "start") return earliest;
        if (position.seq < earliest) return { kind: "offset-trimmed", earliest: offsetAt(lineage, earliest) };
        return position.seq;
      }
    }
  }

  async #seekTime(lineage: Lineage, atMs: number, tail: number): Promise<number> {
    for (const segment of lineage) {
      const seq = await this.#store.log.seekTime(segment.epoch, atMs);
      if (seq < segment.to) return Math.max(seq, segment.from);
    }
    return tail;
  }
}

/** What a read of so many records holds at a time, about: all of them, or two chunks; a large record travels alone. */
function heldBytes(recordBytes: number, records: number): number {
  return Math.min(records * recordBytes, 2 * Math.max(READ_CHUNK_BYTES, recordBytes));
}
