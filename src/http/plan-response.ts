/**
 * The records of a plan as a response. Up to one chunk it is plain bytes; more is a stream that reads the next chunk
 * only when the socket has taken the last one, so a stalled client costs one chunk of memory.
 */

import type { ReadPlan, ReadStep } from "../engine/reader.ts";
import { joinBytes, utf8 } from "../kit/bytes.ts";
import type { ReadFacts } from "../protocol/caching.ts";
import { type Exchange, type HeaderMap, reportFault, respond } from "./context.ts";
import type { ReadQuery } from "./routes/read-query.ts";
import { guardActiveContent } from "./routes/stream-headers.ts";

const OPEN = utf8("[");
const CLOSE = utf8("]");
const EMPTY_ARRAY = utf8("[]");
const SEPARATOR = utf8(",");

/** 200 with the records of `plan`. */
export async function respondPlan(exchange: Exchange, plan: ReadPlan, headers: HeaderMap): Promise<Response> {
  const body = await planBody(exchange, plan);
  return respond(exchange, 200, describeBody(plan, headers), body);
}

/** Adds what stored bytes are answered with. */
export function describeBody({ contentType }: ReadPlan, headers: HeaderMap): HeaderMap {
  headers["Content-Type"] = contentType;
  guardActiveContent(headers, contentType);
  return headers;
}

export function factsOf(plan: ReadPlan, wanted: ReadQuery): ReadFacts {
  return {
    streamId: plan.id,
    from: plan.from,
    to: plan.to,
    closed: plan.closed,
    key: plan.key,
    filter: plan.filter?.text ?? null,
    atTail: !plan.closed,
    fixed: wanted.start.kind === "offset" && wanted.start.token.kind !== "now",
  };
}

async function planBody(exchange: Exchange, plan: ReadPlan): Promise<Uint8Array | ReadableStream<Uint8Array>> {
  const chunks = exchange.engine.reader.chunks(plan, exchange.request.signal);
  const first = await chunks.next();
  if (first.done === true) return plan.json ? EMPTY_ARRAY : new Uint8Array();
  const { parts, rest } = first.value;
  if (rest.from >= rest.to) return wholeBody(plan.json, parts);
  return streamBody(exchange, plan, parts, chunks);
}

/** One chunk as a whole body. */
export function wholeBody(json: boolean, parts: readonly Uint8Array[]): Uint8Array {
  return json ? joinBytes([joinJson(OPEN, parts), CLOSE]) : joinBytes(parts);
}

function streamBody(
  exchange: Exchange,
  { json, name }: ReadPlan,
  first: readonly Uint8Array[],
  chunks: AsyncGenerator<ReadStep>,
): ReadableStream<Uint8Array> {
  let ready: readonly Uint8Array[] | null = first;
  let open = true;
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const isFirst = ready !== null;
          const parts = ready ?? (await nextParts(chunks));
          ready = null;
          // The client went while it waited for its turn.
          if (!open) return;
          if (parts === null) {
            if (json) controller.enqueue(CLOSE);
            return controller.close();
          }
          if (json) controller.enqueue(joinJson(isFirst ? OPEN : SEPARATOR, parts));
          else controller.enqueue(joinBytes(parts));
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

/** `first`, then the parts with commas between them, in one copy. */
function joinJson(first: Uint8Array, parts: readonly Uint8Array[]): Uint8Array {
  return joinBytes(parts.flatMap((part, index) => [index === 0 ? first : SEPARATOR, part]));
}

async function nextParts(chunks: AsyncGenerator<ReadStep>): Promise<readonly Uint8Array[] | null> {
  const next = await chunks.next();
  return next.done === true ? null : next.value.parts;
}
