/**
 * The records of a plan as a response. Up to one chunk it is plain bytes; more is a stream that reads the next chunk
 * only when the socket has taken the last one, so a stalled client costs one chunk of memory.
 */

import type { ReadCoding, ReadPlan, ReadStep } from "../engine/reader.ts";
import { joinBytes } from "../kit/bytes.ts";
import type { ReadFacts } from "../protocol/caching.ts";
import { type Framing, framingOf } from "./content-coding.ts";
import { type Exchange, type HeaderMap, reportFault, respond } from "./context.ts";
import type { ReadQuery } from "./routes/read-query.ts";
import { guardActiveContent } from "./routes/stream-headers.ts";

/** 200 with the records of `plan`. */
export async function respondPlan(
  exchange: Exchange,
  plan: ReadPlan,
  headers: HeaderMap,
  coding: ReadCoding = "identity",
): Promise<Response> {
  const body = await planBody(exchange, plan, coding);
  return respond(exchange, 200, describeBody(plan, headers), body);
}

/** Adds what stored bytes are answered with. */
export function describeBody({ contentType }: ReadPlan, headers: HeaderMap): HeaderMap {
  headers["Content-Type"] ??= contentType;
  guardActiveContent(headers, contentType);
  return headers;
}

export function factsOf(plan: ReadPlan, wanted: ReadQuery, coding: ReadCoding = "identity"): ReadFacts {
  return {
    streamId: plan.id,
    from: plan.from,
    to: plan.to,
    closed: plan.closed,
    key: plan.key,
    filter: plan.filter?.text ?? null,
    atTail: !plan.closed,
    zstd: coding === "zstd",
    fixed: wanted.start.kind === "offset" && wanted.start.token.kind !== "now",
  };
}

async function planBody(
  exchange: Exchange,
  plan: ReadPlan,
  coding: ReadCoding,
): Promise<Uint8Array | ReadableStream<Uint8Array>> {
  const framing = framingOf(coding, plan.json);
  const chunks = exchange.engine.reader.chunks(plan, exchange.request.signal, coding);
  const first = await chunks.next();
  if (first.done === true) return joinBytes([...framing.open, ...framing.close]);
  const { rest } = first.value;
  const begin = [...framing.open, ...stepParts(framing, first.value)];
  if (rest.from >= rest.to) return joinBytes([...begin, ...framing.close]);
  return streamBody(exchange, plan, framing, begin, chunks);
}

/** One chunk as a whole body. */
export function wholeBody(json: boolean, parts: readonly Uint8Array[]): Uint8Array {
  const framing = framingOf("identity", json);
  return joinBytes([...framing.open, ...stepParts(framing, { parts, coding: "identity" }), ...framing.close]);
}

function streamBody(
  exchange: Exchange,
  { name }: ReadPlan,
  framing: Framing,
  begin: readonly Uint8Array[],
  chunks: AsyncGenerator<ReadStep>,
): ReadableStream<Uint8Array> {
  let ready: readonly Uint8Array[] | null = begin;
  let open = true;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const parts = ready ?? (await nextParts(framing, chunks));
          ready = null;
          // The client went while it waited for its turn.
          if (!open) return;
          if (parts !== null) return controller.enqueue(joinBytes(parts));
          for (const part of framing.close) controller.enqueue(part);
          controller.close();
        } catch (cause) {
          reportFault(exchange, `a catch-up read of ${name}`, cause);
          controller.error(cause);
        }
      },
      async cancel() {
        open = false;
        await chunks.return(undefined);
      },
    },
    { highWaterMark: 0 },
  );
}

/** What follows what was sent; null at the end. */
async function nextParts(framing: Framing, chunks: AsyncGenerator<ReadStep>): Promise<readonly Uint8Array[] | null> {
  const next = await chunks.next();
  return next.done === true ? null : [...framing.separator, ...stepParts(framing, next.value)];
}

/** The parts of a step as they are sent, with separators between them. */
function stepParts(framing: Framing, { parts, coding }: Pick<ReadStep, "parts" | "coding">): readonly Uint8Array[] {
  return parts.flatMap((part, index) => {
    const bytes = coding === "zstd" ? [part] : framing.payload(part);
    return index === 0 ? [...bytes] : [...framing.separator, ...bytes];
  });
}
