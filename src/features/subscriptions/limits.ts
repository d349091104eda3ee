/** Bounds of subscriptions, with their arithmetic. */

export const MAX_SUBSCRIPTIONS = 10_000;
/** Links of all subscriptions: a subscription and a stream, some 250 B each. */
export const MAX_LINKS = 200_000;
/** Streams that found no room are looked for again so often, while there is some: a look costs a list of all streams of a pattern. */
export const RELINK_MS = 60_000;
export const MAX_EXPLICIT_STREAMS = 1_000;
/** As long as the longest name. */
export const MAX_PATTERN_CHARS = 1_024;
export const MAX_PATTERN_SEGMENTS = 32;
/** Of `**` in one pattern: each multiplies the places where it may match. */
export const MAX_DEEP_WILDCARDS = 2;
export const MAX_DESCRIPTION_CHARS = 1_000;
export const MAX_WORKER_CHARS = 256;
/** Acks of all streams of a wake, with names of 1 KiB. */
export const MAX_BODY_BYTES = 2 * 1024 * 1024;
/** Streams told in one wake, those with news first; a worker that is through with them is woken for the rest. */
export const MAX_STREAMS_PER_WAKE = 1_000;
/** Streams shown of one subscription. */
export const MAX_STREAMS_SHOWN = 10_000;
/** Cursors written in one commit while a subscription is made. */
export const CURSORS_PER_COMMIT = 5_000;
/** Webhooks under way: sockets and bodies of some 100 kB each at most. */
export const MAX_DELIVERIES = 256;
/** Of one host: eight hosts that never answer can hold up the others, for 10 s. */
export const MAX_DELIVERIES_PER_HOST = 32;

export const MIN_LEASE_MS = 1_000;
export const MAX_LEASE_MS = 600_000;
export const DEFAULT_LEASE_MS = 30_000;
/** A webhook that failed is tried again after this, then twice that, up to the last; each time up to a fifth earlier or later. */
export const RETRY_MS = { first: 1_000, last: 60_000, jitter: 0.2 } as const;
/** A wake that nobody claims is told again after its lease, then after twice that, up to this. */
export const MAX_REWAKE_MS = 600_000;
/** Tokens outlive their lease, which is what fences: a heartbeat does not hand out another one. */
export const TOKEN_TTL_MS = 24 * 3_600_000;
/** A signing key signs for so long; its public half is published for a day more, far beyond any replay window. */
export const KEY_SIGNS_MS = 90 * 86_400_000;
export const KEY_PUBLISHED_MS = 86_400_000;
