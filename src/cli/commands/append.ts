/**
 * `append`: sends arguments or stdin as records, in requests of bounded size, one after the other.
 *
 * With `--producer-id` every request carries its place in the sequence and the input is cut by its content alone. A request
 * with an unclear outcome is repeated and stored once; and a run that broke off can simply be started again with the
 * same input: what the server has already is recognised and skipped.
 */

import type { Result } from "better-result";
import { type Command, InvalidArgumentError, Option } from "commander";
import { type Appended, Refused, type StreamError, type StreamHandle } from "../../client/client.ts";
import { checkKey } from "../../client/appending.ts";
import { utf8 } from "../../kit/bytes.ts";
import { isJson } from "../../protocol/content-type.ts";
import { type Batch, BATCH_LIMITS, batches, type Packing } from "../batches.ts";
import { UsageError } from "../failure.ts";
import { arrivals, checkJson, jsonInput, jsonLineValues, lines, stretches } from "../input-units.ts";
import { counter, headerText } from "../option-values.ts";
import { standardInput } from "../stdin.ts";
import { addClientOptions, type ClientFlags, orFail, printResult, streamFor } from "../target.ts";

interface AppendFlags extends ClientFlags {
  readonly contentType?: string;
  readonly lines?: true;
  readonly jsonArray?: true;
  readonly key?: string;
  readonly close?: true;
  readonly ifMatch?: string;
  readonly producerId?: string;
  readonly producerEpoch?: number;
  readonly producerSeq?: number;
}

export function addAppend(program: Command): void {
  const command = program
    .command("append <stream> [records...]")
    .description("append records: each argument is one; without arguments, stdin")
    .option("-t, --content-type <type>", "the stream's content type (default: ask the server)", headerText)
    .addOption(
      new Option("--lines", "each line of stdin is a record (JSON) or is kept whole (text)").conflicts("jsonArray"),
    )
    .option("--json-array", "stdin is one JSON array of any size; each of its values is a record")
    .option("--key <key>", "key of these records, for read --key", recordKey)
    .option("--close", "close the stream with the last record")
    .option("--if-match <offset>", "append only if the stream's tail is here, else fail", headerText)
    .option(
      "--producer-id <id>",
      "exactly once: repeat the same command with the same input until it succeeds",
      headerText,
    )
    .option("--producer-epoch <number>", "a new epoch starts a new input (default: 0)", counter)
    .option("--producer-seq <number>", "seq of the first request (default: 0)", counter)
    .addHelpText(
      "after",
      "\nLarge input is sent in requests of at most 1 MiB or 1000 records." +
        "\n\nExamples:" +
        `\n  $ streams-server append shop/orders '{"total": 12}'` +
        "\n  $ streams-server append shop/orders --lines < orders.ndjson" +
        "\n  $ streams-server append flights --json-array --producer-id import-1 < flights.json",
    );
  addClientOptions(command).action(append);
}

async function append(argument: string, records: readonly string[], flags: AppendFlags): Promise<void> {
  if (records.length > 0 && (flags.lines ?? flags.jsonArray) === true) {
    throw new UsageError("--lines and --json-array are about stdin; give records as arguments or on stdin, not both");
  }
  if (flags.producerId === undefined && (flags.producerEpoch ?? flags.producerSeq) !== undefined) {
    throw new UsageError("--producer-epoch and --producer-seq need --producer-id");
  }
  const stream = streamFor(argument, flags);
  const contentType = flags.contentType ?? orFail(await stream.head()).contentType;
  const json = isJson(contentType);
  const sender = new BatchSender(stream, contentType, flags);
  for await (const batch of records.length > 0 ? argumentBatches(records, json) : stdinBatches(flags, json)) {
    await sender.send(batch);
  }
  await printResult(flags, summary(sender.tally, json), { stream: stream.name, ...sender.tally });
}

function summary(tally: Tally, json: boolean): string {
  const amount = json ? counted(tally.records, "record") : counted(tally.bytes, "byte");
  const requests = tally.requests === 1 ? "" : ` in ${counted(tally.requests, "request")}`;
  const before = tally.duplicates === 0 ? "" : ` (${tally.duplicates} of them were stored before)`;
  const end = tally.closed ? ", and closed the stream" : "";
  return `appended ${amount}${requests}${before}${end}; next offset ${tally.nextOffset ?? "unchanged"}`;
}

function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? "" : "s"}`;
}

/** JSON values travel in one request; on a byte stream each argument is a record of its own. */
function argumentBatches(records: readonly string[], json: boolean): AsyncGenerator<Batch, void> {
  if (json) for (const [index, text] of records.entries()) checkJson(text, `record ${index + 1}`);
  const limits = json ? { maxBytes: Infinity, maxUnits: Infinity } : { maxBytes: Infinity, maxUnits: 1 };
  return batches(once(records.map(utf8)), { json, pace: "steady", limits });
}

function stdinBatches(flags: AppendFlags, json: boolean): AsyncGenerator<Batch, void> {
  if (flags.jsonArray === true && !json) throw new UsageError("--json-array is for JSON streams");
  const pace = flags.producerId === undefined ? "eager" : "steady";
  return batches(stdinUnits(standardInput(), flags, json, pace), { json, pace, limits: BATCH_LIMITS });
}

function stdinUnits(
  input: AsyncIterable<Uint8Array>,
  flags: AppendFlags,
  json: boolean,
  pace: Packing["pace"],
): AsyncGenerator<Uint8Array[], void> {
  if (flags.lines === true) return json ? jsonLineValues(input) : lines(input);
  if (json) return jsonInput(input, flags.jsonArray !== true);
  return pace === "eager" ? arrivals(input) : stretches(input, BATCH_LIMITS.maxBytes);
}

async function* once(units: Uint8Array[]): AsyncGenerator<Uint8Array[], void> {
  yield units;
}

interface Tally {
  requests: number;
  /** Of the bodies sent; for JSON streams with brackets and commas. */
  bytes: number;
  /** JSON values, or lines, or pieces of bytes. */
  records: number;
  /** Requests that the server had stored before. */
  duplicates: number;
  nextOffset: string | null;
  closed: boolean;
}

/** Sends batches in order and keeps count; each request names its place, when the command line asked for that. */
class BatchSender {
  readonly tally: Tally = { requests: 0, bytes: 0, records: 0, duplicates: 0, nextOffset: null, closed: false };
  readonly #stream: StreamHandle;
  readonly #contentType: string;
  readonly #flags: AppendFlags;
  /** Requests refused because the stream is closed. If it was this very input that closed it, they were stored before. */
  #doubtful = 0;

  constructor(stream: StreamHandle, contentType: string, flags: AppendFlags) {
    this.#stream = stream;
    this.#contentType = contentType;
    this.#flags = flags;
  }

  async send(batch: Batch): Promise<void> {
    const close = batch.last && this.#flags.close === true;
    if (batch.units === 0 && !close) return;
    const answer = await this.#request(batch, close);
    const doubtful = answer.isErr() && !batch.last && this.#mayHaveClosedItself(answer.error);
    const appended = doubtful ? null : orFail(answer, this.#progress());
    this.tally.requests++;
    this.tally.records += batch.units;
    if (batch.units > 0) this.tally.bytes += batch.body.length;
    if (appended === null) {
      this.#doubtful++;
      return;
    }
    // The server remembers which request closed the stream: recognising the last one vouches for all before it.
    this.tally.duplicates += this.#doubtful + (appended.duplicate ? 1 : 0);
    this.#doubtful = 0;
    this.tally.nextOffset = appended.nextOffset;
    this.tally.closed = appended.closed;
  }

  #request(batch: Batch, close: boolean): Promise<Result<Appended, StreamError>> {
    const { producerId: id, producerEpoch: epoch = 0, producerSeq = 0, ifMatch, key } = this.#flags;
    const { requests, nextOffset } = this.tally;
    const place = {
      ...(id === undefined ? {} : { producer: { id, epoch, seq: producerSeq + requests } }),
      ...(ifMatch === undefined ? {} : { ifMatch: nextOffset ?? ifMatch }),
    };
    if (batch.units === 0) return this.#stream.close(place);
    const options = { ...place, contentType: this.#contentType, close, ...(key === undefined ? {} : { key }) };
    return this.#stream.append(batch.body, options);
  }

  #mayHaveClosedItself(error: StreamError): boolean {
    const repeatable = this.#flags.producerId !== undefined && this.#flags.close === true;
    return repeatable && Refused.is(error) && error.status === 409 && error.closed;
  }

  #progress(): string | null {
    const { requests, records, nextOffset } = this.tally;
    return requests === 0 || this.#doubtful > 0 ? null : `${records} records were stored before, up to ${nextOffset}`;
  }
}

function recordKey(text: string): string {
  try {
    checkKey(text);
    return text;
  } catch (cause) {
    throw cause instanceof TypeError ? new InvalidArgumentError(cause.message) : cause;
  }
}
