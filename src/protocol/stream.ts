/**
 * What a stream is: its head (everything but its records), one change of it, and a commit of many changes.
 * Values only. Changes hold absolute values, so applying one twice, or a later one first, cannot drift.
 */

import { assert } from "../kit/assert.ts";
import { type Expiry, expiryDeadlineMs } from "./expiry.ts";
import type { Lineage, LineageSegment } from "./offset.ts";
import type { Retention } from "./retention.ts";

/** The last accepted claim of one producer id on one stream (PROTOCOL §5.2.1). */
export interface ProducerState {
  readonly epoch: number;
  readonly lastSeq: number;
}

/** What a request says about itself: `Producer-Id`, `Producer-Epoch`, `Producer-Seq`. */
export interface ProducerClaim {
  readonly id: string;
  readonly epoch: number;
  readonly seq: number;
}

/** Where a fork came from. `inherited` is fixed at creation: reads never walk the chain of heads. */
export interface ForkOrigin {
  readonly sourceId: number;
  readonly sourceName: string;
  /** The offset as the client sent it, or the source's tail at that time; compared when a PUT is repeated. */
  readonly offset: string;
  readonly subOffset: number;
  readonly inherited: readonly LineageSegment[];
}

/** What creation fixes for good. */
export interface StreamConfig {
  readonly name: string;
  readonly contentType: string;
  readonly expiry: Expiry;
  readonly fork: ForkOrigin | null;
  readonly createdMs: number;
  /** First own seq: 0, or the fork point. */
  readonly from: number;
}

/** What a stream holds and how its records are checked at append; null stands for generic records (bytes or JSON as given). */
export interface StreamProfile {
  readonly kind: string;
  /** The profile's own settings, already parsed: JSON. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** Kind of the profile of streams that the server writes itself: hidden from lists, and closed to clients' appends. */
export const INTERNAL = "internal";
/** Attribute of a stream that a client made whose streams are counted: this, and who it is. */
export const OWNER = "owner/";
/** Kind of the profile of streams that the server derives from another one: in lists, and closed to clients' appends. */
export const DERIVED = "derived";

/** `soft`: deleted by its owner, its records still serve forks. `hard`: gone, storage is being freed. */
export type Deletion = "none" | "soft" | "hard";

/** A stream without its records. Mutated only by `applyChange` (and `accessedMs` by reads). */
export interface StreamHead {
  /** The stream epoch: from one counter, never reused, so a recreated name has a larger one. */
  readonly id: number;
  readonly config: StreamConfig;
  /** The tail: seq of the next record. */
  next: number;
  /** Payload bytes ever appended, and those that retention has trimmed. */
  bytes: number;
  trimmedBytes: number;
  /** First seq that retention still keeps. */
  retainedFrom: number;
  retention: Retention;
  profile: StreamProfile | null;
  closed: boolean;
  closedBy: ProducerClaim | null;
  streamSeq: string | null;
  deletion: Deletion;
  /** How many forks name this stream as their source. */
  forks: number;
  producerCount: number;
  /** Producers seen since the head was loaded; older ones are in the store's table. */
  readonly producers: Map<string, ProducerState>;
  lastAppendMs: number | null;
  /** Last read or write, for the sliding TTL. */
  accessedMs: number;
  /** Number of the last commit that changed this stream. */
  lastCommit: number;
}

/** One append inside a run. */
export interface AppendMark {
  readonly count: number;
  readonly key: string | null;
  /** What the stream's profile made of the records when it checked them; for followers of the commit feed, never stored. */
  readonly digest?: unknown;
}

/** Contiguous records of one stream inside one commit, in append order. */
export interface Run {
  readonly firstSeq: number;
  readonly lengths: number[];
  readonly appends: AppendMark[];
  /** The records in order; JSON records inside a part are comma-joined, and parts join with commas too. */
  readonly parts: Uint8Array[];
}

/** All that one commit changes of one stream. Absent = unchanged. */
export interface StreamChange {
  readonly id: number;
  created?: StreamConfig;
  run?: Run;
  next?: number;
  bytes?: number;
  trimmedBytes?: number;
  retainedFrom?: number;
  retention?: Retention;
  profile?: StreamProfile | null;
  /** State that features keep with the stream, by key; null removes one. */
  attributes?: Map<string, string | null>;
  closed?: true;
  closedBy?: ProducerClaim;
  streamSeq?: string;
  deletion?: Deletion;
  forks?: number;
  producerCount?: number;
  producers?: Map<string, ProducerState>;
  accessedMs?: number;
}

/** Whether a change says no more than that the stream was read: nothing that a reader could wait for. */
export function isAccessOnly(change: StreamChange): boolean {
  return change.accessedMs !== undefined && Object.keys(change).length === 2;
}

/** One store transaction over many streams. */
export interface Commit {
  /** Dense, from 1. */
  readonly no: number;
  readonly atMs: number;
  readonly changes: readonly StreamChange[];
}

export function newHead(id: number, config: StreamConfig): StreamHead {
  return {
    id,
    config,
    next: config.from,
    bytes: 0,
    trimmedBytes: 0,
    retainedFrom: 0,
    retention: { maxAgeMs: null, maxBytes: null },
    profile: null,
    closed: false,
    closedBy: null,
    streamSeq: null,
    deletion: "none",
    forks: 0,
    producerCount: 0,
    producers: new Map(),
    lastAppendMs: null,
    accessedMs: config.createdMs,
    lastCommit: 0,
  };
}

/** Moves a head to the state after `change` of commit `no`. */
export function applyChange(head: StreamHead, change: StreamChange, no: number, atMs: number): void {
  assert(head.id === change.id, `change of stream ${change.id} applied to ${head.id}`);
  assert(no >= head.lastCommit, `commit ${no} applied to stream ${head.id} after ${head.lastCommit}`);
  if (change.run !== undefined) {
    assert(change.run.firstSeq === head.next, `run at ${change.run.firstSeq} does not follow ${head.next}`);
    head.lastAppendMs = atMs;
  }
  head.next = change.next ?? head.next;
  head.bytes = change.bytes ?? head.bytes;
  head.trimmedBytes = change.trimmedBytes ?? head.trimmedBytes;
  head.retainedFrom = change.retainedFrom ?? head.retainedFrom;
  head.retention = change.retention ?? head.retention;
  if (change.profile !== undefined) head.profile = change.profile;
  head.closed = change.closed ?? head.closed;
  head.closedBy = change.closedBy ?? head.closedBy;
  head.streamSeq = change.streamSeq ?? head.streamSeq;
  head.deletion = change.deletion ?? head.deletion;
  head.forks = change.forks ?? head.forks;
  head.producerCount = change.producerCount ?? head.producerCount;
  if (change.producers !== undefined) for (const [id, state] of change.producers) head.producers.set(id, state);
  const wroteMs = change.run !== undefined || change.closed === true ? atMs : 0;
  head.accessedMs = Math.max(head.accessedMs, wroteMs, change.accessedMs ?? 0);
  head.lastCommit = no;
}

/** The segments a read of this stream walks, oldest first; the last one is the stream itself. */
export function lineageOf(head: StreamHead): Lineage {
  const own: LineageSegment = { epoch: head.id, from: head.config.from, to: head.next };
  const fork = head.config.fork;
  return fork === null ? [own] : [...fork.inherited, own];
}

/** Payload of one record, on average; null without records of its own: of what a fork inherited the size is not known. */
export function meanRecordBytes({ bytes, trimmedBytes, next, retainedFrom, config }: StreamHead): number | null {
  const records = next - Math.max(retainedFrom, config.from);
  return records > 0 ? (bytes - trimmedBytes) / records : null;
}

/** Whether only the server itself appends to streams of this profile. */
export function isServerWritten(profile: StreamProfile | null): boolean {
  return profile?.kind === INTERNAL || profile?.kind === DERIVED;
}

export function isInternal(head: StreamHead): boolean {
  return head.profile?.kind === INTERNAL;
}

/** Whether a stream's lifetime is over at `nowMs`. */
export function isExpired(head: StreamHead, nowMs: number): boolean {
  return expiryDeadlineMs(head.config.expiry, head.accessedMs) <= nowMs;
}
