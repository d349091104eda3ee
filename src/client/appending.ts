/**
 * An append on the wire: the headers that say it, its JSON, and what its answer says; and what whoever collects appends checks first.
 * Used by single appends, producers and trackers.
 */

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

/** @throws TypeError for a key that would be stored as another, or that no header carries. */
export function appendHeaders({ contentType, key, producer, ifMatch, close }: AppendPlan): Record<string, string> {
  checkKey(key);
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

/** Headers are Latin-1 without control characters, and lose the space at their ends. */
const KEY = /^[!-~\x80-\xff](?:[\t -~\x80-\xff]{0,254}[!-~\x80-\xff])?$/;

/** @throws TypeError for a key that would be stored as another, or that no header carries. */
export function checkKey(key: string | undefined): void {
  if (key === undefined || KEY.test(key)) return;
  throw new TypeError("a key has 1 to 256 characters that a header carries: Latin-1, no space at its ends");
}

/** The JSON of one value. @throws TypeError when it has none. */
export function jsonText(value: unknown): string {
  const text = JSON.stringify(value) as string | undefined;
  if (text === undefined) throw new TypeError(`JSON has no text for ${typeof value}`);
  return text;
}

/** @throws TypeError for a bound that lets nothing through. */
export function checkLimits(limits: Readonly<Record<string, number>>): void {
  for (const [name, limit] of Object.entries(limits)) {
    if (!(limit >= 1)) throw new TypeError(`${name} has to be at least 1`);
  }
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
