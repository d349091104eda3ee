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
}, 60_000);

test("earthquakes: a week is played, and its page is served", async () => {
  const args = ["--url", server.url, "--port", "0", "--rate", "1e9"];
  const child = Bun.spawn([process.execPath, "examples/earthquakes/main.ts", ...args], {
    cwd: root,
    stdout: "pipe",
    stderr: "inherit",
  });
  try {
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of child.stdout) {
      text += decoder.decode(chunk, { stream: true });
      if (text.includes("played")) break;
    }
    const [, page = ""] = /^map: (\S+)$/m.exec(text) ?? [];
    const shown = await fetch(page);
    expect([shown.status, (await shown.text()).includes('<canvas id="map">')]).toEqual([200, true]);
    for (const file of ["/page.js", "/live-view.js", "/land.js", "/world.json"]) {
      expect((await fetch(new URL(file, page))).status).toBe(200);
    }
    const view = await fetch(`${server.url}/v1/stream/earthquakes/_view?order=-mag&limit=3`);
    const rows = (await view.json()) as { value?: { mag: number } }[];
    const strongest = rows.flatMap(({ value }) => (value === undefined ? [] : [value.mag]));
    expect(strongest.length).toBe(3);
    expect(strongest).toEqual(strongest.toSorted((left, right) => right - left));
  } finally {
    child.kill();
    await child.exited;
  }
}, 60_000);
