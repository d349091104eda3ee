/**
 * What one reader was given, in order, and the judgement of it. The log knows nothing of the stream; the judge knows what was
 * acknowledged and at which position, and nothing of the reader. Pure.
 */

/** A record of the stream under test. Its id is unique in the stream and says who wrote it, not where it ended up. */
export interface WrittenRecord {
  readonly id: number;
  readonly group: number;
  readonly key: string | null;
}

/** Positions are sequence numbers; `from` inclusive, `to` exclusive. */
export type Delivery =
  /** A connection began to read here. */
  | { readonly kind: "opened"; readonly at: number }
  /** All records of this range that the reader wants, as it was told. */
  | { readonly kind: "records"; readonly from: number; readonly to: number; readonly ids: readonly number[] }
  | { readonly kind: "lagged"; readonly from: number; readonly to: number }
  | { readonly kind: "gap"; readonly from: number; readonly to: number; readonly count: number };

/** Everything that was acknowledged, by position; and what of it a reader is owed. */
export interface Owed {
  readonly records: readonly WrittenRecord[];
  readonly selects: (record: WrittenRecord) => boolean;
  readonly mayDrop: boolean;
}

/** The sequence number of an offset: `<epoch>_<sequence>`, 16 digits each; `-1` is the start. */
export function positionOf(offset: string): number {
  if (offset === "-1") return 0;
  const digits = /^\d{16}_(\d{16})$/.exec(offset)?.[1];
  if (digits === undefined) throw new Error(`not an offset: ${offset}`);
  return Number(digits);
}

/** Grows as the reader receives; owns the offset that it comes back with. */
export class DeliveryLog {
  readonly deliveries: Delivery[] = [];
  #offset = "-1";

  /** Behind the last thing that was received completely. */
  get offset(): string {
    return this.#offset;
  }

  get position(): number {
    return positionOf(this.#offset);
  }

  opened(): void {
    this.deliveries.push({ kind: "opened", at: this.position });
  }

  /** Nothing is written down when the reader hears once more where it stands. */
  records(ids: readonly number[], nextOffset: string): void {
    const [from, to] = [this.position, positionOf(nextOffset)];
    if (from !== to || ids.length > 0) this.deliveries.push({ kind: "records", from, to, ids });
    this.#offset = nextOffset;
  }

  lagged(fromOffset: string, toOffset: string): void {
    this.deliveries.push({ kind: "lagged", from: positionOf(fromOffset), to: positionOf(toOffset) });
  }

  gap(fromOffset: string, toOffset: string, count: number): void {
    this.deliveries.push({ kind: "gap", from: positionOf(fromOffset), to: positionOf(toOffset), count });
    this.#offset = toOffset;
  }

  count(kind: Delivery["kind"]): number {
    return this.deliveries.filter((delivery) => delivery.kind === kind).length;
  }
}

const MAX_PROBLEMS = 5;

/** What is wrong with a log of a reader that began at 0 and says that it has come to the end; empty when nothing is. */
export function problemsOf(deliveries: readonly Delivery[], owed: Owed): string[] {
  const problems: string[] = [];
  let at = 0;
  /** The end of what a `lagged` of this connection has promised. */
  let promisedTo = 0;
  for (const [index, delivery] of deliveries.entries()) {
    if (problems.length >= MAX_PROBLEMS) return [...problems, "…"];
    const say = (problem: string): void => void problems.push(`#${index} ${describe(delivery)}: ${problem}`);
    const from = delivery.kind === "opened" ? delivery.at : delivery.from;
    if (from !== at) say(`the reader stood at ${at}`);
    if (delivery.kind === "opened") {
      promisedTo = 0;
      continue;
    }
    if (delivery.to < delivery.from || (delivery.to === delivery.from && delivery.kind !== "lagged")) say("no range");
    if (delivery.to > owed.records.length) say(`ends behind the tail, ${owed.records.length}`);
    if (delivery.kind === "lagged") {
      promisedTo = delivery.to;
      continue;
    }
    if (delivery.kind === "records") for (const problem of differences(delivery, owed)) say(problem);
    else {
      if (!owed.mayDrop) say("nothing may be left out");
      if (delivery.count !== delivery.to - delivery.from) say(`${delivery.to - delivery.from} records are in it`);
      if (delivery.from < promisedTo) say(`the records up to ${promisedTo} were promised`);
    }
    at = delivery.to;
  }
  const missing = wanted(at, owed.records.length, owed);
  if (missing.length > 0) problems.push(`the end: ${missing.length} records from ${at} on did not come`);
  return problems;
}

/** Where a reader has all that it is owed: behind the last record that it wants. */
export function endOf({ records, selects }: Omit<Owed, "mayDrop">): number {
  return records.findLastIndex((record) => selects(record)) + 1;
}

function wanted(from: number, to: number, { records, selects }: Owed): number[] {
  return records
    .slice(from, to)
    .filter((record) => selects(record))
    .map(({ id }) => id);
}

function differences({ from, to, ids }: Delivery & { kind: "records" }, owed: Owed): string[] {
  const expected = wanted(from, to, owed);
  if (expected.length === ids.length && expected.every((id, index) => id === ids[index])) return [];
  const [came, due] = [new Set(ids), new Set(expected)];
  const missing = expected.filter((id) => !came.has(id));
  const foreign = ids.filter((id) => !due.has(id));
  const problems = [];
  if (missing.length > 0) problems.push(`missing ${some(missing)}`);
  if (foreign.length > 0) problems.push(`not of this range ${some(foreign)}`);
  if (came.size !== ids.length) problems.push(`${ids.length - came.size} came twice`);
  return problems.length > 0 ? problems : ["out of order"];
}

function some(ids: readonly number[]): string {
  return `${ids.length} (${ids.slice(0, 5).join(", ")}${ids.length > 5 ? ", …" : ""})`;
}

function describe(delivery: Delivery): string {
  if (delivery.kind === "opened") return `opened at ${delivery.at}`;
  const count = delivery.kind === "gap" ? ` of ${delivery.count}` : "";
  return `${delivery.kind} ${delivery.from}..${delivery.to}${count}`;
}
