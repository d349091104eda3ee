/** Medians, ratios and the printed tables. Pure. A ratio is ours divided by the other server in the same round. */

import type { AppendFigures } from "./append-run.ts";
import { clientWarnings, countsText, groups, median, round, table, tableIfAny, type Column } from "./figures-table.ts";
import type { AppendPair, FanOutFigures, IdleFigures, StalledFigures } from "./live-run.ts";
import type { PublishOutcome } from "./live-publisher.ts";
import type { Measurement } from "./measurement.ts";
import type { ReadFigures } from "./read-run.ts";
import { storeTables } from "./store-tables.ts";
import type { TouchMemoryFigures, TouchRateFigures, TouchWakeFigures } from "./touch-run.ts";
import type { WakeFigures } from "./wake-run.ts";

export function reportTables(all: readonly Measurement[], titles: ReadonlyMap<string, string>): string {
  const appends = all.filter((one) => one.kind === "append");
  const reads = all.filter((one) => one.kind === "read");
  const wakes = all.filter((one) => one.kind === "wake");
  const parts: string[] = [];
  if (appends.length > 0) {
    parts.push(
      table(
        "workload | form | server | records/s | ours ÷ this | p50 ms | p99 ms | CPU µs/record | RSS MB | disk B/B | not 2xx | missing | backlog MB (flat) | client CPU %",
        groups(appends, (one) => `${one.workload}|${one.form}|${one.server}`).map((group) => appendRow(group, appends)),
      ),
      ...clientWarnings<AppendFigures>(appends, (one) => one.load.clientCpu),
    );
  }
  parts.push(
    ...tableIfAny<ReadFigures>(reads, READ_COLUMNS),
    ...clientWarnings<ReadFigures>(reads, (one) => one.clientCpu),
    ...storeTables(all),
  );
  if (wakes.length > 0) {
    parts.push(
      table(
        "workload | server | ack→wake p50 ms | p99 | send→wake p50 ms | p99 | wakes",
        groups(wakes, (one) => `${one.workload}|${one.server}`).map(wakeRow),
      ),
    );
  }
  parts.push(...touchTables(all), ...liveTables(all));
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

function liveTables(all: readonly Measurement[]): string[] {
  const fanOuts = all.filter((one) => one.kind === "live-fan-out");
  const stalled = all.filter((one) => one.kind === "live-stalled");
  const idle = all.filter((one) => one.kind === "live-idle");
  return [
    ...tableIfAny<FanOutFigures>(fanOuts, FAN_OUT_COLUMNS),
    ...clientWarnings<FanOutFigures>(fanOuts, (one) => one.clientCpu),
    ...tableIfAny<StalledFigures>(stalled, STALLED_COLUMNS),
    ...tableIfAny<StalledFigures>(stalled, [
      ...appendColumns("other stream: ", (one) => one.otherStream),
      ...appendColumns("same stream: ", (one) => one.sameStream),
    ]),
    ...tableIfAny<IdleFigures>(idle, IDLE_COLUMNS),
  ];
}

const READ_COLUMNS: readonly Column<ReadFigures>[] = [
  ["MB/s after restart", (rows) => rows.mid((one) => one.coldMbPerSecond)],
  ["MB/s again", (rows) => rows.mid((one) => one.againMbPerSecond)],
  ["ours ÷ this (again)", (rows) => rows.ratio((one) => one.againMbPerSecond)],
  ["CPU ms/GB", (rows) => rows.mid((one) => one.cpuMsPerGb)],
  ["peak RSS MB", (rows) => rows.mid((one) => one.peakRssMb)],
  ["client CPU %", (rows) => rows.mid((one) => one.clientCpu * 100)],
];

const FAN_OUT_COLUMNS: readonly Column<FanOutFigures>[] = [
  ["subscribers", (rows) => rows.mid((one) => one.subscribers)],
  ["delivered", (rows) => rows.mid((one) => one.delivered)],
  ["missing", (rows) => rows.sum((one) => one.missing)],
  ["disordered", (rows) => rows.sum((one) => one.disordered)],
  ["due→received p50 ms", (rows) => rows.mid((one) => one.p50Ms, 2)],
  ["p99", (rows) => rows.mid((one) => one.p99Ms, 2)],
  ["max", (rows) => rows.mid((one) => one.maxMs, 2)],
  ["ours ÷ this (p50)", (rows) => rows.ratio((one) => one.p50Ms)],
  ["CPU µs/delivery", (rows) => rows.mid((one) => one.cpuUsPerDelivery, 1)],
  ["ours ÷ this (CPU)", (rows) => rows.ratio((one) => one.cpuUsPerDelivery)],
  ["due→ack p50 ms", (rows) => rows.mid((one) => one.published.p50Ms, 2)],
  ["p99", (rows) => rows.mid((one) => one.published.p99Ms, 2)],
  ["not acked", (rows) => rows.counts((one) => [one.published.unacked])],
  ["client CPU %", (rows) => rows.mid((one) => one.clientCpu * 100)],
];

const STALLED_COLUMNS: readonly Column<StalledFigures>[] = [
  ["readers", (rows) => rows.mid((one) => one.readers)],
  ["RSS MB before", (rows) => rows.mid((one) => one.rssMbBefore)],
  ["with", (rows) => rows.mid((one) => one.rssMb)],
  ["peak", (rows) => rows.mid((one) => one.peakRssMb)],
  ["kB/reader", (rows) => rows.mid((one) => one.kbPerReader)],
  ["ours ÷ this", (rows) => rows.ratio((one) => one.kbPerReader)],
  ["kernel kB/reader", (rows) => rows.mid((one) => one.kernelKbPerReader)],
  ["read to the end", (rows) => `${rows.sum((one) => one.complete)} of ${rows.sum((one) => one.woken)}`],
  ["disordered", (rows) => rows.sum((one) => one.disordered)],
  ["ended", (rows) => rows.sum((one) => one.closed)],
  ["in s", (rows) => rows.mid((one) => one.drainSeconds, 1)],
  ["not all readers because", (rows) => rows.reason((one) => one.stoppedBy)],
];

const IDLE_COLUMNS: readonly Column<IdleFigures>[] = [
  ["connections", (rows) => rows.mid((one) => one.connections)],
  ["kB/connection", (rows) => rows.mid((one) => one.kbPerConnection, 1)],
  ["ours ÷ this", (rows) => rows.ratio((one) => one.kbPerConnection)],
  ["idle CPU %", (rows) => rows.mid((one) => one.idleCpu * 100, 1)],
  ["ended", (rows) => rows.sum((one) => one.closed)],
  ["not all connections because", (rows) => rows.reason((one) => one.stoppedBy)],
];

/** Latency without the stalled readers, with them, and how many times as long that is. */
function appendColumns(prefix: string, of: (figures: StalledFigures) => AppendPair): readonly Column<StalledFigures>[] {
  const [p50, p99] = [(one: PublishOutcome) => one.p50Ms, (one: PublishOutcome) => one.p99Ms];
  const columns = (name: string, pick: (outcome: PublishOutcome) => number): readonly Column<StalledFigures>[] => [
    [`${prefix}${name} ms without`, (rows) => rows.mid((one) => pick(of(one).without), 2)],
    ["with", (rows) => rows.mid((one) => pick(of(one).having), 2)],
    ["with ÷ without", (rows) => rows.mid((one) => pick(of(one).having) / pick(of(one).without), 1)],
  ];
  const unacked: Column<StalledFigures> = [
    "not acked",
    (rows) => rows.counts((one) => [of(one).without.unacked, of(one).having.unacked]),
  ];
  return [...columns("p50", p50), ...columns("p99", p99), unacked];
}

type AppendMeasurement = Extract<Measurement, { kind: "append" }>;
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
    round(median(ratios), 2),
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
    group.map((one) => countsText(one.figures.load.refused)).find((text) => text !== "0") ?? "0",
    round(Math.max(...group.map((one) => one.figures.missing))),
    backlogText(group),
    round(mid((figures) => figures.load.clientCpu) * 100),
  ];
}

function backlogText(group: readonly AppendMeasurement[]): string {
  const peaks = group.flatMap((one) => one.figures.backlog.map((sample) => sample.unsealedBytes));
  const verdicts = group.map((one) => one.figures.isFlat).filter((verdict) => verdict !== null);
  if (peaks.length === 0) return "-";
  const verdict = verdicts.length === 0 ? "too short" : verdicts.every(Boolean) ? "flat" : "GROWING";
  return `max ${round(Math.max(...peaks) / 1e6, 1)} (${verdict})`;
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
