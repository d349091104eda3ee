/**
 * Bearer tokens for one wake: its subscription, generation and an expiry, with a MAC over them (PROTOCOL §12.9). A token says who may
 * answer a wake; whether the wake is still the present one is not its affair.
 */

import { seal, unseal } from "../../engine/sealed-text.ts";
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
    return seal(this.#secret, "", { sub: subscription, gen: generation, exp: nowMs + TOKEN_TTL_MS });
  }

  /** Whether the token is one for this subscription, and of which generation. */
  verify(token: string, subscription: string, nowMs: number): TokenVerdict {
    const unsealed = unseal(this.#secret, "", token);
    if (typeof unsealed === "string") return "TOKEN_INVALID";
    const claims = unsealed.value;
    if (!isJsonObject(claims) || claims["sub"] !== subscription) return "TOKEN_INVALID";
    const { gen, exp } = claims;
    if (typeof gen !== "number" || typeof exp !== "number") return "TOKEN_INVALID";
    return exp < nowMs ? "TOKEN_EXPIRED" : { generation: gen };
  }
}
