/**
 * The rules of one append or close (PROTOCOL §5.2, §5.2.1, §5.3). Pure: no SQL, no clock; every store uses it.
 * Order of checks: closed → content type → producer → If-Match → Stream-Seq → body, so a retry of an accepted request
 * is recognised before anything that its success has changed; a rejected append consumes no producer seq.
 */

import { mediaType } from "./content-type.ts";
import type { SplitRecords } from "./json-records.ts";
import type { BodyProblem } from "./json-scan.ts";
import { MAX_PRODUCERS_PER_STREAM } from "./limits.ts";
import type { ProducerClaim, ProducerState } from "./stream.ts";

/** Records ready to store, or why the body is none. */
export type Body = SplitRecords | { readonly problem: BodyProblem };

/** What the rules need to know of a stream: its pending face, i.e. with all earlier intents of the same commit. */
export interface AppendView {
  readonly id: number;
  readonly next: number;
  readonly closed: boolean;
  readonly closedBy: ProducerClaim | null;
  readonly contentType: string;
  readonly streamSeq: string | null;
  readonly producerCount: number;
  producer(id: string): ProducerState | undefined;
}

export interface AppendRequest {
  /** Null for an empty body: a close without data. */
  readonly body: Body | null;
  readonly contentType: string | null;
  readonly producer: ProducerClaim | null;
  readonly streamSeq: string | null;
  /** Where the client expects the tail: a seq of one incarnation. */
  readonly ifMatch: { readonly streamId: number; readonly seq: number } | null;
  readonly close: boolean;
}

export type AppendDecision =
  | { readonly kind: "accept"; readonly producer: ProducerState | null; readonly newProducer: boolean }
  | { readonly kind: "duplicate"; readonly producer: ProducerState }
  /** A close without data of a closed stream: nothing to do, said politely. */
  | { readonly kind: "already-closed" }
  | { readonly kind: "reject"; readonly why: AppendRefusal };

/** Rejections before offsets are rendered; `group.ts` turns positions into tokens. */
export type AppendRefusal =
  | BodyProblem
  | { readonly kind: "stream-closed" }
  | { readonly kind: "content-type-mismatch" }
  | { readonly kind: "producer-stale-epoch"; readonly epoch: number }
  | { readonly kind: "producer-epoch-start" }
  | { readonly kind: "producer-gap"; readonly expected: number; readonly received: number }
  | { readonly kind: "too-many-producers" }
  | { readonly kind: "tail-moved" }
  | { readonly kind: "stream-seq-regressed"; readonly last: string }
  | { readonly kind: "empty-array" };

export function decideAppend(view: AppendView, request: AppendRequest): AppendDecision {
  if (view.closed) return decideOnClosed(view, request);
  if (request.body !== null && mediaType(request.contentType ?? "") !== mediaType(view.contentType)) {
    return reject({ kind: "content-type-mismatch" });
  }
  const claim = request.producer;
  const known = claim === null ? undefined : view.producer(claim.id);
  if (claim !== null) {
    const refusal = refuseClaim(view, claim, known);
    if (refusal !== null) return reject(refusal);
    if (known !== undefined && claim.epoch === known.epoch && claim.seq <= known.lastSeq) {
      return { kind: "duplicate", producer: known };
    }
  }
  const expected = request.ifMatch;
  if (expected !== null && (expected.streamId !== view.id || expected.seq !== view.next)) {
    return reject({ kind: "tail-moved" });
  }
  // Header values are Latin-1, so comparing code units compares bytes, as the protocol asks.
  if (request.streamSeq !== null && view.streamSeq !== null && request.streamSeq <= view.streamSeq) {
    return reject({ kind: "stream-seq-regressed", last: view.streamSeq });
  }
  if (request.body !== null && "problem" in request.body) return reject(request.body.problem);
  if (request.body !== null && request.body.lengths.length === 0) return reject({ kind: "empty-array" });
  return {
    kind: "accept",
    producer: claim === null ? null : { epoch: claim.epoch, lastSeq: claim.seq },
    newProducer: claim !== null && known === undefined,
  };
}

function decideOnClosed(view: AppendView, request: AppendRequest): AppendDecision {
  const claim = request.producer;
  if (claim === null) {
    return request.body === null && request.close ? { kind: "already-closed" } : reject({ kind: "stream-closed" });
  }
  const closer = view.closedBy;
  if (closer !== null && closer.id === claim.id && closer.epoch === claim.epoch && closer.seq === claim.seq) {
    return { kind: "duplicate", producer: { epoch: closer.epoch, lastSeq: closer.seq } };
  }
  return reject({ kind: "stream-closed" });
}

function refuseClaim(view: AppendView, claim: ProducerClaim, known: ProducerState | undefined): AppendRefusal | null {
  if (known === undefined) {
    if (claim.seq !== 0) return { kind: "producer-gap", expected: 0, received: claim.seq };
    return view.producerCount >= MAX_PRODUCERS_PER_STREAM ? { kind: "too-many-producers" } : null;
  }
  if (claim.epoch < known.epoch) return { kind: "producer-stale-epoch", epoch: known.epoch };
  if (claim.epoch > known.epoch) return claim.seq === 0 ? null : { kind: "producer-epoch-start" };
  if (claim.seq > known.lastSeq + 1) return { kind: "producer-gap", expected: known.lastSeq + 1, received: claim.seq };
  return null;
}

function reject(why: AppendRefusal): AppendDecision {
  return { kind: "reject", why };
}
