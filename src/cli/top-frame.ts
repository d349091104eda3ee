/**
 * One frame of `top`: what two samples of `/metrics` and the ticks that came in between say, as figures for programs and
 * as text for people. Pure: samples, time and the size of the terminal are arguments. Bounds: the board of touch streams
 * holds `MAX_ROWS`. What a server does not tell is null, and `-` in the text.
 */

import { Histogram } from "../kit/histogram.ts";
import type { Family } from "./exposition-parser.ts";

/** The figures of one moment. */
export interface MetricsSample {
  readonly families: ReadonlyMap<string, Family>;
  /** Monotonic: only differences mean something. */
  readonly atMs: number;
}

/** What `--json` prints: the figures, and the touch streams of which the metrics stream tells. */
export interface Frame extends Figures {
  /** Why it cannot be followed; null while it is. */
  readonly metricsStreamError: string | null;
  readonly streams: readonly TouchRow[];
}

/** A frame for which the server gave no figures. */
export interface Outage {
  readonly at: string;
  readonly unreachable: true;
  readonly unreachableSince: string;
  readonly reason: string;
}

/** One touch stream over `ticks` ticks of the server. */
export interface TouchRow {
  readonly stream: string;
  /** When the last of them was. Rows of the same stream and time are the same row, shown again. */
  readonly tickAt: string;
  readonly ticks: number;
  readonly waitersActive: number | null;
  readonly touchesEmitted: number | null;
  readonly waitsTouched: number | null;
  readonly waitsTimedOut: number | null;
  readonly waitsStale: number | null;
  readonly lagRecords: number | null;
  readonly commitLagP99Seconds: number | null;
}

export type Figures = ReturnType<typeof figuresOf>;

/**
 * What happened from `previous` to `current`, and how things stood then; `nowMs` is the time of day. In seconds, bytes, or
 * either of them per second; quantiles are upper bounds of their buckets.
 */
export function figuresOf(previous: MetricsSample, current: MetricsSample, nowMs: number) {
  const span = new Span(previous, current);
  const startSeconds = span.value("process_start_time_seconds");
  const shedding = span.value("streams_memory_shedding");
  return {
    at: new Date(nowMs).toISOString(),
    unreachable: false as const,
    intervalSeconds: span.seconds,
    uptimeSeconds: startSeconds === null ? null : Math.max(0, nowMs / 1000 - startSeconds),
    appendedPerSecond: span.rate("streams_appends_total", "outcome", "appended"),
    duplicatePerSecond: span.rate("streams_appends_total", "outcome", "duplicate"),
    rejectedPerSecond: span.rate("streams_appends_total", "outcome", "rejected"),
    recordsPerSecond: span.rate("streams_appended_records_total"),
    appendedBytesPerSecond: span.rate("streams_appended_bytes_total"),
    readBytesPerSecond: span.rate("streams_read_bytes_total"),
    appendP50Seconds: span.quantile("streams_append_seconds", 0.5),
    appendP99Seconds: span.quantile("streams_append_seconds", 0.99),
    commitP50Seconds: span.quantile("streams_commit_seconds", 0.5),
    commitP99Seconds: span.quantile("streams_commit_seconds", 0.99),
    syncP50Seconds: span.quantile("streams_sync_seconds", 0.5),
    syncP99Seconds: span.quantile("streams_sync_seconds", 0.99),
    commitQueueIntents: span.value("streams_commit_queue_intents"),
    overloadedPerSecond: span.rate("streams_http_refusals_total", "code", "overloaded"),
    diskFullPerSecond: span.rate("streams_http_refusals_total", "code", "disk-full"),
    liveRequests: span.value("streams_live_requests"),
    // Cut off in between, and since the server started.
    slowClients: span.increase("streams_sse_stalled_total"),
    slowClientsTotal: span.value("streams_sse_stalled_total"),
    touchWaiters: span.value("streams_touch_waiters"),
    touchesPerSecond: combine(
      span.rate("streams_touch_table_touches_total"),
      span.rate("streams_touch_fine_touches_total"),
      add,
    ),
    waitsTouchedPerSecond: span.rate("streams_touch_waits_touched_total"),
    waitsTimedOutPerSecond: span.rate("streams_touch_waits_timed_out_total"),
    waitsStalePerSecond: span.rate("streams_touch_waits_stale_total"),
    eventLoopLagP99Seconds: span.quantile("streams_event_loop_lag_seconds", 0.99),
    windowBytes: span.value("streams_window_bytes"),
    walBytes: span.value("streams_wal_bytes"),
    residentBytes: span.value("process_resident_memory_bytes"),
    memoryLimitBytes: span.value("streams_memory_limit_bytes"),
    shedding: shedding === null ? null : shedding > 0,
    // 1 = one core, all the time.
    cpuSecondsPerSecond: span.rate("process_cpu_seconds_total"),
  };
}

/** The time between two samples. A server that was restarted in between has counted from 0. */
class Span {
  readonly seconds: number;
  readonly #before: ReadonlyMap<string, Family>;
  readonly #now: ReadonlyMap<string, Family>;

  constructor(previous: MetricsSample, current: MetricsSample) {
    this.seconds = (current.atMs - previous.atMs) / 1000;
    this.#now = current.families;
    const started = "process_start_time_seconds";
    const restarted = valueOf(previous.families.get(started)) !== valueOf(current.families.get(started));
    this.#before = restarted ? new Map() : previous.families;
  }

  value(name: string): number | null {
    return valueOf(this.#now.get(name));
  }

  increase(name: string, label?: string, value?: string): number | null {
    const now = valueOf(this.#now.get(name), label, value);
    if (now === null) return null;
    const before = valueOf(this.#before.get(name), label, value) ?? 0;
    return now < before ? now : now - before;
  }

  rate(name: string, label?: string, value?: string): number | null {
    const increase = this.increase(name, label, value);
    return increase === null || this.seconds <= 0 ? null : increase / this.seconds;
  }

  /** Of what the histogram saw in between; null when that was nothing. */
  quantile(name: string, q: number): number | null {
    const now = bucketsOf(this.#now.get(name));
    const before = new Map(bucketsOf(this.#before.get(name)));
    const restarted = now.some(([bound, count]) => count < (before.get(bound) ?? 0));
    const histogram = new Histogram(now.map(([bound]) => bound).filter(Number.isFinite));
    let seen = 0;
    for (const [index, [bound, count]] of now.entries()) {
      const upTo = count - (restarted ? 0 : (before.get(bound) ?? 0));
      histogram.counts[index] = upTo - seen;
      seen = upTo;
    }
    histogram.count = seen;
    return seen === 0 ? null : histogram.quantile(q);
  }
}

/** The value of the sample without labels, or with that one. */
function valueOf(family: Family | undefined, label?: string, value?: string): number | null {
  const found = family?.samples.find(({ labels }) => {
    return label === undefined ? labels.size === 0 : labels.size === 1 && labels.get(label) === value;
  });
  return found !== undefined && Number.isFinite(found.value) ? found.value : null;
}

/** Upper bounds with their cumulative counts. */
function bucketsOf(family: Family | undefined): (readonly [bound: number, count: number])[] {
  const buckets = (family?.samples ?? []).filter(({ labels }) => labels.size === 1 && labels.has("le"));
  return buckets.map(({ labels, value }) => {
    const le = labels.get("le");
    return [le === "+Inf" ? Infinity : Number(le), value];
  });
}

function combine(left: number | null, right: number | null, how: (left: number, right: number) => number) {
  return left === null ? right : right === null ? left : how(left, right);
}

function add(left: number, right: number): number {
  return left + right;
}

/** The row of a record of the metrics stream; null when it is no tick. */
export function touchRow(record: unknown): TouchRow | null {
  const [type, stream, tickAt] = ["type", "stream", "ts"].map((name) => member(record, name));
  if (type !== "live.tick" || typeof stream !== "string" || typeof tickAt !== "string") return null;
  const figure = (group: string, name: string): number | null => {
    const value = member(member(record, group), name);
    return typeof value === "number" ? value : null;
  };
  const commitLagMs = figure("processor", "commitLagMsP99");
  return {
    stream,
    tickAt,
    ticks: 1,
    waitersActive: figure("wait", "activeWaiters"),
    touchesEmitted: figure("touch", "touchesEmitted"),
    waitsTouched: figure("wait", "touched"),
    waitsTimedOut: figure("wait", "timeout"),
    waitsStale: figure("wait", "stale"),
    lagRecords: figure("processor", "lagSourceOffsets"),
    commitLagP99Seconds: commitLagMs === null ? null : commitLagMs / 1000,
  };
}

function member(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

/** Streams remembered between two frames; the one that was silent longest goes first. */
const MAX_ROWS = 1_000;
const SHOWN_ROWS = 10;

interface Entry {
  readonly row: TouchRow;
  readonly atMs: number;
  readonly shown: boolean;
}

/** The touch streams of the last ticks. Ticks between two frames add up; a stream without a new one keeps its row a while. */
export class TouchBoard {
  readonly #entries = new Map<string, Entry>();
  readonly #keepMs: number;

  constructor(keepMs: number) {
    this.#keepMs = keepMs;
  }

  add(row: TouchRow, nowMs: number): void {
    const entry = this.#entries.get(row.stream);
    const sum = entry === undefined || entry.shown ? row : together(entry.row, row);
    // Anew, so that the order of the map is that of the last ticks.
    this.#entries.delete(row.stream);
    this.#entries.set(row.stream, { row: sum, atMs: nowMs, shown: false });
    const [oldest] = this.#entries.keys();
    if (this.#entries.size > MAX_ROWS && oldest !== undefined) this.#entries.delete(oldest);
  }

  /** For one frame: the busiest first. */
  take(nowMs: number): TouchRow[] {
    for (const [stream, entry] of this.#entries) {
      if (nowMs - entry.atMs > this.#keepMs) this.#entries.delete(stream);
      else this.#entries.set(stream, { ...entry, shown: true });
    }
    const rows = [...this.#entries.values()].map(({ row }) => row);
    return rows.sort(byActivity).slice(0, SHOWN_ROWS);
  }
}

function together(earlier: TouchRow, later: TouchRow): TouchRow {
  return {
    ...later,
    ticks: earlier.ticks + later.ticks,
    touchesEmitted: combine(earlier.touchesEmitted, later.touchesEmitted, add),
    waitsTouched: combine(earlier.waitsTouched, later.waitsTouched, add),
    waitsTimedOut: combine(earlier.waitsTimedOut, later.waitsTimedOut, add),
    waitsStale: combine(earlier.waitsStale, later.waitsStale, add),
    lagRecords: combine(earlier.lagRecords, later.lagRecords, Math.max),
    commitLagP99Seconds: combine(earlier.commitLagP99Seconds, later.commitLagP99Seconds, Math.max),
  };
}

function byActivity(left: TouchRow, right: TouchRow): number {
  const busier =
    (right.touchesEmitted ?? 0) - (left.touchesEmitted ?? 0) || (right.waitersActive ?? 0) - (left.waitersActive ?? 0);
  return busier || (left.stream < right.stream ? -1 : 1);
}

/** How much of a terminal there is. */
export interface Size {
  readonly columns: number;
  readonly rows: number;
}

/** For a pipe or a file, which have no edge. */
export const UNLIMITED: Size = { columns: Infinity, rows: Infinity };

/** The frame as lines that fit; `server` is its URL. */
export function renderFrame(frame: Frame | Outage, server: string, size: Size): string[] {
  const lines = frame.unreachable
    ? [`${server}   ${frame.at}`, "", outageLine(frame)]
    : [
        `${server}   up ${age(frame.uptimeSeconds)}   ${frame.at}`,
        "",
        ...workLines(frame),
        ...stateLines(frame),
        "",
        ...streamLines(frame, size),
      ];
  return fitLines(lines, size);
}

/** Never more rows, nor a wider one, than there is room for. */
export function fitLines(lines: readonly string[], { columns, rows }: Size): string[] {
  return lines.slice(0, rows).map((line) => cut(printable(line), columns));
}

function outageLine({ at, unreachableSince, reason }: Outage): string {
  const forSeconds = (Date.parse(at) - Date.parse(unreachableSince)) / 1000;
  return `unreachable since ${unreachableSince} (${age(forSeconds)}): ${reason}`;
}

const LABEL_COLUMNS = 11;
const CELL_COLUMNS = 23;

function line(label: string, cells: Readonly<Record<string, string>>): string {
  const texts = Object.entries(cells).map(([name, value]) => `${name} ${value}`.padEnd(CELL_COLUMNS));
  return (label.padEnd(LABEL_COLUMNS) + texts.join("")).trimEnd();
}

function latencies(p50: number | null, p99: number | null) {
  return { p50: seconds(p50), p99: seconds(p99) };
}

/** What the server did in the interval. */
function workLines(frame: Frame): string[] {
  const { appendedPerSecond, duplicatePerSecond, rejectedPerSecond } = frame;
  const { recordsPerSecond, appendedBytesPerSecond, readBytesPerSecond } = frame;
  return [
    line("appends/s", {
      appended: count(appendedPerSecond),
      duplicate: count(duplicatePerSecond),
      rejected: count(rejectedPerSecond),
    }),
    line("flow/s", {
      records: count(recordsPerSecond),
      appended: bytes(appendedBytesPerSecond),
      read: bytes(readBytesPerSecond),
    }),
    line("append", latencies(frame.appendP50Seconds, frame.appendP99Seconds)),
    line("commit", {
      ...latencies(frame.commitP50Seconds, frame.commitP99Seconds),
      queue: count(frame.commitQueueIntents),
    }),
    line("sync", latencies(frame.syncP50Seconds, frame.syncP99Seconds)),
    line("refused/s", { overloaded: count(frame.overloadedPerSecond), "disk full": count(frame.diskFullPerSecond) }),
  ];
}

/** Who waits, and what the process holds. */
function stateLines(frame: Frame): string[] {
  const { memoryLimitBytes, shedding, cpuSecondsPerSecond } = frame;
  return [
    line("clients", {
      live: count(frame.liveRequests),
      slow: `${count(frame.slowClients)}, ever ${count(frame.slowClientsTotal)}`,
    }),
    line("touch", { waiters: count(frame.touchWaiters), "touches/s": count(frame.touchesPerSecond) }),
    line("waits/s", {
      touched: count(frame.waitsTouchedPerSecond),
      "timed out": count(frame.waitsTimedOutPerSecond),
      stale: count(frame.waitsStalePerSecond),
    }),
    line("memory", {
      RSS: bytes(frame.residentBytes),
      ...(memoryLimitBytes === null ? {} : { limit: bytes(memoryLimitBytes) }),
      ...(shedding === null ? {} : { shedding: shedding ? "YES" : "no" }),
    }),
    line("log", { window: bytes(frame.windowBytes), WAL: bytes(frame.walBytes) }),
    line("process", {
      CPU: cpuSecondsPerSecond === null ? UNKNOWN : `${short(cpuSecondsPerSecond * 100)} %`,
      "loop lag p99": seconds(frame.eventLoopLagP99Seconds),
    }),
  ];
}

const STREAM_COLUMNS = ["waiters", "touches", "touched", "timeout", "stale", "lag", "commit p99"].map((heading) => {
  return { heading, width: Math.max(8, heading.length + 2) };
});
const NUMBERS_WIDTH = STREAM_COLUMNS.reduce((sum, { width }) => sum + width, 0);
const MIN_NAME_WIDTH = 8;

/** The table of touch streams, or why there is none. What adds up is told per tick, so that no row jumps when two ticks meet. */
function streamLines({ metricsStreamError, streams }: Frame, { columns }: Size): string[] {
  if (metricsStreamError !== null && streams.length === 0) return [`no touch streams: ${metricsStreamError}`];
  if (streams.length === 0) return ["no touch stream did anything lately"];
  const notes = metricsStreamError === null ? [] : [`touch streams not up to date: ${metricsStreamError}`];
  const longest = Math.max(...streams.map(({ stream }) => Bun.stringWidth(printable(stream))), "per tick".length);
  const width = Math.min(longest, Math.max(MIN_NAME_WIDTH, columns - NUMBERS_WIDTH));
  const tableLine = (name: string, cells: readonly string[]): string => {
    const padded = STREAM_COLUMNS.map((column, index) => (cells[index] ?? "").padStart(column.width));
    return name + " ".repeat(width - Bun.stringWidth(name)) + padded.join("");
  };
  const headings = STREAM_COLUMNS.map(({ heading }) => heading);
  const rows = streams.map((row) => tableLine(cut(printable(row.stream), width, "front"), streamCells(row)));
  return [...notes, tableLine("per tick", headings), ...rows];
}

function streamCells(row: TouchRow): string[] {
  const sums = [row.touchesEmitted, row.waitsTouched, row.waitsTimedOut, row.waitsStale];
  const perTick = sums.map((sum) => count(sum === null ? null : sum / row.ticks));
  return [count(row.waitersActive), ...perTick, count(row.lagRecords), seconds(row.commitLagP99Seconds)];
}

const UNKNOWN = "-";

function count(value: number | null): string {
  return value === null ? UNKNOWN : scaled(value, 1000, ["", "k", "M", "G", "T"]);
}

function bytes(value: number | null): string {
  return value === null ? UNKNOWN : scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
}

function seconds(value: number | null): string {
  return value === null ? UNKNOWN : scaled(value * 1e6, 1000, [" µs", " ms", " s"]);
}

function age(value: number | null): string {
  if (value === null) return UNKNOWN;
  const whole = Math.floor(value);
  const parts = [Math.floor(whole / 86_400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  const first = Math.min(
    parts.findIndex((part) => part > 0),
    2,
  );
  const units = ["d", "h", "m", "s"];
  return first === -1 ? "0s" : `${parts[first]}${units[first]} ${parts[first + 1]}${units[first + 1]}`;
}

/** In the largest unit that leaves a whole part. */
function scaled(value: number, step: number, units: readonly string[]): string {
  let unit = 0;
  let rest = value;
  while (rest >= step && unit < units.length - 1) {
    rest /= step;
    unit++;
  }
  return short(rest) + (units[unit] ?? "");
}

/** Three digits are all that an eye takes from a moving figure. */
function short(value: number): string {
  return String(value >= 1000 ? Math.round(value) : Number(value.toPrecision(3)));
}

/** Names and reasons come from elsewhere; in a terminal, control characters would be commands. */
function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, "\u{fffd}");
}

/** At most so many columns of a terminal, in which some characters take two. Names differ at their end: they lose the front. */
function cut(text: string, columns: number, lose: "front" | "end" = "end"): string {
  if (Bun.stringWidth(text) <= columns) return text;
  const whole = Array.from(new Intl.Segmenter().segment(text), ({ segment }) => segment);
  const characters = lose === "end" ? whole : whole.reverse();
  let width = 0;
  const until = characters.findIndex((character) => (width += Bun.stringWidth(character)) >= columns);
  const kept = characters.slice(0, until);
  return lose === "end" ? `${kept.join("")}…` : `…${kept.reverse().join("")}`;
}
