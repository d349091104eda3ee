/** Streams that the stage writes: windows, rollups, patterns, dead letters. Made when there is something to write. */

import type { Engine } from "../../engine/engine.ts";
import { EVERY_RECORD, type ReadStart, type Selection } from "../../engine/reader.ts";
import { joinBytes, utf8 } from "../../kit/bytes.ts";
import { present } from "../../kit/assert.ts";
import { isJson } from "../../protocol/content-type.ts";
import { joinRecords, splitJsonRecords } from "../../protocol/json-records.ts";
import { checkStreamName } from "../../protocol/names.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import { DERIVED, type StreamHead, type StreamProfile } from "../../protocol/stream.ts";

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

/** The stream that another one is derived from. */
export interface DerivedFrom {
  readonly id: number;
  readonly name: string;
}

/** Its profile's config: since which record it is derived from that incarnation of its source. */
interface DerivedConfig {
  readonly source: string;
  readonly sourceId: number;
  readonly from: number;
}

export class DerivedStream {
  readonly #engine: Engine;
  readonly name: string;
  readonly #source: DerivedFrom;
  /** The incarnation that is known to be ours. */
  #id: number | null = null;

  constructor(engine: Engine, source: DerivedFrom, suffix: string) {
    this.#engine = engine;
    this.#source = source;
    this.name = `${source.name}/${suffix}`;
  }

  /** Its head, and its first record that is still there and of this incarnation of its source; null when there is none yet. */
  async find(): Promise<{ readonly head: StreamHead; readonly from: number } | null> {
    const head = await this.#engine.find(this.name, "look");
    if ("kind" in head) return null;
    const config = configOf(head.profile);
    if (config?.sourceId !== this.#source.id) return null;
    return { head, from: Math.max(config.from, await this.#engine.reader.earliest(head)) };
  }

  /** Appends records in one commit, each under its key, with what is noted on its source; the place of the first. Throws when it cannot. */
  async append(
    texts: readonly string[],
    keys: readonly string[],
    attributes: ReadonlyMap<string, string | null> | null = null,
  ): Promise<Place> {
    const note = attributes === null ? null : { id: this.#source.id, attributes };
    for (let attempt = 0; ; attempt++) {
      const id = (this.#id ??= await this.#ensure());
      const outcome = await this.#engine.record(this.name, joinRecords(texts), keys, { id, note });
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
      await this.#engine.createOwn(this.name);
      head = await this.#engine.find(this.name, "look");
    }
    if ("kind" in head) throw new Error(`${this.name} cannot be created: ${head.kind}`);
    const { id, profile, next, config } = head;
    const known = configOf(profile);
    if (known?.sourceId === this.#source.id) return id;
    if (known === null && (profile !== null || next > 0 || !isJson(config.contentType)))
      throw new Error(`${this.name} holds something else; delete it, and it is made anew`);
    // New, or of a stream of the same name that is no more: what it holds stays, and does not count.
    const ours: DerivedConfig = { source: this.#source.name, sourceId: this.#source.id, from: next };
    const outcome = await this.#engine.setProfile(this.name, id, { kind: DERIVED, config: { ...ours } });
    if (outcome.kind === "rejected") throw new Error(`${this.name} was not adopted: ${outcome.rejection.kind}`);
    return id;
  }
}

function configOf(profile: StreamProfile | null): DerivedConfig | null {
  return profile?.kind === DERIVED ? (profile.config as unknown as DerivedConfig) : null;
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

/** The records of a stream in a range, not before `from`, a step at a time. @throws CannotRead. */
export async function* storedRecords(
  engine: Engine,
  head: StreamHead,
  start: ReadStart,
  to: number,
  { from = 0, key = null }: { readonly from?: number; readonly key?: string | null } = {},
): AsyncGenerator<StoredRecords> {
  const selection: Selection = { ...EVERY_RECORD, key };
  const plan = await engine.reader.plan(head, start, selection);
  if ("kind" in plan) throw new CannotRead(head.config.name, plan);
  for (let at = { ...plan, from: Math.max(plan.from, from), to: Math.min(plan.to, to) }; at.from < at.to;) {
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
