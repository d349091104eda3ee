/**
 * Packs units (lines, JSON values, stretches of bytes) into request bodies of bounded size. Two ways: `steady` looks at
 * the content only, so the same input always gives the same bodies and a repeated run can be recognised request by
 * request; `eager` also sends what is there when the input pauses, so that a slow producer is not held back.
 */

import { joinBytes, utf8 } from "../kit/bytes.ts";

export interface BatchLimits {
  readonly maxBytes: number;
  readonly maxUnits: number;
}

export const BATCH_LIMITS: BatchLimits = { maxBytes: 1024 * 1024, maxUnits: 1000 };

export interface Batch {
  readonly body: Uint8Array<ArrayBuffer>;
  readonly units: number;
  /** The input has ended; such a batch may be empty. */
  readonly last: boolean;
}

export interface Packing {
  /** Units are JSON values and bodies are arrays of them; otherwise bodies are the units one after the other. */
  readonly json: boolean;
  readonly pace: "steady" | "eager";
  readonly limits: BatchLimits;
}

/** An eager batch waits this long for more input. */
const PAUSE_MS = 5;
const COMMA = 0x2c;
const [OPEN, CLOSE] = [utf8("["), utf8("]")];

/** The last batch says so. A unit larger than the limit travels alone. */
export async function* batches(units: AsyncIterable<Uint8Array[]>, packing: Packing): AsyncGenerator<Batch, void> {
  const { maxBytes, maxUnits } = packing.limits;
  const separatorBytes = packing.json ? 1 : 0;
  let pending: Uint8Array[] = [];
  let pendingBytes = 0;
  const take = (last: boolean): Batch => {
    const batch = { body: joinUnits(pending, packing.json), units: pending.length, last };
    pending = [];
    pendingBytes = 0;
    return batch;
  };

  for await (const group of packing.pace === "eager" ? withPauses(units) : units) {
    if (group === null && pending.length > 0) yield take(false);
    for (const unit of group ?? []) {
      const full = pending.length >= maxUnits || pendingBytes + unit.length > maxBytes;
      if (full && pending.length > 0) yield take(false);
      pending.push(unit);
      pendingBytes += unit.length + separatorBytes;
    }
  }
  yield take(true);
}

/** Passes groups on, and null whenever the next one is not there soon. */
async function* withPauses<T>(groups: AsyncIterable<T>): AsyncGenerator<T | null, void> {
  const iterator = groups[Symbol.asyncIterator]();
  for (;;) {
    const next = iterator.next();
    if (await takesLonger(next)) yield null;
    const step = await next;
    if (step.done === true) return;
    yield step.value;
  }
}

async function takesLonger(work: Promise<unknown>): Promise<boolean> {
  const { promise: pause, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(true), PAUSE_MS);
  try {
    return await Promise.race([work.then(() => false), pause]);
  } finally {
    clearTimeout(timer);
  }
}

function joinUnits(units: readonly Uint8Array[], json: boolean): Uint8Array<ArrayBuffer> {
  const body = json ? joinBytes([OPEN, joinBytes(units, COMMA), CLOSE]) : joinBytes(units);
  return body as Uint8Array<ArrayBuffer>;
}
