/**
 * What every route asks of its callers. Each method of a resource says what it needs: one that says nothing does not
 * compile. How callers are told apart is a feature's affair; here is only what HTTP knows of it.
 */

import { allows, allowsEvery, type Scope } from "../protocol/grants.ts";
import type { Exchange } from "./context.ts";
import type { HttpProblem } from "./errors.ts";
import { forbidden, type Principal } from "./principal.ts";

export type Route = (exchange: Exchange) => Response | Promise<Response>;

/**
 * What a caller needs for a route. `stream`: the scope over the stream (or reserved resource) of the path. `server`: over every stream.
 * `listing`: `read` over the prefix that is listed. `known`: to be somebody; the route asks for more. `none`: nothing, or the route has
 * tokens of its own.
 */
export type Need =
  | { readonly over: "stream" | "server"; readonly scope: Scope }
  | { readonly over: "listing" | "known" | "none" };

/** What a resource answers, by method. */
export type Methods = Readonly<Record<string, Endpoint>>;

/** One method of a resource. */
export interface Endpoint {
  readonly needs: Need;
  readonly answer: Route;
}

export const reads = (answer: Route): Endpoint => ({ needs: { over: "stream", scope: "read" }, answer });
export const appends = (answer: Route): Endpoint => ({ needs: { over: "stream", scope: "append" }, answer });
export const manages = (answer: Route): Endpoint => ({ needs: { over: "stream", scope: "manage" }, answer });
export const readsServer = (answer: Route): Endpoint => ({ needs: { over: "server", scope: "read" }, answer });
export const lists = (answer: Route): Endpoint => ({ needs: { over: "listing" }, answer });
export const forKnown = (answer: Route): Endpoint => ({ needs: { over: "known" }, answer });
export const open = (answer: Route): Endpoint => ({ needs: { over: "none" }, answer });

/** Null when the caller may; `name` is the stream's. */
export function refusalOf(
  { grants }: Principal,
  needs: Need,
  name: string,
  query: URLSearchParams,
): HttpProblem | null {
  switch (needs.over) {
    case "stream":
      return allows(grants, needs.scope, name) ? null : forbidden(needs.scope, name);
    case "server":
      return allowsEvery(grants, needs.scope, "") ? null : forbidden(needs.scope, "*");
    case "listing": {
      const prefix = query.get("prefix") ?? "";
      return allowsEvery(grants, "read", prefix) ? null : forbidden("read", `${prefix}*`);
    }
    case "known":
    case "none":
      return null;
  }
}
