/**
 * The rows of a State Protocol stream as they are after some record of it: type and key to value. Rows are never changed in place, so
 * what was read stays what it was. Finds the rows of a viewport by a tree per pair of fields, made when the first view asks for
 * it. Bounded by the caller, who asks for `bytes`.
 */

import RBush from "rbush";
import { nextTurn } from "../../kit/turn.ts";
import type { StateRecord } from "../state-protocol/index.ts";
import { pointOf, type Viewport, type ViewRow } from "./view-definition.ts";

interface Point {
  readonly minX: number;
  readonly minY: number;
  readonly maxX: number;
  readonly maxY: number;
  readonly row: ViewRow;
}

/** The rows that have numbers in two fields, by where they lie. */
interface Plane {
  readonly fields: Pick<Viewport, "x" | "y">;
  readonly tree: RBush<Point>;
  readonly points: Map<ViewRow, Point>;
  /** Resolves when all rows that were there before the plane are in it; later ones are put in as they come. */
  readonly filled: Promise<void>;
}

/** What a change made of a row: as it was and as it is, null where it was or is not there. */
export interface RowChange {
  readonly before: ViewRow | null;
  readonly after: ViewRow | null;
}

/** Deletions remembered, so that a client that comes back can be told of them. */
const MAX_TOMBSTONES = 10_000;
/** A row, its place in a map, and a parsed value cost about this besides twice its text. */
const ROW_BYTES = 300;

export class MaterialisedState {
  readonly #hash: (text: string) => bigint;
  readonly #rows = new Map<string, ViewRow>();
  readonly #sizes = new Map<ViewRow, number>();
  readonly #planes = new Map<string, Plane>();
  /** Rows that were deleted, as they were last, with the offset of their deletion; the oldest first. */
  readonly #tombstones = new Map<string, ViewRow>();
  /** All deletions after this position are remembered. */
  #deletionsSince: string;
  #bytes = 0;

  /** `offset`: where the records that it is told begin. */
  constructor(hash: (text: string) => bigint, offset: string) {
    this.#hash = hash;
    this.#deletionsSince = offset;
  }

  get size(): number {
    return this.#rows.size;
  }

  /** What the rows take up in memory, about. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Applies one record; null when it changes no row. `reset` forgets all of them: the caller tells every view. */
  apply(record: StateRecord, offset: string): RowChange | "reset" | null {
    if (record.kind === "control") {
      if (record.control !== "reset") return null;
      this.#clear();
      this.#deletionsSince = offset;
      return "reset";
    }
    const { entity: type, key, operation } = record;
    const id = idOf(type, key);
    const before = this.#rows.get(id) ?? null;
    if (operation === "delete") {
      if (before === null) return null;
      this.#remove(before);
      this.#bury({ ...before, offset });
      return { before, after: null };
    }
    const text = JSON.stringify(record.after);
    const hash = this.#hash(text);
    if (before?.hash === hash) return null;
    const after: ViewRow = { id, type, key, value: record.after, hash, offset };
    if (before !== null) this.#remove(before);
    this.#tombstones.delete(id);
    this.#add(after, text.length);
    return { before, after };
  }

  /** Puts a row back that was kept. */
  restore({ type, key, value, offset }: Pick<ViewRow, "type" | "key" | "value" | "offset">): void {
    const text = JSON.stringify(value);
    const row: ViewRow = { id: idOf(type, key), type, key, value, hash: this.#hash(text), offset };
    this.#add(row, text.length);
  }

  get(id: string): ViewRow | null {
    return this.#rows.get(id) ?? null;
  }

  /** All rows, in no order. */
  getAllEvents(): IterableIterator<ViewRow> {
    return this.#rows.values();
  }

  /** Resolves when rows can be found by the fields of a viewport; the first time that takes a while, in short turns. */
  prepare({ x, y }: Viewport): Promise<void> {
    const name = planeName({ x, y });
    let plane = this.#planes.get(name);
    if (plane === undefined) {
      const { promise, resolve } = Promise.withResolvers<void>();
      plane = { fields: { x, y }, tree: new RBush<Point>(), points: new Map(), filled: promise };
      this.#planes.set(name, plane);
      this.#fill(plane).then(resolve, resolve);
    }
    return plane.filled;
  }

  /** The rows that lie in a viewport, in no order. `prepare` it first. */
  getEventsInViewport(viewport: Viewport): ViewRow[] {
    const { minX, minY, maxX, maxY } = viewport;
    const plane = this.#planes.get(planeName(viewport));
    return plane === undefined ? [] : plane.tree.search({ minX, minY, maxX, maxY }).map(({ row }) => row);
  }

  /** Rows deleted after a position; null when not all of them are remembered. */
  deletedSince(offset: string): ViewRow[] | null {
    if (offset < this.#deletionsSince) return null;
    return [...this.#tombstones.values()].filter((row) => row.offset > offset);
  }

  #bury(row: ViewRow): void {
    this.#tombstones.delete(row.id);
    this.#tombstones.set(row.id, row);
    if (this.#tombstones.size <= MAX_TOMBSTONES) return;
    const [oldest] = this.#tombstones.values();
    if (oldest === undefined) return;
    this.#tombstones.delete(oldest.id);
    this.#deletionsSince = oldest.offset;
  }

  /** Neighbours together: a tree that grows by them is as good as one that is made at once. */
  async #fill({ fields, tree, points }: Plane): Promise<void> {
    for (const cell of await cellsOf([...this.#rows.values()], fields)) {
      await nextTurn();
      // A row that was replaced meanwhile is in the plane as what it is now.
      const current = cell.filter(({ row }) => this.#rows.get(row.id) === row && !points.has(row));
      for (const point of current) points.set(point.row, point);
      tree.load(current);
    }
  }

  #add(row: ViewRow, chars: number): void {
    this.#rows.set(row.id, row);
    const bytes = ROW_BYTES + 2 * chars;
    this.#sizes.set(row, bytes);
    this.#bytes += bytes;
    for (const plane of this.#planes.values()) {
      const point = place(plane, row);
      if (point !== null) plane.tree.insert(point);
    }
  }

  #remove(row: ViewRow): void {
    this.#rows.delete(row.id);
    this.#bytes -= this.#sizes.get(row) ?? 0;
    this.#sizes.delete(row);
    for (const { tree, points } of this.#planes.values()) {
      const point = points.get(row);
      if (point === undefined) continue;
      points.delete(row);
      tree.remove(point);
    }
  }

  #clear(): void {
    this.#rows.clear();
    this.#sizes.clear();
    this.#planes.clear();
    this.#tombstones.clear();
    this.#bytes = 0;
  }
}

function idOf(type: string, key: string): string {
  return `${type.length}:${type}${key}`;
}

function planeName({ x, y }: Pick<Viewport, "x" | "y">): string {
  return JSON.stringify([x, y]);
}

/** Points in the cells of a grid: 100,000 of them are 700 a cell, which a tree takes up in 1 ms. */
const CELLS_PER_SIDE = 12;
/** Rows looked at in one turn: about 1 ms. */
const ROWS_PER_TURN = 5_000;

async function cellsOf(rows: readonly ViewRow[], fields: Pick<Viewport, "x" | "y">): Promise<Point[][]> {
  const points: Point[] = [];
  let [minX, minY, maxX, maxY] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const row of rows) {
    const point = pointFor(fields, row);
    if (point !== null && points.push(point) % ROWS_PER_TURN === 0) await nextTurn();
    if (point === null) continue;
    minX = Math.min(minX, point.minX);
    minY = Math.min(minY, point.minY);
    maxX = Math.max(maxX, point.maxX);
    maxY = Math.max(maxY, point.maxY);
  }
  const cells = Array.from({ length: CELLS_PER_SIDE ** 2 }, (): Point[] => []);
  const cellOf = (at: number, min: number, max: number): number =>
    max > min ? Math.min(CELLS_PER_SIDE - 1, Math.floor(((at - min) / (max - min)) * CELLS_PER_SIDE)) : 0;
  for (const [index, point] of points.entries()) {
    const cell = cellOf(point.minY, minY, maxY) * CELLS_PER_SIDE + cellOf(point.minX, minX, maxX);
    cells[cell]?.push(point);
    if (index % ROWS_PER_TURN === 0) await nextTurn();
  }
  return cells.filter(({ length }) => length > 0);
}

/** Where the row lies, noted; null when it lies nowhere. */
function place(plane: Plane, row: ViewRow): Point | null {
  const point = pointFor(plane.fields, row);
  if (point !== null) plane.points.set(row, point);
  return point;
}

function pointFor(fields: Pick<Viewport, "x" | "y">, row: ViewRow): Point | null {
  const at = pointOf(fields, row.value);
  return at === null ? null : { minX: at.x, minY: at.y, maxX: at.x, maxY: at.y, row };
}
