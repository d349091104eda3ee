/**
 * Touch keys: 64-bit names of "something a query could have read". Each is the XXH3-64 of a few bytes, on the wire 16 hex digits.
 *
 *   table       tbl\0 entity                         anything of the entity changed
 *   template id tpl\0 entity \0 field (\0 field)*    fields sorted by code unit
 *   template    tpl\0 id                             id = the template's eight bytes, big-endian
 *   watch       key\0 id (\0 argument)*              a row with these arguments changed
 *   membership  mem\0 id (\0 argument)*              a row entered or left the set with these arguments
 *   field       fld\0 id \0 field (\0 argument)*     that field changed of a row that stays in the set
 */

/** XXH3-64 with seed 0. Injected: the server has it natively, a client brings its own (`src/client/hash64.ts`). */
export type Hash64 = (bytes: Uint8Array) => bigint;

export type ArgumentEncoding = "string" | "int64" | "bool" | "datetime" | "bytes";

const encoder = new TextEncoder();
const FIRST_SCRATCH_BYTES = 1024;
const MAX_VIEW_BYTES = 256;
const INTEGER_TEXT = /^-?(0|[1-9]\d*)$/;

/** Four characters as they lie in memory. */
function wordOf(tag: string): number {
  const word = new Uint32Array(1);
  encoder.encodeInto(tag, new Uint8Array(word.buffer));
  return word[0] ?? 0;
}

const TAG = { tpl: wordOf("tpl\0"), key: wordOf("key\0"), mem: wordOf("mem\0"), fld: wordOf("fld\0") } as const;

/** Writes keys into one scratch buffer: a hot path makes no string and no array for them. */
export class KeyWriter {
  readonly #hash: Hash64;
  #scratch = new Uint8Array(FIRST_SCRATCH_BYTES);
  /** Its first twelve bytes. */
  #words = new Uint32Array(this.#scratch.buffer, 0, 3);
  /** The first n bytes of the scratch buffer, by n: making a view costs as much as the hash. */
  #views: Uint8Array[] = [];
  #length = 0;

  constructor(hash: Hash64) {
    this.#hash = hash;
  }

  table(entity: string): bigint {
    return this.#start("tbl\0").#text(entity).#end();
  }

  /** `fields` sorted by code unit. */
  templateId(entity: string, fields: readonly string[]): bigint {
    this.#start("tpl\0").#text(entity);
    for (const field of fields) this.#nul().#text(field);
    return this.#end();
  }

  template(id: Uint32Array): bigint {
    return this.#startTemplate(TAG.tpl, id).#end();
  }

  watch(id: Uint32Array, args: readonly string[]): bigint {
    return this.#startTemplate(TAG.key, id).#arguments(args).#end();
  }

  membership(id: Uint32Array, args: readonly string[]): bigint {
    return this.#startTemplate(TAG.mem, id).#arguments(args).#end();
  }

  field(id: Uint32Array, field: string, args: readonly string[]): bigint {
    return this.#startTemplate(TAG.fld, id).#nul().#text(field).#arguments(args).#end();
  }

  #start(tag: string): this {
    this.#length = 0;
    return this.#text(tag);
  }

  /** Tag and id, twelve bytes, as three words. */
  #startTemplate(tag: number, id: Uint32Array): this {
    this.#words[0] = tag;
    this.#words[1] = id[0] ?? 0;
    this.#words[2] = id[1] ?? 0;
    this.#length = 12;
    return this;
  }

  #end(): bigint {
    const length = this.#length;
    if (length > MAX_VIEW_BYTES) return this.#hash(this.#scratch.subarray(0, length));
    return this.#hash((this.#views[length] ??= this.#scratch.subarray(0, length)));
  }

  #arguments(args: readonly string[]): this {
    for (let at = 0; at < args.length; at++) this.#nul().#text(args[at] ?? "");
    return this;
  }

  #nul(): this {
    this.#reserve(1);
    this.#scratch[this.#length++] = 0;
    return this;
  }

  /** UTF-8. ASCII, which is nearly everything, is copied char by char: cheaper than a call of the encoder. */
  #text(text: string): this {
    this.#reserve(text.length * 3);
    const scratch = this.#scratch;
    const start = this.#length;
    for (let at = 0; at < text.length; at++) {
      const code = text.charCodeAt(at);
      if (code >= 0x80) {
        this.#length = start + encoder.encodeInto(text, scratch.subarray(start)).written;
        return this;
      }
      scratch[start + at] = code;
    }
    this.#length = start + text.length;
    return this;
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#scratch.length) return;
    const grown = new Uint8Array(2 * (this.#length + bytes));
    grown.set(this.#scratch.subarray(0, this.#length));
    this.#scratch = grown;
    this.#words = new Uint32Array(grown.buffer, 0, 3);
    this.#views = [];
  }
}

/** The argument that stands for a column's value in keys; null when no key can (then the row is in no equality set). */
export function encodeArgument(value: unknown, encoding: ArgumentEncoding): string | null {
  switch (encoding) {
    case "string":
      if (typeof value === "string") return value;
      if (typeof value === "number") return Number.isFinite(value) ? String(value) : null;
      return typeof value === "boolean" ? String(value) : null;
    case "int64":
      if (typeof value === "bigint") return value.toString();
      if (typeof value === "number") return Number.isInteger(value) ? String(value) : null;
      return typeof value === "string" && INTEGER_TEXT.test(value.trim()) ? value.trim() : null;
    case "bool":
      return typeof value === "boolean" ? (value ? "1" : "0") : null;
    case "datetime":
      return typeof value === "string" ? isoTime(value) : null;
    case "bytes":
      return typeof value === "string" ? value : null;
  }
}

/** A text without a zone is UTC: server and clients may stand in different ones, and must agree. */
function isoTime(text: string): string | null {
  // Behind the time stands a sign or a Z, or the name of a zone: then it cannot be read with a Z added.
  const utcMs = /^[^:]*:[\d:.]*[^\d:.]*[+z-]/i.test(text) ? NaN : Date.parse(text.replace(/m$/i, "$& ") + "Z");
  const atMs = Number.isNaN(utcMs) ? Date.parse(text) : utcMs;
  return Number.isNaN(atMs) ? null : new Date(atMs).toISOString();
}

export function formatKey(key: bigint): string {
  return key.toString(16).padStart(16, "0");
}

const KEY = /^[0-9a-f]{16}$/;

/** Sixteen hex digits in any case; null for anything else. */
export function parseKey(text: string): bigint | null {
  const lower = text.trim().toLowerCase();
  return KEY.test(lower) ? BigInt(`0x${lower}`) : null;
}

/** The low half of a key: what clients that count in 32 bits call its id. */
export function keyIdOf(key: bigint): number {
  return Number(key & 0xffff_ffffn);
}

/** A template id as the eight bytes that keys hold (big-endian), in two words of memory. */
export function idWords(id: bigint): Uint32Array {
  const words = new Uint32Array(2);
  new DataView(words.buffer).setBigUint64(0, id);
  return words;
}
