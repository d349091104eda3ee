/**
 * Subscriptions in a few words, for tests: one subscription and its verbs, and a webhook receiver that keeps what it is told and
 * answers as a test wants. No call retries or throws on a status; what the server answered is what the test sees. Every wait has a
 * deadline.
 */

import { createPublicKey, type webcrypto, verify } from "node:crypto";
import { call, type ErrorBody, newStream, nextOffset, streamAt, type StreamUnderTest } from "./streams.ts";
import { until } from "./wait.ts";

type At = { readonly url: string };

export interface LinkShown {
  readonly path: string;
  readonly link_type: string;
  readonly acked_offset: string;
}

export interface WakeLink extends LinkShown {
  readonly tail_offset: string;
  readonly has_pending: boolean;
}

export interface SubscriptionShown {
  readonly id: string;
  readonly subscription_id: string;
  readonly type: string;
  readonly pattern: string | null;
  readonly streams: readonly LinkShown[];
  readonly webhook: {
    readonly url: string;
    readonly signing: { readonly alg: string; readonly kid: string; readonly jwks_url: string };
  } | null;
  readonly wake_stream: string | null;
  readonly lease_ttl_ms: number;
  readonly created_at: string;
  readonly status: string;
  readonly description: string | null;
  readonly generation: number;
  readonly lag_records: number;
  readonly pending_streams: number;
  readonly failures: number;
  readonly last_error?: string;
  readonly next_attempt_at?: string;
}

/** What names a wake. */
export interface WakeName {
  readonly wake_id: string;
  readonly generation: number;
}

/** The body of a webhook. */
export interface WebhookBody extends WakeName {
  readonly subscription_id: string;
  readonly streams: readonly WakeLink[];
  readonly callback_url: string;
  readonly callback_token: string;
}

/** The answer to a claim. */
export interface Claim extends WakeName {
  readonly token: string;
  readonly streams: readonly WakeLink[];
  readonly lease_ttl_ms: number;
}

export interface WakeEvent {
  readonly type: string;
  readonly subscription_id: string;
  readonly stream: string;
  readonly generation: number;
  readonly ts: number;
}

export interface Ack {
  readonly stream: string;
  readonly offset: string;
}

/** Status and error code of an answer; of one that is no error, its status and `""`. */
export async function verdict(answer: Response | Promise<Response>): Promise<[number, string]> {
  const response = await answer;
  const text = await response.text();
  if (response.status < 400) return [response.status, ""];
  return [response.status, (JSON.parse(text) as ErrorBody).error.code];
}

export async function jsonOf<T>(answer: Response | Promise<Response>, status = 200): Promise<T> {
  const response = await answer;
  const text = await response.text();
  if (response.status !== status) throw new Error(`expected ${status}, got ${response.status}: ${text}`);
  return JSON.parse(text) as T;
}

export function control(server: At, path: string): string {
  return `${server.url}/v1/stream/__ds/${path}`;
}

export interface SubscriptionUnderTest {
  readonly id: string;
  readonly url: string;
  put(config: object): Promise<Response>;
  /** What it shows; anything but 200 is an error. */
  shown(): Promise<SubscriptionShown>;
  link(path: string): Promise<LinkShown | undefined>;
  delete(): Promise<Response>;
  addStreams(...streams: readonly string[]): Promise<Response>;
  removeStream(path: string): Promise<Response>;
  post(action: string, body: unknown, token?: string): Promise<Response>;
  claim(worker?: string): Promise<Response>;
  /** A claim that must succeed. */
  claimed(worker?: string): Promise<Claim>;
  ack(claim: Claim, more?: object): Promise<Response>;
  callback(wake: WebhookBody, more?: object): Promise<Response>;
}

export function subscriptionAt(server: At, id: string): SubscriptionUnderTest {
  const url = control(server, `subscriptions/${encodeURIComponent(id)}`);
  const post = (action: string, body: unknown, token?: string): Promise<Response> =>
    call("POST", `${url}/${action}`, {
      body: typeof body === "string" ? body : JSON.stringify(body),
      headers: {
        "content-type": "application/json",
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
      },
    });
  const shown = (): Promise<SubscriptionShown> => jsonOf(call("GET", url));
  const claim = (worker = "w"): Promise<Response> => post("claim", { worker });
  const nameOf = ({ wake_id, generation }: WakeName): WakeName => ({ wake_id, generation });
  return {
    id,
    url,
    put: (config) =>
      call("PUT", url, { body: JSON.stringify(config), headers: { "content-type": "application/json" } }),
    shown,
    link: async (path) => (await shown()).streams.find((link) => link.path === path),
    delete: () => call("DELETE", url),
    addStreams: (...streams) => post("streams", { streams }),
    removeStream: (path) => call("DELETE", `${url}/streams/${path}`),
    post,
    claim,
    claimed: (worker) => jsonOf<Claim>(claim(worker)),
    ack: (claimed, more = {}) => post("ack", { ...nameOf(claimed), ...more }, claimed.token),
    callback: (wake, more = {}) => post("callback", { ...nameOf(wake), ...more }, wake.callback_token),
  };
}

/** A subscription that must be new. */
export async function newSubscription(server: At, id: string, config: object): Promise<SubscriptionUnderTest> {
  const subscription = subscriptionAt(server, id);
  await jsonOf(subscription.put(config), 201);
  return subscription;
}

export interface PullWake {
  readonly subscription: SubscriptionUnderTest;
  readonly wakeStream: StreamUnderTest;
  /** The events in the wake stream so far. */
  readonly events: () => Promise<WakeEvent[]>;
  /** Waits for that many events; all of them. */
  readonly eventsOf: (count: number, deadlineMs?: number) => Promise<WakeEvent[]>;
}

/** A pull-wake subscription with a wake stream of its own, `wake/<id>`. */
export async function newPullWake(server: At, id: string, config: object): Promise<PullWake> {
  const wakeStream = await newStream(server, `wake/${id}`);
  const subscription = await newSubscription(server, id, {
    type: "pull-wake",
    wake_stream: wakeStream.name,
    ...config,
  });
  return { subscription, ...wakesIn(wakeStream) };
}

export function wakesIn(wakeStream: StreamUnderTest): Pick<PullWake, "wakeStream" | "events" | "eventsOf"> {
  const events = async (): Promise<WakeEvent[]> => (await wakeStream.records()) as WakeEvent[];
  return {
    wakeStream,
    events,
    eventsOf: (count, deadlineMs) =>
      until(
        `${wakeStream.name} has ${count} events`,
        async () => {
          const all = await events();
          return all.length >= count && all;
        },
        deadlineMs,
      ),
  };
}

/** Appends one record; the offset after it. */
export async function append(stream: StreamUnderTest, record: unknown = { n: 1 }): Promise<string> {
  const answer = await stream.post(JSON.stringify(record));
  if (answer.status !== 204) throw new Error(`an append to ${stream.name} was answered ${answer.status}`);
  return nextOffset(answer);
}

export async function appendTo(server: At, name: string, record: unknown = { n: 1 }): Promise<string> {
  return append(streamAt(server, name), record);
}

/** Acks for all that a wake told. */
export function acksOf({ streams }: { readonly streams: readonly WakeLink[] }): Ack[] {
  return streams.map(({ path, tail_offset }) => ({ stream: path, offset: tail_offset }));
}

export interface Delivery {
  readonly body: WebhookBody;
  readonly raw: string;
  readonly method: string;
  readonly headers: Headers;
  readonly atMs: number;
}

/** What a receiver answers: `taken` is 202 without a word. */
export type HookAnswer = "done" | "taken" | Response;

export interface Hook {
  readonly url: string;
  readonly deliveries: readonly Delivery[];
  /** Waits for delivery number `count`, counted from one. */
  delivery(count: number, deadlineMs?: number): Promise<Delivery>;
  answer(how: HookAnswer | ((delivery: Delivery, count: number) => Promise<HookAnswer>)): void;
  stop(): Promise<void>;
}

/** Listens on a free loopback port; answers `done` until told otherwise. */
export function startHook(port = 0): Hook {
  const deliveries: Delivery[] = [];
  let answering: (delivery: Delivery, count: number) => Promise<HookAnswer> = () => Promise.resolve("done");
  const listener = Bun.serve({
    hostname: "127.0.0.1",
    port,
    idleTimeout: 60,
    async fetch(request) {
      const raw = await request.text();
      const { method, headers } = request;
      const delivery = { body: JSON.parse(raw) as WebhookBody, raw, method, headers, atMs: Date.now() };
      const count = deliveries.push(delivery);
      const answer = await answering(delivery, count);
      if (answer === "done") return Response.json({ done: true });
      return answer === "taken" ? new Response(null, { status: 202 }) : (answer.clone() as Response);
    },
  });
  return {
    url: `http://127.0.0.1:${listener.port}/hook`,
    deliveries,
    delivery: (count, deadlineMs) => until(`delivery ${count} comes`, () => deliveries[count - 1], deadlineMs),
    answer: (how) => {
      answering = typeof how === "function" ? how : () => Promise.resolve(how);
    },
    stop: () => listener.stop(true),
  };
}

/** Lets time pass to see that nothing happens: there is nothing to wait for. */
export function quiet(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export interface SignatureParts {
  readonly t: number;
  readonly kid: string;
  readonly signature: Buffer;
}

export function signatureOf({ headers }: Delivery): SignatureParts {
  const text = headers.get("webhook-signature") ?? "";
  const [, t = "", kid = "", signature = ""] = /^t=(\d+),kid=([^,=]+),ed25519=([A-Za-z0-9_-]+)$/.exec(text) ?? [];
  if (signature === "") throw new Error(`not a signature: ${text}`);
  return { t: Number(t), kid, signature: Buffer.from(signature, "base64url") };
}

/** Whether the delivery was signed by a key of the server. */
export async function isSigned(server: At, delivery: Delivery, raw = delivery.raw): Promise<boolean> {
  const { t, kid, signature } = signatureOf(delivery);
  const { keys } = await jsonOf<{ keys: (webcrypto.JsonWebKey & { kid: string })[] }>(
    call("GET", control(server, "jwks.json")),
  );
  const key = keys.find((candidate) => candidate.kid === kid);
  if (key === undefined) return false;
  return verify(null, Buffer.from(`${t}.${raw}`), createPublicKey({ key, format: "jwk" }), signature);
}
