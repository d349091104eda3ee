/** Bounds of the analytics stage, with their arithmetic. */

const KiB = 1024;
const MiB = 1024 * KiB;

/** One POST of events: parsing 1 MiB takes about 15 ms and sets the longest turn. Past it: 413, split it. */
export const MAX_POST_BYTES = MiB;
/** One event: an application's error with its stack fits; a batch of 100 of the largest stays below 4 MiB. */
export const MAX_EVENT_BYTES = 32 * KiB;
/** Text of the events of one batch: one record that leaves room for others. */
export const MAX_BATCH_BYTES = 2 * MiB;
/** Batches of one write, which is one commit: 64 of 100 events are 1 MB, and no more are made past 2 MiB of text. */
export const MAX_BATCHES_PER_WRITE = 64;
export const MAX_WRITE_BYTES = 2 * MiB;
/** Series of one window of one stream: 1,000 at 1 to 4 kB are one commit. Past it values go to the series `(other)` of their type. */
export const MAX_SERIES_PER_WINDOW = 1_000;
/** Open series of all streams: at 1 kB typically and 9 kB at most 20 to 180 MB. Past it values go to `(other)` too. */
export const MAX_OPEN_SERIES = 20_000;
/** Groups of one answer: at 1 kB typically and 64 kB at most, a sketch full of bins, 1 to 64 MB. Past it values go to the group `(other)`. */
export const MAX_GROUPS = 1_000;
/** Queued text of all streams' events. */
export const MAX_QUEUED_BYTES = 64 * MiB;
/** A queued event besides its text, as the collector counts it: its entry, its string's head, its place in the ring. */
export const ENTRY_BYTES = 100;
/** Low and normal events wait for at most so many batches before they go first, up to a quarter of a batch. */
export const MAX_BATCHES_WAITED = 10;
export const AGED_SHARE = 0.25;
/** Clocks of clients may be ahead by so much; what claims to be later is refused. */
export const MAX_AHEAD_MS = 60_000;
/** A write that failed is tried again after this, then after twice that, and so on up to the last. */
export const RETRY_MS = { first: 100, last: 10_000 } as const;
/** Each level of rollups waits so much longer than the one below, whose last windows it needs. */
export const ROLLUP_DELAY_MS = 5_000;
/** Names whose sampling rule is remembered, per type; adaptive rates of more names are one rate. */
export const MAX_RULES_PER_TYPE = 1_000;
