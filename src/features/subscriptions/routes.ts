/** `/v1/stream/__ds/…`: the reserved subscription API (PROTOCOL §6, §7), and a list of subscriptions. */

import type { ZodType } from "zod";
import { appends, manages, open, reads, type Route } from "../../http/access.ts";
import { forbidden, NOBODY, type Principal } from "../../http/principal.ts";
import type { ReservedResource } from "../../http/app.ts";
import { type Exchange, linkBase, respond, respondJson, respondProblem, respondRejection } from "../../http/context.ts";
import { type HttpProblem, isProblem } from "../../http/errors.ts";
import { receiveJson } from "../../http/json-body.ts";
import { oneParam } from "../../http/request-parts.ts";
import { isJson } from "../../protocol/content-type.ts";
import { DEFAULT_LIST_LIMIT, MAX_LIST_LIMIT } from "../../protocol/limits.ts";
import { isServerWritten } from "../../protocol/stream.ts";
import { allows, allowsEvery } from "../../protocol/grants.ts";
import { STREAM_PREFIX } from "../../protocol/names.ts";
import { parsePattern } from "./glob.ts";
import { MAX_BODY_BYTES, MAX_STREAMS_SHOWN } from "./limits.ts";
import type { SigningKeys } from "./signing-keys.ts";
import type { Subscription } from "./subscription.ts";
import {
  ackRequest,
  claimRequest,
  isSubscriptionId,
  normalise,
  releaseRequest,
  streamsRequest,
  type SubscriptionConfig,
  subscriptionRequest,
} from "./subscription-config.ts";
import { type Answer, isRefused, type LinkedStream, type Refusal, type RefusalCode } from "./subscription-port.ts";
import { NotSaved } from "./subscription-store.ts";
import { notFound, START, type Subscriptions, summaryOf } from "./subscriptions.ts";
import { checkWebhookUrl } from "./webhook-url.ts";

export interface SubscriptionRoutesParts {
  readonly subscriptions: Subscriptions;
  readonly keys: SigningKeys;
  /** Webhooks to this machine are allowed: for development. */
  readonly allowLocal: boolean;
}

const STATUS: Readonly<Record<RefusalCode, number>> = {
  INVALID_REQUEST: 400,
  WEBHOOK_URL_REJECTED: 400,
  SUBSCRIPTION_ALREADY_EXISTS: 409,
  SUBSCRIPTION_NOT_FOUND: 404,
  TOKEN_INVALID: 401,
  TOKEN_EXPIRED: 401,
  FENCED: 409,
  INVALID_OFFSET: 409,
  ALREADY_CLAIMED: 409,
  NO_PENDING_WORK: 409,
  OVERLOADED: 429,
};

const LIST = "subscriptions";
const JWKS = "jwks.json";

/** The resource at a path below `__ds/`; null when there is none. Grants name it `__ds/subscriptions/<id>`. */
export function subscriptionRoutes(parts: SubscriptionRoutesParts): (path: string) => ReservedResource | null {
  return (path) => {
    // Public keys: receivers of webhooks have no credentials here.
    if (path === JWKS) return { name: path, methods: { GET: open((exchange) => jwks(exchange, parts)) } };
    if (path === LIST) return { name: path, methods: { GET: reads((exchange) => list(exchange, parts)) } };
    const [kind, rawId = "", action, ...rest] = path.split("/");
    const id = decoded(rawId);
    if (kind !== LIST || id === null || !isSubscriptionId(id)) return null;
    const name = `${LIST}/${id}`;
    const on =
      (route: OnSubscription): Route =>
      (exchange) =>
        saved(
          exchange,
          // Right after a start its streams may not be known yet.
          parts.subscriptions.whenReady().then(() => route(exchange, parts, id)),
        );
    if (action === undefined)
      return { name, methods: { PUT: manages(on(put)), GET: reads(on(get)), DELETE: manages(on(remove)) } };
    if (action === "streams" && rest.length > 0) {
      const stream = decoded(rest.join("/"))?.replace(/^\//, "");
      if (stream === undefined) return null;
      return { name, methods: { DELETE: manages(on((exchange) => removeStream(exchange, parts, id, stream))) } };
    }
    const found = rest.length === 0 && Object.hasOwn(ACTIONS, action) ? ACTIONS[action] : undefined;
    return found === undefined ? null : { name, methods: { POST: found.endpoint(on(found.route)) } };
  };
}

type OnSubscription = (exchange: Exchange, parts: SubscriptionRoutesParts, id: string) => Promise<Response>;

/** What the log did not take is refused as any append would be. */
async function saved(exchange: Exchange, answer: Promise<Response>): Promise<Response> {
  try {
    return await answer;
  } catch (cause) {
    if (cause instanceof NotSaved) return respondRejection(exchange, cause.why);
    throw cause;
  }
}

/** Who has the token of a wake may answer it: it was given to the receiver of a webhook, or for a claim. */
const ACTIONS: Readonly<Record<string, { readonly endpoint: typeof open; readonly route: OnSubscription }>> = {
  streams: { endpoint: manages, route: addStreams },
  callback: { endpoint: open, route: ack },
  ack: { endpoint: open, route: ack },
  claim: { endpoint: appends, route: claim },
  release: { endpoint: open, route: release },
};

function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    // A percent-escape that is not UTF-8 names nothing.
    return null;
  }
}

async function put(exchange: Exchange, { subscriptions, keys, allowLocal }: SubscriptionRoutesParts, id: string) {
  const body = await receive(exchange, subscriptionRequest);
  if (isProblem(body)) return respondProblem(exchange, body);
  const config = normalise(body.value);
  const denied = denialOf(exchange.principal, config);
  if (denied !== null) return respondProblem(exchange, denied);
  if (config.webhookUrl !== null) {
    const checked = checkWebhookUrl(config.webhookUrl, allowLocal);
    if ("reason" in checked) return refuse(exchange, { code: "WEBHOOK_URL_REJECTED", message: checked.reason });
  }
  if (config.wakeStream !== null) {
    const head = await exchange.engine.find(config.wakeStream, "look");
    if ("kind" in head) {
      const message = `the wake stream ${config.wakeStream} does not exist; create it first, as application/json`;
      return refuse(exchange, { code: "INVALID_REQUEST", message });
    }
    if (isServerWritten(head.profile)) {
      const message = `the server writes the stream ${config.wakeStream} itself; name another one for wakes`;
      return refuse(exchange, { code: "INVALID_REQUEST", message });
    }
    if (head.profile !== null) {
      const message = `the wake stream ${config.wakeStream} has the profile ${head.profile.kind}, and would not take wakes; name one without`;
      return refuse(exchange, { code: "INVALID_REQUEST", message });
    }
    if (!isJson(head.config.contentType)) {
      const message = `the wake stream ${config.wakeStream} is no stream of application/json`;
      return refuse(exchange, { code: "INVALID_REQUEST", message });
    }
  }
  const base = linkBase(exchange);
  if (config.webhookUrl !== null && base === "") return refuse(exchange, callbackUnknown);
  const answer = await subscriptions.put(id, config, base);
  if (isRefused(answer)) return refuse(exchange, answer.refused);
  return show(exchange, { subscriptions, keys }, id, answer.created ? 201 : 200);
}

/** A subscription tells of streams, and writes to its wake stream: what its maker may not do, it may not do either. */
function denialOf(
  { grants }: Principal,
  { pattern, streams, wakeStream }: Pick<SubscriptionConfig, "pattern" | "streams" | "wakeStream">,
): HttpProblem | null {
  if (pattern !== null) {
    const parsed = parsePattern(pattern);
    const prefix = typeof parsed === "string" ? "" : parsed.prefix;
    // `a/**` is `a` and what is below it.
    const below = `${prefix}/`;
    const isTree = pattern.startsWith(`${prefix}/**`) && prefix !== "";
    const mayTree = isTree && allows(grants, "read", prefix) && allowsEvery(grants, "read", below);
    const mayOne = pattern === prefix && allows(grants, "read", prefix);
    if (!mayTree && !mayOne && !allowsEvery(grants, "read", prefix)) return forbidden("read", `${prefix}*`);
  }
  const unread = streams.find((name) => !allows(grants, "read", name));
  if (unread !== undefined) return forbidden("read", unread);
  // Records of a wake stream wake nobody else: who makes a stream one decides what it is.
  if (wakeStream !== null && !allows(grants, "manage", wakeStream)) return forbidden("manage", wakeStream);
  return null;
}

function get(exchange: Exchange, parts: SubscriptionRoutesParts, id: string): Promise<Response> {
  return show(exchange, parts, id, 200);
}

async function show(
  exchange: Exchange,
  { subscriptions, keys }: Pick<SubscriptionRoutesParts, "subscriptions" | "keys">,
  id: string,
  status: number,
): Promise<Response> {
  const subscription = subscriptions.get(id);
  if (subscription === undefined) return refuse(exchange, notFound);
  const { kid } = await keys.current(exchange.engine.clock.nowMs());
  return respondJson(exchange, status, {
    ...describe(exchange, subscription, kid),
    streams: await streamsOf(subscriptions, subscription),
  });
}

function describe(exchange: Exchange, subscription: Subscription, kid: string) {
  const { id, record } = subscription;
  const { type, pattern, webhookUrl, wakeStream, leaseMs, description } = record.config;
  const signing = { alg: "ed25519", kid, jwks_url: `${linkBase(exchange)}${STREAM_PREFIX}__ds/${JWKS}` };
  const { status, lagRecords, pendingStreams, failures } = summaryOf(subscription);
  return {
    id,
    subscription_id: id,
    type,
    pattern,
    webhook: webhookUrl === null ? null : { url: webhookUrl, signing },
    wake_stream: wakeStream,
    lease_ttl_ms: leaseMs,
    created_at: new Date(record.createdMs).toISOString(),
    status,
    description,
    generation: record.generation,
    lag_records: lagRecords,
    pending_streams: pendingStreams,
    failures,
    ...(record.retry !== null && {
      last_error: record.retry.reason,
      next_attempt_at: record.retry.atMs === null ? null : new Date(record.retry.atMs).toISOString(),
    }),
  };
}

async function streamsOf(subscriptions: Subscriptions, { links, record }: Subscription): Promise<object[]> {
  const told: LinkedStream[] = [];
  for (const { link, tail } of links.first(MAX_STREAMS_SHOWN)) {
    const stream = await subscriptions.describeLink(link, tail);
    if (stream !== null) told.push(stream);
  }
  const known = new Set(told.map(({ path }) => path));
  // Named before there is such a stream.
  const missing = record.explicit.filter((name) => !known.has(name) && links.byName(name) === undefined);
  return [...told, ...missing.map((path) => ({ path, link_type: "explicit", acked_offset: START }))];
}

async function list(exchange: Exchange, { subscriptions, keys }: SubscriptionRoutesParts): Promise<Response> {
  const after = oneParam(exchange.query, "after");
  if (isProblem(after)) return respondProblem(exchange, after);
  const text = oneParam(exchange.query, "limit");
  if (isProblem(text)) return respondProblem(exchange, text);
  const limit = text === null ? DEFAULT_LIST_LIMIT : /^\d{1,4}$/.test(text) ? Number(text) : NaN;
  if (!(limit >= 1 && limit <= MAX_LIST_LIMIT))
    return refuse(exchange, { code: "INVALID_REQUEST", message: `limit is 1 to ${MAX_LIST_LIMIT}` });
  const { page, next } = subscriptions.list(after ?? "", limit);
  const { kid } = await keys.current(exchange.engine.clock.nowMs());
  return respondJson(exchange, 200, {
    subscriptions: page.map((subscription) => describe(exchange, subscription, kid)),
    next,
  });
}

async function remove(exchange: Exchange, { subscriptions }: SubscriptionRoutesParts, id: string): Promise<Response> {
  await subscriptions.remove(id);
  return respond(exchange, 204, {});
}

async function addStreams(exchange: Exchange, { subscriptions }: SubscriptionRoutesParts, id: string) {
  const body = await receive(exchange, streamsRequest);
  if (isProblem(body)) return respondProblem(exchange, body);
  const denied = denialOf(exchange.principal, { pattern: null, streams: body.value.streams, wakeStream: null });
  if (denied !== null) return respondProblem(exchange, denied);
  return respondEmpty(exchange, await subscriptions.addStreams(id, body.value.streams));
}

async function removeStream(exchange: Exchange, { subscriptions }: SubscriptionRoutesParts, id: string, name: string) {
  return respondEmpty(exchange, await subscriptions.removeStream(id, name));
}

async function claim(exchange: Exchange, { subscriptions }: SubscriptionRoutesParts, id: string): Promise<Response> {
  const body = await receive(exchange, claimRequest);
  if (isProblem(body)) return respondProblem(exchange, body);
  const subscription = subscriptions.get(id);
  if (subscription === undefined) return refuse(exchange, notFound);
  return respondAnswer(exchange, await subscription.claim(body.value.worker));
}

async function ack(exchange: Exchange, parts: SubscriptionRoutesParts, id: string): Promise<Response> {
  const held = holderOf(exchange, parts, id);
  if ("code" in held) return refuse(exchange, held);
  const body = await receive(exchange, ackRequest);
  if (isProblem(body)) return respondProblem(exchange, body);
  return respondAnswer(exchange, await held.subscription.ack(held.token, body.value));
}

async function release(exchange: Exchange, parts: SubscriptionRoutesParts, id: string): Promise<Response> {
  const held = holderOf(exchange, parts, id);
  if ("code" in held) return refuse(exchange, held);
  const body = await receive(exchange, releaseRequest);
  if (isProblem(body)) return respondProblem(exchange, body);
  return respondEmpty(exchange, await held.subscription.release(held.token, body.value));
}

/** The subscription whose wake the caller holds a token of. Where callers are told apart, others do not hear whether there is such a one. */
function holderOf(
  exchange: Exchange,
  { subscriptions }: SubscriptionRoutesParts,
  id: string,
): { readonly subscription: Subscription; readonly token: string } | Refusal {
  const subscription = subscriptions.get(id);
  const token = bearerOf(exchange);
  const isGuarded = exchange.principal === NOBODY;
  if (subscription === undefined) return isGuarded ? tokenInvalid : notFound;
  if (token === null) return isGuarded ? tokenInvalid : tokenMissing;
  return subscription.refuses(token) ?? { subscription, token };
}

async function jwks(exchange: Exchange, { keys }: SubscriptionRoutesParts): Promise<Response> {
  const published = await keys.published(exchange.engine.clock.nowMs());
  const headers = { "Content-Type": "application/jwk-set+json", "Cache-Control": "public, max-age=300" };
  return respond(exchange, 200, headers, JSON.stringify({ keys: published }));
}

/** Its refusals as the protocol spells them. */
async function receive<T>(exchange: Exchange, schema: ZodType<T>): Promise<{ readonly value: T } | HttpProblem> {
  const body = await receiveJson(exchange, schema, MAX_BODY_BYTES);
  return isProblem(body) && body.status === 400 ? { ...body, code: "INVALID_REQUEST" } : body;
}

function bearerOf({ request }: Exchange): string | null {
  return /^Bearer ([\x21-\x7e]{1,4096})$/i.exec(request.headers.get("authorization") ?? "")?.[1] ?? null;
}

/** A receiver has to be told where to answer, and anybody can send any Host. */
const callbackUnknown: Refusal = {
  code: "INVALID_REQUEST",
  message: "webhooks call back: start the server with --public-url, so that it knows how it is reached",
};
const tokenInvalid: Refusal = { code: "TOKEN_INVALID", message: "the bearer token is not one of this wake" };
const tokenMissing: Refusal = { code: "TOKEN_INVALID", message: "send the token of the wake as Authorization: Bearer" };

function respondAnswer(exchange: Exchange, answer: Answer<object>): Response {
  return isRefused(answer) ? refuse(exchange, answer.refused) : respondJson(exchange, 200, answer);
}

function respondEmpty(exchange: Exchange, answer: Answer<object>): Response {
  return isRefused(answer) ? refuse(exchange, answer.refused) : respond(exchange, 204, {});
}

function refuse(exchange: Exchange, { code, message, more }: Refusal): Response {
  exchange.counters.refused(code);
  const headers = code === "OVERLOADED" ? { "Retry-After": "1" } : {};
  return respondJson(exchange, STATUS[code], { error: { code, message, ...more } }, headers);
}
