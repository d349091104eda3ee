/**
 * What one change touches, seen by one template: the fine keys, or nothing but the word that it cannot tell (`coarse`).
 *
 *   insert                 watch(after), membership(after)
 *   delete                 watch(before), membership(before)
 *   update, set the same   watch, and one field key per changed field outside the template
 *   update, row moved      watch and membership of both sides
 *   side without a set     the other side's keys alone
 *   before not known       coarse, or with `skipBefore` the keys of the after side as if every field had changed
 *
 * The table key of the entity is touched by every change, the template's own key by all but `nothing`; neither is made here. Pure.
 */

import type { KeyWriter } from "../../protocol/touch-keys.ts";
import { isRow, type Row, type StateRecord } from "../state-protocol/index.ts";
import { isRounded, type Side, sideOf, type Template } from "./template.ts";

export type Change = Extract<StateRecord, { kind: "change" }>;
export type Emit = (key: bigint) => void;
export type DerivedAs = "fine" | "coarse" | "nothing";

/** One change, as all templates of its entity look at it. */
export class ChangeView {
  readonly change: Change;
  #changed: readonly string[] | null = null;

  constructor(change: Change) {
    this.change = change;
  }

  /** Fields whose value differs between the sides; only where both sides are rows. */
  get changedFields(): readonly string[] {
    return (this.#changed ??= changedFields(this.change));
  }

  /** How many fine keys a template may make of it at most, about. */
  get width(): number {
    const { before, after } = this.change;
    if (!isRow(after)) return 2;
    return 4 + (isRow(before) ? this.changedFields.length : Object.keys(after).length);
  }

  /** Whether both sides are rows with the same values in the template's fields. */
  keepsFields(template: Template): boolean {
    const { operation, before, after } = this.change;
    if (operation === "insert" || !isRow(before) || !isRow(after)) return false;
    for (const name of this.changedFields) if (isField(template, name)) return false;
    // A field that neither side has did not change, and is in no set.
    for (const { name } of template.fields) if (!Object.hasOwn(before, name)) return false;
    return true;
  }
}

/** Emits the fine keys of a change for `template`. `coarse`: none were emitted, and any of them may be touched. */
export function deriveKeys(
  view: ChangeView,
  template: Template,
  skipBefore: boolean,
  writer: KeyWriter,
  emit: Emit,
): DerivedAs {
  const { change } = view;
  const after: Side = change.operation === "delete" ? "none" : sideOf(template, change.after, "after");
  const { idWords: id } = template;
  // The usual update: the row stays where it is, so one side says it all.
  if (isArgs(after) && view.keepsFields(template)) return emitSame(view, template, after, writer, emit);
  const before: Side = isNew(change) ? "none" : sideOf(template, change.before, "before");
  if (after === "unknown" || (before === "unknown" && !skipBefore)) return "coarse";
  if (isArgs(before) && isArgs(after) && sameArgs(before, after)) {
    return emitSame(view, template, after, writer, emit);
  }
  if (!isArgs(before) && !isArgs(after)) return "nothing";
  for (const side of [before, after]) {
    if (!isArgs(side)) continue;
    emit(writer.watch(id, side));
    emit(writer.membership(id, side));
  }
  if (before === "unknown" && isArgs(after)) {
    for (const field of Object.keys(change.after as Row)) {
      if (!isField(template, field)) emit(writer.field(id, field, after));
    }
  }
  return "fine";
}

/** The row stays in its set. */
function emitSame(
  view: ChangeView,
  template: Template,
  args: readonly string[],
  writer: KeyWriter,
  emit: Emit,
): DerivedAs {
  emit(writer.watch(template.idWords, args));
  for (const field of view.changedFields) {
    if (!isField(template, field)) emit(writer.field(template.idWords, field, args));
  }
  return "fine";
}

function isArgs(side: Side): side is readonly string[] {
  return typeof side !== "string";
}

function sameArgs(left: readonly string[], right: readonly string[]): boolean {
  for (let at = 0; at < left.length; at++) if (left[at] !== right[at]) return false;
  return true;
}

/** There was no row: an insert, or an upsert that says so by a null. */
function isNew({ operation, before }: Change): boolean {
  return operation === "insert" || (operation === "upsert" && before === null);
}

function changedFields({ before, after }: Change): string[] {
  const [left, right] = [before as Row, after as Row];
  const changed: string[] = [];
  for (const name in right) {
    if (!(Object.hasOwn(left, name) && sameValue(left[name], right[name]))) changed.push(name);
  }
  // The new row is told whole: what it lacks is null. What the old value lacks is not known, and counts as changed.
  for (const name in left) {
    if (!Object.hasOwn(right, name) && left[name] !== null) changed.push(name);
  }
  return changed;
}

function isField(template: Template, name: string): boolean {
  for (const field of template.fields) if (field.name === name) return true;
  return false;
}

/** Lists and objects are compared as JSON: another order of members counts as a change, which wakes and never misses. */
function sameValue(left: unknown, right: unknown): boolean {
  if (left === right) return !isRounded(left);
  if (typeof left !== "object" || typeof right !== "object" || left === null || right === null) return false;
  return JSON.stringify(left) === JSON.stringify(right);
}
