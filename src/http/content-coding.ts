/**
 * How the bytes of an answer travel: as they are, or as zstd frames. A client says so in `Accept-Encoding`, and gets
 * `Content-Encoding: zstd`; or asks with `?encoding=zstd` for the frames themselves, for platforms that do not unpack them.
 */

import { type ReadCoding, type ReadPlan, type ReadStep, selectsAll } from "../engine/reader.ts";
import { joinBytes } from "../kit/bytes.ts";
import { ZSTD_FROM_BYTES } from "../protocol/limits.ts";
import { plainFrames } from "../protocol/zstd-frame.ts";

/** What a body is, and how it travels. */
export interface BodyFormat {
  readonly json: boolean;
  readonly coding: ReadCoding;
}

/** Where in the body a step is. */
export interface StepPlace {
  readonly isFirst: boolean;
  readonly isLast: boolean;
}

type Parts = readonly Uint8Array[];

/** What stands around the parts of a body, and between them. */
interface Marks {
  readonly open: Parts;
  readonly separator: Parts;
  readonly close: Parts;
}

const CHECKSUM_MASK = 0xffff_ffffn;
const encoder = new TextEncoder();

const mark = (text: string): Parts => [encoder.encode(text)];
const JSON_MARKS: Marks = { open: mark("["), separator: mark(","), close: mark("]") };
const NO_MARKS: Marks = { open: [], separator: [], close: [] };
/** Between stored frames marks are frames of their own: made once. */
const JSON_MARK_FRAMES: Marks = {
  open: JSON_MARKS.open.flatMap(framesOf),
  separator: JSON_MARKS.separator.flatMap(framesOf),
  close: JSON_MARKS.close.flatMap(framesOf),
};

function marksOf(json: boolean, coding: ReadCoding): Marks {
  if (!json) return NO_MARKS;
  return coding === "zstd" ? JSON_MARK_FRAMES : JSON_MARKS;
}

function framesOf(bytes: Uint8Array): Uint8Array[] {
  return [...plainFrames(bytes, (content) => Number(Bun.hash.xxHash64(content) & CHECKSUM_MASK))];
}

/** A step of a read as it is sent. What is no frame yet is one with its marks: a tail of small appends is not a frame for each. */
export function encodeStep(
  { json, coding }: BodyFormat,
  step: Pick<ReadStep, "parts" | "coding">,
  place: StepPlace,
): Uint8Array {
  const marks = marksOf(json, step.coding);
  const bytes = joinBytes([
    ...(place.isFirst ? marks.open : marks.separator),
    ...step.parts.flatMap((part, index) => (index === 0 ? [part] : [...marks.separator, part])),
    ...(place.isLast ? marks.close : []),
  ]);
  return coding === step.coding || bytes.length === 0 ? bytes : joinBytes(framesOf(bytes));
}

/** What ends a body whose last step was sent before it was known to be the last. */
export function encodeEnd({ json, coding }: BodyFormat): Parts {
  return marksOf(json, coding).close;
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
