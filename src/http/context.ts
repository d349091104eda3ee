/**
 * What every route gets, and the one place that makes a Response. Owns the headers that all answers share.
 */

import type { Engine } from "../engine/engine.ts";
import type { Rejection } from "../protocol/verdicts.ts";
import { describeRejection, type HttpProblem } from "./errors.ts";
import type { SharedFrames } from "./shared-frames.ts";

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
export interface RequestTimeouts {
  timeout(request: Request, seconds: number): void;
}

/** One request on its way through a route. */
export interface Exchange {
  readonly engine: Engine;
  readonly options: HttpOptions;
  readonly frames: SharedFrames;
  readonly request: Request;
  readonly timeouts: RequestTimeouts | null;
  /** For faults after the headers have left: they end the body and stand in the log. */
  readonly onFault: (operation: string, cause: unknown) => void;
  readonly query: URLSearchParams;
  // Filled in by `app.ts` as the request passes its checks; routes only read them.
  /** Decoded stream name; empty for server-level routes. */
  name: string;
  /** Host header, checked. */
  host: string;
  /** CORS answer to this request's Origin, or null. */
  allowOrigin: string | null;
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
  headers["X-Content-Type-Options"] = "nosniff";
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
  return respondJson(exchange, status, { error: { code, message } }, { ...headers });
}

export function respondRejection(exchange: Exchange, rejection: Rejection): Response {
  return respondProblem(exchange, describeRejection(rejection));
}
