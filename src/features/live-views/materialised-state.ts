/**
 * The rows of a State Protocol stream as they are after some record of it: type and key to value. Rows are never changed in place, so
 * what was read stays what it was. Finds the rows of a viewport by a tree per pair of fields, made and dropped when the caller says so.
 * Bounds: so many trees, so many deletions remembered; rows by the caller, who asks for `bytes`, where all of it counts.
 */

import RBush from "rbush";
import { nextTurn } from "../../kit/turn.ts";
import type { StateRecord } from "../state-protocol/index.ts";
import { type PlaneFields, planeName, pointOf, rowId, type Viewport, type ViewRow } from "./view-definition.ts";

interface Point {
  readonly minX: number;
  readonly minY: number;
  readonly maxX: number;
  readonly maxY: number;
  readonly row: ViewRow;
}

/** The rows that have numbers in two fields, by where they lie. */
interface Plane {
  readonly fields: PlaneFields;
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

/** Deletions remembered, so that a client that comes back can be told of them: as many as fit in both. */
const MAX_TOMBSTONES = 10_000;
const MAX_TOMBSTONE_BYTES = 4 * 1024 * 1024;
/** What a deletion costs besides the id, which may be all that is left of it. */
const TOMBSTONE_BYTES = 100;
/** A row, its place in a map, and a parsed value cost about this besides twice the text of its value, its id, its type and its key. */
const ROW_BYTES = 300;
/** A row's place in a plane, measured. Every change pays for every plane: past so many, views look at all rows. */
const POINT_BYTES = 160;
const MAX_PLANES = 8;

export class MaterialisedState {
  readonly #hash: (text: string) => bigint;
  readonly #rows = new Map<string, ViewRow>();
  readonly #sizes = new Map<ViewRow, number>();
  readonly #planes = new Map<string, Plane>();
  /** Ids of rows that were deleted, with the offset of their deletion; the oldest first. */
  readonly #tombstones = new Map<string, string>();
  /** All deletions after this position are remembered. */
  #deletionsSince: string;
  #rowBytes = 0;
  #tombstoneBytes = 0;

  /** `offset`: where the records that it is told begin. */
  constructor(hash: (text: string) => bigint, offset: string) {
    this.#hash = hash;
    this.#deletionsSince = offset;
  }

  get size(): number {
    return this.#rows.size;
  }

  /** What all of it takes up in memory, about. */
  get bytes(): number {
    let points = 0;
    for (const plane of this.#planes.values()) points += plane.points.size;
    return this.#rowBytes + this.#tombstoneBytes + points * POINT_BYTES;
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
    const id = rowId(type, key);
    const before = this.#rows.get(id) ?? null;
    if (operation === "delete") {
      // Also without the row: kept rows may lack one already whose deletion only the log says.
      this.#bury(id, offset);
      if (before === null) return null;
      this.#remove(before);
      return { before, after: null };
    }
    const text = JSON.stringify(record.after);
    const hash = this.#hash(text);
    if (before?.hash === hash) return null;
    // The names that are known already: what was sent of the row holds them.
    const name = before ?? { id, type, key };
    const after: ViewRow = { id: name.id, type: name.type, key: name.key, value: record.after, hash, offset };
    if (before !== null) this.#remove(before);
    this.#exhume(id);
    this.#add(after, text.length);
    return { before, after };
  }

  /** Puts a row back that was kept. */
  restore({ type, key, value, offset }: Pick<ViewRow, "type" | "key" | "value" | "offset">): void {
    const text = JSON.stringify(value);
    const row: ViewRow = { id: rowId(type, key), type, key, value, hash: this.#hash(text), offset };
    this.#add(row, text.length);
  }

  get(id: string): ViewRow | null {
    return this.#rows.get(id) ?? null;
  }

  /** All rows, in no order. */
  getAllEvents(): IterableIterator<ViewRow> {
    return this.#rows.values();
  }

  /**
   * Resolves when rows are found by the fields of a viewport; the first time that takes a while, in short turns. Nothing happens when
   * there are as many planes as there may be, or no room for one more.
   */
  async prepare({ x, y }: Viewport, hasRoom: (bytes: number) => boolean): Promise<void> {
    const name = planeName({ x, y });
    const known = this.#planes.get(name);
    if (known !== undefined) return known.filled;
    if (this.#planes.size >= MAX_PLANES || !hasRoom(this.#rows.size * POINT_BYTES)) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const plane = { fields: { x, y }, tree: new RBush<Point>(), points: new Map<ViewRow, Point>(), filled: promise };
    this.#planes.set(name, plane);
    try {
      await this.#fill(name, plane);
    } catch (cause) {
      // With some of the rows it would hide the others.
      this.#planes.delete(name);
      throw cause;
    } finally {
      resolve();
    }
  }

  /** Nobody asks for rows by these fields any more. */
  dropPlane(viewport: Viewport): void {
    this.#planes.delete(planeName(viewport));
  }

  /** The rows that may lie in a viewport, in no order: those that do, once it is prepared; else all. */
  getEventsInViewport(viewport: Viewport): ViewRow[] {
    const { minX, minY, maxX, maxY } = viewport;
    const plane = this.#planes.get(planeName(viewport));
    if (plane === undefined) return [...this.#rows.values()];
    return plane.tree.search({ minX, minY, maxX, maxY }).map(({ row }) => row);
  }

  /** Ids of rows deleted after a position; null when not all of them are remembered. */
  deletedSince(offset: string): string[] | null {
    if (offset < this.#deletionsSince) return null;
    return [...this.#tombstones].filter(([, deletedAt]) => deletedAt > offset).map(([id]) => id);
  }

  #bury(id: string, offset: string): void {
    this.#exhume(id);
    this.#tombstones.set(id, offset);
    this.#tombstoneBytes += tombstoneBytes(id);
    for (const [oldest, deletedAt] of this.#tombstones) {
      if (this.#tombstones.size <= MAX_TOMBSTONES && this.#tombstoneBytes <= MAX_TOMBSTONE_BYTES) return;
      this.#exhume(oldest);
      this.#deletionsSince = deletedAt;
    }
  }

  #exhume(id: string): void {
    if (this.#tombstones.delete(id)) this.#tombstoneBytes -= tombstoneBytes(id);
  }

  /** Neighbours together: a tree that grows by them is as good as one that is made at once. */
  async #fill(name: string, plane: Plane): Promise<void> {
    const { fields, tree, points } = plane;
    for (const cell of await cellsOf([...this.#rows.values()], fields)) {
      await nextTurn();
      // Dropped meanwhile.
      if (this.#planes.get(name) !== plane) return;
      // A row that was replaced meanwhile is in the plane as what it is now.
      const current = cell.filter(({ row }) => this.#rows.get(row.id) === row && !points.has(row));
      for (const point of current) points.set(point.row, point);
      tree.load(current);
    }
  }

  #add(row: ViewRow, chars: number): void {
    this.#rows.set(row.id, row);
    const bytes = ROW_BYTES + 2 * (chars + row.id.length + row.type.length + row.key.length);
    this.#sizes.set(row, bytes);
    this.#rowBytes += bytes;
    for (const plane of this.#planes.values()) {
      const point = place(plane, row);
      if (point !== null) plane.tree.insert(point);
    }
  }

  #remove(row: ViewRow): void {
    this.#rows.delete(row.id);
    this.#rowBytes -= this.#sizes.get(row) ?? 0;
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
    this.#rowBytes = 0;
    this.#tombstoneBytes = 0;
  }
}

function tombstoneBytes(id: string): number {
  return TOMBSTONE_BYTES + 2 * id.length;
}

/** Points in the cells of a grid: 100,000 of them are 700 a cell, which a tree takes up in 1 ms. */
const CELLS_PER_SIDE = 12;
/** Rows looked at in one turn: about 1 ms. */
const ROWS_PER_TURN = 5_000;

async function cellsOf(rows: readonly ViewRow[], fields: PlaneFields): Promise<Point[][]> {
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

function pointFor(fields: PlaneFields, row: ViewRow): Point | null {
  const at = pointOf(fields, row.value);
  return at === null ? null : { minX: at.x, minY: at.y, maxX: at.x, maxY: at.y, row };
}
