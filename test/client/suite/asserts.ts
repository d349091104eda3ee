/**
 * What the client's suite expects with: a few asserts for every runtime, because no test library runs in all of them. Each throws
 * an error that shows both sides, shortened.
 */

import { isStreamError, Refused, type StreamError } from "../../../src/client/client.ts";

const MAX_SHOWN_CHARS = 400;

export function check(what: string, holds: boolean): void {
  if (!holds) throw new Error(`expected ${what}`);
}

/** Deeply equal, as JSON would carry both, but told apart: undefined and a field that is not there. */
export function same(actual: unknown, expected: unknown): void {
  if (!isEqual(actual, expected)) throw new Error(`expected ${shown(expected)}, got ${shown(actual)}`);
}

/** Every field of `expected` is there and the same; others may be there. */
export function matches(actual: object | null, expected: Readonly<Record<string, unknown>>): void {
  const fields = new Map(Object.entries(actual ?? {}));
  same(Object.fromEntries(Object.keys(expected).map((name) => [name, fields.get(name)])), expected);
}

/** The same bytes, also where a deep comparison would take too long. */
export function sameBytes(actual: Uint8Array, expected: Uint8Array): void {
  const at = expected.findIndex((byte, index) => byte !== actual[index]);
  if (at === -1 && actual.length === expected.length) return;
  throw new Error(`expected ${expected.length} bytes, got ${actual.length}, the first other one at ${at}`);
}

interface Outcome {
  readonly status: "ok" | "error";
  readonly value?: unknown;
  readonly error?: unknown;
}

/** The answer is a no of the server, with this status and, if given, this code. */
export async function refused(answer: Promise<Outcome>, status: number, code?: string): Promise<Refused> {
  return asRefused(await failed(answer), status, code);
}

/** The answer is an error, one of the three tagged ones. */
export async function failed(answer: Promise<Outcome>): Promise<StreamError> {
  const { status, value, error } = await answer;
  if (status === "ok") throw new Error(`expected an error, got ${shown(value)}`);
  if (!isStreamError(error)) throw new Error(`expected a stream error, got ${String(error)}`);
  return error;
}

export function asRefused(error: unknown, status: number, code?: string): Refused {
  if (!Refused.is(error)) throw new Error(`expected a refusal with ${status}, got ${String(error)}`);
  matches(error, { _tag: "Refused", status, ...(code === undefined ? {} : { code }) });
  check(`a message in the refusal with ${status}`, error.message !== "");
  return error;
}

/** What the promise is rejected with; undefined when it is not. Never rejects itself, so it may be awaited later. */
export function thrown(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => undefined,
    (cause: unknown) => cause,
  );
}

function isEqual(left: unknown, right: unknown): boolean {
  if (Object.is(left, right)) return true;
  if (typeof left !== "object" || typeof right !== "object" || left === null || right === null) return false;
  if (Array.isArray(left) !== Array.isArray(right)) return false;
  const others = new Map(Object.entries(right));
  const entries = Object.entries(left);
  return (
    entries.length === others.size &&
    entries.every(([name, value]) => others.has(name) && isEqual(value, others.get(name)))
  );
}

function shown(value: unknown): string {
  return (JSON.stringify(value) ?? String(value)).slice(0, MAX_SHOWN_CHARS);
}
