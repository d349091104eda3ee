/** `PUT /v1/stream/{name}`: create, ensure or fork a stream (PROTOCOL §5.1, §4.2). */

import { forbidden } from "../principal.ts";
import type { ForkWish } from "../../engine/fork-planner.ts";
import { allows } from "../../protocol/grants.ts";
import { mediaType, OCTET_STREAM } from "../../protocol/content-type.ts";
import { parseExpiry } from "../../protocol/expiry.ts";
import { isReservedName, parseStreamName, STREAM_PREFIX, streamPath } from "../../protocol/names.ts";
import { parseRetention } from "../../protocol/retention.ts";
import { type Exchange, type HeaderMap, linkBase, respond, respondProblem, respondRejection } from "../context.ts";
import { badRequest, describeRejection, type HttpProblem, isProblem } from "../errors.ts";
import { codingOf, contentTypeOf, parseKey, wantsClose } from "../request-parts.ts";

export async function create(exchange: Exchange): Promise<Response> {
  const { request, engine, options } = exchange;
  const { headers } = request;
  const coded = codingOf(headers);
  if (coded !== null) return respondProblem(exchange, coded);
  const contentType = contentTypeOf(headers);
  if (isProblem(contentType)) return respondProblem(exchange, contentType);
  const expiry = parseExpiry(headers.get("stream-ttl"), headers.get("stream-expires-at"));
  if (!expiry.ok) return respondProblem(exchange, badRequest("expiry-invalid", expiry.reason));
  const retentionHeader = headers.get("stream-retention");
  const retention = retentionHeader === null ? null : parseRetention(retentionHeader);
  if (retentionHeader !== null && retention === null) return respondProblem(exchange, retentionInvalid);
  const fork = parseFork(headers);
  if (isProblem(fork)) return respondProblem(exchange, fork);
  // A fork shows what its source holds.
  if (fork !== null && !allows(exchange.principal.grants, "read", fork.sourceName))
    return respondProblem(exchange, forbidden("read", fork.sourceName));
  const key = parseKey(headers);
  if (isProblem(key)) return respondProblem(exchange, key);
  const body = await exchange.uploads.receive(exchange, options.maxBodyBytes);
  if (isProblem(body)) return respondProblem(exchange, body);
  let room: Room | null = null;
  let made = false;
  try {
    const taken = await takeRoom(exchange);
    if (isProblem(taken)) return respondProblem(exchange, taken);
    room = taken;
    const outcome = await engine.create({
      name: exchange.name,
      contentType: usableType(contentType, fork),
      expiry: expiry.expiry,
      retention,
      close: wantsClose(headers),
      body: body.bytes,
      key,
      fork,
      owner: room?.owner ?? null,
    });
    made = outcome.kind === "created";
    if (outcome.kind === "rejected") return respondRejection(exchange, outcome.rejection);
    if (outcome.kind !== "created" && outcome.kind !== "exists") return respondRejection(exchange, { kind: "closing" });
    const answer: HeaderMap = { "Content-Type": outcome.head.config.contentType, "Stream-Next-Offset": outcome.offset };
    if (outcome.closed) answer["Stream-Closed"] = "true";
    if (outcome.kind === "exists") return respond(exchange, 200, answer);
    answer["Location"] = linkBase(exchange) + streamPath(exchange.name);
    return respond(exchange, 201, answer);
  } finally {
    body.release();
    if (!made) room?.giveBack();
  }
}

interface Room {
  readonly owner: string;
  giveBack(): void;
}

/** Room for one more stream of this client; null when it needs none. */
async function takeRoom({ client, engine, name }: Exchange): Promise<Room | null | HttpProblem> {
  const quota = client?.quota ?? null;
  if (quota === null || client === null) return null;
  const { id } = client;
  const full = await quota.take(id);
  if (full === null) return { owner: id, giveBack: () => quota.giveBack(id) };
  // To ensure what exists makes nothing.
  return "kind" in (await engine.find(name, "look")) ? full : null;
}

export const retentionInvalid = badRequest(
  "retention-invalid",
  "Stream-Retention is 'max-age=<duration>, max-bytes=<size>' with either or both, or 'none'; e.g. max-age=7d, max-bytes=1GiB",
);

/** A content type that is none counts as absent; a fork then inherits its source's. */
function usableType(contentType: string | null, fork: ForkWish | null): string | null {
  if (contentType !== null && mediaType(contentType) !== null) return contentType;
  return fork === null ? OCTET_STREAM : null;
}

function parseFork(headers: Headers): ForkWish | null | HttpProblem {
  const from = headers.get("stream-forked-from");
  const offset = headers.get("stream-fork-offset");
  const subOffset = headers.get("stream-fork-sub-offset");
  if (from === null) {
    if (offset === null && subOffset === null) return null;
    return badRequest("fork-invalid", "Stream-Fork-Offset and Stream-Fork-Sub-Offset need Stream-Forked-From");
  }
  if (!from.startsWith(STREAM_PREFIX))
    return badRequest("fork-invalid", `Stream-Forked-From is a path below ${STREAM_PREFIX}`);
  const source = parseStreamName(from.slice(STREAM_PREFIX.length));
  if (!source.ok) return badRequest("fork-invalid", `Stream-Forked-From: ${source.reason}`);
  // What the server keeps there is nobody's to read, or to hold.
  if (isReservedName(source.name)) return describeRejection({ kind: "fork-source-missing" });
  const sub = subOffset === null ? 0 : /^(0|[1-9]\d{0,14})$/.test(subOffset) ? Number(subOffset) : null;
  if (sub === null)
    return badRequest("fork-invalid", "Stream-Fork-Sub-Offset is a whole number without sign or leading zero");
  return { sourceName: source.name, offset, subOffset: sub };
}
