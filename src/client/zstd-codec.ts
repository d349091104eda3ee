/**
 * What unpacks a zstd frame here, and judges its checksum: the platform where it can, else fzstd, which looks at no checksum; it and
 * what makes the checksum are loaded with the first frame.
 */

import type { ContentChecksum } from "../protocol/zstd-frame.ts";
import { nativeZstd, type NativeZstd } from "./native-zstd.ts";
import { xxh64 } from "./xxh64.ts";
import type { Frame } from "./zstd-frames.ts";

export interface Codec {
  /** Throws, or rejects, when the frame is damaged. Its content's length is still to be judged. */
  readonly unpack: (frame: Frame) => Uint8Array | Promise<Uint8Array>;
  /** Frames may be unpacked side by side, up to so many bytes of content. 0: one by one. */
  readonly bytesAtOnce: number;
}

/** 64 batches of our servers; twice that is held in memory, for a moment. */
const BYTES_AT_ONCE = 16 * 1024 * 1024;
/** To hand so little to a thread takes longer than to unpack it. */
const THREAD_FROM_BYTES = 16 * 1024;

let loading: Promise<Codec> | null = null;

export async function loadCodec(): Promise<Codec> {
  const native = nativeZstd();
  return native === null ? loadScriptCodec() : nativeCodec(native);
}

export function nativeCodec({ now, inThread }: NativeZstd): Codec {
  return {
    unpack: (frame) => (frame.contentBytes < THREAD_FROM_BYTES ? now(frame) : inThread(frame)),
    bytesAtOnce: BYTES_AT_ONCE,
  };
}

/** Loads what it needs once; a load that failed is tried again by the next one. */
export function loadScriptCodec(): Promise<Codec> {
  loading ??= load().catch((cause: unknown) => {
    loading = null;
    throw cause;
  });
  return loading;
}

async function load(): Promise<Codec> {
  const [{ decompress }, checksum] = await Promise.all([import("fzstd"), loadChecksum()]);
  return {
    unpack: ({ bytes, contentBytes }) => {
      // A buffer of ours it compares with a number, which makes text of all of it: 20 times as slow. Its own has the size that the frame says,
      // but for a frame of nothing it would have none.
      const content = contentBytes === 0 ? decompress(bytes, new Uint8Array()) : decompress(bytes);
      const told = new DataView(bytes.buffer, bytes.byteOffset + bytes.length - 4).getUint32(0, true);
      if (checksum(content) !== told) throw new Error("its checksum is another one");
      return content;
    },
    bytesAtOnce: 0,
  };
}

export async function loadChecksum(): Promise<ContentChecksum> {
  try {
    return await (await import("./xxh64-wasm.ts")).compileChecksum();
  } catch {
    // No WebAssembly, a policy that forbids it, or its file did not arrive: ours gives the same, only slower.
    return (bytes) => Number(xxh64(bytes) & 0xffff_ffffn);
  }
}
