/**
 * A lock that cannot be taken: only one that somebody holds is told as a directory in use. What else fails is told as what it is, so
 * that nobody looks for a second server that is not there. (Two servers: second-instance.test.ts, which is the control.)
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCommand } from "../support/command.ts";
import { startUnderFault, straceObstacle } from "./strace.ts";

const IN_USE = /in use|another server/i;
const traceObstacle = await straceObstacle();
if (traceObstacle !== null) console.log(`lock on a failing disk: not run here, ${traceObstacle}`);

let root = "";
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "streams-lock-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

interface Broken {
  readonly lockFile: string;
  readonly reason: RegExp;
  readonly make: (file: string) => Promise<unknown>;
}

const BROKEN: readonly Broken[] = [
  { lockFile: "no database", reason: /not a database/i, make: (file) => writeFile(file, "x".repeat(8192)) },
  { lockFile: "a directory", reason: /unable to open/i, make: (file) => mkdir(file) },
];

test.each(BROKEN)(
  "lock.db is $lockFile: refused with the reason, not as in use",
  async ({ lockFile, reason, make }) => {
    const dataDir = join(root, lockFile.replace(" ", "-"));
    await mkdir(dataDir);
    await make(join(dataDir, "lock.db"));
    const refused = await runCommand(["serve", "--port", "0", "--data-dir", dataDir], { deadlineMs: 10_000 });
    expect(refused.stdout).not.toContain("listening");
    expect(refused.code).toBeGreaterThan(0);
    expect(refused.stderr).toContain("lock.db");
    expect(refused.stderr).toMatch(reason);
    expect(refused.stderr).not.toMatch(IN_USE);
  },
  60_000,
);

const FAULTS = [
  { error: "EIO", reason: /I\/O error/i },
  { error: "ENOSPC", reason: /full/i },
] as const;

/** To lock, SQLite begins a journal: the first thing that a start writes. */
test.if(traceObstacle === null).each(FAULTS)(
  "$error while the lock is taken: told as that",
  async ({ error, reason }) => {
    const started = await startUnderFault(join(root, error), { calls: ["pwrite64"], fault: `error=${error}` });
    try {
      expect(started.listening).toBeNull();
      const hit = (await started.injected()).filter((line) => line.includes("lock.db"));
      expect(hit.length).toBeGreaterThan(0);
      expect(started.stderr()).toMatch(reason);
      expect(started.stderr()).not.toMatch(IN_USE);
    } finally {
      await started.close();
    }
  },
  60_000,
);
