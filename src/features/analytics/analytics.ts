/**
 * The analytics stages of all streams. A stage is made when its first event comes, and at a start for streams that had windows open;
 * it is let go when only rollups wait, until one of them is due. Streams without either cost nothing.
 */

import { Admission } from "../../engine/admission.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import type { Engine } from "../../engine/engine.ts";
import type { Commit, StreamHead, StreamProfile } from "../../protocol/stream.ts";
import { AnalyticsStream, type AnalyticsStreamParts, OPEN_ATTRIBUTE } from "./analytics-stream.ts";
import { takeRequest } from "./intake.ts";
import { MAX_OPEN_SERIES, MAX_QUEUED_BYTES } from "./limits.ts";
import type { AnalyticsSettings } from "./settings.ts";
import { StageCounters } from "./stage-counters.ts";

export const ANALYTICS = "analytics";

export interface AnalyticsParts {
  readonly engine: Engine;
  readonly hash: (text: string) => bigint;
  readonly onFault: (operation: string, cause: unknown) => void;
}

const RESUMED_PER_PAGE = 100;
/** A stage that only waits for rollups is let go after this; it comes back with the next event, or when one is due. */
const IDLE_MS = 10 * 60_000;
const LOOK_MS = 60_000;

export class Analytics {
  readonly #engine: Engine;
  readonly #onFault: AnalyticsParts["onFault"];
  readonly #parts: AnalyticsStreamParts;
  readonly #streams = new Map<number, AnalyticsStream>();
  /** Being made. */
  readonly #opening = new Map<number, Promise<AnalyticsStream>>();
  /** Let go until a rollup is due, by stream. */
  readonly #asleep = new Map<number, Deadline>();
  #look: Deadline | null = null;
  #resuming: Promise<void> = Promise.resolve();
  #closed = false;

  constructor({ engine, hash, onFault }: AnalyticsParts) {
    const { share } = engine.budget;
    const queueBudget = new Admission(MAX_QUEUED_BYTES * share);
    const seriesBudget = new Admission(Math.floor(MAX_OPEN_SERIES * share));
    const counters = new StageCounters(engine.metrics);
    this.#engine = engine;
    this.#onFault = onFault;
    this.#parts = { engine, hash, onFault, queueBudget, seriesBudget, counters };
    const { metrics } = engine;
    metrics.gauge("streams_analytics_queued_bytes", "Events that wait to be written.", () => queueBudget.used);
    metrics.gauge("streams_analytics_open_series", "Series in open windows.", () => seriesBudget.used);
    metrics.gauge("streams_analytics_stages", "Streams with an analytics stage.", () => this.#streams.size);
    engine.divert(ANALYTICS, (request) => takeRequest(engine, this, request));
    engine.follow((commit) => this.#onCommit(commit));
    engine.onDrain(() => this.#flushAll());
  }

  /** Takes up the streams that had windows open when the process ended. */
  start(): void {
    this.#resuming = this.#resume().catch((cause: unknown) =>
      this.#onFault("taking up the windows that were open", cause),
    );
  }

  /** The stage of a stream, made when there is none; null when the stream has another profile. @throws CannotRead */
  async open(head: StreamHead): Promise<AnalyticsStream | null> {
    const known = this.#streams.get(head.id);
    if (known !== undefined) return known;
    const settings = settingsOf(head.profile);
    if (settings === null) return null;
    let opening = this.#opening.get(head.id);
    if (opening === undefined) {
      opening = this.#make({ id: head.id, name: head.config.name }, settings);
      this.#opening.set(head.id, opening);
    }
    return opening;
  }

  /** What each stage did since it was asked last: records of the metrics stream. */
  *takeTicks(): Generator<{ type: string; stream: string; counts: Readonly<Record<string, number>> }> {
    for (const stream of this.#streams.values()) {
      const counts = stream.takeTick();
      if (counts !== null) yield { type: "analytics.tick", stream: stream.name, counts };
    }
  }

  /** The stages that hold the most, for operators. */
  describe(
    limit: number,
  ): readonly { readonly stream: string; readonly queued: number; readonly openSeries: number }[] {
    return [...this.#streams.values()]
      .map(({ name, batching, openSeries }) => ({
        stream: name,
        queued: batching.getMetrics().queueDepth,
        openSeries,
      }))
      .sort((left, right) => right.queued + right.openSeries - left.queued - left.openSeries)
      .slice(0, limit);
  }

  /** Writes what is queued. Never rejects. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#look?.cancel();
    for (const sleeper of this.#asleep.values()) sleeper.cancel();
    await this.#resuming;
    await Promise.allSettled(this.#opening.values());
    await Promise.all([...this.#streams.values()].map((stream) => stream.stop("closing")));
    this.#streams.clear();
  }

  /** Nobody waits for an interval any more. */
  #flushAll(): void {
    for (const { name, batching } of this.#streams.values()) {
      batching.flush().catch((cause: unknown) => this.#onFault(`the events of ${name}`, cause));
    }
  }

  async #make(head: { readonly id: number; readonly name: string }, settings: AnalyticsSettings) {
    try {
      const stream = await AnalyticsStream.open(head, settings, this.#parts);
      this.#streams.set(head.id, stream);
      this.#asleep.get(head.id)?.cancel();
      this.#asleep.delete(head.id);
      this.#lookLater();
      // The stream may have changed while its log was read.
      const now = await this.#engine.byId(head.id);
      const settingsNow = settingsOf(now?.profile ?? null);
      if (settingsNow === null) this.#drop(head.id, now === undefined ? "gone" : "closing");
      else stream.configure(settingsNow);
      return stream;
    } finally {
      this.#opening.delete(head.id);
    }
  }

  #lookLater(): void {
    if (this.#look !== null || this.#closed || this.#streams.size === 0) return;
    this.#look = this.#engine.deadlines.after(LOOK_MS, () => {
      this.#look = null;
      for (const stream of this.#streams.values()) if (stream.isIdle(IDLE_MS)) this.#sleep(stream);
      this.#lookLater();
    });
  }

  #sleep(stream: AnalyticsStream): void {
    const { id } = stream;
    const dueMs = stream.dueMs();
    this.#drop(id, "closing");
    if (dueMs === Infinity) return;
    const wake = (): void => {
      this.#asleep.delete(id);
      this.#wake(id).catch((cause: unknown) => this.#onFault("rollups that are due", cause));
    };
    this.#asleep.set(id, this.#engine.deadlines.after(dueMs - this.#engine.clock.nowMs(), wake));
  }

  async #wake(id: number): Promise<void> {
    const head = await this.#engine.byId(id);
    if (head !== undefined && !this.#closed) await this.open(head);
  }

  async #resume(): Promise<void> {
    for (let after = 0; !this.#closed;) {
      const ids = await this.#engine.annotated(OPEN_ATTRIBUTE, after, RESUMED_PER_PAGE);
      for (const id of ids) {
        await this.#wake(id).catch((cause: unknown) => this.#onFault(`resuming the windows of stream ${id}`, cause));
      }
      after = ids.at(-1) ?? 0;
      if (ids.length < RESUMED_PER_PAGE) return;
    }
  }

  #onCommit({ changes }: Commit): void {
    if (this.#streams.size === 0) return;
    for (const { id, deletion, profile } of changes) {
      const stream = this.#streams.get(id);
      if (stream === undefined) continue;
      if (deletion !== undefined) this.#drop(id, "gone");
      else if (profile !== undefined) this.#follow(stream, settingsOf(profile));
    }
  }

  #follow(stream: AnalyticsStream, settings: AnalyticsSettings | null): void {
    if (settings === null) this.#drop(stream.id, "closing");
    else stream.configure(settings);
  }

  #drop(id: number, why: "closing" | "gone"): void {
    const stream = this.#streams.get(id);
    this.#streams.delete(id);
    stream?.stop(why).catch((cause: unknown) => this.#onFault(`ending the analytics stage of ${stream.name}`, cause));
  }
}

/** Null when the profile is another one. */
function settingsOf(profile: StreamProfile | null): AnalyticsSettings | null {
  return profile?.kind === ANALYTICS ? (profile.config as AnalyticsSettings) : null;
}
