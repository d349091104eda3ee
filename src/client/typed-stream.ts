/**
 * A JSON stream whose records have a schema, by Standard Schema (`~standard`): any library that speaks it will do. What is appended
 * is checked as it will be read, after JSON, and sent as it was given; what is read is checked again, and comes as the schema's
 * output. Owns nothing: it looks at what goes through a stream.
 */

import { Result, TaggedError } from "better-result";
import type { Appended, Producer } from "./appending.ts";
import { type Delivery, MAX_VALUE_BYTES, outline } from "./delivery.ts";
import type { FollowOptions } from "./follow.ts";
import { JsonArraySplitter } from "./json-array-splitter.ts";
import type { ReadHeaders, ReadRange } from "./reading.ts";
import { BrokenAnswer, type StreamError } from "./stream-error.ts";

/** What of Standard Schema 1 is needed. */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => StandardResult<Output> | Promise<StandardResult<Output>>;
    /** Never there at run time: it carries the types. */
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  };
}

export type StandardResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly StandardIssue[] };

export interface StandardIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** What is wrong with one record; `index` counts in the append, in the delivery, or from where the read began. */
export interface InvalidRecord {
  readonly index: number;
  readonly issues: readonly StandardIssue[];
}

/** Records that do not have the stream's schema. Of an append nothing was sent; of a delivery nothing was given out. */
export class InvalidRecords extends TaggedError("InvalidRecords")<{
  readonly message: string;
  readonly records: readonly InvalidRecord[];
}> {}

export interface TypedAppendOptions {
  readonly key?: string;
  readonly producer?: Producer;
  readonly ifMatch?: string;
  readonly close?: boolean;
  readonly signal?: AbortSignal;
}

/** What becomes of a record that does not have the schema: an error (default), or it is passed over. */
export type OnInvalid = "throw" | "skip";

export interface TypedReadOptions extends ReadRange {
  readonly onInvalid?: OnInvalid;
  readonly signal?: AbortSignal;
}

export interface TypedFollowOptions extends FollowOptions {
  readonly onInvalid?: OnInvalid;
}

/** One catch-up answer: what its headers say, and its records, to be iterated once. */
export interface TypedRead<Output> extends ReadHeaders, AsyncIterable<Output> {}

/** One step forward, with records in place of bytes. */
export interface TypedDelivery<Output> extends Omit<Delivery, "parts"> {
  readonly values: readonly Output[];
}

export interface TypedStream<Input, Output> {
  /** All or nothing: one record that does not have the schema, and none is sent. */
  append(
    values: readonly Input[],
    options?: TypedAppendOptions,
  ): Promise<Result<Appended, StreamError | InvalidRecords>>;
  /** Reads once, up to the tail as it is now. Iterating throws `StreamError` and `InvalidRecords`. */
  read(options?: TypedReadOptions): Promise<Result<TypedRead<Output>, StreamError>>;
  /** Reads, then waits for more, as `follow` of the stream does. Iterating throws `InvalidRecords`, too. */
  follow(options?: TypedFollowOptions): AsyncGenerator<TypedDelivery<Output>, void>;
}

/** The stream as it is without a schema. */
interface JsonStream {
  readonly url: string;
  appendJson(values: readonly unknown[], options?: TypedAppendOptions): Promise<Result<Appended, StreamError>>;
  read(options?: TypedReadOptions): Promise<Result<ReadHeaders & AsyncIterable<Uint8Array>, StreamError>>;
  follow(options?: FollowOptions): AsyncGenerator<Delivery, void>;
}

/** Takes every JSON value for what the caller says it is. */
export function anyJson<T>(): StandardSchema<T, T> {
  return { "~standard": { version: 1, vendor: "streams-server", validate: (value) => ({ value: value as T }) } };
}

export function typedStream<Input, Output>(
  stream: JsonStream,
  schema: StandardSchema<Input, Output>,
): TypedStream<Input, Output> {
  const validate: Validate<Output> = (value) => schema["~standard"].validate(value);
  return {
    async append(values, options) {
      const asRead = JSON.parse(JSON.stringify(values)) as unknown[];
      const { invalid } = await check(validate, asRead);
      return invalid.length > 0 ? Result.err(invalidRecords(invalid)) : stream.appendJson(asRead, options);
    },
    async read(options = {}) {
      const unwanted = new AbortController();
      const signal = AbortSignal.any([unwanted.signal, options.signal ?? unwanted.signal]);
      const answer = await stream.read({ ...options, signal });
      if (answer.isErr()) return Result.err(answer.error);
      const read = answer.value;
      if (read.json) {
        const iterate = (): AsyncGenerator<Output, void> => readRecords(stream.url, validate, read, options);
        return Result.ok({ ...read, [Symbol.asyncIterator]: iterate });
      }
      // Ends the request: nobody wants its body.
      unwanted.abort();
      return Result.err(notJson(stream.url));
    },
    async *follow(options = {}) {
      for await (const { parts, ...position } of stream.follow(options)) {
        const { values, invalid } = await check(validate, parse(parts, stream.url));
        if (invalid.length > 0 && options.onInvalid !== "skip") throw invalidRecords(invalid);
        yield { ...position, values };
      }
    },
  };
}

type Validate<Output> = StandardSchema<unknown, Output>["~standard"]["validate"];

/** One record after the other: those before one that is invalid are given out. */
async function* readRecords<Output>(
  url: string,
  validate: Validate<Output>,
  pieces: AsyncIterable<Uint8Array>,
  { onInvalid, signal }: TypedReadOptions,
): AsyncGenerator<Output, void> {
  const splitter = new JsonArraySplitter(MAX_VALUE_BYTES);
  let index = 0;
  for await (const piece of pieces) {
    const parts = outline(() => splitter.push(piece), url);
    for (const record of parse(parts, url)) {
      const { values, invalid } = await check(validate, [record], index++);
      signal?.throwIfAborted();
      if (invalid.length > 0 && onInvalid !== "skip") throw invalidRecords(invalid);
      yield* values;
    }
  }
  outline(() => splitter.end(), url);
  signal?.throwIfAborted();
}

interface Checked<Output> {
  readonly values: readonly Output[];
  readonly invalid: readonly InvalidRecord[];
}

/** `firstIndex`: of the first of the records. */
async function check<Output>(
  validate: Validate<Output>,
  records: readonly unknown[],
  firstIndex = 0,
): Promise<Checked<Output>> {
  const values: Output[] = [];
  const invalid: InvalidRecord[] = [];
  for (const [at, record] of records.entries()) {
    const told = validate(record);
    // Most schemas answer at once.
    const result = told instanceof Promise ? await told : told;
    if (result.issues === undefined) values.push(result.value);
    else invalid.push({ index: firstIndex + at, issues: result.issues });
  }
  return { values, invalid };
}

const decoder = new TextDecoder();

function parse(parts: readonly Uint8Array[], url: string): unknown[] {
  try {
    return parts.map((part): unknown => JSON.parse(decoder.decode(part)));
  } catch (cause) {
    throw cause instanceof SyntaxError ? notJson(url) : cause;
  }
}

function invalidRecords(records: readonly InvalidRecord[]): InvalidRecords {
  const [first] = records;
  const [issue] = first?.issues ?? [];
  const path = (issue?.path ?? []).map((part) => String(typeof part === "object" ? part.key : part)).join(".");
  const what = `${path === "" ? "" : `${path}: `}${issue?.message ?? "not valid"}`;
  const more = records.length > 1 ? ` (and ${records.length - 1} more)` : "";
  return new InvalidRecords({ message: `record ${first?.index} does not have the schema: ${what}${more}`, records });
}

function notJson(url: string): BrokenAnswer {
  return new BrokenAnswer({ message: `the stream ${url} is not JSON`, hint: "read it as bytes", url });
}
