/**
 * What docs/auth.md says every request needs, as a table: resource and method to what a caller must have. Written from the document and
 * from nothing else; that it names every route there is, `auth-matrix.test.ts` compares with the application's own tables.
 */

export type Scope = "read" | "append" | "manage";

/** What a request is about, as far as grants go. */
export type Place = "stream" | "subscription" | "subscriptions" | "server" | "listing";

export type Need =
  /** Nobody is asked. */
  | "nothing"
  /** Any valid credential: the answer says what is wrong, or asks for more. */
  | "known"
  /** `read` of what is to be signed, and not with a signed token. */
  | "signing"
  | { readonly scope: Scope; readonly place: Place };

const over =
  (place: Place) =>
  (scope: Scope): Need => ({ scope, place });
const stream = over("stream");
const subscription = over("subscription");
const readServer = over("server")("read");
const readListing = over("listing")("read");

/** `stream` is `/v1/stream/<name>`, a word with a slash in front is a path of the server, `__ds` stands for `/v1/stream/__ds`. */
export const DOCUMENTED: Readonly<Record<string, Readonly<Record<string, Need>>>> = {
  stream: {
    GET: stream("read"),
    HEAD: stream("read"),
    POST: stream("append"),
    PUT: stream("manage"),
    DELETE: stream("manage"),
  },
  "stream/_details": { GET: stream("read"), HEAD: stream("read") },
  "stream/_profile": { GET: stream("read"), POST: stream("manage") },
  "stream/_retention": { PUT: stream("manage") },
  "stream/_view": { GET: stream("read"), POST: stream("read") },
  "stream/_analytics": { GET: stream("read") },
  "stream/aggregate": { GET: stream("read") },
  "stream/touch/meta": { GET: stream("read") },
  "stream/touch/wait": { POST: stream("read") },
  "stream/touch/templates/activate": { POST: stream("read") },
  "/health": { GET: "nothing", HEAD: "nothing" },
  "/ready": { GET: "nothing", HEAD: "nothing" },
  "/health/clients": { GET: readServer, HEAD: readServer },
  "/metrics": { GET: readServer, HEAD: readServer },
  "/v1/server/_details": { GET: readServer, HEAD: readServer },
  "/v1/streams": { GET: readListing, HEAD: readListing },
  "/v1/ws": { GET: "known" },
  "/v1/signed-urls": { POST: "signing" },
  "__ds/jwks.json": { GET: "nothing" },
  "__ds/subscriptions": { GET: over("subscriptions")("read") },
  "__ds/subscriptions/<id>": {
    GET: subscription("read"),
    PUT: subscription("manage"),
    DELETE: subscription("manage"),
  },
  "__ds/subscriptions/<id>/streams": { POST: subscription("manage") },
  "__ds/subscriptions/<id>/streams/<name>": { DELETE: subscription("manage") },
  "__ds/subscriptions/<id>/claim": { POST: subscription("append") },
  "__ds/subscriptions/<id>/ack": { POST: "nothing" },
  "__ds/subscriptions/<id>/callback": { POST: "nothing" },
  "__ds/subscriptions/<id>/release": { POST: "nothing" },
};

/** Places that are none: whether there is such a place is told to those who may ask. */
export const NOWHERE = [
  "/",
  "/v1",
  "/v1/nothing",
  "/v1/stream/__ds/nothing",
  "/v1/stream/",
  "/v1/stream/a//b",
] as const;

/** The streams and subscriptions of the matrix; the ghosts do not exist. */
export const OWN = "m/own";
export const GHOST = "m/ghost";
const OWN_SUBSCRIPTION = "s1";
const GHOST_SUBSCRIPTION = "s9";

/** The path of a resource: of what is there, or of what is not. */
export function pathOf(resource: string, isGhost: boolean): string {
  if (resource === "/v1/streams") return "/v1/streams?prefix=m/";
  if (!resource.startsWith("__ds")) return resource.replace(/^stream/, `/v1/stream/${isGhost ? GHOST : OWN}`);
  const id = isGhost ? GHOST_SUBSCRIPTION : OWN_SUBSCRIPTION;
  return `/v1/stream/${resource.replace("<id>", id).replace("<name>", isGhost ? GHOST : OWN)}`;
}

/** How far a grant reaches, how that is written, and which places it covers, as the document says. */
export const EXTENTS: Readonly<
  Record<string, { readonly names: readonly string[]; readonly covers: readonly Place[] }>
> = {
  everything: { names: [""], covers: ["stream", "subscription", "subscriptions", "server", "listing"] },
  "every name": { names: [":*"], covers: ["stream", "subscription", "subscriptions", "server", "listing"] },
  itself: {
    names: [OWN, GHOST, `__ds/subscriptions/${OWN_SUBSCRIPTION}`, `__ds/subscriptions/${GHOST_SUBSCRIPTION}`].map(
      (name) => `:${name}`,
    ),
    covers: ["stream", "subscription"],
  },
  prefix: { names: [":m/*", ":__ds/subscriptions/*"], covers: ["stream", "subscription", "listing"] },
  "another stream": {
    names: [":m/other", ":m/own/*", ":m/ow", ":M/own", ":m", ":__ds/subscriptions/s", ":__ds/subscriptions/s1/*"],
    covers: [],
  },
  "another prefix": { names: [":n/*", ":m/o/*", ":__ds/*x", ":m/own-*"], covers: [] },
  "the list": { names: [":__ds/subscriptions"], covers: ["subscriptions"] },
};
