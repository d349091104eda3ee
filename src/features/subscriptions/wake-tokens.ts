/**
 * Bearer tokens for one wake: its subscription, generation and an expiry, with a MAC over them (PROTOCOL §12.9). A token says who may
 * answer a wake; whether the wake is still the present one is not its affair.
 */

import { createHmac, timingSafeEqual } from "node:crypto";
import { isJsonObject } from "../../kit/json-object.ts";
import { TOKEN_TTL_MS } from "./limits.ts";

export interface TokenClaims {
  readonly subscription: string;
  readonly generation: number;
}

export type TokenVerdict = { readonly generation: number } | "TOKEN_INVALID" | "TOKEN_EXPIRED";

export class WakeTokens {
  readonly #secret: Uint8Array;

  constructor(secret: Uint8Array) {
    this.#secret = secret;
  }

  mint({ subscription, generation }: TokenClaims, nowMs: number): string {
    const claims = JSON.stringify({ sub: subscription, gen: generation, exp: nowMs + TOKEN_TTL_MS });
    const payload = Buffer.from(claims).toString("base64url");
    return `${payload}.${this.#mac(payload).toString("base64url")}`;
  }

  /** Whether the token is one for this subscription, and of which generation. */
  verify(token: string, subscription: string, nowMs: number): TokenVerdict {
    const [payload = "", mac = "", ...rest] = token.split(".");
    const given = Buffer.from(mac, "base64url");
    const right = this.#mac(payload);
    // base64 has several spellings of the same bytes.
    if (mac !== given.toString("base64url")) return "TOKEN_INVALID";
    if (rest.length > 0 || given.length !== right.length || !timingSafeEqual(given, right)) return "TOKEN_INVALID";
    // Ours, so it is JSON.
    const claims: unknown = JSON.parse(Buffer.from(payload, "base64url").toString());
    if (!isJsonObject(claims) || claims["sub"] !== subscription) return "TOKEN_INVALID";
    const { gen, exp } = claims;
    if (typeof gen !== "number" || typeof exp !== "number") return "TOKEN_INVALID";
    return exp < nowMs ? "TOKEN_EXPIRED" : { generation: gen };
  }

  #mac(payload: string): Buffer {
    return createHmac("sha256", this.#secret).update(payload).digest();
  }
}
