/** Bounds of the server's own metrics, with their arithmetic. */

/** Size of the metrics stream: at about 2 kB a record some 500,000 ticks. */
export const MAX_STREAM_BYTES = 1024 ** 3;
/** Payload of one append: about 2,000 streams in one commit, whose INSERT takes about 10 ms. More streams, more commits. */
export const MAX_APPEND_BYTES = 4 * 1024 * 1024;
/** Records taken or made between two looks at the clock: about 0.1 ms. */
export const RECORDS_PER_LOOK = 16;
/** Template events kept while appends fail, about 400 B each: 4 MB. Later ones are given up, and counted. */
export const MAX_UNTOLD_EVENTS = 10_000;
