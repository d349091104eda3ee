/**
 * Tables of figures: one row for each workload and server, medians over the rounds, and ratios. Pure. A ratio is ours divided
 * by the other server in the same round.
 */

/** What one server did in one round of one workload. */
export interface Measured<F> {
  readonly workload: string;
  readonly server: string;
  readonly round: number;
  readonly form: string;
  readonly figures: F;
}

/** A heading, and the cell of one server's rounds under it. */
export type Column<F> = readonly [string, (rows: Rounds<F>) => string];

function figuresTable<F>(all: readonly Measured<F>[], columns: readonly Column<F>[]): string {
  return table(
    ["workload", "server", ...columns.map(([heading]) => heading)].join(" | "),
    groups(all, (one) => `${one.workload}|${one.form}|${one.server}`).map((group) => {
      const rows = new Rounds(group, all);
      return [group[0]?.workload ?? "", group[0]?.server ?? "", ...columns.map(([, cell]) => cell(rows))];
    }),
  );
}

/** A table, or none where nothing was measured. */
export function tableIfAny<F>(all: readonly Measured<F>[], columns: readonly Column<F>[]): string[] {
  return all.length === 0 ? [] : [figuresTable(all, columns)];
}

/** Above this share of a core the client slows down, or delays, what it measures. */
const BUSY_CLIENT = 0.8;

export function clientWarnings<F>(all: readonly Measured<F>[], clientCpu: (figures: F) => number): string[] {
  return all
    .filter(({ figures }) => clientCpu(figures) > BUSY_CLIENT)
    .map(({ workload, form, server, round: no, figures }) => {
      const share = round(clientCpu(figures) * 100);
      return `WARNING: ${workload} ${form} on ${server}, round ${no}: the client used ${share} % of a core, its own work is in the figure.`;
    });
}

/** One server's rounds of one workload, and ours beside them. */
export class Rounds<F> {
  readonly #group: readonly Measured<F>[];
  readonly #all: readonly Measured<F>[];

  constructor(group: readonly Measured<F>[], all: readonly Measured<F>[]) {
    this.#group = group;
    this.#all = all;
  }

  /** Of all rounds here: rows are made for each form apart. */
  get form(): string {
    return this.#group[0]?.form ?? "";
  }

  mid(pick: (figures: F) => number, digits = 0): string {
    return round(median(this.#group.map((one) => pick(one.figures))), digits);
  }

  /** For what must not happen: one bad round is not hidden by the others. */
  sum(pick: (figures: F) => number): string {
    return round(this.#group.reduce((total, one) => total + pick(one.figures), 0));
  }

  /** The first of the rounds in which something was counted. */
  counts(pick: (figures: F) => readonly Readonly<Record<string, number>>[]): string {
    const texts = this.#group.flatMap((one) => pick(one.figures)).map(countsText);
    return texts.find((text) => text !== "0") ?? "0";
  }

  ratio(pick: (figures: F) => number): string {
    const ratios = this.#group.map((one) => {
      const ours = this.#all.find(
        (other) =>
          other.server === "ours" &&
          other.workload === one.workload &&
          other.form === one.form &&
          other.round === one.round,
      );
      return ours === undefined ? Number.NaN : pick(ours.figures) / pick(one.figures);
    });
    return round(median(ratios), 3);
  }

  reason(pick: (figures: F) => string | null): string {
    return this.#group.map((one) => pick(one.figures)).find((reason) => reason !== null) ?? "-";
  }
}

export function countsText(counts: Readonly<Record<string, number>>): string {
  const entries = Object.entries(counts);
  return entries.length === 0 ? "0" : entries.map(([reason, count]) => `${count}× ${reason}`).join(", ");
}

export function groups<T>(items: readonly T[], keyOf: (item: T) => string): T[][] {
  return [...Map.groupBy(items, keyOf).values()];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2;
}

export function round(value: number, digits = 0): string {
  return Number.isFinite(value)
    ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    : "-";
}

export function table(heading: string, rows: readonly string[][]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const columns = heading.split(" | ");
  return [line(columns), line(columns.map((_, index) => (index < 3 ? "---" : "---:"))), ...rows.map(line)].join("\n");
}
