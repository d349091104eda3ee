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
  readonly countedMs: number;
}

/** Streams counted in one turn: about a millisecond. */
const PAGE = 1_000;

export class StreamQuota {
  readonly #engine: Engine;
  readonly #limit: number;
  /** One count at a time for each client. */
  readonly #counts = new LRUCache<string, Promise<Count>>({ max: MAX_CLIENTS_REMEMBERED });

  constructor(engine: Engine, limit: number) {
    this.#engine = engine;
    this.#limit = limit;
  }

  /** Takes room for one stream; `giveBack` when it was not made. A problem when the client has as many as it may. */
  async take(client: string): Promise<HttpProblem | null> {
    const count = await this.#counted(client);
    if (count.streams >= this.#limit) return tooManyStreams;
    count.streams++;
    return null;
  }

  /** What is known of the client; counted when nothing is, or when it is at its limit and that was long ago. */
  async #counted(client: string): Promise<Count> {
    const nowMs = this.#engine.clock.monotonicMs();
    const known = this.#counts.get(client);
    if (known !== undefined) {
      const count = await known;
      if (count.streams < this.#limit || nowMs - count.countedMs < QUOTA_RECOUNT_MS) return count;
      // Whoever waits here with us finds what the first of us has put there.
      if (this.#counts.get(client) !== known) return this.#counted(client);
    }
    const counting = this.#countOf(client).then((streams): Count => ({ streams, countedMs: nowMs }));
    this.#counts.set(client, counting);
    try {
      return await counting;
    } catch (cause) {
      this.#counts.delete(client);
      throw cause;
    }
  }

  giveBack(client: string): void {
    this.#counts
      .get(client)
      ?.then((count) => count.streams--)
      // It could not be counted: whoever asked has heard so.
      .catch(() => undefined);
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
