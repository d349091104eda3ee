/** Every bound of touch, with its arithmetic. Settings of a stream (templates, rates) are in its profile. */

/** Longest wait, and the default. */
export const MAX_WAIT_MS = 120_000;
export const DEFAULT_WAIT_MS = 30_000;
/** Keys and ids of one wait. */
export const MAX_WAIT_KEYS = 1024;
/** Templates named, declared or activated by one request. */
export const MAX_TEMPLATES_PER_REQUEST = 256;
/** `exact` waits: so many keys at most. */
export const MAX_EXACT_KEYS = 16;
/** One request body: 1,024 keys and as many ids are 33 kB, 256 templates of three long names 250 kB. */
export const MAX_BODY_BYTES = 512 * 1024;

/** Waits parked per stream, and the keys of all waits of a server: at about 60 B each 60 MB. Past either: 429. */
export const MAX_WAITERS_PER_STREAM = 20_000;
export const MAX_PARKED_KEYS = 1_000_000;
/** Streams with touch state in memory; one is dropped when unused for IDLE_MS. Past it: 429. */
export const MAX_STREAMS = 10_000;
export const IDLE_MS = 60_000;

/** The journal of all streams: a million entries are 16 MB to 32 MB of typed arrays. */
export const MAX_JOURNAL_ENTRIES = 1_000_000;
/** A template's keys are recorded this long after its last wait: longer than a client needs to query and wait again. */
export const HOT_MS = 30_000;
/** Table keys kept computed per stream; an entity past it is hashed at each change. */
export const MAX_ENTITIES = 10_000;

/** What one wait may read again from the log. Past it the client hears `stale`, which costs it one query. */
export const MAX_REPLAY_RECORDS = 10_000;
export const MAX_REPLAY_BYTES = 4 * 1024 * 1024;
/** Records read again per second by all waits of a server: about a tenth of a core. */
export const REPLAY_RECORDS_PER_SECOND = 50_000;
/** How long a wait may queue for its replay. */
export const MAX_REPLAY_DELAY_MS = 10_000;

/** A turn of derivation or replay. */
export const TURN_MS = 1.5;
/** Keys made, or records looked at, between two looks at the clock: about 20 µs. */
export const KEYS_PER_LOOK = 256;
/** Fine keys of one change, over all templates: about 0.4 ms. Past it the change is coarse. */
export const MAX_KEYS_PER_CHANGE = 4096;
/** Waits answered in one turn: each costs about 15 µs with its response. */
export const WAKES_PER_TURN = 64;
/** Records that may wait for derivation; past it they count as touching everything, and nobody is missed. */
export const MAX_PENDING_RECORDS = 1_000_000;

/** Retired templates remembered per stream, so that a client that still names one is answered coarsely, not missed. */
export const MAX_RETIRED_TEMPLATES = 2048;
export const TEMPLATE_GC_BATCH = 1000;
