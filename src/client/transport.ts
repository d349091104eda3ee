/**
 * Sends one request and says what came of it: an answer, or a `StreamError`. Owns authorization, the wait for the first
 * byte of the answer, the silence limit while a body arrives, and retries of requests that are safe to repeat.
 * Invariant: a request is repeated only when it cannot have been applied, or when applying it twice changes nothing.
 */

import { Result } from "better-result";
import { nativeZstd } from "./native-zstd.ts";
import { DEFAULT_RETRY_POLICY, retryDelayMs, type RetryPolicy, sleep, unlessAborted } from "./retry-policy.ts";
import { isJsonObject, type JsonObject, parseJson } from "../kit/json-object.ts";
import { damaged, isFramed, notAStream } from "./reading.ts";
import { isOfServer, isStreamError, Refused, refusal, type StreamError, Unreachable } from "./stream-error.ts";

/** What of the platform's `fetch` this client needs. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

export interface TransportOptions {
  /** The `Authorization` header's value, or a function that makes it for each request; what it throws, the call throws. */
  readonly auth?: string | (() => string | Promise<string>);
  readonly fetch?: Fetch;
  readonly retry?: RetryPolicy;
  /** How long a server may stay silent, before its answer and inside it. Longer than any long-poll. */
  readonly silenceLimitMs?: number;
  /** The same for server-sent events, where a server of ours says every 15 s that it is there; default 45 s. */
  readonly eventSilenceLimitMs?: number;
  /**
   * Who unpacks history that is stored packed. `native`: the platform's `fetch`, if it asks for zstd, as that of browsers does. `sdk`:
   * this client, in threads where the platform has zstd besides (Bun, Node from 22.15), else in script (Node 20, older browsers), which
   * it loads with the first read. Default: `sdk` where there are those threads, else `native`.
   */
  readonly zstd?: "native" | "sdk";
  /** In [0, 1), for jitter. */
  readonly random?: () => number;
}

/** A stream is sent as it comes and can therefore not be sent again. */
export type RequestBody = Uint8Array<ArrayBuffer> | string | ReadableStream<Uint8Array<ArrayBuffer>>;

/** One request. `repeatable`: applying it twice changes nothing, so an unclear outcome is simply tried again. */
export interface RequestPlan {
  readonly method: "GET" | "HEAD" | "PUT" | "POST" | "DELETE";
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: RequestBody | null;
  readonly repeatable: boolean;
  /** Answered with server-sent events. */
  readonly events?: boolean;
  /** Outlives its page, where the platform can do that: browsers, up to 64 KiB at a time. */
  readonly keepalive?: boolean;
  readonly signal?: AbortSignal | undefined;
}

const DEFAULT_SILENCE_LIMIT_MS = 150_000;
const DEFAULT_EVENT_SILENCE_LIMIT_MS = 45_000;

/** A longer timer fires at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1;
/** An error of the server is far smaller; a longer page of something else is not read. */
const MAX_ERROR_CHARS = 64 * 1024;
/** Answers that are one JSON object, a page of a list among them. */
const MAX_JSON_CHARS = 16 * 1024 * 1024;

/**
 * A browser may keep history for a minute, also of a stream that was deleted meanwhile: its cache is to ask the server first. Where
 * there is no cache, some runtimes refuse the field.
 */
const ASK_AGAIN: RequestInit = "cache" in Request.prototype ? { cache: "no-cache" } : {};

export class Transport {
  readonly #auth: TransportOptions["auth"];
  readonly #fetch: Fetch;
  readonly #silenceLimitMs: number;
  readonly #eventSilenceLimitMs: number;
  readonly retry: RetryPolicy;
  readonly random: () => number;
  /** Plain reads ask for frames, and `pieces` unpacks them. */
  readonly asFrames: boolean;

  constructor(options: TransportOptions) {
    this.#auth = options.auth;
    this.#fetch = options.fetch ?? ((url, init) => fetch(url, init));
    this.#silenceLimitMs = Math.min(options.silenceLimitMs ?? DEFAULT_SILENCE_LIMIT_MS, MAX_TIMER_MS);
    this.#eventSilenceLimitMs = Math.min(options.eventSilenceLimitMs ?? DEFAULT_EVENT_SILENCE_LIMIT_MS, MAX_TIMER_MS);
    this.retry = options.retry ?? DEFAULT_RETRY_POLICY;
    this.random = options.random ?? Math.random;
    this.asFrames = (options.zstd ?? (nativeZstd() === null ? "native" : "sdk")) === "sdk";
  }

  /** Sends, and tries again as the policy allows. Rejects only with the reason of an aborted signal. */
  async send(plan: RequestPlan): Promise<Result<Response, StreamError>> {
    for (let failures = 1; ; failures++) {
      const answer = await this.sendOnce(plan);
      if (answer.isOk() || failures >= this.retry.maxAttempts || !mayRepeat(plan, answer.error)) return answer;
      const retryAfterMs = Refused.is(answer.error) ? answer.error.retryAfterMs : null;
      await sleep(retryDelayMs(this.retry, failures, retryAfterMs, this.random()), plan.signal ?? null);
    }
  }

  /** Sends once. A status of 400 and above is `Refused`; 304 is an answer. Rejects with the signal's reason, or what `auth` threw. */
  async sendOnce(plan: RequestPlan): Promise<Result<Response, StreamError>> {
    const headers = new Headers(plan.headers);
    const silence = new AbortController();
    const silenceLimitMs = plan.events === true ? this.#eventSilenceLimitMs : this.#silenceLimitMs;
    const timer = setTimeout(() => silence.abort(), silenceLimitMs);
    const signal = plan.signal === undefined ? silence.signal : AbortSignal.any([plan.signal, silence.signal]);
    let hasCredentials = false;
    try {
      const auth = this.#auth;
      const authorization =
        typeof auth === "function" ? await unlessAborted(Promise.resolve().then(auth), signal) : auth;
      if (authorization !== undefined) headers.set("authorization", authorization);
      hasCredentials = true;
      const init: RequestInit = { method: plan.method, headers, signal, body: plan.body ?? null, ...ASK_AGAIN };
      if (plan.keepalive === true) init.keepalive = true;
      // Streamed bodies need half-duplex said aloud; the DOM types do not know the field yet.
      if (plan.body instanceof ReadableStream) Object.assign(init, { duplex: "half" });
      const response = await this.#fetch(plan.url, init);
      if (response.status < 400) return Result.ok(response);
      const body = await this.text(response, MAX_ERROR_CHARS, signal);
      return Result.err(body.isErr() ? body.error : refusal(response, body.value ?? "a long page", Date.now()));
    } catch (cause) {
      plan.signal?.throwIfAborted();
      // What `auth` threw is its caller's business.
      if (!hasCredentials && !silence.signal.aborted) throw cause;
      return Result.err(unreachable(plan.url, cause, silence.signal.aborted ? silenceLimitMs : null));
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * The body piece by piece, pulled as fast as the consumer takes it, unpacked. Leaving the loop cancels the request.
   * @throws Unreachable when the connection breaks or falls silent; BrokenAnswer when what came is damaged; the signal's reason
   * when it aborts.
   */
  async *pieces(response: Response, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array, void> {
    const pieces = this.#received(response, signal, this.#silenceLimitMs);
    if (!isFramed(response.headers)) return yield* pieces;
    const { FrameError, unpacked, codec } = await this.#unpacker(response);
    try {
      for await (const piece of unpacked(pieces, codec)) {
        // Of what came at once nothing more is given out.
        signal?.throwIfAborted();
        yield piece;
      }
    } catch (cause) {
      throw cause instanceof FrameError ? damaged(response.url, cause.message) : cause;
    }
  }

  /** What unpacks a body, which is given up when that cannot be loaded. */
  async #unpacker({ url, body }: Response) {
    try {
      const unpack = await import("./unpack.ts");
      return { ...unpack, codec: await unpack.loadCodec() };
    } catch (cause) {
      await body?.cancel();
      throw unreachable(url, cause, null);
    }
  }

  /** As `pieces`, of server-sent events: a connection that only seems to be there is given up sooner. */
  events(response: Response, signal: AbortSignal): AsyncGenerator<Uint8Array, void> {
    return this.#received(response, signal, this.#eventSilenceLimitMs);
  }

  /** The body as a JSON object, or why it is none. Rejects only with the signal's reason. */
  async jsonObject(response: Response, signal: AbortSignal | undefined): Promise<Result<JsonObject, StreamError>> {
    const text = await this.text(response, MAX_JSON_CHARS, signal);
    return text.andThen((json) => {
      const value = json === null ? null : parseJson(json);
      return isJsonObject(value) ? Result.ok(value) : Result.err(notAStream(response.url, "is not a JSON object"));
    });
  }

  /** The body as text; null when it has more than `maxChars`. Rejects only with the signal's reason. */
  async text(
    response: Response,
    maxChars: number,
    signal: AbortSignal | undefined,
  ): Promise<Result<string | null, StreamError>> {
    const decoder = new TextDecoder();
    let text = "";
    try {
      for await (const piece of this.pieces(response, signal)) {
        text += decoder.decode(piece, { stream: true });
        if (text.length > maxChars) return Result.ok(null);
      }
    } catch (cause) {
      if (isStreamError(cause)) return Result.err(cause);
      throw cause;
    }
    return Result.ok(text + decoder.decode());
  }

  async *#received(
    response: Response,
    signal: AbortSignal | undefined,
    silenceLimitMs: number,
  ): AsyncGenerator<Uint8Array, void> {
    if (response.body === null) return;
    const reader = response.body.getReader();
    let ended = false;
    const broken = (cause: unknown): never => {
      ended = true;
      signal?.throwIfAborted();
      throw unreachable(response.url, cause, null);
    };
    try {
      for (;;) {
        const chunk: BodyChunk | null = await within(silenceLimitMs, reader.read().catch(broken));
        if (chunk === null) throw unreachable(response.url, null, silenceLimitMs);
        if (chunk.done) ended = true;
        if (chunk.value === undefined) return;
        if (chunk.value.length > 0) yield chunk.value;
      }
    } finally {
      if (!ended) await reader.cancel();
    }
  }
}

interface BodyChunk {
  readonly done: boolean;
  readonly value?: Uint8Array | undefined;
}

/** What the promise gives, or null when it takes longer than the limit. */
async function within<T>(limitMs: number, promise: Promise<T>): Promise<T | null> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Overload and shutdown refuse before anything is applied, when it is our server that says so: a gateway may have passed the request
 * on. Everything else only where repeating is harmless.
 */
function mayRepeat(plan: RequestPlan, error: StreamError): boolean {
  if (plan.body instanceof ReadableStream) return false;
  switch (error._tag) {
    case "Refused":
      if (plan.repeatable) return isTransient(error);
      return error.status === 429 || (error.status === 503 && isOfServer(error));
    case "Unreachable":
      return plan.repeatable;
    case "BrokenAnswer":
      return false;
  }
}

/** Not implemented, a version that is not supported, no room: it will be the same next time. */
const LASTING = new Set([501, 505, 507]);
/** Too slow, too early, too many. */
const PASSING = new Set([408, 425, 429]);

/** Whether waiting may help: overload, shutdown, a broken gateway, no connection. */
export function isTransient(error: StreamError): boolean {
  if (!Refused.is(error)) return Unreachable.is(error);
  return PASSING.has(error.status) || (error.status >= 500 && !LASTING.has(error.status));
}

/** No answer, or one that broke off; `silentForMs`: it was waited for so long. */
export function unreachable(url: string, cause: unknown, silentForMs: number | null): Unreachable {
  const why =
    silentForMs === null ? (cause instanceof Error ? cause.message : String(cause)) : `silent for ${silentForMs} ms`;
  const origin = URL.canParse(url) ? new URL(url).origin : url;
  return new Unreachable({
    message: `cannot reach ${origin}: ${why}`,
    hint: "check that the server runs there, that the URL is right, and, from a page of another origin, that it allows it (--cors-origin)",
    url,
    cause,
  });
}

/** 128 random bits as text: an id that no other client has. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
