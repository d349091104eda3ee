/**
 * Unpacks a body of zstd frames where the platform does not: each frame's size is judged before, its length and checksum after, since the
 * library that unpacks looks at neither. Both libraries are loaded with the first such body.
 */

import type { ContentChecksum } from "../protocol/zstd-frame.ts";
import { xxh64 } from "./xxh64.ts";
import { type Frame, FrameError, FrameSplitter } from "./zstd-frames.ts";

export { FrameError };

/** Our servers send frames of at most 1 MiB; history of others may be cut otherwise. */
export const MAX_FRAME_CONTENT_BYTES = 16 * 1024 * 1024;

/** Unpacks one frame, into a buffer of the size that it says it has. */
type Unpack = (frame: Uint8Array, content: Uint8Array) => Uint8Array;

/** What unpacking needs of others. */
interface Codec {
  readonly unpack: Unpack;
  readonly checksum: ContentChecksum;
}

let loading: Promise<Codec> | null = null;

/** Loads what it needs once; a load that failed is tried again by the next one. */
export function loadCodec(): Promise<Codec> {
  loading ??= load().catch((cause: unknown) => {
    loading = null;
    throw cause;
  });
  return loading;
}

async function load(): Promise<Codec> {
  const [{ decompress }, checksum] = await Promise.all([import("fzstd"), loadChecksum()]);
  return { unpack: (frame, content) => decompress(frame, content), checksum };
}

async function loadChecksum(): Promise<ContentChecksum> {
  try {
    return await (await import("./xxh64-wasm.ts")).compileChecksum();
  } catch {
    // No WebAssembly, a policy that forbids it, or its file did not arrive: ours gives the same, only slower.
    return (bytes) => Number(xxh64(bytes) & 0xffff_ffffn);
  }
}

/** @throws FrameError when the body is damaged, cut off, or claims too much. */
export async function* unpacked(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  const codec = await loadCodec();
  const splitter = new FrameSplitter(MAX_FRAME_CONTENT_BYTES);
  for await (const piece of pieces) {
    for (const frame of splitter.push(piece)) {
      const content = unpackFrame(frame, codec);
      if (content.length > 0) yield content;
    }
  }
  splitter.end();
}

function unpackFrame({ bytes, contentBytes }: Frame, { unpack, checksum }: Codec): Uint8Array {
  let content: Uint8Array;
  try {
    content = unpack(bytes, new Uint8Array(contentBytes));
  } catch (cause) {
    throw new FrameError(`a zstd frame is damaged: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
  const told = new DataView(bytes.buffer, bytes.byteOffset + bytes.length - 4).getUint32(0, true);
  if (content.length !== contentBytes || checksum(content) !== told) {
    throw new FrameError("a zstd frame does not unpack to what its checksum says");
  }
  return content;
}
