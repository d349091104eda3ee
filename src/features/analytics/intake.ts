/** What clients send to an analytics stream: checked, read into events, and taken by its stage. */

import type { AppendRequestRaw, Engine } from "../../engine/engine.ts";
import { Pace } from "../../kit/turn.ts";
import { isJson, mediaType } from "../../protocol/content-type.ts";
import type { Outcome } from "../../protocol/intents.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { offsetAt } from "../../protocol/offset.ts";
import { lineageOf, type StreamHead } from "../../protocol/stream.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import type { AnalyticsStream } from "./analytics-stream.ts";
import { CannotRead } from "./derived-stream.ts";
import { type Admitted, BatchingStopped } from "./event-batching-service.ts";
import { EVENTS_PER_LOOK, isNdjson, type ReadBody, readEventBody } from "./event-body.ts";
import { MAX_POST_BYTES } from "./limits.ts";
import type { PreparedEvent } from "./prepared-event.ts";

/** Where stages are found; null for a stream with another profile. */
export interface Stages {
  open(head: StreamHead): Promise<AnalyticsStream | null>;
}

/** In durable mode the outcome comes when the events are durable, in memory mode when they are queued. */
export async function takeRequest(engine: Engine, stages: Stages, request: AppendRequestRaw): Promise<Outcome> {
  const head = await engine.find(request.name, "look");
  if ("kind" in head) return rejected(head);
  const refusal = refuse(request, head);
  if (refusal !== null) return rejected(refusal);
  const { body, contentType, close } = request;
  const read = body.length === 0 ? NOTHING : await readEventBody(body, isNdjson(contentType ?? ""), engine.clock);
  if ("kind" in read) return rejected(read);
  try {
    const stage = await stages.open(head);
    if (stage === null) return rejected(profileChanged);
    const [first] = read.invalid;
    if (first !== undefined && stage.settings.onInvalid === "reject")
      return rejected({ kind: "record-invalid", index: first.index, reason: first.reason });
    // Who closes waits for the write, in memory mode too.
    const admitted = stage.admit(read.events, close);
    if ("kind" in admitted) return rejected(admitted);
    try {
      if (first !== undefined && !(await stage.writeDeadLetters(read.invalid))) return rejected(noDeadLetters);
      await takeAll(engine, admitted, read.events);
    } finally {
      admitted.end();
    }
    // What was taken before a close belongs before it.
    if (close) await stage.batching.flush();
    else if (!admitted.isPromised) return { kind: "queued", records: 0 };
    else await stage.batching.whenWritten();
    return await written(engine, head.id);
  } catch (cause) {
    if (cause instanceof CannotRead) return rejected(cause.why);
    if (!(cause instanceof BatchingStopped)) throw cause;
    return rejected(await whyStopped(engine, head.id));
  }
}

const NOTHING: ReadBody = { events: [], invalid: [] };

function refuse(request: AppendRequestRaw, head: StreamHead): Rejection | null {
  const unsupported: readonly (readonly [string, unknown])[] = [
    ["Producer-Id", request.producer],
    ["Stream-Seq", request.streamSeq],
    ["If-Match", request.ifMatch],
    ["Stream-Key", request.key],
  ];
  for (const [header, value] of unsupported) if (value !== null) return { kind: "header-unsupported", header };
  if (request.body.length === 0) return null;
  if (head.closed) return { kind: "stream-closed", offset: offsetAt(lineageOf(head), head.next) };
  const contentType = request.contentType ?? "";
  if (!isJson(contentType) && !isNdjson(contentType)) {
    return { kind: "content-type-mismatch", expected: `${mediaType(head.config.contentType)} or application/x-ndjson` };
  }
  if (request.body.length > MAX_POST_BYTES) return { kind: "append-too-large", maxBytes: MAX_POST_BYTES };
  return null;
}

async function takeAll({ clock }: Engine, admitted: Admitted, events: readonly PreparedEvent[]): Promise<void> {
  const pace = new Pace(clock, BACKGROUND_TURN_MS);
  for (const [at, event] of events.entries()) {
    admitted.take(event);
    if (at % EVENTS_PER_LOOK === 0 && pace.isOver) await pace.next();
  }
}

async function whyStopped(engine: Engine, id: number): Promise<Rejection> {
  if (engine.closing) return { kind: "closing" };
  const head = await engine.byId(id);
  if (head === undefined) return { kind: "not-found" };
  return head.closed ? { kind: "stream-closed", offset: offsetAt(lineageOf(head), head.next) } : profileChanged;
}

async function written(engine: Engine, id: number): Promise<Outcome> {
  const head = await engine.byId(id);
  if (head === undefined) return rejected({ kind: "not-found" });
  const { next, closed } = head;
  const offset = offsetAt(lineageOf(head), next);
  return { kind: "appended", streamId: id, next, offset, closed, producer: null, records: 0 };
}

const profileChanged: Rejection = { kind: "overloaded", reason: "the stream's profile keeps changing" };
const noDeadLetters: Rejection = { kind: "overloaded", reason: "dead letters cannot be written now" };

function rejected(rejection: Rejection): Outcome {
  return { kind: "rejected", rejection };
}
