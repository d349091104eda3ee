/** Frames of our own against the codec, and headers of the codec's frames. */

import { expect, test } from "bun:test";
import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { joinBytes } from "../kit/bytes.ts";
import { plainFrames, readFrameHeader } from "./zstd-frame.ts";

const checksum = (bytes: Uint8Array): number => Number(Bun.hash.xxHash64(bytes) & 0xffff_ffffn);

function bytesOf(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}

const withChecksum = { params: { [constants.ZSTD_c_checksumFlag]: 1 } };

test("any length comes back, alone and between frames of the codec", () => {
  for (const length of [0, 1, 2, 255, 256, 131_071, 131_072, 131_073, 262_144, 1_048_576, 1_048_577, 3_000_000]) {
    const content = bytesOf(length);
    const frames = joinBytes([...plainFrames(content, checksum)]);
    expect(Bun.SHA256.hash(zstdDecompressSync(frames))).toEqual(Bun.SHA256.hash(content));
    const text = Buffer.from("between ".repeat(100));
    const joined = joinBytes([zstdCompressSync(text, withChecksum), frames, zstdCompressSync(text)]);
    expect(zstdDecompressSync(joined)).toEqual(Buffer.concat([text, content, text]));
  }
});

test("a wrong checksum is seen by the codec: what is promised of a frame is looked at", () => {
  const [frame = new Uint8Array()] = plainFrames(bytesOf(1000), (bytes) => checksum(bytes) ^ 1);
  expect(() => zstdDecompressSync(frame)).toThrow();
});

test("headers of the codec are read, whatever the length", () => {
  for (const length of [0, 1, 100, 255, 256, 257, 65_791, 65_792, 70_000, 1_000_000, 20_000_000]) {
    const content = new Uint8Array(length).fill(7);
    for (const [options, hasChecksum] of [[withChecksum, true] as const, [{}, false] as const]) {
      const header = readFrameHeader(zstdCompressSync(content, options));
      expect(header).toMatchObject({ contentBytes: length, hasChecksum });
    }
    for (const frame of plainFrames(content.subarray(0, 1000), checksum)) {
      expect(readFrameHeader(frame)).toEqual({
        headerBytes: 9,
        contentBytes: Math.min(1000, length),
        hasChecksum: true,
      });
    }
  }
});

test("what is no header is none, at every length", () => {
  const frame = zstdCompressSync(bytesOf(70_000));
  const { headerBytes } = readFrameHeader(frame) ?? { headerBytes: 0 };
  for (let length = 0; length < headerBytes; length++) expect(readFrameHeader(frame.subarray(0, length))).toBeNull();
  expect(readFrameHeader(frame.subarray(0, headerBytes))).not.toBeNull();
  expect(readFrameHeader(Buffer.from("[1,2,3]"))).toBeNull();
  const reserved = Uint8Array.from(frame);
  reserved[4] = (reserved[4] ?? 0) | 8;
  expect(readFrameHeader(reserved)).toBeNull();
});
