/**
 * Every way the rules say no, as plain data. `http/errors.ts` maps each kind to a status and does not compile when one
 * is missing. Faults (a failing disk) and defects (our bugs) are not here.
 */

import type { BodyProblem } from "./json-scan.ts";

export type Rejection =
  | BodyProblem
  | { readonly kind: "not-found" }
  /** Soft-deleted (PROTOCOL §4.2): the name is taken until its forks are gone. */
  | { readonly kind: "gone" }
  | { readonly kind: "name-taken" }
  | { readonly kind: "config-conflict"; readonly field: string }
  | { readonly kind: "stream-closed"; readonly offset: string }
  | { readonly kind: "content-type-mismatch"; readonly expected: string }
  | { readonly kind: "empty-array" }
  | { readonly kind: "producer-stale-epoch"; readonly epoch: number }
  | { readonly kind: "producer-epoch-start" }
  | { readonly kind: "producer-gap"; readonly expected: number; readonly received: number }
  | { readonly kind: "too-many-producers" }
  | { readonly kind: "stream-seq-regressed"; readonly last: string }
  | { readonly kind: "tail-moved"; readonly offset: string }
  | { readonly kind: "offset-invalid"; readonly reason: string }
  | { readonly kind: "filter-needs-json" }
  | { readonly kind: "offset-gone" }
  | { readonly kind: "offset-trimmed"; readonly earliest: string }
  | { readonly kind: "fork-source-missing" }
  | { readonly kind: "fork-source-gone" }
  | { readonly kind: "fork-invalid"; readonly reason: string }
  | { readonly kind: "overloaded"; readonly reason: string }
  /** A header that means nothing for streams of this profile. */
  | { readonly kind: "header-unsupported"; readonly header: string }
  | { readonly kind: "disk-full" }
  /** The server holds as much as its operator lets it. */
  | { readonly kind: "storage-full" }
  | { readonly kind: "closing" };

export type RejectionKind = Rejection["kind"];
