/** What the HTTP face counts: answers by class, and refusals by their code. */

import { present } from "../kit/assert.ts";
import type { Counter, LabelledCounter, Metrics } from "../kit/metrics.ts";

const CLASSES = ["1xx", "2xx", "3xx", "4xx", "5xx"] as const;
/** Named at once, so that backpressure is a figure before it happens. */
const BACKPRESSURE = ["overloaded", "disk-full", "storage-full", "closing"] as const;

export class HttpCounters {
  readonly #responses: readonly Counter[];
  readonly #refusals: LabelledCounter;
  readonly stalled: Counter;

  constructor(metrics: Metrics) {
    const responses = metrics.labelled("streams_http_responses_total", "Answers by class of status.", "class", CLASSES);
    this.#responses = CLASSES.map((name) => responses.of(name));
    this.#refusals = metrics.labelled(
      "streams_http_refusals_total",
      "Requests refused, by error code; `overloaded` is backpressure.",
      "code",
      BACKPRESSURE,
    );
    this.stalled = metrics.counter("streams_sse_stalled_total", "SSE connections cut off because nobody read them.");
  }

  answered(status: number): void {
    present(this.#responses[Math.floor(status / 100) - 1], "a status from 100 to 599").add();
  }

  refused(code: string): void {
    this.#refusals.of(code).add();
  }
}
