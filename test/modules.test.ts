/**
 * Imports every source module in a process of its own. Coverage leaves out what nobody imports; this does not.
 * Importing a module may not print, start anything or keep the process alive: it only defines.
 */

import { expect, test } from "bun:test";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");
/** Running these is what they are for: a command line and the bodies of worker threads. */
const ENTRY_POINTS = /(?:^src\/cli\/main|worker)\.ts$/;
const LIMIT_MS = 20_000;

const modules = [...new Bun.Glob("src/**/*.ts").scanSync({ cwd: ROOT })]
  .filter((path) => !path.endsWith(".test.ts") && !ENTRY_POINTS.test(path))
  .sort();

async function outcomeOf(args: string[]): Promise<{ exitCode: number; stdout: string; stderr: string }> {
  const child = Bun.spawn(args, {
    cwd: ROOT,
    stdout: "pipe",
    stderr: "pipe",
    timeout: LIMIT_MS,
    killSignal: "SIGKILL",
  });
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  return { exitCode: await child.exited, stdout, stderr };
}

test(
  "every module can be imported, says nothing, and lets the process end",
  async () => {
    expect(modules.length).toBeGreaterThan(0);
    const script = modules.map((path) => `await import("./${path}");`).join("\n");
    expect(await outcomeOf([process.execPath, "--eval", script])).toEqual({ exitCode: 0, stdout: "", stderr: "" });
  },
  LIMIT_MS + 1000,
);

test(
  "the entry point runs through its launcher",
  async () => {
    const { exitCode, stdout, stderr } = await outcomeOf([join(ROOT, "bin", "streams-server"), "--help"]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    expect(stdout).toContain("serve");
  },
  LIMIT_MS + 1000,
);
