/**
 * Every bound of the server, named, with its arithmetic. A limit that a request can hit has an error
 * code in `http/errors.ts`; the others protect memory and the event loop.
 */

const KiB = 1024;
const MiB = 1024 * KiB;

/** Stream name after percent-decoding, in UTF-8 bytes. Fits any URL the parser accepts (15 kB) three times percent-encoded. */
export const MAX_NAME_BYTES = 1024;
/** Default for one request body. Parsing 16 MiB of JSON is the longest turn a request may take (about 60 ms). */
export const DEFAULT_MAX_BODY_BYTES = 16 * MiB;
/** Body bytes of all requests between arrival and ack: 8 of the largest, or 64 connections at 2 MiB. Small ones have an eighth more. Past it: 429. */
export const MAX_BYTES_IN_FLIGHT = 128 * MiB;
/**
 * Bodies up to this size take their announced length at once, and are read in one piece, which saves 20 µs each; larger ones as they
 * arrive. At the lowest legal rate one takes 66 s; 1,024 that stall crowd the server, and are then gone 12 s after they came.
 */
export const MAX_PREPAID_BODY_BYTES = 64 * KiB;
/** Requests waiting for a commit. At 60,000 appends/s a queue of 65,536 is about one second. Past it: 429. */
export const MAX_QUEUED_INTENTS = 65_536;
/** How long a connection may be quiet, or may not take what is sent to it. Uploads that go on and live requests switch it off. */
export const IDLE_TIMEOUT_MS = 120_000;
/** A body brings so much a second over each grace, or it is cut with 408: a phone on 2G brings 2 to 5 kB/s, a slowloris one byte. */
export const MIN_UPLOAD_BYTES_PER_SECOND = 1_000;
/**
 * While more than half of the bytes in flight are taken: 16 MiB in 120 s. Without it 16 connections that send 8 MiB at once and then
 * drip would hold everything for two hours; so they hold half of it, and the other half for 20 s.
 */
export const MIN_CROWDED_UPLOAD_BYTES_PER_SECOND = 140_000;
/** Long enough for a lost packet to be sent again some five times (0.2, 0.6, 1.4, 3, 6 s). */
export const UPLOAD_GRACE_MS = 10_000;
/** How often bodies under way are looked at; a look costs some 10 ns for each. */
export const UPLOAD_SWEEP_MS = 1_000;

/** Payload of one commit; one larger append travels alone. Bounds the longest INSERT to about 10 ms. */
export const MAX_COMMIT_BYTES = 4 * MiB;
/** Intents decided in one turn: 2,048 at 1 to 2 µs each stay below 5 ms. */
export const MAX_COMMIT_INTENTS = 2_048;

/** JSON nesting: far above real documents, far below the depth where recursive consumers overflow (about 10,000). */
export const MAX_JSON_DEPTH = 256;
/** JSON values in one append: 100,000 lengths are 0.8 MB of index and a few ms of scanning. */
export const MAX_RECORDS_PER_APPEND = 100_000;

/** Header values that are stored with a stream or a record. */
export const MAX_CONTENT_TYPE_BYTES = 256;
export const MAX_KEY_BYTES = 256;
export const MAX_STREAM_SEQ_BYTES = 256;
export const MAX_PRODUCER_ID_BYTES = 256;
/** Producers remembered per stream, for as long as its data: 100,000 at about 100 B each. Past it a new id is refused. */
export const MAX_PRODUCERS_PER_STREAM = 100_000;
/** Ancestors of a fork: each costs one segment per read. */
export const MAX_FORK_DEPTH = 64;
/** Longest TTL: 100 years in seconds; also keeps every deadline a safe integer in milliseconds. */
export const MAX_TTL_SECONDS = 100 * 366 * 86_400;

/** One storage read, in one turn: 256 KiB decompress in about 0.3 ms and are one socket write. */
export const READ_CHUNK_BYTES = 256 * KiB;
/**
 * Records of one stream in one commit go to a file from here on, unless their bodies are small: SQLite writes every byte twice, and a file
 * costs two syncs more. Below 256 KiB that is dearer (docs/decisions/016).
 */
export const LARGE_RUN_BYTES = 256 * KiB;
export const LARGE_BODY_BYTES = 64 * KiB;
/** A read of less is answered as it is, also to those who unpack zstd: it is one packet or two, and mostly not sealed yet. */
export const ZSTD_FROM_BYTES = 64 * KiB;
/** What all reads together may read in one turn: about 3 ms with what is written to sockets. Beyond it they wait in order. */
export const READ_BYTES_PER_TURN = MiB;
/** What is so little never waits for that: it costs less than the request that asked for it. */
export const SMALL_READ_BYTES = 16 * KiB;
/** Raw payload of one sealed batch, so that one read chunk is one or two batches. One larger record travels alone. */
export const BATCH_BYTES = 256 * KiB;

/** The unsealed window in memory. Past either bound appends get 429 until the sealer has caught up. */
export const MAX_WINDOW_BYTES = 64 * MiB;
export const MAX_WINDOW_RANGES = 1_000_000;
/** The sealer starts at these marks: large enough to sort many small streams, far below the bounds above. */
export const SEAL_AT_BYTES = 8 * MiB;
export const SEAL_AT_RANGES = 200_000;
/** One sealing pass takes at most this much, so that its working set stays small. */
export const SEAL_PASS_BYTES = 16 * MiB;
/** An idle window is sealed after this long, so that start-up stays short and sweeps see every stream. */
export const SEAL_AFTER_MS = 60_000;
/** A background turn on the main thread. */
export const BACKGROUND_TURN_MS = 1.5;

/** Idle stream heads kept in memory (about 400 B each). Streams with unsealed records are kept besides. */
export const MAX_IDLE_HEADS = 100_000;

/** Live requests (long-poll and SSE): about 15 kB each with their socket. Past either: 429. */
export const MAX_LIVE_REQUESTS = 50_000;
export const MAX_LIVE_REQUESTS_PER_STREAM = 20_000;

/** Free disk below which appends get 507, so that sealing, retention and deletes keep room to work. */
export const MIN_FREE_DISK_BYTES = 1024 * MiB;
export const MIN_FREE_DISK_SHARE = 0.05;

/** Last accesses of TTL streams are written after so long. A start after a kill grants every TTL anew, for those that were not. */
export const TOUCH_PERSIST_MS = 5_000;
/** TTL streams whose accesses wait to become durable; past it they are written early. */
export const MAX_PENDING_TOUCHES = 10_000;
/** And while the disk takes none of them: 10 MB. Past it all streams count as read. */
export const MAX_REMEMBERED_TOUCHES = 100_000;
/** Slices of them that go into one commit: 1,000 accesses are 2 ms. */
export const TOUCH_SLICES = 10;
/** Background sweeps: retention, and accesses that are written, by so many streams. */
export const SWEEP_MS = 1_000;
export const SWEEP_STREAMS = 100;
/** Streams that end in one commit: 250 are 1 ms to decide. */
export const EXPIRY_PAGE = 250;
/** Expiry and retention may each take so long of a sweep, in short turns: the other half of the time is left for what clients want. */
export const SWEEP_WORK_MS = 250;
/** Retention goes on with more streams while the last ones gave up so much: 10 kB each are worth the work. */
export const SWEEP_TRIM_BYTES = MiB;

/** SSE: a comment at least this often keeps proxies and idle timeouts away. */
export const SSE_HEARTBEAT_MS = 15_000;
/** SSE connections end after this long so that caches in front can collapse readers (PROTOCOL §5.8). */
export const SSE_LIFETIME_MS = 60_000;
/** A reader comes back after this long, and up to three times that: those that were cut off together do not return together. */
export const SSE_RETRY_MS = 500;
/** Share of the lifetime by which a connection may end earlier. */
export const SSE_LIFETIME_JITTER = 0.1;
/** A connection whose reader does not take what is sent is cut off this long after its lifetime. */
export const SSE_GRACE_MS = 30_000;

/** Live readers given a frame in one turn: 200 socket writes of 6 to 8 µs are 1.5 ms. */
export const FAN_OUT_SLICE = 200;
/** Feeds that go on in one turn when a commit wakes them together: 50 that read, encode and send for one reader each are 1.5 ms. */
export const FEEDS_PER_TURN = 50;
/** A client that has not taken a frame for so long is slow, and a reader that was behind for so long is told. */
export const LAG_NOTICE_MS = 1_000;
/** With `overflow=disconnect`: a client that takes nothing for so long, or for a second while it is so far behind, is cut off. */
export const SLOW_CLIENT_TIMEOUT_MS = 30_000;
export const MAX_LAG_RECORDS = 100_000;
/** One client's slowness is logged at most this often. */
export const SLOW_CLIENT_LOG_MS = 5_000;

/** One WebSocket message from a client: appends of more go over HTTP. Parsing it takes about 4 ms. */
export const MAX_SOCKET_MESSAGE_BYTES = MiB;
/** Streams followed on one WebSocket: each holds at most one frame that its socket has no room for. */
export const MAX_SOCKET_SUBSCRIPTIONS = 256;
/** Appends and subscribes of one WebSocket that are under way. Past it: `overloaded`. */
export const MAX_SOCKET_REQUESTS = 256;
/** Messages from one WebSocket: so many a second in the long run, and twice as many at once. Past it the socket is closed. */
export const SOCKET_MESSAGES_PER_SECOND = 5_000;
/** Answers that a client does not read, besides the frame under way: past it its socket is closed. */
export const MAX_SOCKET_BACKLOG_BYTES = MiB;
/**
 * Frames of more than SMALL_READ_BYTES on their way to live readers, each counted for each of its readers: two hundred chunks, or three
 * of the largest bodies. A frame is held by its encoder and by the socket: three copies at the worst.
 */
export const MAX_LIVE_FRAME_BYTES = 64 * MiB;
/** While others wait for that room, who has not taken its frame after so long is cut off: 10 MB at 8 Mbit/s. */
export const CROWDED_FRAME_MS = 10_000;
/** Bytes of a message that count as one message more: 1 MiB is 64 of them. */
export const SOCKET_BYTES_PER_MESSAGE = 16 * KiB;
/** A server that shuts down lets the requests of a WebSocket finish for so long. */
export const SOCKET_DRAIN_MS = 1_000;
/** A live connection that has ended is closed so soon when its reader does not take the rest. */
export const LIVE_END_SECONDS = 10;
/** A WebSocket on which nothing was said for so long gets a heartbeat message: browsers do not see pings. */
export const SOCKET_HEARTBEAT_MS = 30_000;
/** Heartbeats that a WebSocket may leave unanswered: with the next one, 60 to 90 s after its last sign of life, it is closed. */
export const MAX_UNANSWERED_PINGS = 2;
/** Names that clients give to subscriptions and requests. */
export const MAX_SOCKET_ID_CHARS = 1_024;

/** What a client may do at once is what it may do in so many seconds. */
export const CLIENT_BURST_SECONDS = 2;
/** Clients whose rates are remembered, the most recent ones: about 400 bytes each, 4 MiB. */
export const MAX_CLIENTS_REMEMBERED = 10_000;
/** A client that has made all the streams it may is counted again so often: 100,000 of them are 100 turns of a millisecond. */
export const QUOTA_RECOUNT_MS = 10_000;

/** Page size of lists. */
export const DEFAULT_LIST_LIMIT = 100;
export const MAX_LIST_LIMIT = 1_000;
