/**
 * The messages of a WebSocket (docs/websocket.md), as schemas: what a client may say, and what the server says. One JSON text each.
 * The JSON schema in the docs is made from them.
 */

import { z } from "zod";
import { MAX_CONTENT_TYPE_BYTES, MAX_NAME_BYTES, MAX_SOCKET_ID_CHARS } from "../../protocol/limits.ts";
import { OVERFLOW_POLICIES } from "./follower.ts";

/** Name of this version of the protocol, for `Sec-WebSocket-Protocol`. */
export const SOCKET_PROTOCOL = "streams.v1";

const id = z.string().min(1).max(MAX_SOCKET_ID_CHARS).describe("Name of a subscription on this connection");
const ref = z
  .union([z.string().max(MAX_SOCKET_ID_CHARS), z.number()])
  .describe("The client's own name for a request; the answer repeats it");
const stream = z.string().min(1).max(MAX_NAME_BYTES).describe("Name of a stream, not percent-encoded");
const offset = z.string().describe("A position in a stream");
const problem = z.object({ code: z.string(), message: z.string() }).describe("As in HTTP error bodies");

const headers = z.record(z.string(), z.string()).describe("What the HTTP answer would say besides");

const subscribe = z.strictObject({
  type: z.literal("subscribe"),
  stream,
  id: id.optional().describe("Default: the name of the stream"),
  offset: z.string().optional().describe("-1, now, or an offset; one of offset, from and tail"),
  from: z.string().optional().describe("A time, or an age such as -15m"),
  tail: z.int().min(0).max(999_999_999).optional().describe("The last so many records"),
  key: z.string().optional().describe("Only records appended under this key"),
  filter: z.string().optional().describe("Only JSON records that match (docs/filter.md)"),
  overflow: z.enum(OVERFLOW_POLICIES).optional().describe("What becomes of records the client is too slow for"),
  behind: z
    .literal(true)
    .optional()
    .describe("It was subscribed, was too slow, and comes back: `overflow` holds for what it missed"),
});

const unsubscribe = z.strictObject({ type: z.literal("unsubscribe"), id });

const append = z.strictObject({
  type: z.literal("append"),
  ref: ref.optional(),
  stream,
  body: z.string().optional().describe("The body of the append as text, exactly as over HTTP; or base64"),
  base64: z.base64().optional().describe("The body of the append as bytes"),
  contentType: z.string().min(1).max(MAX_CONTENT_TYPE_BYTES).default("application/json"),
  key: z.string().optional(),
  seq: z.string().optional().describe("Stream-Seq"),
  ifMatch: z.string().optional().describe("The offset that the tail must have"),
  producer: z.strictObject({ id: z.string(), epoch: z.number(), seq: z.number() }).optional(),
  close: z.boolean().default(false),
});

const view = z.strictObject({
  type: z.literal("view"),
  stream,
  id: id
    .optional()
    .describe("Default: the name of the stream. Of an open view of that stream: it shows this from now on"),
  offset: offset.optional().describe("Comes back: it has what this view showed up to there"),
  view: z.record(z.string(), z.unknown()).describe("What it shows (docs/live-views.md)"),
});

const ping = z.strictObject({ type: z.literal("ping"), ref: ref.optional() });

export const clientMessage = z.discriminatedUnion("type", [subscribe, view, unsubscribe, append, ping]);
/** What a message calls itself or what it is about, also when the rest of it is wrong. */
const messageNames = z.object({ ref: ref.optional().catch(undefined), id: id.optional().catch(undefined) });
export type ClientMessage = z.infer<typeof clientMessage>;
export type Subscribe = z.infer<typeof subscribe>;
export type ShowView = z.infer<typeof view>;
export type Append = z.infer<typeof append>;

const position = {
  id,
  offset: offset.describe("Where the subscription stands after this message"),
  upToDate: z.literal(true).optional().describe("There was nothing more"),
  closed: z.literal(true).optional().describe("The stream is closed, and this was all of it"),
};
const range = { id, fromOffset: offset, toOffset: offset };

export const serverMessage = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("connected"), clientId: z.string(), heartbeatMs: z.number() }),
  z.strictObject({ type: z.literal("heartbeat"), time: z.iso.datetime() }),
  z.strictObject({ type: z.literal("pong"), ref: ref.optional() }),
  z.strictObject({ type: z.literal("subscribed"), ...position, stream, contentType: z.string() }),
  z.strictObject({
    type: z.literal("records"),
    ...position,
    records: z.array(z.unknown()).optional().describe("Records of a JSON stream"),
    text: z.string().optional().describe("Records of a text stream, joined"),
    base64: z.string().optional().describe("Records of any other stream, or of text that is cut inside a character"),
  }),
  z.strictObject({
    type: z.literal("rows"),
    id,
    offset: offset.describe("What of the stream the view now shows"),
    full: z.literal(true).optional().describe("Forget what was shown"),
    changes: z.array(z.unknown()).describe("State Protocol records"),
  }),
  z.strictObject({ type: z.literal("position"), ...position }),
  z.strictObject({ type: z.literal("lagged"), ...range, ms: z.int() }),
  z.strictObject({ type: z.literal("gap"), ...range, count: z.int().positive() }),
  z.strictObject({
    type: z.literal("unsubscribed"),
    id,
    offset,
    reason: z.enum(["request", "closed", "error"]),
    error: problem.optional(),
    headers: headers.optional(),
  }),
  z.strictObject({
    type: z.literal("appended"),
    ref: ref.optional(),
    stream,
    offset: offset.describe("The tail after the append"),
    duplicate: z.literal(true).optional().describe("A producer had sent it before"),
    closed: z.literal(true).optional(),
    producer: z
      .strictObject({ epoch: z.int(), seq: z.int() })
      .optional()
      .describe("What the stream knows of the producer"),
  }),
  z.strictObject({ type: z.literal("queued"), ref: ref.optional(), stream }),
  z.strictObject({
    type: z.literal("error"),
    ref: ref.optional(),
    id: id.optional(),
    error: problem,
    headers: headers.optional(),
  }),
]);
export type ServerMessage = z.infer<typeof serverMessage>;

/** What a client said; or why it is no message, and what it calls itself, so that its sender finds out which it was. */
export function readMessage(text: string): { said: ClientMessage } | { about: MessageNames; reason: string } {
  const value = parseJson(text);
  const parsed = clientMessage.safeParse(value);
  return parsed.success ? { said: parsed.data } : { about: namedIn(value), reason: reasonOf(parsed.error) };
}

interface MessageNames {
  readonly ref?: string | number;
  readonly id?: string;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // No message is undefined: the schema refuses it.
    return undefined;
  }
}

function reasonOf({
  issues,
}: {
  readonly issues: readonly { path: readonly PropertyKey[]; message: string }[];
}): string {
  const [first] = issues;
  if (first === undefined) return "the message is not one of the protocol";
  const where = first.path.join(".");
  return where === "" ? `the message is not one of the protocol: ${first.message}` : `${where}: ${first.message}`;
}

function namedIn(value: unknown): MessageNames {
  const { ref, id } = messageNames.safeParse(value).data ?? {};
  return { ...(ref === undefined ? {} : { ref }), ...(id === undefined ? {} : { id }) };
}

/** The fields of a subscription mean what they mean over HTTP, where `live=sse` is their like. */
export function queryOf({ offset, from, tail, key, filter, overflow }: Subscribe): URLSearchParams {
  const query = new URLSearchParams({ live: "sse" });
  for (const [name, value] of Object.entries({ offset, from, tail, key, filter, overflow })) {
    if (value !== undefined) query.set(name, String(value));
  }
  return query;
}

/** Both directions as JSON Schema (2020-12). */
export function socketJsonSchema(): object {
  const of = (schema: z.ZodType, io: "input" | "output"): object => z.toJSONSchema(schema, { io });
  return {
    title: SOCKET_PROTOCOL,
    $defs: { clientMessage: of(clientMessage, "input"), serverMessage: of(serverMessage, "output") },
  };
}
