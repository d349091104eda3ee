/** Touch keys, byte for byte: against vectors, and against an independent XXH3 (hash-wasm) over bytes put together by hand. */

import { beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { createXXHash3, type IHasher } from "hash-wasm";
import { encodeArgument, formatKey, idWords, keyIdOf, KeyWriter, parseKey } from "./touch-keys.ts";

const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));
let independent: IHasher;

beforeAll(async () => {
  independent = await createXXHash3(0, 0);
});

/** 16 hex digits of the parts joined as bytes: strings as UTF-8, arrays as they are. */
function hashOf(...parts: readonly (string | readonly number[])[]): string {
  const bytes = parts.flatMap((part) => (typeof part === "string" ? [...new TextEncoder().encode(part)] : [...part]));
  independent.init();
  return independent.update(Uint8Array.from(bytes)).digest("hex");
}

const ID = 0x8899_aabb_ccdd_eeffn;
const ID_BYTES = [0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

test("fixed vectors", () => {
  expect(formatKey(writer.table("todo"))).toBe(VECTORS.table);
  expect(formatKey(writer.templateId("todo", ["projectId", "userId"]))).toBe(VECTORS.templateId);
  expect(formatKey(writer.template(idWords(ID)))).toBe(VECTORS.template);
  expect(formatKey(writer.watch(idWords(ID), ["u1"]))).toBe(VECTORS.watch);
  expect(formatKey(writer.membership(idWords(ID), ["u1"]))).toBe(VECTORS.membership);
  expect(formatKey(writer.field(idWords(ID), "title", ["u1"]))).toBe(VECTORS.field);
});

const TEXTS = ["u1", "", "é😀", "a\0b", "\u0000", "x".repeat(5000), `${"é".repeat(3000)}z`, "0".repeat(240)];

test.each(TEXTS)("every family over %.20p", (text) => {
  const id = idWords(ID);
  expect(formatKey(writer.table(text))).toBe(hashOf("tbl\0", text));
  expect(formatKey(writer.templateId(text, ["a"]))).toBe(hashOf("tpl\0", text, "\0a"));
  expect(formatKey(writer.templateId("e", [text, "b"]))).toBe(hashOf("tpl\0e\0", text, "\0b"));
  expect(formatKey(writer.template(id))).toBe(hashOf("tpl\0", ID_BYTES));
  expect(formatKey(writer.watch(id, [text]))).toBe(hashOf("key\0", ID_BYTES, "\0", text));
  expect(formatKey(writer.watch(id, [text, "2", text]))).toBe(hashOf("key\0", ID_BYTES, "\0", text, "\x002\0", text));
  expect(formatKey(writer.membership(id, [text]))).toBe(hashOf("mem\0", ID_BYTES, "\0", text));
  expect(formatKey(writer.field(id, text, ["v"]))).toBe(hashOf("fld\0", ID_BYTES, "\0", text, "\0v"));
});

test("one writer gives the same keys in any order of lengths", () => {
  const fresh = (): KeyWriter => new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));
  for (const text of [...TEXTS, ...TEXTS.toReversed()]) {
    expect(writer.watch(idWords(ID), [text])).toBe(fresh().watch(idWords(ID), [text]));
  }
});

test.each([
  ["string", "a", "a"],
  ["string", "", ""],
  ["string", 1.5, "1.5"],
  ["string", -0, "0"],
  ["string", Number.NaN, null],
  ["string", Infinity, null],
  ["string", true, "true"],
  ["string", false, "false"],
  ["string", null, null],
  ["string", undefined, null],
  ["string", {}, null],
  ["string", [], null],
  ["int64", 7, "7"],
  ["int64", 12345678901234567890n, "12345678901234567890"],
  ["int64", 1.5, null],
  ["int64", "42", "42"],
  ["int64", " -42 ", "-42"],
  ["int64", "042", null],
  ["int64", "1e3", null],
  ["int64", true, null],
  ["bool", true, "1"],
  ["bool", false, "0"],
  ["bool", "true", null],
  ["bool", 1, null],
  ["datetime", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"],
  ["datetime", "2026-01-02T05:04:05+02:00", "2026-01-02T03:04:05.000Z"],
  ["datetime", "soon", null],
  ["datetime", 0, null],
  ["bytes", "AAE=", "AAE="],
  ["bytes", 1, null],
] as const)("%s of %p is %p", (encoding, value, argument) => {
  expect(encodeArgument(value, encoding)).toBe(argument);
});

/** Texts without a zone, as databases and people write them. */
const ZONELESS = [
  "2026-07-01T12:00:00",
  "2026-07-01 12:00:00",
  "2026-07-01 12:00:00.000",
  "2026-07-01T12:00",
  "2026-07-01t12:00:00",
  "+002026-07-01T12:00:00",
  "07/01/2026 12:00",
  "Jul 1 2026 12:00:00",
  "Jul 1 2026 12:00 PM",
  "Wed, 01 Jul 2026 12:00:00",
  "12:00 2026-07-01",
];
/** And with one: the same time. */
const ZONED = [
  "2026-07-01T12:00:00Z",
  "2026-07-01t12:00:00z",
  "2026-07-01 12:00:00+00",
  "2026-07-01T14:00+02:00",
  "2026-07-01 07:00:00 -0500",
  "2026-07-01 12:00:00.000000+00",
  "Wed, 01 Jul 2026 12:00:00 GMT",
  "Wed Jul 01 2026 14:00:00 GMT+0200 (Central European Summer Time)",
  "Wed Jul 01 07:00:00 -0500 2026",
  "Jul 1 2026 05:00 PDT",
  "1 July 2026 2:00 PM +0200",
];
const DAYS = ["2026-07-01", "07/01/2026", "Jul 1 2026", "2026-7-1", "2026-07", "+002026-07-01"];

test("a text without a zone is UTC, wherever it is read", async () => {
  const code = `import { encodeArgument } from ${JSON.stringify(join(import.meta.dir, "touch-keys.ts"))};
    const texts = JSON.parse(process.argv.at(-1));
    process.stdout.write(JSON.stringify(texts.map((text) => encodeArgument(text, "datetime"))));`;
  // No clock there shows half past two on this day.
  const skipped = "2026-03-08T02:30:00";
  const texts = [...ZONELESS, ...ZONED, ...DAYS, skipped];
  const expected = texts.map((text) => {
    if (text === skipped) return "2026-03-08T02:30:00.000Z";
    return DAYS.includes(text) ? "2026-07-01T00:00:00.000Z" : "2026-07-01T12:00:00.000Z";
  });
  for (const zone of ["UTC", "America/New_York", "Asia/Kolkata"]) {
    const child = Bun.spawn([process.execPath, "-e", code, JSON.stringify(texts)], {
      env: { ...process.env, TZ: zone },
      stdout: "pipe",
    });
    const read = (await new Response(child.stdout).json()) as (string | null)[];
    expect(Object.fromEntries(texts.map((text, at) => [text, read[at]])), zone).toEqual(
      Object.fromEntries(texts.map((text, at) => [text, expected[at] ?? null])),
    );
    expect(await child.exited).toBe(0);
  }
});

test("a text as long as a record may be is judged at once", () => {
  for (const text of [":", "1:", ":.", ": ", "+"].map((part) => part.repeat(1_000_000 / part.length))) {
    const startMs = performance.now();
    expect(encodeArgument(text, "datetime")).toBeNull();
    expect(performance.now() - startMs).toBeLessThan(1_000);
  }
});

test("keys are 16 hex digits on the wire, and nothing else is one", () => {
  expect(formatKey(0xabn)).toBe("00000000000000ab");
  expect(parseKey("00000000000000AB")).toBe(0xabn);
  expect(parseKey(" ffffffffffffffff ")).toBe(2n ** 64n - 1n);
  for (const text of ["", "ab", "00000000000000a", "00000000000000abc", "0x000000000000ab", "g".repeat(16)]) {
    expect(parseKey(text)).toBeNull();
  }
  expect(keyIdOf(0x1234_5678_9abc_def0n)).toBe(0x9abc_def0);
});

const VECTORS = {
  table: "0c897182b17d6dc2",
  templateId: "109d47736c4ee693",
  template: "5463e75d108ef921",
  watch: "07f5ae42ce0fadd7",
  membership: "1822f392605e3235",
  field: "1e454890283c2491",
} as const;
