/**
 * Which views a change may concern: those that show the row as it was, or as it is now. A view lies where it is found with the least
 * work: in a tree of viewports, under a value that its filter demands, or with the rest. A change costs what it finds, not what
 * there is; only views without a viewport and without a demanded value are asked one by one.
 */

import RBush from "rbush";
import { fieldAt, type FilterExpression, type FilterLiteral, type FilterPath } from "../../protocol/filter.ts";
import { isInView, planeName, pointOf, type ViewDefinition, type Viewport, type ViewRow } from "./view-definition.ts";

export interface Interested {
  readonly definition: ViewDefinition;
}

interface Box<V> {
  readonly minX: number;
  readonly minY: number;
  readonly maxX: number;
  readonly maxY: number;
  readonly view: V;
}

/** Views over one pair of fields. */
interface Plane<V> {
  readonly x: FilterPath;
  readonly y: FilterPath;
  readonly boxes: RBush<Box<V>>;
  size: number;
}

/** Views whose filter demands a value of one field. */
interface Demand<V> {
  readonly path: FilterPath;
  readonly byValue: Map<FilterLiteral, Set<V>>;
}

export class InterestIndex<V extends Interested> {
  readonly #planes = new Map<string, Plane<V>>();
  readonly #demands = new Map<string, Demand<V>>();
  readonly #rest = new Set<V>();
  readonly #boxes = new Map<V, Box<V>>();

  add(view: V): void {
    const { viewport, filter } = view.definition;
    if (viewport !== null) {
      const { x, y, minX, minY, maxX, maxY } = viewport;
      const box = { minX, minY, maxX, maxY, view };
      const plane = entry(this.#planes, planeName(viewport), () => ({ x, y, boxes: new RBush<Box<V>>(), size: 0 }));
      plane.boxes.insert(box);
      plane.size++;
      this.#boxes.set(view, box);
      return;
    }
    const demanded = filter === null ? null : demandOf(filter.expression);
    if (demanded === null) return void this.#rest.add(view);
    const { path, values } = demanded;
    const demand = entry(this.#demands, JSON.stringify(path), () => ({
      path,
      byValue: new Map<FilterLiteral, Set<V>>(),
    }));
    for (const value of values) entry(demand.byValue, value, () => new Set<V>()).add(view);
  }

  remove(view: V): void {
    this.#rest.delete(view);
    const { viewport, filter } = view.definition;
    const box = this.#boxes.get(view);
    if (viewport !== null && box !== undefined) {
      const name = planeName(viewport);
      const plane = this.#planes.get(name);
      plane?.boxes.remove(box);
      this.#boxes.delete(view);
      if (plane !== undefined && --plane.size === 0) this.#planes.delete(name);
      return;
    }
    const demanded = filter === null ? null : demandOf(filter.expression);
    if (demanded === null) return;
    const name = JSON.stringify(demanded.path);
    const demand = this.#demands.get(name);
    for (const value of demanded.values) {
      const views = demand?.byValue.get(value);
      views?.delete(view);
      if (views?.size === 0) demand?.byValue.delete(value);
    }
    if (demand?.byValue.size === 0) this.#demands.delete(name);
  }

  /** How many views have a viewport over the same two fields. */
  overFieldsOf(viewport: Viewport): number {
    return this.#planes.get(planeName(viewport))?.size ?? 0;
  }

  /** Adds to `found` every view that shows one of the sides of a change, its limit aside. */
  affected(before: ViewRow | null, after: ViewRow | null, found: Set<V>): void {
    for (const row of [before, after]) if (row !== null) this.#find(row, found);
  }

  #find(row: ViewRow, found: Set<V>): void {
    for (const plane of this.#planes.values()) {
      const point = pointOf(plane, row.value);
      if (point === null) continue;
      const { x, y } = point;
      for (const { view } of plane.boxes.search({ minX: x, minY: y, maxX: x, maxY: y })) take(view, row, found);
    }
    for (const { path, byValue } of this.#demands.values()) {
      const value = fieldAt(row.value, path);
      // No literal is an object, and no view is under undefined.
      for (const view of byValue.get(value as FilterLiteral) ?? []) take(view, row, found);
    }
    for (const view of this.#rest) take(view, row, found);
  }
}

function take<V extends Interested>(view: V, row: ViewRow, found: Set<V>): void {
  if (!found.has(view) && isInView(view.definition, row)) found.add(view);
}

/** Values of which a field must have one for the filter to match; null when it demands none. */
function demandOf(expression: FilterExpression): { path: FilterPath; values: readonly FilterLiteral[] } | null {
  switch (expression.kind) {
    case "compare":
      return expression.op === "=" ? { path: expression.path, values: [expression.value] } : null;
    case "in":
      return { path: expression.path, values: [...new Set(expression.values)] };
    case "and":
      for (const term of expression.terms) {
        const demanded = demandOf(term);
        if (demanded !== null) return demanded;
      }
      return null;
    default:
      return null;
  }
}

function entry<K, T>(map: Map<K, T>, key: K, make: () => T): T {
  let value = map.get(key);
  if (value === undefined) map.set(key, (value = make()));
  return value;
}
