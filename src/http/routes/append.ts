/** `POST /v1/stream/{name}`: append, append and close, or close (PROTOCOL §5.2, §5.3). */

import { MAX_STREAM_SEQ_BYTES } from "../../protocol/limits.ts";
import { type Exchange, type HeaderMap, respond, respondProblem, respondRejection } from "../context.ts";
import { badRequest, isProblem } from "../errors.ts";
import {
  codingOf,
  contentTypeOf,
  isUtf8Header,
  notLatin1,
  parseKey,
  parseProducer,
  wantsClose,
} from "../request-parts.ts";

export async function append(exchange: Exchange): Promise<Response> {
  const { request, engine, options } = exchange;
  const { headers } = request;
  const coded = codingOf(headers);
  if (coded !== null) return respondProblem(exchange, coded);
  const producer = parseProducer(headers);
  if (isProblem(producer)) return respondProblem(exchange, producer);
  const contentType = contentTypeOf(headers);
  if (isProblem(contentType)) return respondProblem(exchange, contentType);
  const key = parseKey(headers);
  if (isProblem(key)) return respondProblem(exchange, key);
  const streamSeq = headers.get("stream-seq");
  if (streamSeq !== null && streamSeq.length > MAX_STREAM_SEQ_BYTES) return respondProblem(exchange, streamSeqTooLong);
  if (streamSeq !== null && isUtf8Header(streamSeq)) return respondProblem(exchange, streamSeqNotLatin1);
  const body = await exchange.uploads.receive(exchange, options.maxBodyBytes);
  if (isProblem(body)) return respondProblem(exchange, body);
  try {
    const close = wantsClose(headers);
    const empty = body.bytes.length === 0;
    if (empty && !close) return respondProblem(exchange, emptyBody);
    if (!empty && contentType === null) return respondProblem(exchange, typeMissing);
    const outcome = await engine.append({
      name: exchange.name,
      contentType: empty ? null : contentType,
      body: body.bytes,
      producer,
      streamSeq,
      ifMatch: headers.get("if-match"),
      key,
      close,
    });
    if (outcome.kind === "rejected") return respondRejection(exchange, outcome.rejection);
    // Taken by what stands in front of the stream: it is not in the log yet.
    if (outcome.kind === "queued") return respond(exchange, 202, {});
    if (outcome.kind !== "appended" && outcome.kind !== "duplicate")
      return respondRejection(exchange, { kind: "closing" });
    const answer: HeaderMap = { "Stream-Next-Offset": outcome.offset };
    if (outcome.closed) answer["Stream-Closed"] = "true";
    if (outcome.producer !== null) {
      answer["Producer-Epoch"] = String(outcome.producer.epoch);
      answer["Producer-Seq"] = String(outcome.producer.lastSeq);
    }
    // 200 tells a producer that this very request stored records, 204 that there was nothing to store (PROTOCOL §5.2.1).
    return respond(exchange, outcome.producer !== null && outcome.records > 0 ? 200 : 204, answer);
  } finally {
    body.release();
  }
}

const emptyBody = badRequest("body-empty", "an append needs a body; to close without data send Stream-Closed: true");
const typeMissing = badRequest("content-type-missing", "an append needs a Content-Type, the stream's own");
const streamSeqNotLatin1 = badRequest("stream-seq-invalid", notLatin1("Stream-Seq"));
const streamSeqTooLong = badRequest("stream-seq-invalid", `Stream-Seq has at most ${MAX_STREAM_SEQ_BYTES} characters`);
