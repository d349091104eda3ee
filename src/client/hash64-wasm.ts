/**
 * XXH3-64 by WebAssembly. A file of its own that is only ever loaded by `import()`: so a bundler keeps this one hash of the
 * library's two dozen, and nothing of it is loaded before a key is made.
 */

import { createXXHash3 } from "hash-wasm";
import type { Hash64 } from "../protocol/touch-keys.ts";

/** Rejects where WebAssembly is missing or may not be compiled (a CSP without `wasm-unsafe-eval`). */
export async function compileHash64(): Promise<Hash64> {
  const hasher = await createXXHash3();
  return (bytes) => BigInt(`0x${hasher.init().update(bytes).digest()}`);
}
