/** An append on the wire: the headers that say it, and what its answer says. Used by single appends and by producers. */

import { Result } from "better-result";
import { isTrue, notAStream } from "./reading.ts";
import type { BrokenAnswer } from "./stream-error.ts";

/** Lets the server recognise a repeated append: per producer id and epoch, seqs count requests from 0. */
export interface Producer {
  readonly id: string;
  readonly epoch: number;
  readonly seq: number;
}

export interface Appended {
  readonly nextOffset: string;
  /** The server had this producer's request already; nothing was stored again. */
  readonly duplicate: boolean;
  readonly closed: boolean;
}

/** `contentType` is null where there is no body. */
export interface AppendPlan {
  readonly contentType: string | null;
  readonly key?: string | undefined;
  readonly producer?: Producer | undefined;
  readonly ifMatch?: string | undefined;
  readonly close?: boolean | undefined;
}

export function appendHeaders({ contentType, key, producer, ifMatch, close }: AppendPlan): Record<string, string> {
  return present({
    "content-type": contentType ?? undefined,
    "stream-key": key,
    "producer-id": producer?.id,
    "producer-epoch": producer?.epoch.toString(),
    "producer-seq": producer?.seq.toString(),
    "if-match": ifMatch,
    "stream-closed": close === true ? "true" : undefined,
  });
}

export function readAppended(response: Response, byProducer: boolean): Result<Appended, BrokenAnswer> {
  const { url, status, headers } = response;
  const nextOffset = headers.get("stream-next-offset");
  if (nextOffset === null) return Result.err(notAStream(url, "has no Stream-Next-Offset header"));
  return Result.ok({ nextOffset, duplicate: byProducer && status === 204, closed: isTrue(headers, "stream-closed") });
}

/** Only the headers that have a value. */
export function present(headers: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) if (value !== undefined) kept[name] = value;
  return kept;
}
