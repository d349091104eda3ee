/** What a request brings to say who sends it: a bearer token, or a signed token in the query of a URL. */

import type { Principal } from "../../http/principal.ts";
import { MAX_TOKEN_CHARS } from "./limits.ts";

/** Why a credential is not accepted: for the metrics, never for the client. */
export type CredentialFlaw = "missing" | "malformed" | "unknown" | "expired";

export type Check = Principal | CredentialFlaw;

/** What is sent as credential: the header counts, and without one the parameter `access`. */
export function credentialOf(
  headers: Headers,
  query: URLSearchParams,
): { readonly token: string; readonly isSigned: boolean } | CredentialFlaw {
  const header = headers.get("authorization");
  if (header !== null) {
    const token = header.length <= MAX_TOKEN_CHARS ? /^Bearer ([\x21-\x7e]+)$/i.exec(header)?.[1] : undefined;
    return token === undefined ? "malformed" : { token, isSigned: false };
  }
  const [signed, ...more] = query.getAll("access");
  if (signed === undefined) return "missing";
  return more.length > 0 || signed.length > MAX_TOKEN_CHARS ? "malformed" : { token: signed, isSigned: true };
}
