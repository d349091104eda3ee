/** `GET …/_details`: all metadata of a stream as JSON, with an ETag to poll or long-poll by. */

import { matchesEtag } from "../../protocol/caching.ts";
import { isJson } from "../../protocol/content-type.ts";
import { offsetAt } from "../../protocol/offset.ts";
import { formatRetention } from "../../protocol/retention.ts";
import { lineageOf, type StreamHead } from "../../protocol/stream.ts";
import { type Exchange, holdOpen, letGo, respond, respondJson, respondProblem, respondRejection } from "../context.ts";
import { badRequest, isProblem } from "../errors.ts";
import { tooManyLive } from "../live/follow.ts";
import { oneParam } from "../request-parts.ts";

export async function details(exchange: Exchange): Promise<Response> {
  const { engine, request, options, followers } = exchange;
  const live = oneParam(exchange.query, "live");
  if (isProblem(live)) return respondProblem(exchange, live);
  if (live !== null && live !== "long-poll")
    return respondProblem(exchange, badRequest("live-invalid", "live is 'long-poll'"));
  const known = request.headers.get("if-none-match");
  const first = await engine.find(exchange.name, "look");
  if ("kind" in first) return respondRejection(exchange, first);
  if (known === null || !matchesEtag(known, etagOf(first))) return answer(exchange, first);
  if (live === null) return unchanged(exchange, first);
  if (!followers.admit(first.id)) return respondRejection(exchange, tooManyLive);
  try {
    const held = holdOpen(exchange);
    if (held !== null) return respondProblem(exchange, held);
    const wait = engine.waiters.register(first.id, options.longPollTimeoutMs, request.signal);
    await wait.woken;
    const head = await engine.find(exchange.name, "look");
    if ("kind" in head) return respondRejection(exchange, head);
    return matchesEtag(known, etagOf(head)) ? unchanged(exchange, head) : await answer(exchange, head);
  } finally {
    letGo(exchange);
    followers.closed(first.id);
  }
}

/** Every durable change of a stream moves it, and nothing else does. */
function etagOf(head: StreamHead): string {
  return `"${head.id}-${head.lastCommit}"`;
}

function unchanged(exchange: Exchange, head: StreamHead): Response {
  return respond(exchange, 304, { ETag: etagOf(head), "Cache-Control": "no-store" });
}

async function answer(exchange: Exchange, head: StreamHead): Promise<Response> {
  const etag = etagOf(head);
  return respondJson(exchange, 200, describeStream(head, await exchange.engine.reader.earliest(head)), { ETag: etag });
}

/** What lists and details say about a stream; `first` is its earliest kept seq. Times are RFC 3339, sizes payload bytes. */
export function describeStream(head: StreamHead, first: number) {
  const { config, retention } = head;
  const lineage = lineageOf(head);
  return {
    name: config.name,
    contentType: config.contentType,
    json: isJson(config.contentType),
    epoch: head.id,
    nextOffset: offsetAt(lineage, head.next),
    earliestOffset: offsetAt(lineage, first),
    records: head.next - first,
    bytes: head.bytes - head.trimmedBytes,
    closed: head.closed,
    createdAt: new Date(config.createdMs).toISOString(),
    lastAppendAt: head.lastAppendMs === null ? null : new Date(head.lastAppendMs).toISOString(),
    ttlSeconds: config.expiry.kind === "ttl" ? config.expiry.seconds : null,
    expiresAt: config.expiry.kind === "at" ? config.expiry.raw : null,
    retention: formatRetention(retention),
    producers: head.producerCount,
    forks: head.forks,
    forkedFrom: config.fork === null ? null : { name: config.fork.sourceName, offset: offsetAt(lineage, config.from) },
  };
}
