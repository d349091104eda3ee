/**
 * The HTTP face: checks Host and Origin, finds the route, and turns every outcome into a response. Bad input never gets a 500;
 * a fault or a defect does, once, with its cause in the log and none of it in the answer.
 */

import type { Engine } from "../engine/engine.ts";
import { SHORT_OF_MEMORY } from "../engine/memory-guard.ts";
import type { Spans } from "../kit/spans.ts";
import { isReservedName, parseStreamName, RESERVED, STREAM_PREFIX } from "../protocol/names.ts";
import {
  appends,
  type Endpoint,
  forKnown,
  lists,
  manages,
  type Methods,
  open,
  reads,
  readsServer,
  refusalOf,
} from "./access.ts";
import { ANYONE, type Gatekeeper, NOBODY } from "./principal.ts";
import type { ClientLimits } from "./client-limits.ts";
import {
  clientAddress,
  type Exchange,
  type FaultListener,
  type HttpOptions,
  type LiveServer,
  reportFault,
  requestIdOf,
  respond,
  respondProblem,
  respondRejection,
} from "./context.ts";
import { badRequest, describeFault, type HttpProblem, isProblem } from "./errors.ts";
import { HttpCounters } from "./http-counters.ts";
import { type ClientEdge, LiveClients } from "./live/clients.ts";
import type { Followers } from "./live/follower.ts";
import type { ViewOpener } from "./live/view-port.ts";
import { requestIdIn, requestIds, traceparentIn } from "./request-identity.ts";
import { Uploads } from "./uploads.ts";
import { announcedBytes, checkHost, checkOrigin, splitTarget } from "./request-parts.ts";
import { append } from "./routes/append.ts";
import { create } from "./routes/create.ts";
import { details } from "./routes/details.ts";
import { headOf, remove, setRetention } from "./routes/metadata.ts";
import { profileOf, setProfile } from "./routes/profile.ts";
import { read } from "./routes/read.ts";
import { openSocket, SOCKET_PATH } from "./routes/socket.ts";
import { health, listStreams, liveClients, metrics, ready } from "./routes/server.ts";

/** Below a stream: by the path after its name, one to three segments. Of the server: by the whole path. */
type Resources = Readonly<Record<string, Methods>>;

const STREAM: Methods = {
  GET: reads(read),
  POST: appends(append),
  PUT: manages(create),
  HEAD: reads(headOf),
  DELETE: manages(remove),
};
const SUB_RESOURCES: Resources = {
  _profile: { GET: reads(profileOf), POST: manages(setProfile) },
  _details: { GET: reads(details), HEAD: reads(details) },
  _retention: { PUT: manages(setRetention) },
};
const SERVER: Resources = {
  "/health": { GET: open(health), HEAD: open(health) },
  "/ready": { GET: open(ready), HEAD: open(ready) },
  "/health/clients": { GET: readsServer(liveClients), HEAD: readsServer(liveClients) },
  [SOCKET_PATH]: { GET: forKnown(openSocket) },
  "/metrics": { GET: readsServer(metrics), HEAD: readsServer(metrics) },
  "/v1/streams": { GET: lists(listStreams), HEAD: lists(listStreams) },
};

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
  "Last-Event-ID",
  "Traceparent",
  "X-Request-Id",
].join(", ");

/** A resource of a control API; `name` is what grants name it by, below `__ds/`. */
export interface ReservedResource {
  readonly name: string;
  readonly methods: Methods;
}

export interface AppOptions extends HttpOptions {
  readonly engine: Engine;
  readonly followers: Followers;
  /** Null when there are no live views. */
  readonly views: ViewOpener | null;
  /** Null when nobody is asked who they are. */
  readonly gatekeeper: Gatekeeper | null;
  /** Null when no client is held to a rate of its own. */
  readonly limits: ClientLimits | null;
  /** Resources that features add below every stream, and those of the server as a whole. */
  readonly subResources: Resources;
  readonly serverResources: Resources;
  /** Control APIs: the resource at a path below the reserved name `__ds/`, as it is written; null when there is none. */
  readonly reserved: (path: string) => ReservedResource | null;
  /** Told of every fault and defect that became a 500. */
  readonly onFault: FaultListener;
  /** Told of every answer; null when nobody listens. */
  readonly onAnswer: ((answer: Answered) => void) | null;
  /** Told when a live client becomes slow, and when it takes what it is sent again; null when nobody listens. */
  readonly onClientEdge: ((edge: ClientEdge) => void) | null;
  /** Null when nobody traces. */
  readonly spans: Spans | null;
}

/** One answered request, for logs. Names and queries of streams are in the path. */
export interface Answered {
  readonly requestId: string;
  readonly traceparent: string | null;
  readonly method: string;
  readonly path: string;
  readonly status: number;
  /** Until the head of the answer; a live body goes on. */
  readonly ms: number;
}

export type App = (request: Request, server: LiveServer | null) => Promise<Response>;

export function createApp(appOptions: AppOptions): App {
  const {
    engine,
    onFault,
    subResources,
    serverResources,
    onAnswer,
    onClientEdge,
    spans,
    followers,
    views,
    reserved,
    gatekeeper,
    limits,
    ...options
  } = appOptions;
  const below = { ...SUB_RESOURCES, ...subResources };
  const routes: Routes = { below, server: { ...SERVER, ...serverResources }, reserved };
  const clients = new LiveClients(engine, onClientEdge);
  const counters = new HttpCounters(engine.metrics);
  const uploads = new Uploads(engine);
  const makeRequestId = requestIds(engine.random);
  const publicHost = options.publicUrl === null ? null : new URL(options.publicUrl).host;

  const answer: App = (request, server) => {
    const { path, search } = splitTarget(request.url);
    const query = search === "" ? NO_QUERY : new URLSearchParams(search);
    const exchange: Exchange = {
      engine,
      options,
      followers,
      clients,
      views,
      counters,
      uploads,
      makeRequestId,
      request,
      server,
      onFault,
      query,
      name: "",
      host: "",
      allowOrigin: null,
      principal: gatekeeper === null ? ANYONE : NOBODY,
      client: null,
      isLive: false,
      requestId: requestIdIn(request.headers),
      traceparent: traceparentIn(request.headers),
    };
    return onAnswer === null ? serve(exchange, path) : serveAndTell(exchange, path, onAnswer);
  };

  /** Counts a request against its client; a problem when that has asked too much. Who is not known goes by the address. */
  function admit(exchange: Exchange): HttpProblem | null {
    if (limits === null) return null;
    exchange.client = limits.of(exchange.principal.client ?? clientAddress(exchange));
    return exchange.client.admit();
  }

  async function serveAndTell(exchange: Exchange, path: string, tell: (answer: Answered) => void): Promise<Response> {
    const startMs = engine.clock.monotonicMs();
    // Made before the answer, so that it stands in it.
    const requestId = requestIdOf(exchange);
    const response = await serve(exchange, path);
    const { request, traceparent } = exchange;
    const ms = engine.clock.monotonicMs() - startMs;
    tell({ requestId, traceparent, method: request.method, path, status: response.status, ms });
    return response;
  }

  async function serve(exchange: Exchange, path: string): Promise<Response> {
    const { request } = exchange;
    const host = checkHost(request, options.loopbackOnly, publicHost);
    if (isProblem(host)) return respondProblem(exchange, host);
    exchange.host = host;
    const allowOrigin = checkOrigin(request, host, options.corsOrigins);
    if (isProblem(allowOrigin)) return respondProblem(exchange, allowOrigin);
    exchange.allowOrigin = allowOrigin;
    if (request.method === "OPTIONS") return preflight(exchange);
    const found = findRoute(path, request.method, routes);
    // Whether there is such a place is told to those who may ask.
    const isOpen = !isProblem(found) && found.endpoint.needs.over === "none";
    if (!isOpen && gatekeeper !== null) {
      const caller = gatekeeper(request, exchange.query);
      const known = caller instanceof Promise ? await caller : caller;
      if (isProblem(known)) return respondProblem(exchange, admit(exchange) ?? known);
      exchange.principal = known;
    }
    // Who only looks whether the server lives is not counted.
    const isCounted = !isOpen || found.resource === RESERVED;
    const limited = isCounted ? admit(exchange) : null;
    if (limited !== null) return respondProblem(exchange, limited);
    if (isProblem(found)) return respondProblem(exchange, found);
    const { needs, answer: route } = found.endpoint;
    const refusal = refusalOf(exchange.principal, needs, found.name, exchange.query);
    if (refusal !== null) return respondProblem(exchange, refusal);
    exchange.name = found.name;
    if (engine.memory !== null && needsMemory(request.method, found)) {
      if (engine.memory.shedding) return respondRejection(exchange, SHORT_OF_MEMORY);
      engine.memory.note(announcedBytes(request.headers));
    }
    try {
      if (spans === null) return await route(exchange);
      const attributes = { "http.request.method": request.method, "url.path": path };
      return await spans.run(spanName(found, exchange), attributes, request.headers, async (span) => {
        const response = await route(exchange);
        span.set("http.response.status_code", response.status);
        return response;
      });
    } catch (cause) {
      const problem = describeFault(cause);
      if (problem.status === 500) reportFault(exchange, `${request.method} ${path}`, cause);
      return respondProblem(exchange, problem);
    }
  }

  return answer;
}

/** What brings or fetches records; looking at heads and deleting stay possible, and so does watching the server. */
function needsMemory(method: string, { resource }: Found): boolean {
  return resource.startsWith("stream") && method !== "HEAD" && method !== "DELETE";
}

/** What a span of the request is called: `append`, `read`, `wait`, else the method and the resource. */
function spanName({ resource }: Found, { request: { method }, query }: Exchange): string {
  if (resource === "stream" && method === "POST") return "append";
  if (resource === "stream" && method === "GET") return query.has("live") ? "wait" : "read";
  return resource === "stream/touch/wait" ? "wait" : `${method} ${resource}`;
}

const NO_QUERY = new URLSearchParams();

interface Routes {
  readonly below: Resources;
  readonly server: Resources;
  readonly reserved: AppOptions["reserved"];
}

interface Found {
  readonly endpoint: Endpoint;
  readonly name: string;
  /** `stream`, `stream/` and a sub-resource, or the path of a server resource. */
  readonly resource: string;
}

function findRoute(path: string, method: string, routes: Routes): Found | HttpProblem {
  const target = path.startsWith(STREAM_PREFIX)
    ? findStream(path.slice(STREAM_PREFIX.length), routes)
    : findServer(path, routes.server);
  if (isProblem(target)) return target;
  const endpoint = Object.hasOwn(target.methods, method) ? target.methods[method] : undefined;
  if (endpoint !== undefined) return { endpoint, name: target.name, resource: target.resource };
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
  readonly resource: string;
}

function findServer(path: string, server: Resources): Target | HttpProblem {
  const methods = Object.hasOwn(server, path) ? server[path] : undefined;
  return methods === undefined
    ? { status: 404, code: "no-route", message: "nothing is served at this path" }
    : { methods, name: "", resource: path };
}

function findStream(rest: string, { below, reserved }: Routes): Target | HttpProblem {
  if (rest.startsWith(`${RESERVED}/`)) {
    const found = reserved(rest.slice(RESERVED.length + 1));
    return found === null
      ? reservedName
      : { methods: found.methods, name: `${RESERVED}/${found.name}`, resource: RESERVED };
  }
  const sub = splitSubResource(rest, below);
  const parsed = parseStreamName(sub === null ? rest : rest.slice(0, sub.nameEnd));
  if (!parsed.ok) return badRequest("name-invalid", parsed.reason);
  const { name } = parsed;
  if (sub === null && splitSubResource(name, below) !== null) {
    return badRequest("name-invalid", "a stream name may not end in the name of a sub-resource");
  }
  if (isReservedName(name)) {
    return reservedName;
  }
  return sub === null
    ? { methods: STREAM, name, resource: "stream" }
    : { methods: sub.methods, name, resource: `stream/${sub.suffix}` };
}

const reservedName: HttpProblem = {
  status: 404,
  code: "no-route",
  message: `names below '${RESERVED}/' are reserved for control APIs`,
};

const MAX_SUB_SEGMENTS = 3;

function splitSubResource(
  path: string,
  below: Resources,
): { methods: Methods; nameEnd: number; suffix: string } | null {
  let slash = path.lastIndexOf("/");
  for (let segments = 0; segments < MAX_SUB_SEGMENTS && slash > 0; segments++) {
    const suffix = path.slice(slash + 1);
    const methods = Object.hasOwn(below, suffix) ? below[suffix] : undefined;
    if (methods !== undefined) return { methods, nameEnd: slash, suffix };
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
