/** Bounds of authentication, with their arithmetic. */

/** Keys of one server: each is looked up by its digest, about 500 bytes in memory. */
export const MAX_KEYS = 10_000;
/** Grants of one key or token: every request looks at all of them, about 20 ns each. */
export const MAX_GRANTS = 64;
export const MAX_GRANT_CHARS = 1_100;
export const MAX_KEY_NAME_CHARS = 200;
/** Tokens are hashed and parsed before anything is known of their sender. */
export const MAX_TOKEN_CHARS = 8_192;
/** Verified tokens that are remembered, with their grants: some 8,000 of 500 characters. */
export const MAX_TOKENS_REMEMBERED_BYTES = 12 * 1024 * 1024;
/** Of a token's subject, as far as clients are told apart by it. */
export const MAX_SUBJECT_CHARS = 256;
/** Clocks of token issuers may differ from ours by so much. */
export const CLOCK_TOLERANCE_SECONDS = 5;
/** A secret that signs tokens: below 32 bytes it is the weakest part of HS256 (RFC 7518 §3.2). */
export const MIN_SECRET_BYTES = 32;
/** Fetching the keys of an issuer. */
export const JWKS_TIMEOUT_MS = 5_000;
/** After a fetch that failed. */
export const JWKS_DOWN_MS = 5_000;
/** While they cannot be had, the log says so once in so long. */
export const ISSUER_DOWN_LOG_MS = 60_000;
/** After one that succeeded, when a token names a key that is not known. */
export const JWKS_COOLDOWN_MS = 30_000;
export const JWKS_MAX_AGE_MS = 600_000;

export const DEFAULT_URL_TTL_MS = 300_000;
/** Whoever sees a signed URL may use it, so it must not live long. */
export const MAX_URL_TTL_MS = 3_600_000;
export const MAX_SIGNED_STREAMS = 16;
