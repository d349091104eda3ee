/**
 * One record of the State Protocol: a change of one row, or a control mark. Parsing is strict, so that everything derived from
 * a stored record can rely on its shape. Pure.
 */

import { isJsonObject } from "../../kit/json-object.ts";
import { parseOffset } from "../../protocol/offset.ts";

/** `upsert` is an update whose row may be new. */
export type Operation = "insert" | "update" | "delete" | "upsert";
export type ControlMark = "snapshot-start" | "snapshot-end" | "reset";

/** A change as clients send it. */
export interface ChangeRecord {
  readonly type: string;
  readonly key: string;
  readonly value?: unknown;
  readonly old_value?: unknown;
  readonly headers: { readonly operation: Operation; readonly txid?: string; readonly timestamp?: string };
}

export interface ControlRecord {
  readonly headers: { readonly control: ControlMark; readonly offset?: string };
}

/** A parsed record. `before` and `after` are undefined where the record does not say them. */
export type StateRecord =
  | {
      readonly kind: "change";
      readonly entity: string;
      readonly key: string;
      readonly operation: Operation;
      readonly before: unknown;
      readonly after: unknown;
    }
  | { readonly kind: "control"; readonly control: ControlMark };

/** A whole number of seconds and at most nanoseconds, with its zone. */
const TIMESTAMP = /^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)$/;

/** What `value` and `old_value` are for a change that says its row. */
export type Row = Readonly<Record<string, unknown>>;

/** The record, or why it is none. `value` comes from `JSON.parse`. */
export function parseStateRecord(value: unknown): StateRecord | string {
  if (!isRow(value)) return "it is not an object";
  const { headers } = value;
  if (!isRow(headers)) return "it needs 'headers', an object";
  const isChange = Object.hasOwn(headers, "operation");
  if (isChange === Object.hasOwn(headers, "control")) {
    return "its headers need exactly one of 'operation' and 'control'";
  }
  return isChange ? parseChange(value, headers) : parseControl(value, headers);
}

function parseChange(record: Row, headers: Row): StateRecord | string {
  for (const name in record) {
    switch (name) {
      case "type":
      case "key":
      case "value":
      case "old_value":
      case "headers":
        break;
      default:
        return `unknown field '${name}'`;
    }
  }
  for (const name in headers) {
    if (name !== "operation" && name !== "txid" && name !== "timestamp") return `unknown header '${name}'`;
  }
  const { type, key } = record;
  const { operation, txid, timestamp } = headers;
  if (typeof type !== "string" || type === "") return "'type' is a string that is not empty";
  if (typeof key !== "string" || key === "") return "'key' is a string that is not empty";
  if (!isOperation(operation)) return "'headers.operation' is insert, update, delete or upsert";
  if (operation !== "delete" && !Object.hasOwn(record, "value")) return `'value' is missing, and ${operation} needs it`;
  if (txid !== undefined && (typeof txid !== "string" || txid === "")) {
    return "'headers.txid' is a string that is not empty";
  }
  if (timestamp !== undefined && !isTimestamp(timestamp)) {
    return "'headers.timestamp' is an RFC 3339 time with at most nine fraction digits";
  }
  return { kind: "change", entity: type, key, operation, before: record["old_value"], after: record["value"] };
}

function parseControl(record: Row, headers: Row): StateRecord | string {
  for (const name in record) if (name !== "headers") return `unknown field '${name}' beside a control header`;
  for (const name in headers) if (name !== "control" && name !== "offset") return `unknown header '${name}'`;
  const { control, offset } = headers;
  if (control !== "snapshot-start" && control !== "snapshot-end" && control !== "reset") {
    return "'headers.control' is snapshot-start, snapshot-end or reset";
  }
  if (offset !== undefined && (typeof offset !== "string" || parseOffset(offset) === null)) {
    return "'headers.offset' is an offset of a stream";
  }
  return { kind: "control", control };
}

function isOperation(value: unknown): value is Operation {
  return value === "insert" || value === "update" || value === "delete" || value === "upsert";
}

function isTimestamp(value: unknown): boolean {
  return typeof value === "string" && TIMESTAMP.test(value) && !Number.isNaN(Date.parse(value));
}

export function isRow(value: unknown): value is Row {
  return isJsonObject(value);
}
