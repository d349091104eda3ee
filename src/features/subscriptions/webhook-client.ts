/**
 * POSTs a webhook so that nobody can turn the server against its own network (PROTOCOL §12.8). The name is resolved here, every
 * address it has must be allowed, and the connection goes to the very address that was judged: nothing resolves a second time, so a
 * name that changes its mind gains nothing. TLS and `Host` still go by the name. No redirects, no proxies, no reused connections; an
 * answer is bounded in time and size. Whatever the network does comes back as a value. Not `fetch`: it resolves by itself.
 */

import { lookup } from "node:dns/promises";
import { type ClientRequest, request as httpRequest } from "node:http";
import { request as httpsRequest, type RequestOptions } from "node:https";
import { isIP } from "node:net";
import { joinBytes } from "../../kit/bytes.ts";
import type { Deadlines } from "../../kit/deadlines.ts";
import { isLoopbackAddress, isPublicAddress } from "./address-guard.ts";
import { bareHost, checkWebhookUrl, isLocalHost } from "./webhook-url.ts";

/** A webhook answers `{"done":true}`, or nothing that is read. */
export const MAX_ANSWER_BYTES = 64 * 1024;
const MAX_HEADER_BYTES = 16 * 1024;
/** Interim answers (1xx) cost their sender nothing; useful ones are one or two. */
const MAX_INTERIM_ANSWERS = 8;
const MAX_MESSAGE_CHARS = 300;
/** Of one name, when the ones before do not take the connection. */
const MAX_ADDRESSES_TRIED = 4;
/** From DNS to the last byte. */
const DEFAULT_TIMEOUT_MS = 10_000;

export interface WebhookAnswer {
  /** 200 to 299, or 400 to 599. */
  readonly status: number;
  /** At most `MAX_ANSWER_BYTES`, as sent. */
  readonly body: Uint8Array;
}

export interface WebhookFailure {
  readonly kind:
    | "refused-address"
    | "dns"
    | "timeout"
    | "connection"
    | "redirect"
    | "too-large"
    | "tls"
    /** By the caller's signal. */
    | "aborted";
  /** Fit to be shown to whoever made the subscription: it names no address that a name resolved to before it was allowed. */
  readonly message: string;
}

export interface WebhookClientParts {
  readonly deadlines: Deadlines;
  /** Also POST to `localhost` and 127.0.0.0/8, for development. */
  readonly allowLocal: boolean;
  readonly timeoutMs?: number;
  /** All addresses of a name. */
  readonly resolve?: (host: string) => Promise<readonly { readonly address: string }[]>;
  /** What certificates are trusted instead of the public authorities, as PEM; they are checked all the same. */
  readonly ca?: string;
  /** Opens the connection to `options.host`, which is an address that was judged. */
  readonly dial?: (options: RequestOptions) => ClientRequest;
}

export function isWebhookFailure(outcome: WebhookAnswer | WebhookFailure): outcome is WebhookFailure {
  return "kind" in outcome;
}

export class WebhookClient {
  readonly #parts: WebhookClientParts;
  readonly #timeoutMs: number;

  constructor(parts: WebhookClientParts) {
    this.#parts = parts;
    this.#timeoutMs = parts.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  }

  /** Resolves once the socket is given up or done with. Rejects only for headers that cannot be sent. */
  async post(
    url: URL,
    headers: Readonly<Record<string, string>>,
    body: Uint8Array,
    signal: AbortSignal,
  ): Promise<WebhookAnswer | WebhookFailure> {
    // Again: what was fine when the subscription was made need not be fine under today's settings.
    const checked = checkWebhookUrl(url.href, this.#parts.allowLocal);
    if ("reason" in checked) return { kind: "refused-address", message: checked.reason };
    if (signal.aborted) return aborted;
    const stopped = Promise.withResolvers<WebhookFailure>();
    const message = `no whole answer within ${this.#timeoutMs} ms`;
    const deadline = this.#parts.deadlines.after(this.#timeoutMs, () => stopped.resolve({ kind: "timeout", message }));
    const abort = (): void => stopped.resolve(aborted);
    signal.addEventListener("abort", abort, { once: true });
    try {
      const found = await Promise.race([stopped.promise, this.#addresses(bareHost(checked.url))]);
      if ("kind" in found) return found;
      return await this.#send(found.addresses, requestOptions(checked.url, headers, body), body, stopped.promise);
    } finally {
      deadline.cancel();
      signal.removeEventListener("abort", abort);
    }
  }

  /** Where to connect to: addresses that were judged, at least one. */
  async #addresses(host: string): Promise<{ readonly addresses: readonly string[] } | WebhookFailure> {
    // A literal was judged with the URL.
    if (isIP(host) !== 0) return { addresses: [host] };
    let addresses: readonly string[];
    try {
      addresses = (await (this.#parts.resolve ?? systemResolve)(host)).map(({ address }) => address);
    } catch (cause) {
      return { kind: "dns", message: `${host} does not resolve (${codeOf(cause)})` };
    }
    if (addresses.length === 0) return { kind: "dns", message: `${host} has no address` };
    const isAllowed = this.#parts.allowLocal && isLocalHost(host) ? isLoopbackAddress : isPublicAddress;
    // All of them: a name with one private address among public ones is not an accident.
    if (addresses.every(isAllowed)) return { addresses };
    return { kind: "refused-address", message: `${host} has an address that is not reachable from everywhere` };
  }

  async #send(
    addresses: readonly string[],
    options: RequestOptions,
    body: Uint8Array,
    stopped: Promise<WebhookFailure>,
  ): Promise<WebhookAnswer | WebhookFailure> {
    const { ca, dial = systemDial } = this.#parts;
    let outcome: WebhookAnswer | WebhookFailure = { kind: "connection", message: "no address was tried" };
    for (const host of addresses.slice(0, MAX_ADDRESSES_TRIED)) {
      const exchanged = await exchange(dial({ ...options, host, ...(ca !== undefined && { ca }) }), body, stopped);
      outcome = exchanged.outcome;
      // Nothing was sent before there was a connection, so the next address gets it for the first time.
      if (exchanged.connected || !isWebhookFailure(outcome) || outcome.kind !== "connection") break;
    }
    return outcome;
  }
}

const aborted: WebhookFailure = { kind: "aborted", message: "given up by the server" };

function requestOptions(url: URL, headers: Readonly<Record<string, string>>, body: Uint8Array): RequestOptions {
  const host = bareHost(url);
  const defaultPort = url.protocol === "https:" ? 443 : 80;
  return {
    protocol: url.protocol,
    port: url.port === "" ? defaultPort : Number(url.port),
    method: "POST",
    path: `${url.pathname}${url.search}`,
    headers: { ...headers, host: url.host, "accept-encoding": "identity", "content-length": body.byteLength },
    // What the certificate has to be for; an address is none that SNI may carry, then the address itself counts.
    servername: isIP(host) === 0 ? host : "",
    // Said aloud: NODE_TLS_REJECT_UNAUTHORIZED=0 in the environment would switch it off otherwise.
    rejectUnauthorized: true,
    // A connection and a TLS session of its own.
    agent: false,
    maxHeaderSize: MAX_HEADER_BYTES,
  };
}

interface Exchange {
  readonly outcome: WebhookAnswer | WebhookFailure;
  readonly connected: boolean;
}

/** Sends the body and reads the answer; the first thing that decides about the outcome is the outcome, and ends the connection. */
function exchange(request: ClientRequest, body: Uint8Array, stopped: Promise<WebhookFailure>): Promise<Exchange> {
  return new Promise((resolve) => {
    let connected = false;
    let secured = request.protocol !== "https:";
    let interimAnswers = 0;
    // Before `destroy`, after which a body without a length ends as if it were whole.
    const settle = (outcome: WebhookAnswer | WebhookFailure): void => {
      resolve({ outcome, connected });
      request.destroy();
    };
    // A certificate's names are in the message, and may be many.
    const fail = (kind: WebhookFailure["kind"], message: string): void =>
      settle({ kind, message: message.slice(0, MAX_MESSAGE_CHARS) });
    void stopped.then(settle);

    request.once("socket", (socket) => {
      socket.once("connect", () => (connected = true));
      socket.once("secureConnect", () => (secured = true));
    });
    request.on("error", (cause: Error) => {
      if (connected && !secured) return fail("tls", cause.message);
      fail(codeOf(cause).endsWith("_OVERFLOW") ? "too-large" : "connection", cause.message);
    });
    request.on("information", () => {
      if (++interimAnswers > MAX_INTERIM_ANSWERS) fail("too-large", `more than ${MAX_INTERIM_ANSWERS} interim answers`);
    });
    request.on("response", (response) => {
      const status = response.statusCode ?? 0;
      if (status >= 300 && status < 400) return fail("redirect", `answered ${status}; redirects are not followed`);
      if (status < 200 || status > 599) return fail("connection", `answered ${status}, which is no status`);
      const parts: Uint8Array[] = [];
      let size = 0;
      response.on("data", (part: Uint8Array) => {
        size += part.byteLength;
        if (size > MAX_ANSWER_BYTES) return fail("too-large", `the answer is larger than ${MAX_ANSWER_BYTES} bytes`);
        parts.push(part);
      });
      response.on("end", () => settle({ status, body: joinBytes(parts) }));
      response.on("error", (cause: Error) => fail("connection", cause.message));
    });
    // After anything that decided; all that is left is an end without an answer, or a switch of protocols.
    request.on("close", () => fail("connection", "the connection ended without a whole answer"));
    request.end(body);
  });
}

function systemResolve(host: string): Promise<readonly { readonly address: string }[]> {
  return lookup(host, { all: true });
}

function systemDial(options: RequestOptions): ClientRequest {
  return options.protocol === "https:" ? httpsRequest(options) : httpRequest(options);
}

function codeOf(cause: unknown): string {
  return cause instanceof Error && "code" in cause ? String(cause.code) : "no reason given";
}
