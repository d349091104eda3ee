/** The hash that touch keys are made of (XXH3-64, seed 0), by what the runtime allows: WebAssembly, or plain TypeScript. */

import type { Hash64 } from "../protocol/touch-keys.ts";
import { xxh3 } from "./xxh3.ts";

let loading: Promise<Hash64> | null = null;

/** Loaded at the first call, once. Never rejects. */
export function hash64(): Promise<Hash64> {
  return (loading ??= hash64By(async () => (await import("./hash64-wasm.ts")).compileHash64()));
}

/** What `compile` gives, or the same hash without WebAssembly. */
export async function hash64By(compile: () => Promise<Hash64>): Promise<Hash64> {
  try {
    return await compile();
  } catch {
    // No WebAssembly, a policy that forbids it, or its file did not arrive: ours gives the same keys, only slower.
    return xxh3;
  }
}
