/**
 * The benchmark runs: its short form, as a user starts it, on our server, gives a figure for each workload it is asked for.
 * What the figures are is not looked at. The control is a workload that cannot be measured: it has to fail.
 */

import { expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";

const ROOT = join(import.meta.dir, "..");
/** The figure of each workload that says that something was measured. */
const TELLING: Readonly<Record<string, string>> = {
  A1: "recordsPerSecond",
  B1: "recordsPerSecond",
  B2: "mbPerSecond",
  C: "againMbPerSecond",
  R: "p50Ms",
  LP1: "delivered",
  IDLE: "keptP50Ms",
};
const workloads = Object.keys(TELLING);

const Measurements = z.array(
  z.object({ workload: z.string(), server: z.string(), kind: z.string(), figures: z.record(z.string(), z.unknown()) }),
);

async function bench(...options: readonly string[]) {
  const place = await mkdtemp(join(tmpdir(), "streams-test-"));
  try {
    const json = join(place, "figures.json");
    const child = Bun.spawn(
      [process.execPath, "bench/run.ts", "--quick", "--servers", "ours", "--dir", place, "--json", json, ...options],
      { cwd: ROOT, stdin: "ignore", stdout: "pipe", stderr: "pipe" },
    );
    const [table, errors, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    const file = Bun.file(json);
    const figures: unknown = (await file.exists()) ? await file.json() : null;
    return { code, table, errors, figures };
  } finally {
    await rm(place, { recursive: true, force: true });
  }
}

test("every workload asked for has a figure, in the table and in the JSON", async () => {
  const { code, table, errors, figures } = await bench("--only", workloads.join(","));
  expect([code, errors]).toEqual([0, expect.not.stringContaining("failed")]);
  const measured = Measurements.parse(figures);
  expect(measured.map(({ workload, server }) => `${workload} ${server}`).toSorted()).toEqual(
    workloads.map((name) => `${name} ours`).toSorted(),
  );
  for (const one of measured) {
    const figure = Number(one.figures[TELLING[one.workload] ?? ""]);
    expect({ workload: one.workload, isMeasured: figure > 0 }).toEqual({ workload: one.workload, isMeasured: true });
    expect(table).toContain(`| ${one.workload} |`);
  }
}, 90_000);

test("control: what cannot be measured is an exit code, a line and an entry", async () => {
  const { code, table, figures } = await bench("--only", "A1", "--serve-args=--no-such-flag");
  expect(code).toBe(1);
  expect(table).toContain("FAILED: A1 on ours");
  expect(figures).toMatchObject([{ workload: "A1", server: "ours", kind: "failed" }]);
}, 60_000);
