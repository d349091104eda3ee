/** XXH64 by WebAssembly. A file of its own that is only ever loaded by `import()`: see `hash64-wasm.ts`. */

import { createXXHash64 } from "hash-wasm";
import type { ContentChecksum } from "../protocol/zstd-frame.ts";

/** Rejects where WebAssembly is missing or may not be compiled (a CSP without `wasm-unsafe-eval`). */
export async function compileChecksum(): Promise<ContentChecksum> {
  const hasher = await createXXHash64();
  return (bytes) => {
    const digest = hasher.init().update(bytes).digest("binary");
    return new DataView(digest.buffer, digest.byteOffset).getUint32(4);
  };
}
