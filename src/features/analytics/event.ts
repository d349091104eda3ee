/**
 * What an analytics event is: checked, and read into the few things that the stage decides by. The event itself travels on as it
 * was sent. Pure.
 */

import { isJsonObject, type JsonObject } from "../../kit/json-object.ts";
import { MAX_MAGNITUDE } from "./window-stats.ts";

export const EVENT_TYPES = ["command", "engagement", "error", "performance", "datastore"] as const;
export type EventType = (typeof EVENT_TYPES)[number];

export const PRIORITIES = ["high", "normal", "low"] as const;
export type Priority = (typeof PRIORITIES)[number];

export interface AnalyticsEvent {
  readonly type: EventType;
  /** Names the event: `commandName`, `metric` and `value`, `eventType`, `errorHash`, or `operation` and `storeType`. */
  readonly data: JsonObject;
  /** Default: failures and errors high, routine metrics and cache hits low, the rest normal. */
  readonly priority?: Priority;
  /** Milliseconds since the Unix epoch; default: when it arrives. */
  readonly timestamp?: number;
  /** The share of such events that its sender let through; default 1. */
  readonly sampleRate?: number;
  /** The sender has sampled already: it is not sampled again. */
  readonly sampled?: boolean;
  /** Events with the same key are kept or left out together: a session, a user. */
  readonly sampleKey?: string;
}

/** Of what an aggregate tells: one series of values. */
export interface Series {
  readonly type: EventType;
  readonly name: string;
  /** The dimensions of a metric as canonical JSON; empty = none. */
  readonly context: string;
  /** All three in one string. */
  readonly id: string;
}

/** An event as the stage sees it. */
export interface ReadEvent {
  readonly type: EventType;
  readonly name: string;
  readonly priority: Priority;
  /** Null: when it arrives. */
  readonly timestampMs: number | null;
  /** How many events it stands for: 1 over the rate of its sender. */
  readonly weight: number;
  readonly sampled: boolean;
  readonly sampleKey: string | null;
  /** What an aggregate takes of it; null = it is stored as it is. */
  readonly value: number | null;
  readonly context: string;
}

export const MAX_NAME_CHARS = 200;
const MAX_SAMPLE_KEY_CHARS = 256;
/** A rate below it is a mistake: one event would stand for more than 100,000. */
const MIN_SAMPLE_RATE = 1e-5;
const MAX_DIMENSIONS = 8;
const MAX_DIMENSION_CHARS = 128;
/** The last millisecond that a date can hold. */
const MAX_TIME_MS = 8.64e15;

/** Metrics of the machinery itself. */
const ROUTINE_METRICS = new Set(["memory_usage", "cache_hit_rate"]);
const ROUTINE_NAME = "cache_hit";

/** The event, or what is wrong with it. */
export function readEvent(value: unknown): ReadEvent | string {
  if (!isJsonObject(value)) return "an event is an object";
  const { type, data, priority, timestamp = null, sampleRate = 1, sampled = false, sampleKey = null } = value;
  if (!isOneOf(EVENT_TYPES, type)) return `type is one of ${EVENT_TYPES.join(", ")}`;
  if (!isJsonObject(data)) return "data is an object";
  if (priority !== undefined && !isOneOf(PRIORITIES, priority)) return `priority is one of ${PRIORITIES.join(", ")}`;
  if (timestamp !== null && !(isNumber(timestamp) && timestamp >= 0 && timestamp <= MAX_TIME_MS))
    return "timestamp is milliseconds since the Unix epoch";
  if (!(isNumber(sampleRate) && sampleRate >= MIN_SAMPLE_RATE && sampleRate <= 1))
    return `sampleRate is ${MIN_SAMPLE_RATE} to 1`;
  if (typeof sampled !== "boolean") return "sampled is true or false";
  if (sampleKey !== null && !isShort(sampleKey, MAX_SAMPLE_KEY_CHARS))
    return `sampleKey is a string of 1 to ${MAX_SAMPLE_KEY_CHARS} characters`;
  const subject = SUBJECTS[type](data);
  if (typeof subject === "string") return subject;
  const { name, value: measured, context = "" } = subject;
  return {
    type,
    name,
    priority: priority ?? priorityOf(type, name, data),
    timestampMs: timestamp,
    weight: 1 / sampleRate,
    // Who says at which rate it sampled has sampled.
    sampled: sampled || sampleRate < 1,
    sampleKey,
    value: measured,
    context,
  };
}

/** The series that an event belongs to. */
export function seriesOf(type: EventType, name: string, context: string): Series {
  const key = `${type}.${name}`;
  return { type, name, context, id: context === "" ? key : `${key}\n${context}` };
}

interface Subject {
  readonly name: string;
  readonly value: number | null;
  readonly context?: string;
}

/** By type: what the event is about, or why that is not said. */
const SUBJECTS: Readonly<Record<EventType, (data: JsonObject) => Subject | string>> = {
  command: (data) => named(data, "commandName"),
  engagement: (data) => named(data, "eventType"),
  performance(data) {
    const { metric, value, context } = data;
    if (!isShort(metric, MAX_NAME_CHARS)) return missing("metric");
    if (!isValue(value)) return badValue("value");
    const dimensions = canonicalContext(context);
    return dimensions === null ? badContext : { name: metric, value, context: dimensions };
  },
  error({ errorHash = null }) {
    // Without a hash it is like no other error: stored as it is.
    if (errorHash === null) return { name: "unknown", value: null };
    return isShort(errorHash, MAX_NAME_CHARS) ? { name: errorHash, value: 1 } : missing("errorHash");
  },
  datastore({ operation, storeType, durationMs = null }) {
    if (!isShort(operation, MAX_NAME_CHARS / 2)) return missing("operation");
    if (!isShort(storeType, MAX_NAME_CHARS / 2)) return missing("storeType");
    if (durationMs !== null && !isValue(durationMs)) return badValue("durationMs");
    return { name: `${operation}:${storeType}`, value: durationMs ?? 1 };
  },
};

function named(data: JsonObject, field: string): Subject | string {
  const name = data[field];
  return isShort(name, MAX_NAME_CHARS) ? { name, value: null } : missing(field);
}

function missing(field: string): string {
  return `data.${field} is a string of 1 to ${MAX_NAME_CHARS} characters`;
}

function priorityOf(type: EventType, name: string, data: JsonObject): Priority {
  if (type === "error" || (type === "command" && data["success"] === false)) return "high";
  if (type === "performance" && ROUTINE_METRICS.has(name)) return "low";
  return name === ROUTINE_NAME ? "low" : "normal";
}

const badContext = `data.context holds at most ${MAX_DIMENSIONS} strings, numbers and booleans, of at most ${MAX_DIMENSION_CHARS} characters`;

/** The same for the same dimensions in any order; null when they are none. */
export function canonicalContext(context: unknown): string | null {
  if (context === undefined || context === null) return "";
  if (!isJsonObject(context)) return null;
  const entries = Object.entries(context);
  if (entries.length === 0) return "";
  if (entries.length > MAX_DIMENSIONS) return null;
  let isSorted = true;
  let before = "";
  for (const [name, value] of entries) {
    if (name < before) isSorted = false;
    before = name;
    if (name.length === 0 || name.length > MAX_DIMENSION_CHARS) return null;
    if (typeof value === "string" ? value.length > MAX_DIMENSION_CHARS : !isNumber(value) && typeof value !== "boolean")
      return null;
  }
  if (isSorted) return JSON.stringify(context);
  entries.sort(([left], [right]) => (left < right ? -1 : 1));
  // Not Object.fromEntries: that would put names like numbers first.
  return `{${entries.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`).join(",")}}`;
}

/** What statistics can take: its square is far from overflow. */
function isValue(value: unknown): value is number {
  return isNumber(value) && Math.abs(value) <= MAX_MAGNITUDE;
}

function badValue(field: string): string {
  return `data.${field} is a number of at most ${MAX_MAGNITUDE}`;
}

function isNumber(value: unknown): value is number {
  return typeof value === "number" && Number.isFinite(value);
}

function isShort(value: unknown, maxChars: number): value is string {
  return typeof value === "string" && value.length > 0 && value.length <= maxChars;
}

function isOneOf<T extends string>(values: readonly T[], value: unknown): value is T {
  return (values as readonly unknown[]).includes(value);
}
