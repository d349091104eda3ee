/**
 * How many streams one client may have made. Each stream keeps its maker as an attribute, written with it; how many there are of a
 * client is counted once from the log, then as they are made. Deleted ones count until their rows are freed, about a minute later:
 * at the limit they are counted again, now and then. Bounded: the clients that made streams last are remembered.
 */

import { LRUCache } from "lru-cache";
import type { Engine } from "../engine/engine.ts";
import { nextTurn } from "../kit/turn.ts";
import { MAX_CLIENTS_REMEMBERED, QUOTA_RECOUNT_MS } from "../protocol/limits.ts";
import { OWNER } from "../protocol/stream.ts";
import type { HttpProblem } from "./errors.ts";

interface Count {
  streams: number;
  countedMs: number;
}

/** Streams counted in one turn: about a millisecond. */
const PAGE = 1_000;

export class StreamQuota {
  readonly #engine: Engine;
  readonly #limit: number;
  readonly #counts = new LRUCache<string, Count>({ max: MAX_CLIENTS_REMEMBERED });

  constructor(engine: Engine, limit: number) {
    this.#engine = engine;
    this.#limit = limit;
  }

  /** Takes room for one stream; `giveBack` when it was not made. A problem when the client has as many as it may. */
  async take(client: string): Promise<HttpProblem | null> {
    let count = this.#counts.get(client);
    const nowMs = this.#engine.clock.monotonicMs();
    const isFull = count !== undefined && count.streams >= this.#limit;
    if (count === undefined || (isFull && nowMs - count.countedMs >= QUOTA_RECOUNT_MS)) {
      if (count !== undefined) count.countedMs = nowMs;
      const streams = await this.#countOf(client);
      this.#counts.set(client, (count = { streams, countedMs: nowMs }));
    }
    if (count.streams >= this.#limit) return tooManyStreams;
    count.streams++;
    return null;
  }

  giveBack(client: string): void {
    const count = this.#counts.get(client);
    if (count !== undefined) count.streams--;
  }

  /** At most the limit: more need not be known. */
  async #countOf(client: string): Promise<number> {
    let streams = 0;
    let after = 0;
    for (;;) {
      const ids = await this.#engine.annotated(OWNER + client, after, PAGE);
      streams += ids.length;
      const last = ids.at(-1);
      if (last === undefined || ids.length < PAGE || streams >= this.#limit) return streams;
      after = last;
      await nextTurn();
    }
  }
}

const tooManyStreams: HttpProblem = {
  status: 429,
  code: "too-many-streams",
  message: "this client has made as many streams as it may; delete some, or raise --limit-streams",
  headers: { "Retry-After": "60" },
};
