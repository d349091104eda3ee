/**
 * The launcher runs the executable of `bun run build` for as long as no source is newer, and the sources otherwise: whoever changed
 * a file must never be served by yesterday's code.
 */

import { expect, test } from "bun:test";
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LAUNCHER } from "./support/server.ts";

const OLD = new Date("2026-01-01T00:00:00Z");
const BUILT = new Date("2026-01-02T00:00:00Z");
const NEW = new Date("2026-01-03T00:00:00Z");

test.each([
  ["nothing was built", (root: string) => rmSync(join(root, "dist"), { recursive: true }), "sources"],
  ["the build is up to date", () => undefined, "executable"],
  ["a source is newer", (root: string) => utimesSync(join(root, "src/cli/main.ts"), NEW, NEW), "sources"],
  ["a source was removed", (root: string) => utimesSync(join(root, "src/cli"), NEW, NEW), "sources"],
  ["a library changed", (root: string) => utimesSync(join(root, "bun.lock"), NEW, NEW), "sources"],
  ["it cannot be told", (root: string) => rmSync(join(root, "bun.lock")), "sources"],
])("when %s", async (_, change, expected) => {
  expect(await launched(change)).toEqual(["serve", "--port", "0", expected]);
});

test("with options for Bun, which are for modules on disk", async () => {
  expect(await launched(() => undefined, { BUN_OPTIONS: "--smol" })).toEqual(["serve", "--port", "0", "sources"]);
});

/** A checkout whose command line, and whose executable, print their arguments and say which they are. */
function checkout(): string {
  const root = mkdtempSync(join(tmpdir(), "streams-launcher-"));
  const files: readonly [path: string, content: string][] = [
    ["bun.lock", ""],
    ["bin/build", ""],
    ["package.json", "{}"],
    ["bunfig.toml", ""],
    ["src/cli/main.ts", 'console.log([...process.argv.slice(2), "sources"].join("\\n"));'],
    ["node_modules/.bin/bun", `#!/bin/sh\nexec '${process.execPath}' "$@"\n`],
    ["dist/streams-server", `#!/bin/sh\nprintf '%s\\n' "$@" executable\n`],
  ];
  for (const [path, content] of files) {
    mkdirSync(join(root, path, ".."), { recursive: true });
    writeFileSync(join(root, path), content);
    chmodSync(join(root, path), 0o755);
  }
  cpSync(LAUNCHER, join(root, "bin/streams-server"));
  for (const path of [...files.map(([name]) => name), "src/cli", "src"]) utimesSync(join(root, path), OLD, OLD);
  utimesSync(join(root, "dist/streams-server"), BUILT, BUILT);
  return root;
}

async function launched(
  change: (root: string) => void,
  env: Readonly<Record<string, string>> = {},
): Promise<readonly string[]> {
  const root = checkout();
  try {
    change(root);
    const command = [join(root, "bin/streams-server"), "serve", "--port", "0"];
    const launcher = Bun.spawn(command, { env: { ...process.env, ...env }, stderr: "inherit" });
    const [output] = await Promise.all([launcher.stdout.text(), launcher.exited]);
    return output.trim().split("\n");
  } finally {
    rmSync(root, { recursive: true });
  }
}
