/**
 * What `bench` shows: a row per workload for people, an object per workload for programs, and how far it is on stderr while a person
 * looks on. The rendering is pure; `ProgressLine` owns the line on stderr, and its timer until `end`.
 */

import type { Outcome, Workload } from "./bench-workloads.ts";

/** One workload, measured. */
export interface Measured extends Outcome {
  readonly workload: string;
  readonly about: string;
  readonly unit: Workload["unit"];
  /** What was not answered with 2xx, by status. */
  readonly refused: Readonly<Record<string, number>>;
  /** Shares of a core while it ran; null = the server does not tell. */
  readonly clientCpu: number;
  readonly serverCpu: number | null;
}

/** What an acknowledged append survives, by the server's own word for it. */
export const DURABILITY_MEANS: Readonly<Record<string, string>> = {
  fsync: "an acknowledged append survives a power cut",
  os: "an acknowledged append survives a crash of the server, not a power cut",
  none: "an acknowledged append does not survive the server",
  unknown: "the server does not tell what an acknowledged append survives",
};

const BUSY = 0.8;

/** Then the figures are those of this program: it had no time left, and the server had. */
export function clientWasTheLimit({ clientCpu, serverCpu }: Pick<Measured, "clientCpu" | "serverCpu">): boolean {
  return clientCpu > BUSY && (serverCpu ?? 0) < BUSY;
}

/** For programs. What is not known is null. */
export function measuredObject(measured: Measured, durability: string): Readonly<Record<string, unknown>> {
  const { workload, about, unit, count, seconds, missing, refused, clientCpu, serverCpu } = measured;
  return {
    kind: "workload",
    workload,
    about,
    unit,
    count,
    perSecond: rounded(rateOf(measured), 1),
    megabytesPerSecond: rounded(megabytesOf(measured), 2),
    p50Ms: rounded(measured.p50Ms, 3),
    p99Ms: rounded(measured.p99Ms, 3),
    missing,
    refused,
    seconds: rounded(seconds, 3),
    clientCpu: rounded(clientCpu, 2),
    serverCpu: serverCpu === null ? null : rounded(serverCpu, 2),
    clientWasTheLimit: clientWasTheLimit(measured),
    durability,
  };
}

/** NaN when there was nothing to count: that is no rate. */
function rateOf({ count, seconds }: Outcome): number {
  return count === 0 ? NaN : count / seconds;
}

function megabytesOf({ count, bytes, seconds }: Outcome): number {
  return count === 0 || bytes === null ? NaN : bytes / 1e6 / seconds;
}

function rounded(value: number, digits: number): number | null {
  return Number.isFinite(value) ? Number(value.toFixed(digits)) : null;
}

const COLUMNS: readonly { readonly title: string; readonly width: number; readonly cell: (row: Measured) => string }[] =
  [
    { title: "workload", width: -15, cell: ({ workload }) => workload },
    { title: "", width: -43, cell: ({ about }) => about },
    { title: "rate", width: 20, cell: (row) => perSecond(rateOf(row), row.unit) },
    { title: "MB/s", width: 9, cell: (row) => grouped(megabytesOf(row)) },
    { title: "p50 ms", width: 9, cell: ({ p50Ms }) => grouped(p50Ms) },
    { title: "p99 ms", width: 9, cell: ({ p99Ms }) => grouped(p99Ms) },
  ];

export function tableHead(): string {
  return line(COLUMNS.map(({ title, width }) => padded(title, width)));
}

export function tableRow(row: Measured): string {
  return line(COLUMNS.map(({ cell, width }) => padded(cell(row), width)));
}

/** What a row alone would hide. */
export function rowNotes(row: Measured, said: readonly string[]): readonly string[] {
  const refusals = Object.entries(row.refused).map(([status, count]) => `${status} ${grouped(count)} times`);
  return [
    ...(refusals.length === 0 ? [] : [`not counted: ${refusals.join(", ")} (${said.join("; ")})`]),
    ...(row.missing === null || row.missing === 0 ? [] : [`missing: ${grouped(row.missing)} deliveries did not come`]),
    ...(clientWasTheLimit(row) ? [`the client was the limit: ${shares(row)}`] : []),
  ].map((note) => `  ${note}`);
}

function shares({ clientCpu, serverCpu }: Measured): string {
  const server = serverCpu === null ? "" : `, the server ${Math.round(serverCpu * 100)} %`;
  return `it used ${Math.round(clientCpu * 100)} % of a core${server}`;
}

export function perSecond(rate: number, unit: string): string {
  return Number.isFinite(rate) ? `${grouped(rate)} ${unit}/s` : "-";
}

/** Three digits that count, and thousands set apart. */
function grouped(value: number): string {
  if (!Number.isFinite(value)) return "-";
  const digits = Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** To the right when the width is negative. */
function padded(text: string, width: number): string {
  return width < 0 ? text.padEnd(-width) : text.padStart(width);
}

function line(cells: readonly string[]): string {
  return cells.join(" ").trimEnd();
}

export interface Progress {
  readonly number: number;
  readonly of: number;
  readonly workload: string;
  /** 0 to 1; null while it prepares. */
  readonly share: number | null;
  readonly rate: string;
}

const BAR_CHARS = 24;

export function progressText({ number, of, workload, share, rate }: Progress, columns: number): string {
  const full = Math.round(Math.min(1, share ?? 0) * BAR_CHARS);
  const bar = `[${"#".repeat(full)}${".".repeat(BAR_CHARS - full)}]`;
  return `${number}/${of} ${workload.padEnd(14)} ${bar} ${share === null ? "preparing" : rate}`.slice(0, columns - 1);
}

const REDRAW_MS = 100;
const CLEAR_LINE = "\r\u001b[K";

/** One line on a terminal, redrawn; nothing where nobody looks. */
export class ProgressLine {
  readonly #terminal = process.stderr;
  #timer: ReturnType<typeof setInterval> | null = null;

  show(current: () => Progress): void {
    this.end();
    if (!this.#terminal.isTTY) return;
    const draw = (): void => {
      this.#terminal.write(`${CLEAR_LINE}${progressText(current(), this.#terminal.columns || 80)}`);
    };
    draw();
    this.#timer = setInterval(draw, REDRAW_MS);
  }

  end(): void {
    if (this.#timer === null) return;
    clearInterval(this.#timer);
    this.#timer = null;
    this.#terminal.write(CLEAR_LINE);
  }
}
