/** The examples run as they stand, against a real server. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { sharedServer } from "./support/shared-server.ts";

const server = sharedServer();
const root = join(import.meta.dir, "..");

test("live-query: both queries end right, and neither ran for a change that was not its own", async () => {
  const child = Bun.spawn([process.execPath, "examples/live-query/main.ts", server.url], {
    cwd: root,
    stdout: "pipe",
    stderr: "pipe",
  });
  const [text, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect(`${code} ${errors}`).toBe("0 ");
  expect(text).toContain("list of ann: tea, oat milk");
  // At most one run at the start and one per change of ann's list; the count also for bob, but not for a new title. On a slow
  // machine the first runs may come after the first changes.
  expect(text).toMatch(/list ran [123] times, count ran [1234] times, both right/);
}, 20_000);
