/** Frames cut anywhere and unpacked, against the platform's codec; and everything that must be refused. */

import { describe, expect, test } from "bun:test";
import { constants, zstdCompressSync } from "node:zlib";
import { joinBytes } from "../kit/bytes.ts";
import { plainFrames } from "../protocol/zstd-frame.ts";
import { runSeed, seededRandom } from "../../test/support/random.ts";
import { findZstd } from "./native-zstd.ts";
import { MAX_FRAME_CONTENT_BYTES, unpacked } from "./unpack.ts";
import { xxh64 } from "./xxh64.ts";
import { type Codec, loadChecksum, loadScriptCodec, nativeCodec } from "./zstd-codec.ts";
import { FrameError, FrameSplitter } from "./zstd-frames.ts";

const random = seededRandom(runSeed());
console.log(`unpack: seed ${random.seed}`);

const checksum = (bytes: Uint8Array): number => Number(Bun.hash.xxHash64(bytes) & 0xffff_ffffn);
const packed = (bytes: Uint8Array, hasChecksum = true): Uint8Array =>
  zstdCompressSync(bytes, { params: { [constants.ZSTD_c_checksumFlag]: Number(hasChecksum) } });

/** Text that packs, or noise that does not. */
function content(length: number): Uint8Array {
  const words = ["alpha ", "beta ", "gamma ", "delta\n"];
  if (random.below(3) === 0) return Uint8Array.from({ length }, () => random.below(256));
  return new TextEncoder()
    .encode(Array.from({ length: length / 4 }, () => words[random.below(4)] ?? "").join(""))
    .slice(0, length);
}

async function* cut(bytes: Uint8Array, most: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length;) {
    const length = 1 + random.below(most);
    yield bytes.subarray(at, at + length);
    at += length;
  }
}

const native = (platform: object): Promise<Codec> => {
  const zstd = findZstd(platform);
  if (zstd === null) throw new Error("this platform has no zstd");
  return Promise.resolve(nativeCodec(zstd));
};

describe.each([
  ["in script", loadScriptCodec],
  ["by Bun", () => native({ Bun })],
  ["by node:zlib", () => native({ process })],
])("%s", (_, codec) => {
  async function unpack(bytes: Uint8Array, most = 70_000): Promise<Uint8Array> {
    return joinBytes(await Array.fromAsync(unpacked(cut(bytes, most), await codec())));
  }

  const refused = async (bytes: Uint8Array): Promise<string> => {
    try {
      await unpack(bytes);
    } catch (cause) {
      if (cause instanceof FrameError) return cause.message;
      throw cause;
    }
    return "taken";
  };

  test("whatever the frames and however they are cut, the content comes back", async () => {
    for (let round = 0; round < 40; round++) {
      const contents = Array.from({ length: 1 + random.below(6) }, () =>
        content(random.below(random.below(2) === 0 ? 60 : 300_000)),
      );
      const frames = contents.flatMap((one) =>
        random.below(3) === 0 ? [...plainFrames(one, checksum)] : [packed(one)],
      );
      const got = await unpack(joinBytes(frames), random.below(4) === 0 ? 7 : 70_000);
      expect(Bun.SHA256.hash(got)).toEqual(Bun.SHA256.hash(joinBytes(contents)));
    }
  }, 60_000);

  test("one changed byte is refused, wherever it is, or changes nothing", async () => {
    const bytes = joinBytes([packed(content(5_000)), ...plainFrames(content(300), checksum), packed(content(2_000))]);
    const whole = Bun.SHA256.hash(await unpack(bytes));
    let refusals = 0;
    for (let round = 0; round < 400; round++) {
      const damaged = Uint8Array.from(bytes);
      const at = random.below(bytes.length);
      damaged[at] = (damaged[at] ?? 0) ^ (1 + random.below(255));
      try {
        expect(Bun.SHA256.hash(await unpack(damaged))).toEqual(whole);
      } catch (cause) {
        if (!(cause instanceof FrameError)) throw cause;
        refusals++;
      }
    }
    expect(refusals).toBeGreaterThan(300);
  });

  test("a body that ends in a frame, or is none, is refused", async () => {
    const frame = packed(content(1_000));
    for (const length of [1, 4, 8, 20, frame.length - 1]) {
      expect(await refused(frame.subarray(0, length))).toMatch(/ends in the midst/);
    }
    expect(await refused(new TextEncoder().encode('[{"a":1},{"a":2},{"a":3}]'))).toMatch(/not made of zstd frames/);
  });

  test("a frame without its size or its checksum, or with too large a size, is refused before it is unpacked", async () => {
    expect(await refused(packed(content(1_000), false))).toMatch(/lacks/);
    const huge = packed(new Uint8Array(MAX_FRAME_CONTENT_BYTES + 1));
    expect(huge.length).toBeLessThan(10_000);
    expect(await refused(huge)).toMatch(/more than/);
    // Says little, unpacks to much: blocks that repeat one byte, 128 KiB each.
    const [small = new Uint8Array()] = plainFrames(new Uint8Array(10), checksum);
    const repeat = [3 | (131_071 << 3), 1].map((block) => [block & 255, (block >> 8) & 255, block >> 16, 7]).flat();
    const bomb = Uint8Array.from([...small.subarray(0, 9), ...repeat, 0, 0, 0, 0]);
    expect(await refused(bomb)).toMatch(/damaged|checksum|longer/);
  });
});

test("a frame that goes on for ever is cut off", () => {
  const splitter = new FrameSplitter(1_000);
  const [head = new Uint8Array()] = plainFrames(new Uint8Array(10), checksum);
  splitter.push(head.subarray(0, 9));
  expect(() => {
    for (let sent = 0; sent < 10_000; sent++) splitter.push(Uint8Array.of(0, 0, 0));
  }).toThrow(FrameError);
});

test("the checksum without WebAssembly is the same", async () => {
  const fast = await loadChecksum();
  for (const length of [0, 1, 3, 4, 7, 8, 31, 32, 33, 63, 64, 65, 1_000, 4_099]) {
    const bytes = content(length);
    expect(xxh64(bytes)).toBe(Bun.hash.xxHash64(bytes));
    expect(fast(bytes)).toBe(checksum(bytes));
  }
});

test("frames unpacked side by side come in order, no more at once than may be, and none after a damaged one", async () => {
  let [underway, most] = [0, 0];
  const slow: Codec = {
    unpack: async ({ contentBytes }) => {
      most = Math.max(most, ++underway);
      await Bun.sleep(random.below(5));
      underway--;
      if (contentBytes === 13) throw new Error("broken");
      return new Uint8Array(contentBytes).fill(contentBytes);
    },
    bytesAtOnce: 100,
  };
  const sizes = [60, 30, 20, 90, 5, 5, 5, 200, 40, 13, 50];
  const frames = joinBytes(sizes.map((size) => packed(new Uint8Array(size))));
  const got: number[] = [];
  const inOnePiece = new Blob([frames]).stream();
  const contents = unpacked(inOnePiece, slow);
  try {
    for await (const one of contents) got.push(one.length);
  } catch (cause) {
    expect(String(cause)).toMatch("broken");
  }
  expect(got).toEqual(sizes.slice(0, 9));
  // 90 + 5 + 5, and never more.
  expect(most).toBe(3);
});

test("a platform's zstd that only throws is not taken", () => {
  const refuse = (): never => {
    throw new Error("not implemented");
  };
  const zlib = { zstdDecompress: refuse, zstdDecompressSync: refuse };
  expect(findZstd({ process: { getBuiltinModule: () => zlib } })).toBeNull();
  expect(findZstd({ process: { getBuiltinModule: () => undefined } })).toBeNull();
  expect(findZstd({})).toBeNull();
});
