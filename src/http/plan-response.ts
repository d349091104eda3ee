/**
 * The records of a plan as a response. Up to one chunk it is plain bytes; more is a stream that reads the next chunk
 * only when the socket has taken the last one, so a stalled client costs one chunk of memory.
 */

import { type ReadCoding, type ReadPlan, type ReadStep, selectsAll } from "../engine/reader.ts";
import type { ReadFacts } from "../protocol/caching.ts";
import { RecordsGone } from "../protocol/faults.ts";
import { type BodyFormat, encodeEnd, encodeStep } from "./content-coding.ts";
import { type Exchange, type HeaderMap, reportFault, respond, whileWorking } from "./context.ts";
import type { ReadQuery } from "./routes/read-query.ts";
import { guardActiveContent } from "./routes/stream-headers.ts";

type Chunks = AsyncGenerator<ReadStep>;

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
  const format = { json: plan.json, coding };
  const chunks = exchange.engine.reader.chunks(plan, exchange.request.signal, coding);
  const first = await nextChunk(exchange, plan, chunks);
  if (first.done === true) return wholeBody(format, []);
  const { rest } = first.value;
  const isLast = rest.from >= rest.to;
  const begin = encodeStep(format, first.value, { isFirst: true, isLast });
  return isLast ? begin : streamBody(exchange, plan, format, begin, chunks);
}

/** One chunk of payload as a whole body. */
export function wholeBody(format: BodyFormat, parts: readonly Uint8Array[]): Uint8Array {
  return encodeStep(format, { parts, coding: "identity" }, { isFirst: true, isLast: true });
}

function streamBody(
  exchange: Exchange,
  plan: ReadPlan,
  format: BodyFormat,
  begin: Uint8Array,
  chunks: Chunks,
): ReadableStream<Uint8Array> {
  let ready: Uint8Array | null = begin;
  let open = true;
  /** What follows what was sent; null at the end. */
  const nextBytes = async (): Promise<Uint8Array | null> => {
    const next = await nextChunk(exchange, plan, chunks);
    return next.done === true ? null : encodeStep(format, next.value, { isFirst: false, isLast: false });
  };
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const bytes = ready ?? (await nextBytes());
          ready = null;
          // The client went while it waited for its turn.
          if (!open) return;
          if (bytes !== null) return controller.enqueue(bytes);
          for (const part of encodeEnd(format)) controller.enqueue(part);
          controller.close();
        } catch (cause) {
          // Trimmed or deleted under a slow reader: it is cut off, comes again, and hears which.
          if (!(cause instanceof RecordsGone)) reportFault(exchange, `a catch-up read of ${plan.name}`, cause);
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

/** A selection may pass over more than can be looked at before an idle connection ends. */
function nextChunk(exchange: Exchange, plan: ReadPlan, chunks: Chunks): Promise<IteratorResult<ReadStep>> {
  return selectsAll(plan) ? chunks.next() : whileWorking(exchange, () => chunks.next());
}
