/**
 * How the bytes of an answer travel: as they are, or as zstd frames. A client says so in `Accept-Encoding`, and gets
 * `Content-Encoding: zstd`; or asks with `?encoding=zstd` for the frames themselves, for platforms that do not unpack them.
 */

import { type ReadCoding, type ReadPlan, selectsAll } from "../engine/reader.ts";
import { ZSTD_FROM_BYTES } from "../protocol/limits.ts";
import { plainFrames } from "../protocol/zstd-frame.ts";

/** What stands around and between the parts of a body, and what a part is sent as. */
export interface Framing {
  readonly open: readonly Uint8Array[];
  readonly separator: readonly Uint8Array[];
  readonly close: readonly Uint8Array[];
  /** A part that came as payload. */
  payload(bytes: Uint8Array): Iterable<Uint8Array>;
}

const CHECKSUM_MASK = 0xffff_ffffn;
const encoder = new TextEncoder();

const asFrames = (bytes: Uint8Array): Iterable<Uint8Array> =>
  plainFrames(bytes, (content) => Number(Bun.hash.xxHash64(content) & CHECKSUM_MASK));
const asIs = (bytes: Uint8Array): Iterable<Uint8Array> => [bytes];

function framing(payload: Framing["payload"], isJson: boolean): Framing {
  const mark = (text: string): readonly Uint8Array[] => (isJson ? [...payload(encoder.encode(text))] : []);
  return { open: mark("["), separator: mark(","), close: mark("]"), payload };
}

/** Brackets and commas are frames of their own: made once. */
const FRAMINGS: Readonly<Record<ReadCoding, Readonly<Record<"json" | "bytes", Framing>>>> = {
  identity: { json: framing(asIs, true), bytes: framing(asIs, false) },
  zstd: { json: framing(asFrames, true), bytes: framing(asFrames, false) },
};

export function framingOf(coding: ReadCoding, json: boolean): Framing {
  return FRAMINGS[coding][json ? "json" : "bytes"];
}

/** `Content-Encoding` for a read of `plan`: frames where enough of them are stored that it is worth it. */
export function negotiateCoding(acceptEncoding: string | null, plan: ReadPlan): ReadCoding {
  return isWorthIt(plan) && selectsAll(plan) && acceptsZstd(acceptEncoding) ? "zstd" : "identity";
}

/** Of what a fork inherited the size is not known. */
function isWorthIt({ from, to, recordBytes, lineage }: ReadPlan): boolean {
  return from < (lineage.at(-1)?.from ?? 0) || (to - from) * recordBytes >= ZSTD_FROM_BYTES;
}

const ZSTD = /^zstd(?:\s*;\s*q\s*=\s*(\d(?:\.\d{0,3})?))?$/i;

/** Whether an `Accept-Encoding` names zstd, and not with `q=0`. */
function acceptsZstd(acceptEncoding: string | null): boolean {
  if (acceptEncoding === null) return false;
  return acceptEncoding.split(",").some((coding) => {
    const found = ZSTD.exec(coding.trim());
    return found !== null && Number(found[1] ?? 1) > 0;
  });
}
