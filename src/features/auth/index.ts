/**
 * Authentication: who sends a request, by API keys or by JSON Web Tokens, and by signed URLs that they give out (docs/auth.md). What a
 * caller may do stands in its grants; that every route asks for one is `http/access.ts`.
 */

import type { Engine } from "../../engine/engine.ts";
import { secretOf } from "../../engine/secrets.ts";
import type { Methods } from "../../http/access.ts";
import type { Clock } from "../../kit/clock.ts";
import type { Gatekeeper, Principal } from "../../http/principal.ts";
import type { HttpProblem } from "../../http/errors.ts";
import type { StoredKey } from "./api-key.ts";
import { ApiKeys } from "./api-keys.ts";
import { ISSUER_DOWN_LOG_MS } from "./limits.ts";
import { type Check, type CredentialFlaw, credentialOf } from "./credentials.ts";
import type { JwtOptions } from "./jwt.ts";
import { authRoutes } from "./routes.ts";
import { SignedTokens } from "./signed-tokens.ts";

export { formatKeys, makeKey, parseKeys, type StoredKey } from "./api-key.ts";
export { MAX_GRANTS, MAX_KEYS, MIN_SECRET_BYTES } from "./limits.ts";
export { KEY_ALGORITHMS, SECRET_ALGORITHMS } from "./algorithms.ts";
export type { JwtOptions } from "./jwt.ts";

export interface AuthParts {
  readonly engine: Engine;
  /** The machine's: credentials end when it says so, also right after a jump that the log does not believe yet. */
  readonly clock: Clock;
  readonly strategy: { readonly kind: "api-key" } | ({ readonly kind: "jwt" } & JwtOptions);
  /** Base of absolute links; null = they are relative. */
  readonly publicUrl: string | null;
  readonly newId: () => string;
  /** Of cryptographic quality. */
  readonly randomBytes: (count: number) => Uint8Array;
  readonly onFault: (operation: string, cause: unknown) => void;
}

export interface Auth {
  readonly gatekeeper: Gatekeeper;
  /** Resources of the server. */
  readonly resources: Readonly<Record<string, Methods>>;
  /** The keys that hold from now on; says nothing to tokens. */
  replaceKeys(keys: readonly StoredKey[]): void;
}

const SECRET = "signed-urls";

/** Awaited before the first request. */
export async function createAuth({
  engine,
  clock,
  strategy,
  publicUrl,
  newId,
  randomBytes,
  onFault,
}: AuthParts): Promise<Auth> {
  const { metrics } = engine;
  const keys = new ApiKeys(clock);
  const isKeys = strategy.kind === "api-key";
  // Loaded when it is asked for: verifying takes 50 modules, a tenth of a start.
  const jwt = strategy.kind === "jwt" ? new (await import("./jwt.ts")).JwtVerifier(strategy, clock) : null;
  const secret = await secretOf(engine, SECRET, randomBytes);
  const signed = new SignedTokens({ secret, clock, newId, isValid: (id) => !isKeys || keys.isValid(id) });
  const failures = metrics.labelled(
    "streams_auth_failures_total",
    "Requests without a valid credential, by what was wrong with it.",
    "reason",
    FLAWS,
  );

  const told = (check: Check): Principal | HttpProblem => {
    if (typeof check !== "string") return check;
    failures.of(check).add();
    return unauthenticated;
  };

  /** When it last stood in the log that the issuer's keys cannot be had. */
  let toldMs = -Infinity;
  const gatekeeper: Gatekeeper = (request, query) => {
    const credential = credentialOf(request.headers, query);
    if (typeof credential === "string") return told(credential);
    const { token, isSigned } = credential;
    if (isSigned) return told(signed.check(token));
    const check = jwt === null ? keys.check(token) : jwt.check(token);
    if (!(check instanceof Promise)) return told(check);
    return check.then(told).catch((cause: unknown) => {
      // Strangers can make it come with each of their requests.
      const nowMs = clock.monotonicMs();
      if (nowMs - toldMs >= ISSUER_DOWN_LOG_MS) {
        toldMs = nowMs;
        onFault("authentication", cause);
      }
      return issuerUnreachable;
    });
  };

  return {
    gatekeeper,
    resources: authRoutes({ signed, clock, publicUrl }),
    replaceKeys: (stored) => keys.replace(stored),
  };
}

const FLAWS: readonly CredentialFlaw[] = ["missing", "malformed", "unknown", "expired"];

/** The same for every flaw: who guesses learns nothing. */
const unauthenticated: HttpProblem = {
  status: 401,
  code: "unauthenticated",
  message: "send a valid credential as Authorization: Bearer, or use a signed URL",
  headers: { "WWW-Authenticate": 'Bearer realm="streams-server"' },
};

const issuerUnreachable: HttpProblem = {
  status: 503,
  code: "issuer-unreachable",
  message: "the keys of the token's issuer cannot be had right now; try again",
  headers: { "Retry-After": "5" },
};
