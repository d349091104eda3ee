/** Streams that the stage writes: windows, rollups, patterns, dead letters. Made when there is something to write. */

import type { Engine } from "../../engine/engine.ts";
import { EVERY_RECORD, type ReadStart, type Selection } from "../../engine/reader.ts";
import { joinBytes, utf8 } from "../../kit/bytes.ts";
import { present } from "../../kit/assert.ts";
import { isJson } from "../../protocol/content-type.ts";
import { joinRecords, splitJsonRecords } from "../../protocol/json-records.ts";
import { checkStreamName } from "../../protocol/names.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import { DERIVED, type StreamHead } from "../../protocol/stream.ts";

/** Where a record stands: in which incarnation of a stream, and at which seq. */
export interface Place {
  readonly streamId: number;
  readonly seq: number;
}

/** Records of one read step, in order. */
export interface StoredRecords {
  /** Seq of the first; with a key they are not contiguous, and it says nothing. */
  readonly from: number;
  readonly texts: readonly string[];
}

export class DerivedStream {
  readonly #engine: Engine;
  readonly name: string;
  readonly #source: string;
  /** The incarnation that is known to be ours. */
  #id: number | null = null;

  constructor(engine: Engine, source: string, suffix: string) {
    this.#engine = engine;
    this.#source = source;
    this.name = `${source}/${suffix}`;
  }

  /** Its head, or null when there is none yet. */
  async head(): Promise<StreamHead | null> {
    const head = await this.#engine.find(this.name, "look");
    return "kind" in head || head.profile?.kind !== DERIVED ? null : head;
  }

  /** Appends records in one commit, each under its key; the place of the first. Throws when it cannot. */
  async append(texts: readonly string[], keys: readonly string[]): Promise<Place> {
    for (let attempt = 0; ; attempt++) {
      const id = (this.#id ??= await this.#ensure());
      const outcome = await this.#engine.record(this.name, joinRecords(texts), keys, id);
      if (outcome.kind === "appended") return { streamId: id, seq: outcome.next - texts.length };
      this.#id = null;
      const reason = outcome.kind === "rejected" ? outcome.rejection.kind : outcome.kind;
      // Deleted meanwhile: made anew once.
      if (attempt > 0 || reason !== "not-found") throw new Error(`${this.name} was not written: ${reason}`);
    }
  }

  async #ensure(): Promise<number> {
    const valid = checkStreamName(this.name);
    if (!valid.ok) throw new Error(`${this.name} cannot be a stream: ${valid.reason}`);
    let head = await this.#engine.find(this.name, "look");
    if ("kind" in head) {
      await this.#engine.create({
        name: this.name,
        contentType: "application/json",
        expiry: { kind: "never" },
        retention: null,
        close: false,
        body: new Uint8Array(),
        key: null,
        fork: null,
      });
      head = await this.#engine.find(this.name, "look");
    }
    if ("kind" in head) throw new Error(`${this.name} cannot be created: ${head.kind}`);
    const { id, profile, next, config } = head;
    if (profile?.kind === DERIVED) return id;
    if (profile !== null || next > 0 || !isJson(config.contentType))
      throw new Error(`${this.name} holds something else; delete it, and it is made anew`);
    const outcome = await this.#engine.setProfile(this.name, id, { kind: DERIVED, config: { source: this.#source } });
    if (outcome.kind === "rejected") throw new Error(`${this.name} was not adopted: ${outcome.rejection.kind}`);
    return id;
  }
}

/** A stream cannot be read now. */
export class CannotRead extends Error {
  override readonly name = "CannotRead";
  readonly why: Rejection;

  constructor(stream: string, why: Rejection) {
    super(`${stream} cannot be read: ${why.kind}`);
    this.why = why;
  }
}

/** The records of a stream in a range of seqs, a step at a time. @throws CannotRead. */
export async function* storedRecords(
  engine: Engine,
  head: StreamHead,
  start: ReadStart,
  to: number,
  key: string | null = null,
): AsyncGenerator<StoredRecords> {
  const selection: Selection = { ...EVERY_RECORD, key };
  const plan = await engine.reader.plan(head, start, selection);
  if ("kind" in plan) throw new CannotRead(head.config.name, plan);
  for (let at = { ...plan, to: Math.min(plan.to, to) }; at.from < at.to;) {
    const { parts, rest } = await engine.reader.step(at);
    yield { from: at.from, texts: parts.flatMap(textsOf) };
    at = { ...rest, to: at.to };
  }
}

const decoder = new TextDecoder();
const OPEN = utf8("[");
const CLOSE = utf8("]");

function textsOf(part: Uint8Array): string[] {
  const split = splitJsonRecords(joinBytes([OPEN, part, CLOSE]));
  const { payload, lengths } = present(split.ok ? split : undefined, "stored records are JSON");
  let at = 0;
  return lengths.map((length) => {
    const text = decoder.decode(payload.subarray(at, at + length));
    at += length + 1;
    return text;
  });
}
