/** How vitest runs the public protocol suite: one file, one process, nothing else of this repository. */

import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { completeRunReporter } from "./complete-run.reporter.ts";

export default defineConfig({
  cacheDir: fileURLToPath(new URL("../../node_modules/.vite", import.meta.url)),
  test: {
    root: fileURLToPath(new URL(".", import.meta.url)),
    include: ["conformance.suite.ts"],
    pool: "forks",
    maxWorkers: 1,
    fileParallelism: false,
    watch: false,
    // Single tests set their own limit; this one is for a busy machine.
    testTimeout: 20_000,
    hookTimeout: 30_000,
    reporters: ["default", completeRunReporter()],
  },
});
