/**
 * Writers that keep books: each sends numbered records one after the other and notes which were acknowledged, in this
 * process, outside the disk under test. `audit` reads everything back and compares. Invariant: a record is noted as
 * acknowledged only after its 2xx was received.
 */

import { call } from "../support/streams.ts";

export interface WriterOptions {
  readonly writers: number;
  /** Writer i writes to stream i modulo this. */
  readonly streams: number;
  /** With producer headers; an unanswered record is sent again later. Without, it is left to its fate. */
  readonly idempotent: boolean;
  readonly paddingBytes: number;
  readonly prefix?: string;
}

/** A server that asks for patience gets it. */
const OVERLOAD_PAUSE_MS = 50;

interface Writer {
  readonly id: number;
  readonly stream: string;
  next: number;
  readonly acked: number[];
}

export interface Audit {
  readonly acked: number;
  readonly lost: number;
  readonly duplicated: number;
  readonly outOfOrder: number;
  /** Present without an ack: allowed. */
  readonly unackedPresent: number;
  /** What went wrong first, for the failing test's message. */
  readonly firstProblem: string | null;
}

export interface WriterGroup {
  readonly ackedCount: number;
  /** Answers that were neither 2xx nor a broken connection, by status. */
  readonly refusals: ReadonlyMap<number, number>;
  /** Requests that got no answer at all, by the error's code. */
  readonly breaks: ReadonlyMap<string, number>;
  createStreams(server: { readonly url: string }): Promise<void>;
  /** Writes until `until` settles or every writer has met a broken connection. */
  write(server: { readonly url: string }, until: Promise<unknown>): Promise<void>;
  /** Sends what was not answered once more (idempotent writers). */
  finish(server: { readonly url: string }): Promise<void>;
  audit(server: { readonly url: string }): Promise<Audit>;
}

export function writerGroup(options: WriterOptions): WriterGroup {
  const prefix = options.prefix ?? "fault";
  const writers: Writer[] = Array.from({ length: options.writers }, (_, id) => ({
    id,
    stream: `/v1/stream/${prefix}/${id % options.streams}`,
    next: 0,
    acked: [],
  }));
  const streams = [...new Set(writers.map((writer) => writer.stream))];
  const refusals = new Map<number, number>();
  const breaks = new Map<string, number>();
  // Noise, so that stored bytes are as many as sent ones; another slice for each record.
  const noise = Buffer.from(crypto.getRandomValues(new Uint8Array(options.paddingBytes + 1024))).toString("base64");

  /** False when the connection broke or the server said no. */
  async function send(server: { readonly url: string }, writer: Writer): Promise<boolean> {
    const n = writer.next;
    const from = (n * 7 + writer.id) % 1024;
    const body = JSON.stringify({ w: writer.id, n, pad: noise.slice(from, from + options.paddingBytes) });
    const producer = { "producer-id": `w${writer.id}`, "producer-epoch": "0", "producer-seq": String(n) };
    const headers = { "content-type": "application/json", ...(options.idempotent ? producer : {}) };
    if (!options.idempotent) writer.next++;
    const status = await statusOf(call("POST", server.url + writer.stream, { body, headers }), breaks);
    if (status !== null && status >= 200 && status < 300) {
      writer.acked.push(n);
      if (options.idempotent) writer.next++;
      return true;
    }
    if (status === 429) {
      if (!options.idempotent) writer.next--;
      await Bun.sleep(OVERLOAD_PAUSE_MS);
      return true;
    }
    if (status !== null) refusals.set(status, (refusals.get(status) ?? 0) + 1);
    return false;
  }

  return {
    refusals,
    breaks,
    get ackedCount() {
      return writers.reduce((sum, writer) => sum + writer.acked.length, 0);
    },
    createStreams: async (server) => {
      for (const path of streams) {
        const made = await call("PUT", server.url + path, { headers: { "content-type": "application/json" } });
        if (!made.ok) throw new Error(`PUT ${path}: ${made.status} ${await made.text()}`);
      }
    },
    write: async (server, until) => {
      const state = { isOver: false };
      const over = until.then(() => (state.isOver = true));
      const all = writers.map(async (writer) => {
        while (!state.isOver && (await send(server, writer)));
      });
      await Promise.race([over, Promise.all(all)]);
      await Promise.all(all);
    },
    finish: async (server) => {
      for (const writer of writers) {
        if (!(await send(server, writer))) throw new Error(`writer ${writer.id} could not send ${writer.next} again`);
      }
    },
    audit: async (server) => {
      const found = new Map<number, number[]>(writers.map((writer) => [writer.id, []]));
      for (const path of streams) for (const { w, n } of await recordsOf(server.url + path)) found.get(w)?.push(n);
      return compare(writers, found);
    },
  };
}

/** The status, or null when the connection broke before an answer; how is counted in `breaks`. */
async function statusOf(answer: Promise<Response>, breaks: Map<string, number>): Promise<number | null> {
  try {
    const response = await answer;
    await response.arrayBuffer();
    return response.status;
  } catch (cause) {
    if (!(cause instanceof Error)) throw cause;
    const how = "code" in cause ? String(cause.code) : cause.name;
    breaks.set(how, (breaks.get(how) ?? 0) + 1);
    return null;
  }
}

/** A stream that is gone counts as empty: its records are then lost. */
async function recordsOf(url: string): Promise<{ w: number; n: number }[]> {
  const response = await call("GET", `${url}?offset=-1`);
  if (response.status === 404) return [];
  if (response.status !== 200) throw new Error(`GET ${url}: ${response.status} ${await response.text()}`);
  return (await response.json()) as { w: number; n: number }[];
}

function compare(writers: readonly Writer[], found: ReadonlyMap<number, readonly number[]>): Audit {
  let lost = 0;
  let duplicated = 0;
  let outOfOrder = 0;
  let unackedPresent = 0;
  let firstProblem: string | null = null;
  for (const writer of writers) {
    const present = found.get(writer.id) ?? [];
    const seen = new Set<number>();
    const acked = new Set(writer.acked);
    for (const [place, n] of present.entries()) {
      if (seen.has(n)) {
        duplicated++;
        firstProblem ??= `writer ${writer.id}: ${n} is there twice`;
      } else if (n < (present[place - 1] ?? -1)) {
        outOfOrder++;
        firstProblem ??= `writer ${writer.id}: ${n} after ${present[place - 1]}`;
      }
      seen.add(n);
      if (!acked.has(n)) unackedPresent++;
    }
    const gone = writer.acked.filter((n) => !seen.has(n));
    lost += gone.length;
    if (gone.length > 0) {
      firstProblem ??= `writer ${writer.id}: lost ${gone.length} of ${writer.acked.length}, first ${gone[0]}`;
    }
  }
  const acked = writers.reduce((sum, writer) => sum + writer.acked.length, 0);
  return { acked, lost, duplicated, outOfOrder, unackedPresent, firstProblem };
}
