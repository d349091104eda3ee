/**
 * One level of windows: merges what its source tells into spans of its own, and writes a span into its stream once it has expired. The
 * levels form a chain: batches → windows → hours → days → weeks, each the source of the next. Exactly once: with each append goes
 * the checkpoint of its stage, so a restart reads from its source what was open, and nothing of what was told.
 * A part that comes for a span that was told is told as one more part of it; readers merge.
 */

import type { Engine } from "../../engine/engine.ts";
import { nextTurn, Pace } from "../../kit/turn.ts";
import type { StreamHead } from "../../protocol/stream.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { resultOf } from "./aggregation-result.ts";
import { type DerivedStream, type Place, storedRecords } from "./derived-stream.ts";
import { patternsOf, type SeenPattern } from "./pattern-watch.ts";
import { dueMsOf, type OpenSpan, type PartialWindow, type SeriesBudget, type Span, WindowSet } from "./window-set.ts";
import { type Checkpoint, decodeWindow, encodeCheckpoint, encodeWindow, patternRecord } from "./window-record.ts";
import { WindowStats } from "./window-stats.ts";

/** What a stage is told of the stream it derives from. */
export interface StageSource {
  /** Parts of the record at this position, or none. */
  readonly decode: (text: string) => readonly PartialWindow[];
  /** Spans of later records begin at this time at the earliest. */
  readonly watermarkMs: (nowMs: number) => number;
}

export interface StageParts {
  readonly engine: Engine;
  readonly target: DerivedStream;
  /** Name of the attribute that holds its checkpoint. */
  readonly attribute: string;
  readonly source: StageSource;
  /** The span of this stage that a part of its source belongs to. */
  readonly spanOf: (part: Span) => Span;
  /** How long a span stays open after its end. */
  readonly delayMs: () => number;
  readonly percentiles: () => readonly number[];
  /** Values held as they are, per window. */
  readonly maxValues: () => number;
  readonly budget: SeriesBudget;
  /** Told of the windows of a span that closes for the first time, before they are written; null on rollups. */
  readonly observe: ((windows: readonly PartialWindow[]) => readonly SeenPattern[]) | null;
  /** Told of what was written, in the turn it became durable; `from` is the place of the first. */
  readonly onWritten: (windows: readonly PartialWindow[], from: Place, checkpoint: Checkpoint) => void;
}

/** Values held in one append, about; past it windows of many values are written as sketches. */
const MAX_VALUES_PER_APPEND = 200_000;
const FEW_VALUES = 100;

interface ToldSpan extends Span {
  readonly through: number;
}

export class WindowStage {
  readonly #parts: StageParts;
  readonly #open: WindowSet;
  readonly #told = new Map<string, ToldSpan>();
  /** On their way into the stream. */
  #writing: readonly PartialWindow[] = [];
  /** Of the next record of the source. */
  #through = 0;
  #sourceId = 0;
  #watermarkMs = 0;
  /** Of the last append. */
  #number = 0;
  /** What was seen in spans that are not written yet: they are looked at once. */
  readonly #seen = new Map<string, readonly SeenPattern[]>();
  /** End of the latest span that was observed: patterns are of the order of time. */
  #observedMs = -Infinity;
  /** Behind the last record that this stage has written. */
  #writtenTo = 0;

  constructor(parts: StageParts) {
    this.#parts = parts;
    this.#open = new WindowSet(parts.budget, parts.maxValues());
  }

  /** The settings changed. */
  configure(): void {
    this.#open.configure(this.#parts.maxValues());
  }

  get target(): DerivedStream {
    return this.#parts.target;
  }

  /** Series in open windows. */
  get size(): number {
    return this.#open.size + this.#writing.length;
  }

  /** What its stream does not hold, and where that stream ended when this was so. */
  unwritten(): { readonly windows: readonly PartialWindow[]; readonly writtenTo: number } {
    const open = [...this.#open.spans].flatMap(({ windows }) => [...windows.values()]);
    return { windows: [...open, ...this.#writing], writtenTo: this.#writtenTo };
  }

  /** Spans of later records of this stage begin at this time at the earliest. */
  get watermarkMs(): number {
    return this.#watermarkMs;
  }

  /** Merges the parts of one durable record of the source, at this place in this incarnation of it. */
  merge(parts: readonly PartialWindow[], sourceId: number, seq: number): void {
    this.#follow(sourceId);
    this.#through = Math.max(this.#through, seq + 1);
    const nowMs = this.#parts.engine.clock.nowMs();
    for (const part of parts) this.#open.merge({ ...part, ...this.#parts.spanOf(part) }, nowMs, seq);
  }

  /** When the next span expires; Infinity when none is open. */
  dueMs(): number {
    return this.#open.dueMs(this.#parts.delayMs());
  }

  /** Writes the spans that have expired. Throws when that fails: then they are open as before. */
  async closeExpired(): Promise<void> {
    const { engine, observe, onWritten, source, target } = this.#parts;
    const nowMs = engine.clock.nowMs();
    const spans = this.#open.take((span) => dueMsOf(span, this.#parts.delayMs()) <= nowMs);
    if (spans.length === 0) return;
    const windows = spans.flatMap(({ windows: closed }) => [...closed.values()]);
    this.#writing = windows;
    try {
      const seen = spans.flatMap((span) => (observe === null ? [] : this.#observe(span, observe)));
      const checkpoint = this.#checkpoint(spans, seen, this.#nextWatermark(source.watermarkMs(nowMs)));
      const texts = await this.#encode(windows, seen, checkpoint.watermarkMs);
      const from = await target.append(
        texts,
        windows.map(({ series }) => keyOf(series.type, series.name)),
        new Map([[this.#parts.attribute, encodeCheckpoint(checkpoint)]]),
      );
      this.#told.clear();
      for (const told of checkpoint.told) this.#told.set(keyOfSpan(told), told);
      for (const span of spans) this.#seen.delete(keyOfSpan(span));
      this.#number = checkpoint.number;
      this.#watermarkMs = checkpoint.watermarkMs;
      this.#writtenTo = from.seq + texts.length;
      this.#writing = [];
      onWritten(windows, from, checkpoint);
    } catch (cause) {
      this.#writing = [];
      for (const span of spans) {
        for (const part of span.windows.values()) this.#open.merge(part, span.openedMs, span.firstSource);
      }
      throw cause;
    }
  }

  /** Goes on from its last checkpoint. A source that is not there (null) has nothing; `observed` is given the last windows that were told. */
  async recover(
    sourceId: number | null,
    checkpoint: Checkpoint | null,
    observed: (windows: readonly PartialWindow[]) => void,
  ): Promise<void> {
    const { engine, source, target } = this.#parts;
    this.#number = checkpoint?.number ?? 0;
    this.#watermarkMs = checkpoint?.watermarkMs ?? 0;
    const written = await target.find();
    this.#writtenTo = written?.head.next ?? 0;
    if (written !== null) await this.#warm(written.head, written.from, observed);
    const head = sourceId === null ? undefined : await engine.byId(sourceId);
    if (head === undefined || sourceId === null) return;
    this.#follow(sourceId);
    const isSame = checkpoint?.source === sourceId;
    if (isSame) for (const told of checkpoint.told) this.#told.set(keyOfSpan(told), told);
    const from = Math.max(isSame ? checkpoint.resume : 0, await engine.reader.earliest(head));
    const to = head.next;
    for await (const { from: first, texts } of storedRecords(engine, head, { kind: "seq", seq: from }, to)) {
      for (const [at, text] of texts.entries()) {
        const seq = first + at;
        const untold = source.decode(text).filter((part) => !this.#isTold(part, seq));
        if (untold.length > 0) this.merge(untold, sourceId, seq);
      }
      await nextTurn();
    }
    this.#through = to;
  }

  /** Forgets what is open: the log has it. */
  clear(): void {
    this.#open.clear();
  }

  /** A source that was deleted and made anew counts from 0 again. */
  #follow(sourceId: number): void {
    if (this.#sourceId === sourceId) return;
    this.#sourceId = sourceId;
    this.#through = 0;
    this.#told.clear();
  }

  #isTold(part: PartialWindow, seq: number): boolean {
    return seq < (this.#told.get(keyOfSpan(this.#parts.spanOf(part)))?.through ?? 0);
  }

  /** Detectors of patterns know what is usual from what was told last. */
  async #warm(head: StreamHead, from: number, observed: (windows: readonly PartialWindow[]) => void): Promise<void> {
    const { engine, observe } = this.#parts;
    if (observe === null) return;
    const start = { kind: "seq", seq: Math.max(from, head.next - WARM_RECORDS) } as const;
    let span: PartialWindow[] = [];
    for await (const { texts } of storedRecords(engine, head, start, head.next)) {
      for (const text of texts) {
        const part = decodeWindow(JSON.parse(text))?.part;
        // A later part of a window that was seen before.
        if (part === undefined || part.endMs < this.#observedMs) continue;
        if (part.endMs > this.#observedMs && span.length > 0) {
          observed(span);
          span = [];
        }
        this.#observedMs = part.endMs;
        span.push(part);
      }
      await nextTurn();
    }
    if (span.length > 0) observed(span);
  }

  #observe(span: OpenSpan, observe: NonNullable<StageParts["observe"]>): readonly SeenPattern[] {
    const key = keyOfSpan(span);
    const known = this.#seen.get(key);
    if (known !== undefined) return known;
    // A correction of what was seen before is no new window.
    if (span.endMs <= this.#observedMs) return [];
    this.#observedMs = span.endMs;
    const seen = observe([...span.windows.values()]);
    this.#seen.set(key, seen);
    return seen;
  }

  #nextWatermark(sourceMs: number): number {
    let earliestMs = this.#parts.spanOf({ startMs: sourceMs, endMs: sourceMs }).startMs;
    for (const { startMs } of this.#open.spans) earliestMs = Math.min(earliestMs, startMs);
    return Math.max(this.#watermarkMs, earliestMs);
  }

  #checkpoint(closing: readonly Span[], seen: readonly SeenPattern[], watermarkMs: number): Checkpoint {
    const through = this.#through;
    const resume = this.#open.firstSource() ?? through;
    const told = new Map(this.#told);
    for (const { startMs, endMs } of closing) {
      const span = { startMs, endMs, through };
      told.set(keyOfSpan(span), span);
    }
    const [number, source] = [this.#number + 1, this.#sourceId];
    const patterns = seen.slice(0, MAX_NOTED_PATTERNS).map(patternRecord);
    const after = [...told.values()].filter((span) => span.through > resume);
    return { number, source, through, resume, told: after, watermarkMs, patterns };
  }

  /** In turns of their own. */
  async #encode(
    windows: readonly PartialWindow[],
    seen: readonly SeenPattern[],
    watermarkMs: number,
  ): Promise<string[]> {
    const { clock } = this.#parts.engine;
    const percentiles = this.#parts.percentiles();
    const held = windows.reduce((sum, { stats }) => sum + stats.observed, 0);
    const texts: string[] = [];
    const pace = new Pace(clock, BACKGROUND_TURN_MS);
    for (const part of windows) {
      const window = resultOf(part, percentiles, patternsOf(seen, part), false);
      const stats =
        held > MAX_VALUES_PER_APPEND && part.stats.observed > FEW_VALUES ? sketched(part.stats) : part.stats;
      texts.push(encodeWindow(window, stats, watermarkMs));
      if (pace.isOver) await pace.next();
    }
    return texts;
  }
}

/** Patterns of one write that survive a crash before they are told: 100 at 300 B. */
const MAX_NOTED_PATTERNS = 100;
/** Windows that are read at a start to know what is usual: 12 series for 40 windows. */
const WARM_RECORDS = 500;

/** The key that records of a series are appended under. */
export function keyOf(type: string, name: string): string {
  return `${type}.${name}`;
}

function keyOfSpan({ startMs, endMs }: Span): string {
  return `${startMs}-${endMs}`;
}

function sketched(stats: WindowStats): WindowStats {
  const compact = new WindowStats(0);
  compact.merge(stats);
  return compact;
}
