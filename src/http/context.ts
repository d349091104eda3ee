/**
 * What every route gets, and the one place that makes a Response. Owns the headers that all answers share.
 */

import type { Engine } from "../engine/engine.ts";
import { BODY_DEADLINE_MS } from "../protocol/limits.ts";
import type { Rejection } from "../protocol/verdicts.ts";
import { describeRejection, type HttpProblem } from "./errors.ts";
import type { HttpCounters } from "./http-counters.ts";
import type { LiveClients } from "./live/clients.ts";
import type { Followers } from "./live/follower.ts";
import type { ViewOpener } from "./live/view-port.ts";
import type { SocketConnection } from "./live/websocket.ts";

export interface HttpOptions {
  readonly longPollTimeoutMs: number;
  readonly maxBodyBytes: number;
  readonly corsOrigins: "*" | readonly string[];
  /** Base of absolute links; null = the Host the client used. */
  readonly publicUrl: string | null;
  /** Only loopback names are valid Hosts: keeps DNS rebinding out while there is no authentication. */
  readonly loopbackOnly: boolean;
}

/** What the server must offer for live requests; `Bun.Server` does. */
export interface LiveServer {
  /** Sets the idle timeout of the connection; 0 = none. */
  timeout(request: Request, seconds: number): void;
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
  "Stream-Cursor",
  "Stream-Up-To-Date",
  "Stream-Closed",
  "Stream-Earliest-Offset",
  "Stream-TTL",
  "Stream-Expires-At",
  "Stream-Retention",
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

/** Every response of the server passes here. */
export function respond(
  exchange: Exchange,
  status: number,
  headers: HeaderMap,
  body: Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array> | string | null = null,
): Response {
  exchange.counters.answered(status);
  headers["X-Content-Type-Options"] = "nosniff";
  if (exchange.requestId !== null) headers["X-Request-Id"] = exchange.requestId;
  if (exchange.traceparent !== null) headers["Traceparent"] = exchange.traceparent;
  const { allowOrigin } = exchange;
  headers["Cross-Origin-Resource-Policy"] = allowOrigin === null ? "same-origin" : "cross-origin";
  if (allowOrigin !== null) {
    headers["Access-Control-Allow-Origin"] = allowOrigin;
    headers["Access-Control-Expose-Headers"] = EXPOSED;
    if (allowOrigin !== "*") headers["Vary"] = "Origin";
  }
  return new Response(body, { status, headers });
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

/** The connection of this request may be quiet from now on. */
export function holdOpen({ server, request }: Exchange): void {
  server?.timeout(request, 0);
}

/** It waits for nothing any more: what is answered has to be taken, or the connection ends. */
export function letGo({ server, request }: Exchange, seconds = BODY_DEADLINE_MS / 1000): void {
  server?.timeout(request, seconds);
}

export function respondRejection(exchange: Exchange, rejection: Rejection): Response {
  return respondProblem(exchange, describeRejection(rejection));
}
