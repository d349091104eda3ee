/**
 * The records of a plan as a response body. Up to one chunk it is plain bytes; more is a stream that reads the next chunk
 * only when the socket has taken the last one, so a stalled client costs one chunk of memory.
 */

import type { Reader, ReadPlan } from "../engine/reader.ts";
import { joinBytes, utf8 } from "../kit/bytes.ts";

const COMMA = 0x2c;
const OPEN = utf8("[");
const CLOSE = utf8("]");
const EMPTY_ARRAY = utf8("[]");
const SEPARATOR = utf8(",");

export async function planBody(reader: Reader, plan: ReadPlan): Promise<Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>> {
  const chunks = reader.chunks(plan);
  const first = await chunks.next();
  if (first.done === true) return owned(plan.json ? EMPTY_ARRAY : new Uint8Array());
  const second = await chunks.next();
  if (second.done === true) return owned(wrap(plan.json, first.value));
  return streamBody(plan.json, first.value, second.value, chunks);
}

/** One chunk as a whole body. */
function wrap(json: boolean, parts: readonly Uint8Array[]): Uint8Array {
  if (!json) return joinBytes(parts);
  return joinBytes([OPEN, joinBytes(parts, COMMA), CLOSE]);
}

function streamBody(
  json: boolean,
  first: readonly Uint8Array[],
  second: readonly Uint8Array[],
  chunks: AsyncGenerator<readonly Uint8Array[]>,
): ReadableStream<Uint8Array> {
  const ready: (readonly Uint8Array[])[] = [first, second];
  let started = false;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const parts = ready.shift() ?? (await nextParts(chunks));
        if (parts === null) {
          if (json) controller.enqueue(CLOSE);
          controller.close();
          return;
        }
        if (json) controller.enqueue(joinBytes([started ? SEPARATOR : OPEN, joinBytes(parts, COMMA)]));
        else controller.enqueue(joinBytes(parts));
        started = true;
      },
      async cancel() {
        await chunks.return(undefined);
      },
    },
    { highWaterMark: 0 },
  );
}

async function nextParts(chunks: AsyncGenerator<readonly Uint8Array[]>): Promise<readonly Uint8Array[] | null> {
  const next = await chunks.next();
  return next.done === true ? null : next.value;
}

function owned(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes as Uint8Array<ArrayBuffer>;
}
