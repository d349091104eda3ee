/** Who sends a request, as far as HTTP knows: what limits go by, what it may do, and for how long. How callers are told apart is a feature's affair. */

import { EVERYTHING, type Grant, type Scope } from "../protocol/grants.ts";
import type { HttpProblem } from "./errors.ts";

/** A caller, as far as it was told apart from others. */
export interface Principal {
  /** E.g. `key:k7x2`; null when callers are not told apart. */
  readonly id: string | null;
  /** What limits go by; null = its address. */
  readonly client: string | null;
  readonly grants: readonly Grant[];
  /** When it ends by itself; null when it does not. */
  readonly expiresMs: number | null;
  /** False once it has expired or was revoked: live connections look now and then. */
  readonly isValid: () => boolean;
}

/** Where nobody is asked who they are. */
export const ANYONE: Principal = { id: null, client: null, grants: EVERYTHING, expiresMs: null, isValid: () => true };

/** Who did not have to say who it is, on a server that asks. */
export const NOBODY: Principal = { id: null, client: null, grants: [], expiresMs: null, isValid: () => true };

/** Tells who sends a request; a problem when that cannot be told. Must not throw. */
export type Gatekeeper = (
  request: Request,
  query: URLSearchParams,
) => Principal | HttpProblem | Promise<Principal | HttpProblem>;

/** The caller is known, and has no grant for this. It hears the same whether there is such a stream or not. */
export function forbidden(scope: Scope, names: string): HttpProblem {
  return { status: 403, code: "forbidden", message: `this needs the grant ${scope}:${names}` };
}
