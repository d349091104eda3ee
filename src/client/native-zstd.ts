/**
 * The platform's own zstd outside of `fetch`: Bun's, and Node's from 22.15. It judges checksums by itself, and unpacks in threads, so
 * several frames at once. Found by looking, never imported: the client has to load in a browser.
 */

import type { Frame } from "./zstd-frames.ts";

/** Both throw, or reject, when a frame is damaged or unpacks to more than it says. */
export interface NativeZstd {
  readonly now: (frame: Frame) => Uint8Array;
  readonly inThread: (frame: Frame) => Promise<Uint8Array>;
}

interface Platform {
  readonly Bun?: {
    readonly zstdDecompressSync?: (bytes: Uint8Array) => Uint8Array;
    readonly zstdDecompress?: (bytes: Uint8Array) => Promise<Uint8Array>;
  };
  readonly process?: { readonly getBuiltinModule?: (name: string) => NodeZlib | undefined };
}

interface NodeZlib {
  readonly zstdDecompressSync?: (bytes: Uint8Array, options: ZlibOptions) => Uint8Array;
  readonly zstdDecompress?: (bytes: Uint8Array, options: ZlibOptions, done: ZlibDone) => void;
}

type ZlibDone = (cause: Error | null, content: Uint8Array) => void;

interface ZlibOptions {
  readonly maxOutputLength: number;
  readonly chunkSize: number;
}

/** A frame of nothing, with its checksum: some platforms carry functions that only throw. */
const EMPTY: Frame = {
  bytes: Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0x24, 0, 1, 0, 0, 0x99, 0xe9, 0xd8, 0x51),
  contentBytes: 0,
};
/** Node makes no smaller pieces. */
const MIN_CHUNK_BYTES = 64;

let found: NativeZstd | null | undefined;

/** Null where there is none. */
export function nativeZstd(): NativeZstd | null {
  if (found === undefined) found = findZstd(globalThis);
  return found;
}

export function findZstd(platform: object): NativeZstd | null {
  return workingOf(bunZstd(platform)) ?? workingOf(nodeZstd(platform));
}

function workingOf(zstd: NativeZstd | null): NativeZstd | null {
  try {
    return zstd?.now(EMPTY).length === 0 ? zstd : null;
  } catch {
    // It is there in name only.
    return null;
  }
}

/** What Bun unpacks is bounded by the size that a frame says it has; frames that say none do not come here. */
function bunZstd({ Bun: bun }: Platform): NativeZstd | null {
  const { zstdDecompressSync, zstdDecompress } = bun ?? {};
  if (zstdDecompressSync === undefined || zstdDecompress === undefined) return null;
  return { now: ({ bytes }) => zstdDecompressSync(bytes), inThread: ({ bytes }) => zstdDecompress(bytes) };
}

function nodeZstd({ process }: Platform): NativeZstd | null {
  const { zstdDecompressSync, zstdDecompress } = process?.getBuiltinModule?.("zlib") ?? {};
  if (zstdDecompressSync === undefined || zstdDecompress === undefined) return null;
  return {
    now: (frame) => zstdDecompressSync(frame.bytes, zlibOptions(frame)),
    inThread: (frame) =>
      new Promise((resolve, reject) => {
        zstdDecompress(frame.bytes, zlibOptions(frame), (cause, content) => {
          if (cause === null) resolve(content);
          else reject(cause);
        });
      }),
  };
}

/** All of it in one piece, and no more. */
function zlibOptions({ contentBytes }: Frame): ZlibOptions {
  const chunkSize = Math.max(MIN_CHUNK_BYTES, contentBytes);
  return { maxOutputLength: chunkSize, chunkSize };
}
