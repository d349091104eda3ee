/** The tables of what a server stores and what it costs at rest: large bodies, random reads, starts, growth. Pure. */

import { clientWarnings, tableIfAny, type Column } from "./figures-table.ts";
import type { GrowthFigures } from "./growth-run.ts";
import type { IdleServerFigures } from "./idle-run.ts";
import type { LargeFigures } from "./large-run.ts";
import type { Measurement } from "./measurement.ts";
import type { RandomReadFigures } from "./random-read-run.ts";

const LARGE_COLUMNS: readonly Column<LargeFigures>[] = [
  ["form", (rows) => rows.form],
  ["MB/s", (rows) => rows.mid((one) => one.mbPerSecond)],
  ["ours ÷ this", (rows) => rows.ratio((one) => one.mbPerSecond)],
  ["p50 ms", (rows) => rows.mid((one) => one.p50Ms, 1)],
  ["p99 ms", (rows) => rows.mid((one) => one.p99Ms, 1)],
  ["CPU ms/MB", (rows) => rows.mid((one) => one.cpuMsPerMb, 2)],
  ["peak RSS MB", (rows) => rows.mid((one) => one.peakRssMb)],
  ["disk B/B", (rows) => rows.mid((one) => one.diskBytesPerByte, 2)],
  ["for s", (rows) => rows.mid((one) => one.seconds, 1)],
  ["not 2xx", (rows) => rows.counts((one) => [one.refused])],
  ["missing", (rows) => rows.sum((one) => one.missing ?? Number.NaN)],
  ["read back failed", (rows) => rows.reason((one) => one.readBackFailure)],
  ["client CPU %", (rows) => rows.mid((one) => one.clientCpu * 100)],
];

const RANDOM_READ_COLUMNS: readonly Column<RandomReadFigures>[] = [
  ["reads", (rows) => rows.mid((one) => one.reads)],
  ["first byte p50 ms", (rows) => rows.mid((one) => one.p50Ms, 2)],
  ["p99", (rows) => rows.mid((one) => one.p99Ms, 2)],
  ["max", (rows) => rows.mid((one) => one.maxMs, 2)],
  ["ours ÷ this (p50)", (rows) => rows.ratio((one) => one.p50Ms)],
  ["CPU ms/read", (rows) => rows.mid((one) => one.cpuMsPerRead, 2)],
  ["answer kB", (rows) => rows.mid((one) => one.answerKb)],
  ["answers cut off", (rows) => rows.sum((one) => one.cut)],
];

const IDLE_SERVER_COLUMNS: readonly Column<IdleServerFigures>[] = [
  ["empty: start p50 ms", (rows) => rows.mid((one) => one.emptyP50Ms)],
  ["max", (rows) => rows.mid((one) => one.emptyMaxMs)],
  ["kept: start p50 ms", (rows) => rows.mid((one) => one.keptP50Ms)],
  ["max", (rows) => rows.mid((one) => one.keptMaxMs)],
  ["ours ÷ this (kept)", (rows) => rows.ratio((one) => one.keptP50Ms)],
  ["RSS MB", (rows) => rows.mid((one) => one.rssMb)],
  ["idle CPU %", (rows) => rows.mid((one) => one.idleCpu * 100, 2)],
];

const APPEND_GROWTH_COLUMNS: readonly Column<GrowthFigures>[] = [
  ["appends/s empty", (rows) => rows.mid((one) => one.appendsEmpty)],
  ["beside streams", (rows) => rows.mid((one) => one.appendsBesideStreams)],
  ["of empty %", (rows) => rows.mid((one) => percent(one.appendsBesideStreams, one.appendsEmpty))],
  ["beside bytes", (rows) => rows.mid((one) => one.appendsFilled ?? Number.NaN)],
  ["of empty %", (rows) => rows.mid((one) => percent(one.appendsFilled, one.appendsEmpty))],
  ["missing", (rows) => rows.sum((one) => one.missing)],
  ["creates/s", (rows) => rows.mid((one) => one.createsPerSecond)],
  ["ours ÷ this (creates)", (rows) => rows.ratio((one) => one.createsPerSecond)],
  ["fill MB/s", (rows) => rows.mid((one) => one.fillMbPerSecond ?? Number.NaN)],
];

const REST_GROWTH_COLUMNS: readonly Column<GrowthFigures>[] = [
  ["start after kill ms", (rows) => rows.mid((one) => one.killedStartMs)],
  ["after SIGTERM ms", (rows) => rows.mid((one) => one.endedStartMs)],
  ["ours ÷ this", (rows) => rows.ratio((one) => one.endedStartMs)],
  ["RSS MB fresh", (rows) => rows.mid((one) => one.rssFreshMb)],
  ["at the end", (rows) => rows.mid((one) => one.rssEndMb)],
  ["after restart", (rows) => rows.mid((one) => one.rssRestartedMb)],
  ["bytes/stream made", (rows) => rows.mid((one) => bytesEach(one, one.rssAfterStreamsMb - one.rssBeforeStreamsMb))],
  ["bytes/stream after restart", (rows) => rows.mid((one) => bytesEach(one, one.rssRestartedMb - one.rssFreshMb))],
  ["read p50 ms", (rows) => rows.mid((one) => one.readP50Ms, 2)],
  ["p99", (rows) => rows.mid((one) => one.readP99Ms, 2)],
];

function percent(part: number | null, whole: number): number {
  return part === null ? Number.NaN : (part * 100) / whole;
}

function bytesEach({ streams }: GrowthFigures, megabytes: number): number {
  return (megabytes * 1e6) / streams;
}

export function storeTables(all: readonly Measurement[]): string[] {
  const large = all.filter((one) => one.kind === "large");
  const reads = all.filter((one) => one.kind === "random-read");
  const idle = all.filter((one) => one.kind === "idle-server");
  const growth = all.filter((one) => one.kind === "growth");
  return [
    ...tableIfAny<LargeFigures>(large, LARGE_COLUMNS),
    ...clientWarnings<LargeFigures>(large, (one) => one.clientCpu),
    ...tableIfAny<RandomReadFigures>(reads, RANDOM_READ_COLUMNS),
    ...tableIfAny<IdleServerFigures>(idle, IDLE_SERVER_COLUMNS),
    ...tableIfAny<GrowthFigures>(growth, APPEND_GROWTH_COLUMNS),
    ...tableIfAny<GrowthFigures>(growth, REST_GROWTH_COLUMNS),
  ];
}
