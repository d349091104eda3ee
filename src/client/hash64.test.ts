/** XXH3-64 as clients have it, by WebAssembly and without, against the one that the server uses. */

import { expect, test } from "bun:test";
import { runSeed, type SeededRandom, seededRandom } from "../../test/support/random.ts";
import type { Hash64 } from "../protocol/touch-keys.ts";
import { hash64, hash64By } from "./hash64.ts";
import { compileHash64 } from "./hash64-wasm.ts";
import { xxh3 } from "./xxh3.ts";

const MAX_BYTES = 2_000;
/** Around the ends of the blocks of 1,024 bytes that long inputs are taken in. */
const LONG = [2047, 2048, 2049, 3072, 3073, 10_000];

function randomBytes(length: number, random: SeededRandom): Uint8Array {
  return Uint8Array.from({ length }, () => random.below(256));
}

test.each<[string, () => Promise<Hash64>]>([
  ["WebAssembly", compileHash64],
  ["plain TypeScript", () => Promise.resolve(xxh3)],
  ["whichever is there", hash64],
])("%s gives the server's hash for every length, wherever the bytes lie", async (_, load) => {
  const hash = await load();
  const random = seededRandom(runSeed());
  for (const length of [...Array.from({ length: MAX_BYTES + 1 }, (_, index) => index), ...LONG]) {
    const skip = random.below(9);
    const bytes = randomBytes(skip + length, random).subarray(skip);
    if (hash(bytes) !== Bun.hash.xxHash3(bytes)) expect.unreachable(`${length} bytes, seed ${random.seed}`);
    const same = new Uint8Array(length).fill(0xff);
    if (hash(same) !== Bun.hash.xxHash3(same)) expect.unreachable(`${length} bytes of 0xff`);
  }
});

test("without WebAssembly the hash is the plain one, and loading is no error", async () => {
  const forbidden = (): Promise<Hash64> => Promise.reject(new WebAssembly.CompileError("refused by a policy"));
  expect(await hash64By(forbidden)).toBe(xxh3);
  const compiled = await hash64By(compileHash64);
  expect(compiled).not.toBe(xxh3);
  expect(compiled(new Uint8Array(3))).toBe(xxh3(new Uint8Array(3)));
});

test("it is loaded once", () => {
  expect(hash64()).toBe(hash64());
});
