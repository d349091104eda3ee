/**
 * Reads the Prometheus text format 0.0.4, strictly: what a scraper might let pass is an error here, because the server's own
 * tests look at `/metrics` with it. Pure. What it returns holds: every family has a type and lies together, no series is
 * there twice, counters are not negative, buckets are in order and cumulative, and +Inf equals the count.
 */

export type FamilyType = "counter" | "gauge" | "histogram" | "summary" | "untyped";

export interface Sample {
  /** The family's name; in histograms and summaries with `_bucket`, `_sum` or `_count` behind it. */
  readonly name: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly value: number;
  readonly timestampMs: number | null;
}

export interface Family {
  readonly name: string;
  readonly type: FamilyType;
  /** Null when there is no HELP line. */
  readonly help: string | null;
  readonly samples: readonly Sample[];
}

/** Says which line is wrong, and why. */
export class ExpositionError extends Error {
  /** From 1; what is wrong with a whole family is told where the family ends. */
  readonly line: number;

  constructor(line: number, reason: string) {
    super(`line ${line}: ${reason}`);
    this.name = "ExpositionError";
    this.line = line;
  }
}

/**
 * The families of `text` by name, in its order.
 * @throws ExpositionError when it is not in the format.
 */
export function parseExposition(text: string): ReadonlyMap<string, Family> {
  const reader = new ExpositionReader();
  const lines = text.split("\n");
  // Behind the last line end nothing may follow: it would be a line that was cut off.
  const rest = lines.pop();
  for (const line of lines) reader.readLine(line);
  const families = reader.end();
  if (rest !== "") throw new ExpositionError(lines.length + 1, "the last line has no end");
  return families;
}

const BLANK_LINE = /^[ \t]*$/;
const COMMENT = /^[ \t]*#/;
const ABOUT = /^[ \t]*#[ \t]*(HELP|TYPE)(?![^ \t])[ \t]*([^ \t]*)[ \t]*(.*)$/s;
const METRIC_NAME = /^[a-zA-Z_:][\w:]*$/;
const SAMPLE =
  /^[ \t]*([a-zA-Z_:][\w:]*)(?:[ \t]*\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}[ \t]*|[ \t]+)([^ \t]+)(?:[ \t]+(-?\d{1,16}))?[ \t]*$/s;
/** Sticky: `#readLabels` walks it along. */
const LABEL = /[ \t]*([a-zA-Z_]\w*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,|$)/sy;
const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/;
const SPECIAL = new Map([
  ["+Inf", Infinity],
  ["-Inf", -Infinity],
  ["NaN", NaN],
]);
const TYPES: readonly FamilyType[] = ["counter", "gauge", "histogram", "summary", "untyped"];
const SUFFIXES: Readonly<Record<FamilyType, readonly string[]>> = {
  counter: [""],
  gauge: [""],
  untyped: [""],
  histogram: ["_bucket", "_sum", "_count"],
  summary: ["", "_sum", "_count"],
};

/** A family while its lines come in. */
interface Draft {
  readonly name: string;
  type: FamilyType | null;
  help: string | null;
  readonly samples: Sample[];
}

class ExpositionReader {
  readonly #families = new Map<string, Family>();
  /** Of all families: `a_count` may come from a histogram `a` and from a counter `a_count`, but not from both. */
  readonly #series = new Set<string>();
  #open: Draft | null = null;
  #line = 0;

  readLine(line: string): void {
    this.#line++;
    if (BLANK_LINE.test(line)) return;
    if (!COMMENT.test(line)) return this.#readSample(line);
    const [, kind, name = "", rest = ""] = ABOUT.exec(line) ?? [];
    if (kind === undefined) return;
    const family = this.#begin(name);
    if (kind === "HELP") this.#readHelp(family, rest);
    else this.#readType(family, rest.replace(/[ \t]+$/, ""));
  }

  end(): ReadonlyMap<string, Family> {
    this.#close();
    return this.#families;
  }

  /** The family that this HELP or TYPE line is about. */
  #begin(name: string): Draft {
    if (!METRIC_NAME.test(name)) this.#fail(`${JSON.stringify(name)} is no name of a metric`);
    if (this.#open?.name !== name) {
      this.#close();
      if (this.#families.has(name)) this.#fail(`the family ${name} is there twice`);
      this.#open = { name, type: null, help: null, samples: [] };
    }
    if (this.#open.samples.length > 0) this.#fail(`HELP or TYPE of ${name} after its samples`);
    return this.#open;
  }

  #readHelp(family: Draft, text: string): void {
    if (family.help !== null) this.#fail(`a second HELP of ${family.name}`);
    family.help = this.#unescape(text, { "\\": "\\", n: "\n" });
  }

  #readType(family: Draft, text: string): void {
    if (family.type !== null) this.#fail(`a second TYPE of ${family.name}`);
    const type = TYPES.find((known) => known === text);
    family.type = type ?? this.#fail(`${JSON.stringify(text)} is no type of a metric`);
  }

  #readSample(line: string): void {
    const [, name = "", labelText = "", valueText = "", timestamp] = SAMPLE.exec(line) ?? this.#fail("not a sample");
    const family = this.#familyOf(name);
    const labels = this.#readLabels(labelText);
    const value = readNumber(valueText) ?? this.#fail(`${JSON.stringify(valueText)} is no number`);
    const series = name + labelsKey(labels);
    if (this.#series.has(series)) this.#fail(`the series ${line.trim()} is there twice`);
    this.#series.add(series);
    if (family.type === "counter" && !isCount(value)) this.#fail(`the counter ${name} is ${value}`);
    family.samples.push({ name, labels, value, timestampMs: timestamp === undefined ? null : Number(timestamp) });
  }

  /** What stands between the braces; a comma behind the last label is part of the format. */
  #readLabels(text: string): Map<string, string> {
    const labels = new Map<string, string>();
    let at = 0;
    while (!BLANK_LINE.test(text.slice(at))) {
      LABEL.lastIndex = at;
      const [whole, name = "", quoted = ""] = LABEL.exec(text) ?? this.#fail(`no label: ${text.slice(at)}`);
      if (name === "__name__" || labels.has(name)) this.#fail(`the label ${name} is reserved or there twice`);
      labels.set(name, this.#unescape(quoted, { "\\": "\\", n: "\n", '"': '"' }));
      at += whole.length;
    }
    return labels;
  }

  /** A sample belongs to the family that is open, or its family does not lie together. */
  #familyOf(sample: string): Draft {
    const family = this.#open;
    if (family === null || family.type === null) return this.#fail(`no TYPE before ${sample}`);
    if (SUFFIXES[family.type].some((suffix) => sample === family.name + suffix)) return family;
    return this.#fail(`${sample} is no sample of the ${family.type} ${family.name}, under which it stands`);
  }

  #close(): void {
    if (this.#open === null) return;
    const { name, type, help, samples } = this.#open;
    if (type === null) return this.#fail(`${name} has no TYPE`);
    const fault =
      type === "histogram" ? histogramFault(name, samples) : type === "summary" ? summaryFault(samples) : null;
    if (fault !== null) this.#fail(`${type} ${name}: ${fault}`);
    this.#families.set(name, { name, type, help, samples });
    this.#open = null;
  }

  #unescape(text: string, meanings: Readonly<Record<string, string>>): string {
    return text.replaceAll(/\\(.?)/gs, (escape, character: string) => {
      return meanings[character] ?? this.#fail(`${JSON.stringify(escape)} is no escape`);
    });
  }

  #fail(reason: string): never {
    throw new ExpositionError(this.#line, reason);
  }
}

/** Null when it is none, or one that no double holds. */
function readNumber(text: string): number | null {
  const special = SPECIAL.get(text);
  if (special !== undefined) return special;
  const value = NUMBER.test(text) ? Number(text) : NaN;
  return Number.isFinite(value) ? value : null;
}

/** Counters may count in fractions, such as seconds; they are never NaN, negative or infinite. */
function isCount(value: number): boolean {
  return value >= 0 && value < Infinity;
}

/** The same for the same labels in any order; without the label `except`. */
function labelsKey(labels: ReadonlyMap<string, string>, except?: string): string {
  const names = [...labels.keys()].filter((name) => name !== except);
  return JSON.stringify(
    names.toSorted((left, right) => (left < right ? -1 : 1)).map((name) => [name, labels.get(name)]),
  );
}

/** The samples of a histogram or summary that differ only in `le`, `quantile` or their suffix. */
function distributions(samples: readonly Sample[], position: "le" | "quantile"): Map<string, Sample[]> {
  const groups = new Map<string, Sample[]>();
  for (const sample of samples) {
    const key = labelsKey(sample.labels, position);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [sample]);
    else group.push(sample);
  }
  return groups;
}

/** What is wrong with the histogram, or null. */
function histogramFault(name: string, samples: readonly Sample[]): string | null {
  for (const group of distributions(samples, "le").values()) {
    const buckets = group.filter((sample) => sample.name === `${name}_bucket`);
    const [sum, count] = ["_sum", "_count"].map((suffix) => group.find((sample) => sample.name === name + suffix));
    if (sum === undefined || count === undefined) return "no _sum or no _count";
    if (sum.labels.has("le") || count.labels.has("le")) return "a le that is no bucket's";
    let last = -Infinity;
    let seen = 0;
    for (const { labels, value } of buckets) {
      const bound = readNumber(labels.get("le") ?? "");
      if (bound === null || !(bound > last)) return `buckets out of order, at le=${labels.get("le") ?? "?"}`;
      if (!Number.isSafeInteger(value) || value < seen) return `not cumulative, at le=${bound}`;
      [last, seen] = [bound, value];
    }
    if (last !== Infinity) return "no bucket +Inf";
    if (seen !== count.value) return `the bucket +Inf holds ${seen}, the count is ${count.value}`;
  }
  return null;
}

/** What is wrong with the summary, or null. */
function summaryFault(samples: readonly Sample[]): string | null {
  for (const group of distributions(samples, "quantile").values()) {
    const [sum, count] = ["_sum", "_count"].map((suffix) => group.find(({ name }) => name.endsWith(suffix)));
    if (sum === undefined || count === undefined) return "no _sum or no _count";
    if (!isCount(count.value)) return `a count of ${count.value}`;
    let last = -1;
    for (const { labels } of group.filter((sample) => sample !== sum && sample !== count)) {
      const quantile = readNumber(labels.get("quantile") ?? "");
      if (quantile === null || !(quantile > last && quantile >= 0 && quantile <= 1)) return "quantiles out of order";
      last = quantile;
    }
  }
  return null;
}
