/** Medians, ratios and the printed tables. Pure. A ratio is ours divided by the other server in the same round. */

import type { AppendFigures } from "./append-run.ts";
import type { ReadFigures } from "./read-run.ts";
import type { TouchMemoryFigures, TouchRateFigures, TouchWakeFigures } from "./touch-run.ts";
import type { WakeFigures } from "./wake-run.ts";

export type Form = "burst" | "sustained";

export type Measurement = { readonly workload: string; readonly server: string; readonly round: number } & (
  | { readonly kind: "append"; readonly form: Form; readonly figures: AppendFigures }
  | { readonly kind: "read"; readonly figures: ReadFigures }
  | { readonly kind: "wake"; readonly figures: WakeFigures }
  | { readonly kind: "touch-wake"; readonly figures: TouchWakeFigures }
  | { readonly kind: "touch-rate"; readonly figures: TouchRateFigures }
  | { readonly kind: "touch-memory"; readonly figures: TouchMemoryFigures }
  | { readonly kind: "failed"; readonly form?: Form; readonly reason: string }
);

export function reportTables(all: readonly Measurement[], titles: ReadonlyMap<string, string>): string {
  const appends = all.filter((one) => one.kind === "append");
  const reads = all.filter((one) => one.kind === "read");
  const wakes = all.filter((one) => one.kind === "wake");
  const parts: string[] = [];
  if (appends.length > 0) {
    parts.push(
      table(
        "workload | form | server | records/s | ours ÷ this | p50 ms | p99 ms | CPU µs/record | RSS MB | disk B/B | not 2xx | missing | backlog MB (flat)",
        groups(appends, (one) => `${one.workload}|${one.form}|${one.server}`).map((group) => appendRow(group, appends)),
      ),
    );
  }
  if (reads.length > 0) {
    parts.push(
      table(
        "workload | server | MB/s after restart | MB/s again | ours ÷ this (again) | CPU ms/GB | peak RSS MB",
        groups(reads, (one) => `${one.workload}|${one.server}`).map((group) => readRow(group, reads)),
      ),
    );
  }
  if (wakes.length > 0) {
    parts.push(
      table(
        "workload | server | ack→wake p50 ms | p99 | send→wake p50 ms | p99 | wakes",
        groups(wakes, (one) => `${one.workload}|${one.server}`).map(wakeRow),
      ),
    );
  }
  parts.push(...touchTables(all));
  const names = [...new Set(all.map((one) => one.workload))];
  parts.push(names.map((name) => `- ${name}: ${titles.get(name) ?? ""}`).join("\n"));
  for (const one of all) {
    if (one.kind === "failed")
      parts.push(`FAILED: ${one.workload} on ${one.server}, round ${one.round}: ${one.reason}`);
  }
  return parts.join("\n\n");
}

function touchTables(all: readonly Measurement[]): string[] {
  const byServer = <T extends Measurement>(some: readonly T[]): T[][] =>
    groups(some, (one) => `${one.workload}|${one.server}`);
  const tables: string[] = [];
  const wakes = all.filter((one) => one.kind === "touch-wake");
  if (wakes.length > 0) {
    const rows = byServer(wakes).map((group) => {
      const mid = (pick: (figures: TouchWakeFigures) => number): number =>
        median(group.map((one) => pick(one.figures)));
      return [
        group[0]?.workload ?? "",
        group[0]?.server ?? "",
        round(
          mid((one) => one.ackToWakeP50Ms),
          2,
        ),
        round(
          mid((one) => one.ackToWakeP99Ms),
          2,
        ),
        round(
          mid((one) => one.maxMs),
          2,
        ),
        round(
          mid((one) => one.sendToWakeP50Ms),
          2,
        ),
        round(
          mid((one) => one.sendToWakeP99Ms),
          2,
        ),
        round(mid((one) => one.wakes)),
        round(mid((one) => one.falseWakes)),
        round(mid((one) => one.missed)),
        round(mid((one) => one.coarse ?? Number.NaN)),
      ];
    });
    tables.push(
      table(
        "workload | server | ack→wake p50 ms | p99 | max | send→wake p50 ms | p99 | wakes | false | missed | coarse",
        rows,
      ),
    );
  }
  const rates = all.filter((one) => one.kind === "touch-rate");
  if (rates.length > 0) {
    const rows = byServer(rates).map((group) => {
      const mid = (pick: (figures: TouchRateFigures) => number): number =>
        median(group.map((one) => pick(one.figures)));
      const ratios = group.map(({ figures, round: no }) => {
        const ours = rates.find((other) => other.server === "ours" && other.round === no);
        return ours === undefined ? Number.NaN : ours.figures.derivedPerSecond / figures.derivedPerSecond;
      });
      return [
        group[0]?.workload ?? "",
        group[0]?.server ?? "",
        round(mid((one) => one.acceptedPerSecond)),
        round(mid((one) => one.derivedPerSecond)),
        round(median(ratios), 1),
        round(
          mid((one) => one.touchesPerChange),
          1,
        ),
        round(mid((one) => one.coarse ?? Number.NaN)),
      ];
    });
    tables.push(
      table(
        "workload | server | changes/s accepted | into touches/s | ours ÷ this | touches per change | coarse",
        rows,
      ),
    );
  }
  const memories = all.filter((one) => one.kind === "touch-memory");
  if (memories.length > 0) {
    const rows = byServer(memories).map((group) => {
      const mid = (pick: (figures: TouchMemoryFigures) => number): number =>
        median(group.map((one) => pick(one.figures)));
      const [wait, poll] = [mid((one) => one.bytesPerWait), mid((one) => one.bytesPerLongPoll)];
      return [group[0]?.workload ?? "", group[0]?.server ?? "", round(wait), round(poll), round(wait - poll)];
    });
    tables.push(table("workload | server | bytes per touch wait | bytes per idle long-poll | difference", rows));
  }
  return tables;
}

type AppendMeasurement = Extract<Measurement, { kind: "append" }>;
type ReadMeasurement = Extract<Measurement, { kind: "read" }>;
type WakeMeasurement = Extract<Measurement, { kind: "wake" }>;

function appendRow(group: readonly AppendMeasurement[], all: readonly AppendMeasurement[]): string[] {
  const [first] = group;
  if (first === undefined) return [];
  const mid = (pick: (figures: AppendFigures) => number): number => median(group.map((one) => pick(one.figures)));
  const ratios = group.map((one) => {
    const ours = all.find(
      (other) =>
        other.server === "ours" &&
        other.workload === one.workload &&
        other.form === one.form &&
        other.round === one.round,
    );
    return ours === undefined ? Number.NaN : ours.figures.recordsPerSecond / one.figures.recordsPerSecond;
  });
  return [
    first.workload,
    first.form,
    first.server,
    round(mid((figures) => figures.recordsPerSecond)),
    round(median(ratios), 1),
    round(
      mid((figures) => figures.load.p50Ms),
      2,
    ),
    round(
      mid((figures) => figures.load.p99Ms),
      2,
    ),
    round(
      mid((figures) => figures.cpuUsPerRecord),
      1,
    ),
    round(mid((figures) => figures.rssMb)),
    round(
      mid((figures) => figures.diskBytesPerByte),
      1,
    ),
    group.map((one) => refusals(one.figures)).find((text) => text !== "0") ?? "0",
    round(Math.max(...group.map((one) => one.figures.missing))),
    backlogText(group),
  ];
}

function refusals(figures: AppendFigures): string {
  const entries = Object.entries(figures.load.refused);
  return entries.length === 0 ? "0" : entries.map(([reason, count]) => `${count}× ${reason}`).join(", ");
}

function backlogText(group: readonly AppendMeasurement[]): string {
  const peaks = group.flatMap((one) => one.figures.backlog.map((sample) => sample.unsealedBytes));
  const verdicts = group.map((one) => one.figures.isFlat).filter((verdict) => verdict !== null);
  if (peaks.length === 0) return "-";
  const verdict = verdicts.length === 0 ? "too short" : verdicts.every(Boolean) ? "flat" : "GROWING";
  return `max ${round(Math.max(...peaks) / 1e6, 1)} (${verdict})`;
}

function readRow(group: readonly ReadMeasurement[], all: readonly ReadMeasurement[]): string[] {
  const [first] = group;
  if (first === undefined) return [];
  const mid = (pick: (figures: ReadFigures) => number): number => median(group.map((one) => pick(one.figures)));
  const ratios = group.map((one) => {
    const ours = all.find((other) => other.server === "ours" && other.round === one.round);
    return ours === undefined ? Number.NaN : ours.figures.againMbPerSecond / one.figures.againMbPerSecond;
  });
  return [
    first.workload,
    first.server,
    round(mid((figures) => figures.coldMbPerSecond)),
    round(mid((figures) => figures.againMbPerSecond)),
    round(median(ratios), 1),
    round(mid((figures) => figures.cpuMsPerGb)),
    round(mid((figures) => figures.peakRssMb)),
  ];
}

function wakeRow(group: readonly WakeMeasurement[]): string[] {
  const [first] = group;
  if (first === undefined) return [];
  const mid = (pick: (figures: WakeFigures) => number): number => median(group.map((one) => pick(one.figures)));
  return [
    first.workload,
    first.server,
    round(
      mid((figures) => figures.ackToWakeP50Ms),
      2,
    ),
    round(
      mid((figures) => figures.ackToWakeP99Ms),
      2,
    ),
    round(
      mid((figures) => figures.sendToWakeP50Ms),
      2,
    ),
    round(
      mid((figures) => figures.sendToWakeP99Ms),
      2,
    ),
    round(mid((figures) => figures.wakes)),
  ];
}

function groups<T>(items: readonly T[], keyOf: (item: T) => string): T[][] {
  return [...Map.groupBy(items, keyOf).values()];
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2;
}

function round(value: number, digits = 0): string {
  return Number.isFinite(value)
    ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    : "-";
}

function table(heading: string, rows: readonly string[][]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const columns = heading.split(" | ");
  return [line(columns), line(columns.map((_, index) => (index < 3 ? "---" : "---:"))), ...rows.map(line)].join("\n");
}
