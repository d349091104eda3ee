/** `…/touch/templates/activate`, `…/touch/wait` and `…/touch/meta` (docs/live-queries.md). */

import { type Exchange, holdOpen, letGo, respondJson, respondProblem, respondRejection } from "../../http/context.ts";
import { type Methods, reads } from "../../http/access.ts";
import { badRequest, type HttpProblem, isProblem } from "../../http/errors.ts";
import { receiveJson } from "../../http/json-body.ts";
import { oneParam } from "../../http/request-parts.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import { keyIdOf, parseKey } from "../../protocol/touch-keys.ts";
import { DEFAULT_WAIT_MS, MAX_BODY_BYTES, MAX_WAIT_MS } from "./limits.ts";
import { describeStream } from "./meta.ts";
import { activateRequest, formatCursor, type WaitRequest, waitRequest } from "./requests.ts";
import { templateSpec } from "./template.ts";
import type { Activation, Durable, TemplateSpec } from "./templates.ts";
import { type Touch, TOUCH_OFF } from "./touch.ts";
import type { Naming } from "./naming.ts";
import { keysOf, type TouchStream, type WaitAnswer, watchedBy } from "./touch-stream.ts";

/** xxh32 of UTF-8: the key id of a key that is not 16 hex digits. */
export type Hash32 = (text: string) => number;

type Denied = Activation["denied"];
const INVALID: Denied[number] = { templateId: "0".repeat(16), reason: "invalid" };

export function touchRoutes(touch: Touch, hash32: Hash32): Readonly<Record<string, Methods>> {
  return {
    // Templates say what is watched, not what there is.
    "touch/templates/activate": { POST: reads((exchange) => activate(exchange, touch)) },
    "touch/wait": { POST: reads((exchange) => wait(exchange, touch, hash32)) },
    "touch/meta": { GET: reads((exchange) => meta(exchange, touch)) },
  };
}

async function activate(exchange: Exchange, touch: Touch): Promise<Response> {
  const body = await receiveJson(exchange, activateRequest, MAX_BODY_BYTES);
  if (isProblem(body)) return respondProblem(exchange, body);
  const stream = await touch.open(exchange.name);
  if (stream === TOUCH_OFF || "kind" in stream) return refuse(exchange, stream);
  const { activated, denied, durable } = declare(stream, body.value.templates, body.value.inactivityTtlMs ?? null);
  const refused = await touch.persist(stream, durable);
  if (refused !== null) return respondRejection(exchange, refused);
  const { maxActiveTemplatesPerStream, maxActiveTemplatesPerEntity } = stream.settings.templates;
  return respondJson(exchange, 200, {
    activated: activated.map(({ template, activeFrom }) => ({
      templateId: template.id,
      state: "active",
      activeFromTouchOffset: formatCursor(stream.id, activeFrom),
    })),
    denied,
    limits: { maxActiveTemplatesPerStream, maxActiveTemplatesPerEntity },
  });
}

async function wait(exchange: Exchange, touch: Touch, hash32: Hash32): Promise<Response> {
  const { engine, request, client } = exchange;
  const body = await receiveJson(exchange, waitRequest, MAX_BODY_BYTES);
  if (isProblem(body)) return respondProblem(exchange, body);
  const asked = body.value;
  const stream = await touch.open(exchange.name);
  if (stream === TOUCH_OFF || "kind" in stream) return refuse(exchange, stream);
  if (!engine.liveRequests.take(1)) return respondRejection(exchange, tooManyWaits);
  let parked = 0;
  try {
    const held = holdOpen(exchange);
    if (held !== null) return respondProblem(exchange, held);
    const { durable, denied, ...named } = nameTemplates(stream, asked);
    const { interest, waitKind } = stream.resolve({ ...nameKeys(asked, hash32), ...named });
    const keys = keysOf(interest);
    if (client?.takeShare(PARKED, keys, touch.mostParkedKeys) === false) return respondProblem(exchange, tooManyKeys);
    parked = keys;
    const { cursor } = asked;
    const isStale = cursor !== "now" && (cursor.epoch !== stream.id || cursor.seq > stream.position.tail);
    const since = cursor === "now" ? stream.position.tail : cursor.seq;
    const answered = isStale
      ? stream.staleAnswer(watchedBy(interest))
      : stream.wait(interest, since, asked.timeoutMs, request.signal);
    const refused = await touch.persist(stream, durable);
    if (refused !== null) return respondRejection(exchange, refused);
    return await respondWait(exchange, touch, stream, await answered, {
      effectiveWaitKind: waitKind,
      denied,
      keys: watchedBy(interest),
    });
  } finally {
    client?.giveShare(PARKED, parked);
    letGo(exchange);
    engine.liveRequests.give(1);
  }
}

/** What the keys of parked waits are counted as. */
const PARKED = "parked keys";
const tooManyKeys: HttpProblem = {
  status: 429,
  code: "too-many-live",
  message: "the waits of this client name too many keys; end some, or wait in coarse mode",
  headers: { "Retry-After": "5" },
};
const tooManyWaits: Rejection = { kind: "overloaded", reason: "too many live requests" };

async function respondWait(
  exchange: Exchange,
  touch: Touch,
  stream: TouchStream,
  answer: WaitAnswer,
  said: { readonly effectiveWaitKind: string; readonly denied: Denied; readonly keys: number },
): Promise<Response> {
  const { end, cursor, atMs } = answer;
  if (end === "overloaded") return respondRejection(exchange, { kind: "overloaded", reason: "too many touch waits" });
  if (end === "ended" && !exchange.engine.closing) {
    // Deleted, recreated, or its profile changed: what the client rests on is gone.
    const now = await touch.open(exchange.name);
    if (now === TOUCH_OFF || "kind" in now) return refuse(exchange, now);
    return respondWait(exchange, touch, now, now.staleAnswer(said.keys), said);
  }
  const facts = {
    cursor: formatCursor(stream.id, cursor),
    effectiveWaitKind: said.effectiveWaitKind,
    bucketMaxSourceOffsetSeq: String(cursor - 1),
    flushAtMs: atMs,
    bucketStartMs: atMs,
    ...(said.denied.length === 0 ? {} : { denied: said.denied }),
  };
  if (end !== "stale") return respondJson(exchange, 200, { touched: end === "touched", ...facts });
  const message = "what happened since this cursor is not known any more: query again, then wait from the cursor given";
  const stale = { epoch: String(stream.id), generation: cursor, error: { code: "stale", message } };
  return respondJson(exchange, 200, { stale: true, touched: false, ...facts, ...stale });
}

async function meta(exchange: Exchange, touch: Touch): Promise<Response> {
  const settle = oneParam(exchange.query, "settle");
  if (isProblem(settle)) return respondProblem(exchange, settle);
  const timeoutText = oneParam(exchange.query, "timeoutMs");
  if (isProblem(timeoutText)) return respondProblem(exchange, timeoutText);
  const timeoutMs = timeoutText === null ? DEFAULT_WAIT_MS : /^\d{1,6}$/.test(timeoutText) ? Number(timeoutText) : NaN;
  if (settle !== null && settle !== "flush") {
    return respondProblem(exchange, badRequest("settle-invalid", "settle is 'flush'"));
  }
  if (!(timeoutMs <= MAX_WAIT_MS)) {
    return respondProblem(exchange, badRequest("timeout-invalid", `timeoutMs is 0 to ${MAX_WAIT_MS}`));
  }
  const stream = await touch.open(exchange.name);
  if (stream === TOUCH_OFF || "kind" in stream) return refuse(exchange, stream);
  if (settle === "flush") await settled(exchange, stream, timeoutMs);
  return respondJson(exchange, 200, describeStream(stream));
}

/** Waits until what was durable at the call is derived. */
async function settled({ engine }: Exchange, stream: TouchStream, timeoutMs: number): Promise<void> {
  let expire: (() => void) | null = null;
  const expired = new Promise<void>((resolve) => (expire = resolve));
  const deadline = engine.deadlines.after(timeoutMs, () => expire?.());
  await Promise.race([stream.position.whenDerived(stream.position.tail), expired]);
  deadline.cancel();
}

/** The ids of the templates a wait names, used ones seen and declared ones activated. */
function nameTemplates(
  stream: TouchStream,
  asked: WaitRequest,
): Pick<Naming, "templateIds" | "coarse"> & { readonly durable: Durable; readonly denied: Denied } {
  const used = asked.templateIdsUsed.map((id) => id.toLowerCase());
  const coarse = asked.interestMode === "coarse";
  const declared = declare(stream, asked.declareTemplates, asked.inactivityTtlMs ?? null);
  if (!coarse) stream.templates.see(used, stream.around().nowMs, declared.durable);
  // One that was denied is named all the same: nothing is known of it, so any change wakes its wait.
  const ids = [
    ...used,
    ...declared.activated.map(({ template }) => template.id),
    ...declared.denied.map(({ templateId }) => templateId),
  ];
  return { templateIds: [...new Set(ids)], coarse, durable: declared.durable, denied: declared.denied };
}

function declare(
  stream: TouchStream,
  specs: readonly unknown[],
  ttlMs: number | null,
): Activation & { durable: Durable } {
  const durable: Durable = new Map();
  if (specs.length === 0) return { activated: [], denied: [], durable };
  const valid: TemplateSpec[] = [];
  const invalid: Denied[number][] = [];
  for (const spec of specs) {
    const parsed = templateSpec.safeParse(spec);
    if (parsed.success) valid.push(parsed.data);
    else invalid.push(INVALID);
  }
  const { activated, denied } = stream.templates.activate(valid, ttlMs, stream.around(), durable);
  stream.meter.now.denied += denied.length + invalid.length;
  return { activated, denied: [...denied, ...invalid], durable };
}

/** Keys in full where the client gave them; ids only for those it did not. */
function nameKeys(asked: WaitRequest, hash32: Hash32): Pick<Naming, "keys" | "keyIds"> {
  const keys = new Set<bigint>();
  const keyIds = new Set(asked.keyIds);
  for (const text of asked.keys) {
    const key = parseKey(text);
    if (key === null) keyIds.add(hash32(text.trim().toLowerCase()));
    else keys.add(key);
  }
  for (const key of keys) keyIds.delete(keyIdOf(key));
  return { keys: [...keys], keyIds: [...keyIds] };
}

const off: HttpProblem = {
  status: 404,
  code: TOUCH_OFF,
  message: "touch is off for this stream; switch it on in its profile (kind state-protocol, touch.enabled true)",
};

function refuse(exchange: Exchange, why: Rejection | typeof TOUCH_OFF): Response {
  return why === TOUCH_OFF ? respondProblem(exchange, off) : respondRejection(exchange, why);
}
