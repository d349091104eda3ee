/**
 * The HTTP face: checks Host and Origin, finds the route, and turns every outcome into a response. Bad input never gets a 500;
 * a fault or a defect does, once, with its cause in the log and none of it in the answer.
 */

import type { Engine } from "../engine/engine.ts";
import { DamagedRange, DiskFull, RecordsGone } from "../protocol/faults.ts";
import { parseStreamName, STREAM_PREFIX } from "../protocol/names.ts";
import {
  type Exchange,
  type HttpOptions,
  type RequestTimeouts,
  respond,
  respondProblem,
  respondRejection,
} from "./context.ts";
import { badRequest, type HttpProblem, isProblem } from "./errors.ts";
import { checkHost, checkOrigin, splitTarget } from "./request-parts.ts";
import { append } from "./routes/append.ts";
import { create } from "./routes/create.ts";
import { details } from "./routes/details.ts";
import { headOf, remove, setRetention } from "./routes/metadata.ts";
import { profileOf, setProfile } from "./routes/profile.ts";
import { read } from "./routes/read.ts";
import { health, listStreams, ready } from "./routes/server.ts";
import { SharedFrames } from "./shared-frames.ts";

type Route = (exchange: Exchange) => Response | Promise<Response>;
/** What a resource answers, by method. */
export type Methods = Readonly<Record<string, Route>>;
/** Resources below a stream, by the path after its name: one to three segments. */
type SubResources = Readonly<Record<string, Methods>>;

const STREAM: Methods = { GET: read, POST: append, PUT: create, HEAD: headOf, DELETE: remove };
const SUB_RESOURCES: SubResources = {
  _profile: { GET: profileOf, POST: setProfile },
  _details: { GET: details, HEAD: details },
  _retention: { PUT: setRetention },
};
const SERVER: Readonly<Record<string, Methods>> = {
  "/health": { GET: health, HEAD: health },
  "/ready": { GET: ready, HEAD: ready },
  "/v1/streams": { GET: listStreams, HEAD: listStreams },
};
/** First segment reserved for control APIs (PROTOCOL §6). */
const RESERVED = "__ds";

const ALLOWED_HEADERS = [
  "Content-Type",
  "Authorization",
  "If-None-Match",
  "If-Match",
  "Stream-TTL",
  "Stream-Expires-At",
  "Stream-Closed",
  "Stream-Seq",
  "Stream-Key",
  "Stream-Retention",
  "Stream-Forked-From",
  "Stream-Fork-Offset",
  "Stream-Fork-Sub-Offset",
  "Producer-Id",
  "Producer-Epoch",
  "Producer-Seq",
].join(", ");

export interface AppOptions extends HttpOptions {
  readonly engine: Engine;
  /** Resources that features add below every stream. */
  readonly subResources: SubResources;
  /** Told of every fault and defect that became a 500. */
  readonly onFault: (operation: string, cause: unknown) => void;
}

export type App = (request: Request, timeouts: RequestTimeouts | null) => Promise<Response>;

export function createApp({ engine, onFault, subResources, ...options }: AppOptions): App {
  const below: SubResources = { ...SUB_RESOURCES, ...subResources };
  const frames = new SharedFrames();
  const publicHost = options.publicUrl === null ? null : new URL(options.publicUrl).host;
  return async (request, timeouts) => {
    const { path, search } = splitTarget(request.url);
    const query = search === "" ? NO_QUERY : new URLSearchParams(search);
    const exchange: Exchange = {
      engine,
      options,
      frames,
      request,
      timeouts,
      onFault,
      query,
      name: "",
      host: "",
      allowOrigin: null,
    };
    const host = checkHost(request, options.loopbackOnly, publicHost);
    if (isProblem(host)) return respondProblem(exchange, host);
    exchange.host = host;
    const allowOrigin = checkOrigin(request, host, options.corsOrigins);
    if (isProblem(allowOrigin)) return respondProblem(exchange, allowOrigin);
    exchange.allowOrigin = allowOrigin;
    if (request.method === "OPTIONS") return preflight(exchange);
    const found = findRoute(path, request.method, below);
    if (isProblem(found)) return respondProblem(exchange, found);
    exchange.name = found.name;
    try {
      return await found.route(exchange);
    } catch (cause) {
      // Deleted or trimmed between planning and reading.
      if (cause instanceof RecordsGone) return respondRejection(exchange, { kind: "offset-gone" });
      if (cause instanceof DiskFull) return respondRejection(exchange, { kind: "disk-full" });
      onFault(`${request.method} ${path}`, cause);
      if (cause instanceof DamagedRange) {
        return respondProblem(exchange, { status: 500, code: "records-damaged", message: cause.message });
      }
      return respondProblem(exchange, {
        status: 500,
        code: "internal",
        message: "the server failed to answer; its log says why",
      });
    }
  };
}

const NO_QUERY = new URLSearchParams();

function findRoute(
  path: string,
  method: string,
  below: SubResources,
): { readonly route: Route; readonly name: string } | HttpProblem {
  const target = path.startsWith(STREAM_PREFIX)
    ? findStream(path.slice(STREAM_PREFIX.length), below)
    : findServer(path);
  if (isProblem(target)) return target;
  const route = Object.hasOwn(target.methods, method) ? target.methods[method] : undefined;
  if (route !== undefined) return { route, name: target.name };
  const allowed = Object.keys(target.methods).join(", ");
  return {
    status: 405,
    code: "method-not-allowed",
    message: `this resource answers ${allowed}`,
    headers: { Allow: `${allowed}, OPTIONS` },
  };
}

interface Target {
  readonly methods: Methods;
  readonly name: string;
}

function findServer(path: string): Target | HttpProblem {
  const methods = Object.hasOwn(SERVER, path) ? SERVER[path] : undefined;
  return methods === undefined
    ? { status: 404, code: "no-route", message: "nothing is served at this path" }
    : { methods, name: "" };
}

function findStream(rest: string, below: SubResources): Target | HttpProblem {
  const sub = splitSubResource(rest, below);
  const parsed = parseStreamName(sub === null ? rest : rest.slice(0, sub.nameEnd));
  if (!parsed.ok) return badRequest("name-invalid", parsed.reason);
  const { name } = parsed;
  if (sub === null && splitSubResource(name, below) !== null) {
    return badRequest("name-invalid", "a stream name may not end in the name of a sub-resource");
  }
  if (name === RESERVED || name.startsWith(`${RESERVED}/`)) {
    return { status: 404, code: "no-route", message: `names below '${RESERVED}/' are reserved for control APIs` };
  }
  return { methods: sub?.methods ?? STREAM, name };
}

const MAX_SUB_SEGMENTS = 3;

function splitSubResource(path: string, below: SubResources): { methods: Methods; nameEnd: number } | null {
  let slash = path.lastIndexOf("/");
  for (let segments = 0; segments < MAX_SUB_SEGMENTS && slash > 0; segments++) {
    const suffix = path.slice(slash + 1);
    const methods = Object.hasOwn(below, suffix) ? below[suffix] : undefined;
    if (methods !== undefined) return { methods, nameEnd: slash };
    slash = path.lastIndexOf("/", slash - 1);
  }
  return null;
}

function preflight(exchange: Exchange): Response {
  return respond(exchange, 204, {
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": ALLOWED_HEADERS,
    "Access-Control-Max-Age": "600",
  });
}
