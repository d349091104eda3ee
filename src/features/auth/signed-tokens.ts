/**
 * Tokens that let a browser read certain streams for a short time, in the query of a URL: EventSource and WebSocket cannot send headers.
 * A MAC over the grants, an expiry, and who signed: when that key is revoked, what it has signed ends too.
 */

import { z } from "zod";
import { seal, unseal } from "../../engine/sealed-text.ts";
import type { Principal } from "../../http/principal.ts";
import type { Clock } from "../../kit/clock.ts";
import { formatGrant, type Grant, parseGrant } from "../../protocol/grants.ts";
import type { Check } from "./credentials.ts";

const MARK = "su_";

const claims = z.strictObject({ id: z.string(), by: z.string(), exp: z.int(), read: z.array(z.string()) });

export interface SignedTokensParts {
  readonly secret: Uint8Array;
  readonly clock: Clock;
  readonly newId: () => string;
  /** Whether the caller that signed may still do anything. */
  readonly isValid: (principalId: string) => boolean;
}

export class SignedTokens {
  readonly #parts: SignedTokensParts;

  constructor(parts: SignedTokensParts) {
    this.#parts = parts;
  }

  /** `grants` are of the scope `read`; `by` may give them. */
  mint(grants: readonly Grant[], by: string, expiresMs: number): string {
    const read = grants.map(({ name, isPrefix }) => (isPrefix ? `${name}*` : name));
    return seal(this.#parts.secret, MARK, { id: this.#parts.newId(), by, exp: expiresMs, read });
  }

  check(token: string): Check {
    const unsealed = unseal(this.#parts.secret, MARK, token);
    if (typeof unsealed === "string") return unsealed === "forged" ? "unknown" : unsealed;
    const parsed = claims.safeParse(unsealed.value);
    if (!parsed.success) return "malformed";
    const { id, by, exp, read } = parsed.data;
    const grants = read.map((names) => parseGrant(`read:${names}`)).filter((grant): grant is Grant => grant !== null);
    const isValid = (): boolean => this.#parts.clock.nowMs() < exp && this.#parts.isValid(by);
    const principal: Principal = { id: SIGNED + id, client: null, grants, expiresMs: exp, isValid };
    return isValid() ? principal : "expired";
  }
}

const SIGNED = "signed:";

/** Whether the caller came with a signed token: it may not sign others, or it would live for ever. */
export function isSigned({ id }: Principal): boolean {
  return id?.startsWith(SIGNED) === true;
}

/** The grant to read what a request names: a stream, or with a star at its end all that begin so. */
export function readGrant(names: string): Grant | null {
  return names === "" ? null : parseGrant(`read:${names}`);
}

export function describeNames(grant: Grant): string {
  return formatGrant(grant).slice("read:".length);
}
