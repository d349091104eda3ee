/**
 * JSON Web Tokens of an issuer that is trusted: signed with a secret that both know, or with keys that the issuer publishes. The
 * algorithm is one of a list, never the token's choice; a token without an expiry is none. Grants stand in one claim, by default `scope`.
 * A token that was verified is remembered by its digest until it expires: verifying costs 50 to 100 µs.
 */

import { createHash } from "node:crypto";
import {
  createRemoteJWKSet,
  customFetch,
  errors,
  type FetchImplementation,
  type JWTPayload,
  jwtVerify,
  type JWTVerifyOptions,
} from "jose";
import { LRUCache } from "lru-cache";
import type { Principal } from "../../http/principal.ts";
import type { Clock } from "../../kit/clock.ts";
import { isJsonObject } from "../../kit/json-object.ts";
import { type Grant, parseGrant } from "../../protocol/grants.ts";
import type { Check, CredentialFlaw } from "./credentials.ts";
import {
  CLOCK_TOLERANCE_SECONDS,
  JWKS_COOLDOWN_MS,
  JWKS_DOWN_MS,
  JWKS_MAX_AGE_MS,
  JWKS_TIMEOUT_MS,
  MAX_GRANT_CHARS,
  MAX_GRANTS,
  MAX_SUBJECT_CHARS,
  MAX_TOKENS_REMEMBERED_BYTES,
} from "./limits.ts";

export interface JwtOptions {
  /** One of the two. */
  readonly key: { readonly secret: Uint8Array } | { readonly jwksUrl: string };
  /** Never of both kinds: a public key must not be taken for a secret. */
  readonly algorithms: readonly string[];
  readonly issuer: string | null;
  readonly audience: string | null;
  /** The claim that holds the grants: text with spaces, or a list. */
  readonly claim: string;
}

/** The issuer's keys cannot be had: nobody can be told apart now. */
export class IssuerUnreachable extends Error {
  override readonly name = "IssuerUnreachable";
}

export class JwtVerifier {
  readonly #options: JwtOptions;
  readonly #clock: Clock;
  readonly #verify: (token: string, options: JWTVerifyOptions) => Promise<JWTPayload>;
  readonly #known = new LRUCache<string, Principal>({ maxSize: MAX_TOKENS_REMEMBERED_BYTES });

  constructor(options: JwtOptions, clock: Clock) {
    this.#options = options;
    this.#clock = clock;
    this.#verify = verifierOf(options.key, clock);
  }

  /** @throws IssuerUnreachable */
  check(token: string): Check | Promise<Check> {
    if (!isCanonical(token)) return "malformed";
    const digest = createHash("sha256").update(token).digest("base64");
    const known = this.#known.get(digest);
    if (known !== undefined) return known.isValid() ? known : "expired";
    return this.#checkNew(token, digest);
  }

  async #checkNew(token: string, digest: string): Promise<Check> {
    const { algorithms, issuer, audience } = this.#options;
    let claims: JWTPayload;
    try {
      claims = await this.#verify(token, {
        algorithms: [...algorithms],
        ...(issuer === null ? {} : { issuer }),
        ...(audience === null ? {} : { audience }),
        clockTolerance: CLOCK_TOLERANCE_SECONDS,
        currentDate: new Date(this.#clock.nowMs()),
        requiredClaims: ["exp"],
      });
    } catch (cause) {
      return flawOf(cause);
    }
    const principal = this.#principalOf(claims);
    if (principal === null) return "malformed";
    // Its grants are copies of parts of the token.
    this.#known.set(digest, principal, { size: 500 + 2 * token.length });
    return principal;
  }

  #principalOf(claims: JWTPayload): Principal | null {
    const grants = grantsIn(claims[this.#options.claim]);
    if (grants === null) return null;
    const expiresMs = Math.floor(((claims.exp ?? 0) + CLOCK_TOLERANCE_SECONDS) * 1000);
    const isValid = (): boolean => this.#clock.nowMs() < expiresMs;
    // The library does not look at its type.
    const subject: unknown = claims.sub;
    const id = `jwt:${typeof subject === "string" ? subject.slice(0, MAX_SUBJECT_CHARS) : ""}`;
    return { id, client: id === "jwt:" ? null : id, grants, expiresMs, isValid };
  }
}

/** base64url spells the same bytes in several ways; one token is one text. */
function isCanonical(token: string): boolean {
  return token.split(".").every((part) => Buffer.from(part, "base64url").toString("base64url") === part);
}

function verifierOf(
  key: JwtOptions["key"],
  clock: Clock,
): (token: string, options: JWTVerifyOptions) => Promise<JWTPayload> {
  if ("secret" in key) return async (token, options) => (await jwtVerify(token, key.secret, options)).payload;
  const keys = createRemoteJWKSet(new URL(key.jwksUrl), {
    timeoutDuration: JWKS_TIMEOUT_MS,
    cooldownDuration: JWKS_COOLDOWN_MS,
    cacheMaxAge: JWKS_MAX_AGE_MS,
    [customFetch]: fetchUnlessDown(clock),
  });
  return async (token, options) => (await jwtVerify(token, keys, options)).payload;
}

/** The library waits between fetches that succeed; after one that failed, tokens of strangers must not make the next. */
function fetchUnlessDown(clock: Clock): FetchImplementation {
  let downUntilMs = 0;
  return async (url, options) => {
    if (clock.monotonicMs() < downUntilMs) throw new Error("the issuer did not answer a moment ago");
    try {
      const response = await fetch(url, options);
      const keys: unknown = await response.json();
      if (!response.ok || !isJsonObject(keys) || !Array.isArray(keys["keys"])) throw new Error("no key set");
      return Response.json(keys);
    } catch (cause) {
      downUntilMs = clock.monotonicMs() + JWKS_DOWN_MS;
      throw cause;
    }
  };
}

/** Words that are no grants belong to somebody else: scopes are shared. Null when there are too many. */
function grantsIn(claim: unknown): readonly Grant[] | null {
  const words = typeof claim === "string" ? claim.split(" ") : Array.isArray(claim) ? claim : [];
  if (words.length > 4 * MAX_GRANTS) return null;
  const grants: Grant[] = [];
  for (const word of words) {
    const grant = typeof word === "string" && word.length <= MAX_GRANT_CHARS ? parseGrant(word) : null;
    if (grant !== null) grants.push(grant);
  }
  return grants.length > MAX_GRANTS ? null : grants;
}

/** What is wrong with the token; throws when it is not the token that is wrong. */
function flawOf(cause: unknown): CredentialFlaw {
  if (cause instanceof errors.JWTExpired) return "expired";
  if (cause instanceof errors.JWSInvalid || cause instanceof errors.JWTInvalid) return "malformed";
  const isOfIssuer =
    cause instanceof errors.JWKSTimeout ||
    cause instanceof errors.JWKSInvalid ||
    !(cause instanceof errors.JOSEError) ||
    cause.code === "ERR_JOSE_GENERIC";
  if (!isOfIssuer) return "unknown";
  const reason = cause instanceof Error ? cause.message : String(cause);
  throw new IssuerUnreachable(`the keys of the token's issuer cannot be had: ${reason}`, { cause });
}
