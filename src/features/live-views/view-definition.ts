/**
 * What a live view shows: which rows of a State Protocol stream, in which order, and how many. Parsed strictly, from JSON. A row
 * is in the view when its type, its filter and its viewport say so; of those the first `limit` in its order are shown. Pure.
 */

import { z } from "zod";
import { fieldAt, type Filter, type FilterPath, parseFilter, parsePath } from "../../protocol/filter.ts";
import type { OrderTerm } from "../../protocol/view-order.ts";

/** A rectangle over two numeric fields of a row; all four sides belong to it. */
export interface Viewport {
  readonly x: FilterPath;
  readonly y: FilterPath;
  readonly minX: number;
  readonly minY: number;
  readonly maxX: number;
  readonly maxY: number;
}

export interface ViewDefinition {
  /** Rows of this type only; null = all. */
  readonly type: string | null;
  readonly filter: Filter | null;
  readonly viewport: Viewport | null;
  /** Rows that are equal in all terms stand in the order of their keys. */
  readonly order: readonly OrderTerm[];
  readonly limit: number;
  /** The same for views that show the same. */
  readonly identity: string;
}

/** One row of the materialised state. Never changed: a change of the row is another one. */
export interface ViewRow {
  /** Its type and key in one (`rowId`); no two pairs have the same. */
  readonly id: string;
  readonly type: string;
  readonly key: string;
  readonly value: unknown;
  /** Of its value as text: equal where the content is. */
  readonly hash: bigint;
  /** Position after the change that made it. */
  readonly offset: string;
}

/** Also where a lone surrogate is all that tells two keys apart: as JSON they are ASCII, which a store keeps as it is. */
export function rowId(type: string, key: string): string {
  return JSON.stringify([type, key]);
}

/** What a row that may be there no more is called. */
export type RowName = Pick<ViewRow, "id" | "type" | "key">;

export function rowName(id: string): RowName {
  const [type, key] = JSON.parse(id) as [string, string];
  return { id, type, key };
}

/** Rows of a view that asks for no number: as many as a map shows, or a list. */
export const DEFAULT_LIMIT_WITH_VIEWPORT = 1_000;
export const DEFAULT_LIMIT = 250;
/** A full set of 10,000 rows of 200 B is 2 MB in one message. */
const MAX_LIMIT = 10_000;
const MAX_ORDER_TERMS = 4;
const MAX_TYPE_CHARS = 256;

const coordinate = z.number();
/** The fields of a view as a client sends them. */
const viewFields = {
  type: z.string().min(1).max(MAX_TYPE_CHARS).optional().describe("Only rows of this type"),
  filter: z.string().optional().describe("Only rows whose value matches (docs/filter.md)"),
  viewport: z
    .strictObject({
      x: z.string().describe("Path of a numeric field"),
      y: z.string().describe("Path of a numeric field"),
      minX: coordinate,
      minY: coordinate,
      maxX: coordinate,
      maxY: coordinate,
    })
    .optional()
    .describe("Only rows whose two fields lie in this rectangle, its sides included"),
  order: z.string().optional().describe("Paths, comma-separated; - before one = descending. Default: by key"),
  limit: z.int().min(1).max(MAX_LIMIT).optional().describe("Default: 1,000 with a viewport, else 250"),
};
const viewRequest = z.strictObject(viewFields);

/** The view, or why it is none. */
export function parseView(value: unknown): ViewDefinition | string {
  const parsed = viewRequest.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const where = issue === undefined || issue.path.length === 0 ? "view" : issue.path.join(".");
    return `${where}: ${issue?.message ?? "not valid"}`;
  }
  const { type = null, filter: filterText, viewport: wanted, order: orderText, limit } = parsed.data;
  const filter = filterText === undefined ? null : parseFilter(filterText);
  if (filter?.ok === false) return filter.reason;
  const viewport = wanted === undefined ? null : parseViewport(wanted);
  if (typeof viewport === "string") return viewport;
  const order = parseOrder(orderText ?? "");
  if (typeof order === "string") return order;
  const shown = {
    type,
    viewport,
    order,
    limit: limit ?? (viewport === null ? DEFAULT_LIMIT : DEFAULT_LIMIT_WITH_VIEWPORT),
  };
  const identity = JSON.stringify({ ...shown, filter: filter?.filter.text ?? null });
  return { ...shown, filter: filter?.filter ?? null, identity };
}

type ViewportRequest = NonNullable<z.infer<typeof viewRequest>["viewport"]>;

function parseViewport({ x: xText, y: yText, ...sides }: ViewportRequest): Viewport | string {
  const [x, y] = [parsePath(xText), parsePath(yText)];
  if (typeof x === "string") return `viewport.x: ${x}`;
  if (typeof y === "string") return `viewport.y: ${y}`;
  if (sides.minX > sides.maxX || sides.minY > sides.maxY) {
    return "viewport: its minimum is above its maximum; a rectangle across the edge of a map is two views";
  }
  return { x, y, ...sides };
}

function parseOrder(text: string): readonly OrderTerm[] | string {
  const terms: OrderTerm[] = [];
  for (const term of text.split(",")) {
    const name = term.trim();
    if (name === "" && text.trim() === "") break;
    const descending = name.startsWith("-");
    const path = parsePath(descending ? name.slice(1) : name);
    if (typeof path === "string") return `order: ${path}`;
    if (terms.push({ path, descending }) > MAX_ORDER_TERMS) return `order: at most ${MAX_ORDER_TERMS} fields`;
  }
  return terms;
}

/** Whether a row belongs to a view, its limit aside. */
export function isInView({ type, filter, viewport }: ViewDefinition, row: ViewRow): boolean {
  if (type !== null && row.type !== type) return false;
  if (viewport !== null && !isInViewport(viewport, row.value)) return false;
  return filter === null || filter.matches(row.value);
}

function isInViewport(viewport: Viewport, value: unknown): boolean {
  const point = pointOf(viewport, value);
  if (point === null) return false;
  return point.x >= viewport.minX && point.x <= viewport.maxX && point.y >= viewport.minY && point.y <= viewport.maxY;
}

/** The two fields of a viewport. */
export type PlaneFields = Pick<Viewport, "x" | "y">;

/** The same for viewports over the same two fields. */
export function planeName({ x, y }: PlaneFields): string {
  return JSON.stringify([x, y]);
}

/** Where a row lies for two fields; null when one of them is no number, or one that JSON can say but no map can show (1e400). */
export function pointOf({ x, y }: PlaneFields, value: unknown): { x: number; y: number } | null {
  const [atX, atY] = [fieldAt(value, x), fieldAt(value, y)];
  return isCoordinate(atX) && isCoordinate(atY) ? { x: atX, y: atY } : null;
}

function isCoordinate(value: unknown): value is number {
  return Number.isFinite(value);
}
