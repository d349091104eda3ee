/**
 * What every route gets, and the one place that makes a Response. Owns the headers that all answers share.
 */

import type { Engine } from "../engine/engine.ts";
import { IDLE_TIMEOUT_MS } from "../protocol/limits.ts";
import type { Rejection } from "../protocol/verdicts.ts";
import { describeRejection, type HttpProblem } from "./errors.ts";
import { namesThisMachine } from "./request-parts.ts";
import type { Principal } from "./principal.ts";
import type { Client } from "./client-limits.ts";
import type { HttpCounters } from "./http-counters.ts";
import type { LiveClients } from "./live/clients.ts";
import type { Followers } from "./live/follower.ts";
import type { ViewOpener } from "./live/view-port.ts";
import type { SocketConnection } from "./live/websocket.ts";
import type { Uploads } from "./uploads.ts";

export interface HttpOptions {
  readonly longPollTimeoutMs: number;
  readonly maxBodyBytes: number;
  readonly corsOrigins: "*" | readonly string[];
  /** Base of absolute links; null = the Host the client used. */
  readonly publicUrl: string | null;
  /** Clients reach the server over TLS of its own. */
  readonly secure: boolean;
  /** Only loopback names are valid Hosts: keeps DNS rebinding out while there is no authentication. */
  readonly loopbackOnly: boolean;
}

/** What the server must offer for live requests; `Bun.Server` does. */
export interface LiveServer {
  /** Sets the idle timeout of the connection; 0 = none. */
  timeout(request: Request, seconds: number): void;
  /** Where the connection comes from; null when it is gone. */
  requestIP(request: Request): { readonly address: string } | null;
  /** Makes the connection a WebSocket; false when the request does not ask for one as it should. */
  upgrade(request: Request, options: { data: SocketConnection; headers: Readonly<Record<string, string>> }): boolean;
}

/** Told of a fault: what failed, why, and which request it was, if it was one. */
export type FaultListener = (
  operation: string,
  cause: unknown,
  request?: { readonly requestId: string; readonly traceparent: string | null },
) => void;

/** One request on its way through a route. */
export interface Exchange {
  readonly engine: Engine;
  readonly options: HttpOptions;
  readonly followers: Followers;
  readonly clients: LiveClients;
  readonly views: ViewOpener | null;
  readonly counters: HttpCounters;
  /** Where bodies are received. */
  readonly uploads: Uploads;
  readonly request: Request;
  /** Null when the application is called without one: then there are no WebSockets. */
  readonly server: LiveServer | null;
  /** For faults after the headers have left: they end the body and stand in the log. */
  readonly onFault: FaultListener;
  readonly query: URLSearchParams;
  readonly makeRequestId: () => string;
  // Filled in by `app.ts` as the request passes its checks; routes only read them.
  /** Decoded stream name; empty for server-level routes. */
  name: string;
  /** Host header, checked. */
  host: string;
  /** Who sends it. */
  principal: Principal;
  /** What it is counted against; null when nothing is counted. */
  client: Client | null;
  /** It holds a place among the live connections of its client. */
  isLive: boolean;
  /** CORS answer to this request's Origin, or null. */
  allowOrigin: string | null;
  /** Names the request in logs and errors: the client's own, or made when it is needed. */
  requestId: string | null;
  /** The client's `traceparent` (W3C), or null. */
  traceparent: string | null;
}

export type HeaderMap = Record<string, string>;

const EXPOSED = [
  "Stream-Next-Offset",
  "Stream-Start-Offset",
  "Stream-Cursor",
  "Stream-Up-To-Date",
  "Stream-Closed",
  "Stream-Earliest-Offset",
  "Stream-TTL",
  "Stream-Expires-At",
  "Stream-Retention",
  "Stream-Content-Type",
  "Stream-SSE-Data-Encoding",
  "Producer-Epoch",
  "Producer-Seq",
  "Producer-Expected-Seq",
  "Producer-Received-Seq",
  "Location",
  "Traceparent",
  "X-Request-Id",
  "ETag",
  "Retry-After",
].join(", ");

export type Body = Uint8Array | ReadableStream<Uint8Array> | string | null;

/** An answer with a head of its own. */
export function respond(exchange: Exchange, status: number, headers: HeaderMap, body: Body = null): Response {
  return respondUnder(exchange, status, completeHead(exchange, headers), body);
}

/** Every response of the server passes here. `head`: from `completeHead`, for this request or one of the same `headVariant`. */
export function respondUnder(exchange: Exchange, status: number, head: HeaderMap | Headers, body: Body): Response {
  exchange.counters.answered(status);
  // `Response` takes no shared memory, of which there is none here.
  return new Response(body as Exclude<Body, Uint8Array> | Uint8Array<ArrayBuffer>, { status, headers: head });
}

/** What requests that are answered the same may share a head by; null = this one's head names the request or its page. */
export function headVariant({ requestId, traceparent, allowOrigin, principal }: Exchange): string | null {
  if (requestId !== null || traceparent !== null || allowOrigin !== null) return null;
  return principal.id === null ? "anyone" : "known";
}

/** Adds what all answers have. */
export function completeHead(exchange: Exchange, headers: HeaderMap): HeaderMap {
  headers["X-Content-Type-Options"] = "nosniff";
  headers["Referrer-Policy"] = "no-referrer";
  if (exchange.requestId !== null) headers["X-Request-Id"] = exchange.requestId;
  if (exchange.traceparent !== null) headers["Traceparent"] = exchange.traceparent;
  const { allowOrigin } = exchange;
  headers["Cross-Origin-Resource-Policy"] = allowOrigin === null ? "same-origin" : "cross-origin";
  if (allowOrigin !== null) {
    headers["Access-Control-Allow-Origin"] = allowOrigin;
    headers["Access-Control-Expose-Headers"] = EXPOSED;
  }
  const vary = [...(headers["Vary"] === undefined ? [] : [headers["Vary"]]), ...varyOf(exchange)];
  if (vary.length > 0) headers["Vary"] = vary.join(", ");
  return headers;
}

/** What any answer depends on besides its URL. */
function varyOf({ allowOrigin, principal }: Exchange): readonly string[] {
  const byOrigin = allowOrigin !== null && allowOrigin !== "*" ? ["Origin"] : [];
  return principal.id === null ? byOrigin : [...byOrigin, "Authorization"];
}

export function respondJson(exchange: Exchange, status: number, value: unknown, headers: HeaderMap = {}): Response {
  return respond(
    exchange,
    status,
    { "Content-Type": "application/json", "Cache-Control": "no-store", ...headers },
    JSON.stringify(value),
  );
}

export function respondProblem(exchange: Exchange, problem: HttpProblem): Response {
  const { status, code, message, headers } = problem;
  exchange.counters.refused(code);
  requestIdOf(exchange);
  return respondJson(exchange, status, { error: { code, message } }, { ...headers });
}

/** The id of a request, made on first use. */
export function requestIdOf(exchange: Exchange): string {
  return (exchange.requestId ??= exchange.makeRequestId());
}

/** A fault while this request was served. */
export function reportFault(exchange: Exchange, operation: string, cause: unknown): void {
  exchange.onFault(operation, cause, { requestId: requestIdOf(exchange), traceparent: exchange.traceparent });
}

/** The connection of this request may be quiet from now on; a problem when its client holds too many of them already. */
export function holdOpen(exchange: Exchange): HttpProblem | null {
  const { server, request, client } = exchange;
  const full = client?.takeLive() ?? null;
  if (full !== null) return full;
  exchange.isLive = true;
  server?.timeout(request, 0);
  return null;
}

/** It waits for nothing any more: what is answered has to be taken, or the connection ends. */
export function letGo(exchange: Exchange, seconds = IDLE_TIMEOUT_MS / 1000): void {
  const { server, request, client, isLive } = exchange;
  if (isLive) client?.giveLive();
  exchange.isLive = false;
  server?.timeout(request, seconds);
}

/** Its client has asked all it wants, and hears nothing while `work` goes on: that is not its idleness. */
export async function whileWorking<T>({ server, request }: Exchange, work: () => Promise<T>): Promise<T> {
  server?.timeout(request, 0);
  try {
    return await work();
  } finally {
    server?.timeout(request, IDLE_TIMEOUT_MS / 1000);
  }
}

/** What links to this server begin with; nothing when they are paths. A Host is believed when it is this machine's own name; from any other a link is only a path, which nobody can forge. */
export function linkBase({ options, host }: Exchange): string {
  return options.publicUrl ?? (namesThisMachine(host) ? `http${options.secure ? "s" : ""}://${host}` : "");
}

/** Where a request comes from, as far as limits go: an IPv4 address, or the /64 of an IPv6 one; hosts have many of those. */
export function clientAddress({ server, request }: Exchange): string {
  const address = server?.requestIP(request)?.address ?? "unknown";
  const mapped = /^::ffff:(\d{1,3}(?:\.\d{1,3}){3})$/i.exec(address)?.[1];
  if (mapped !== undefined || !address.includes(":")) return `address:${mapped ?? address}`;
  const [head = "", tail] = address.split("::");
  const front = head.split(":").filter((group) => group !== "");
  const back = tail === undefined ? [] : tail.split(":").filter((group) => group !== "");
  const zeros = Array.from({ length: Math.max(0, 8 - front.length - back.length) }, () => "0");
  return `address:${[...front, ...zeros, ...back].slice(0, 4).join(":")}::/64`;
}

export function respondRejection(exchange: Exchange, rejection: Rejection): Response {
  return respondProblem(exchange, describeRejection(rejection));
}
