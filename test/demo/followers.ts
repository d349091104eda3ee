/**
 * Two ways to follow a JSON stream, written against plain HTTP as any client could: long-poll and SSE. Both keep the raw
 * text of every record, resume from the last offset they were given, and outlive restarts of the server.
 * Invariant: records count as seen only together with the offset that follows them.
 */

import { rawArrayValues } from "../support/json-values.ts";
import { parseSse, type SseControl } from "../support/sse.ts";
import { clockPast } from "../support/wait.ts";

export interface Follower {
  /** Raw JSON text of each record, in order. */
  readonly seen: readonly string[];
  /** How often it had to connect again. */
  readonly reconnects: () => number;
  /** Resolves once the stream is closed and all of it was seen. */
  readonly ended: Promise<void>;
  stop(): void;
}

/** Asks for the server's URL before each request: a restarted server may be elsewhere. */
export type UrlNow = () => string;
export type FollowMode = "long-poll" | "sse";

interface Step {
  readonly records: readonly string[];
  readonly offset: string;
  readonly closed: boolean;
}

const RECONNECT_DELAY_MS = 20;
const MAX_RECONNECTS = 2000;

/** Follows `path` from its start. */
export function follow(mode: FollowMode, urlNow: UrlNow, path: string): Follower {
  const seen: string[] = [];
  const abort = new AbortController();
  let offset = "-1";
  let reconnects = 0;
  const stopped = (): boolean => abort.signal.aborted;

  async function run(): Promise<void> {
    while (!stopped()) {
      try {
        const url = `${urlNow()}${path}?offset=${offset}&live=${mode}`;
        for await (const step of mode === "sse" ? sseSteps(url, abort.signal) : pollStep(url, abort.signal)) {
          for (const record of step.records) seen.push(record);
          ({ offset } = step);
          if (step.closed) return;
        }
      } catch (cause) {
        if (stopped()) return;
        if (cause instanceof UnexpectedAnswer || reconnects >= MAX_RECONNECTS) throw cause;
        reconnects += 1;
        await clockPast(Date.now(), RECONNECT_DELAY_MS);
      }
    }
  }
  return { seen, reconnects: () => reconnects, ended: run(), stop: () => abort.abort() };
}

/** The server answered, and not as it should: not a matter of trying again. */
class UnexpectedAnswer extends Error {
  constructor(
    readonly status: number,
    text: string,
  ) {
    super(`${status}: ${text}`);
  }
}

async function* pollStep(url: string, signal: AbortSignal): AsyncGenerator<Step> {
  const response = await open(url, signal);
  yield {
    records: response.status === 200 ? rawArrayValues(await response.text()) : [],
    offset: String(response.headers.get("stream-next-offset")),
    closed: response.headers.get("stream-closed") === "true",
  };
}

async function* sseSteps(url: string, signal: AbortSignal): AsyncGenerator<Step> {
  const response = await open(url, signal);
  if (response.body === null) throw new UnexpectedAnswer(response.status, "no body");
  let records: string[] = [];
  for await (const { event, data } of parseSse(response.body)) {
    if (event === "data") records = records.concat(rawArrayValues(data));
    if (event !== "control") continue;
    const control = JSON.parse(data) as SseControl;
    yield { records, offset: control.streamNextOffset, closed: control.streamClosed === true };
    records = [];
  }
}

async function open(url: string, signal: AbortSignal): Promise<Response> {
  const response = await fetch(url, { signal });
  // 503 is a server that is going down; anything else but data or "nothing yet" is wrong.
  if (response.status === 503) throw new Error("the server is going down");
  if (response.status !== 200 && response.status !== 204)
    throw new UnexpectedAnswer(response.status, await response.text());
  return response;
}
