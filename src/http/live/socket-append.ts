/** One append that came on a WebSocket: held to what HTTP holds it to, then done. */

import type { Engine } from "../../engine/engine.ts";
import { utf8 } from "../../kit/bytes.ts";
import { MAX_STREAM_SEQ_BYTES } from "../../protocol/limits.ts";
import { checkStreamName } from "../../protocol/names.ts";
import { SHORT_OF_MEMORY } from "../../engine/memory-guard.ts";
import type { BodyClient, BodyRoom } from "../body-room.ts";
import { badRequest, describeRejection, type HttpProblem, isProblem } from "../errors.ts";
import { checkKey, checkProducer, tooLarge } from "../request-parts.ts";
import type { Append, ClientMessage, ServerMessage } from "./socket-messages.ts";

interface AppendParts {
  readonly engine: Engine;
  readonly bodyRoom: BodyRoom;
  /** Who sends it; null when nobody is counted. */
  readonly client: BodyClient | null;
  readonly maxBodyBytes: number;
}

/** The answer when it is durable, or why it was refused. */
export async function appendSaid(
  { engine, bodyRoom, client, maxBodyBytes }: AppendParts,
  said: Append,
): Promise<ServerMessage | HttpProblem> {
  const name = checkStreamName(said.stream);
  if (!name.ok) return badRequest("name-invalid", name.reason);
  const body = bodyOf(said);
  if (isProblem(body)) return body;
  const key = said.key === undefined ? null : checkKey(said.key);
  if (isProblem(key)) return key;
  const producer = said.producer === undefined ? null : checkProducer(said.producer);
  if (isProblem(producer)) return producer;
  if (said.seq !== undefined && (said.seq.length > MAX_STREAM_SEQ_BYTES || !said.seq.isWellFormed())) return seqInvalid;
  if (body.length > maxBodyBytes) return tooLarge(maxBodyBytes);
  if (engine.memory?.shedding === true) return describeRejection(SHORT_OF_MEMORY);
  const release = bodyRoom.takeWhole(client, body.length);
  if (typeof release !== "function") return release;
  engine.memory?.note(body.length);
  try {
    const outcome = await engine.append({
      name: said.stream,
      contentType: body.length === 0 ? null : said.contentType,
      body,
      producer,
      streamSeq: said.seq ?? null,
      ifMatch: said.ifMatch ?? null,
      key,
      close: said.close,
    });
    if (outcome.kind === "rejected") return describeRejection(outcome.rejection);
    if (outcome.kind === "queued") return { type: "queued", ...refOf(said), stream: said.stream };
    if (outcome.kind !== "appended" && outcome.kind !== "duplicate") return describeRejection({ kind: "closing" });
    return {
      type: "appended",
      ...refOf(said),
      stream: said.stream,
      offset: outcome.offset,
      ...(outcome.kind === "duplicate" ? { duplicate: true } : {}),
      ...(outcome.closed ? { closed: true } : {}),
      ...(outcome.producer === null
        ? {}
        : { producer: { epoch: outcome.producer.epoch, seq: outcome.producer.lastSeq } }),
    };
  } finally {
    release();
  }
}

/** The ref of a message, if it has one. */
export function refOf({ ref }: { readonly ref?: string | number | undefined }): { ref?: string | number } {
  return ref === undefined ? {} : { ref };
}

/** What a refusal of a message names. */
export function aboutOf(said: ClientMessage): { readonly ref?: string | number; readonly id?: string } {
  if (said.type === "append" || said.type === "ping") return refOf(said);
  return { id: said.type === "unsubscribe" ? said.id : (said.id ?? said.stream) };
}

function bodyOf({ body, base64, close }: Append): Uint8Array | HttpProblem {
  if (body !== undefined && base64 !== undefined) return bodyAmbiguous;
  if (body !== undefined && !body.isWellFormed()) return bodyInvalid;
  const bytes = base64 === undefined ? utf8(body ?? "") : Uint8Array.fromBase64(base64);
  return bytes.length === 0 && !close ? bodyEmpty : bytes;
}

const bodyAmbiguous = badRequest("body-ambiguous", "give one of body and base64");
const bodyEmpty = badRequest("body-empty", "an append needs a body; to close without data send close: true");
const bodyInvalid = badRequest("body-invalid", "the body holds half of a surrogate pair, which no bytes stand for");
const seqInvalid = badRequest("stream-seq-invalid", `seq has at most ${MAX_STREAM_SEQ_BYTES} characters`);
