/**
 * Runs the code of docs/client.md, piece by piece and in order, against one real server, and checks its types. What a piece prints is
 * what its `// →` comments say. Only the address is replaced.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { sharedServer } from "../support/shared-server.ts";

const ROOT = join(import.meta.dir, "..", "..");
const ADDRESS = "http://127.0.0.1:4437";
const server = sharedServer();
/** Inside the repository, so that pieces find the package by its name and its dependencies. */
let folder = "";

interface Piece {
  readonly heading: string;
  readonly code: string;
}

/** The fenced TypeScript blocks with the heading they stand under. */
function piecesOf(text: string): Piece[] {
  return text.split(/^#+ /m).flatMap((section) =>
    [...section.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map(([, code = ""]) => ({
      heading: section.split("\n", 1)[0] ?? "",
      code,
    })),
  );
}

const [opening, ...pieces] = piecesOf(await readFile(join(ROOT, "docs", "client.md"), "utf8"));

beforeAll(async () => {
  await mkdir(join(ROOT, "tmp"), { recursive: true });
  folder = await mkdtemp(join(ROOT, "tmp", "client-docs-"));
  const options = { extends: join(ROOT, "tsconfig.json"), include: ["*.ts"] };
  await writeFile(join(folder, "tsconfig.json"), JSON.stringify(options));
  for (const [index, { code }] of pieces.entries()) {
    await writeFile(fileOf(index), `${(opening?.code ?? "").replaceAll(ADDRESS, server.url)}\n${code}`);
  }
});
afterAll(() => rm(folder, { recursive: true, force: true }));

function fileOf(index: number): string {
  return join(folder, `piece-${index}.ts`);
}

function printsOf(code: string): string[] {
  return [...code.matchAll(/\/\/ → (.*)$/gm)].map(([, line = ""]) => line.trim());
}

async function outcomeOf(args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = Bun.spawn([process.execPath, ...args], {
    cwd: folder,
    stdout: "pipe",
    stderr: "pipe",
    timeout: 25_000,
    killSignal: "SIGKILL",
  });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, stdout, stderr };
}

test("there are pieces, and they say what they print", () => {
  expect(opening?.code).toContain(ADDRESS);
  expect(pieces.length).toBeGreaterThan(5);
  expect(pieces.filter(({ code }) => printsOf(code).length === 0)).toEqual([]);
});

for (const [index, { heading, code }] of pieces.entries()) {
  test(`${heading}, piece ${index + 1}`, async () => {
    const { code: exitCode, stdout, stderr } = await outcomeOf([fileOf(index)]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    expect(stdout.trimEnd().split("\n")).toEqual(printsOf(code));
  }, 60_000);
}

test("the types are right, and a wrong one would be seen", async () => {
  await writeFile(join(folder, "control.ts"), "export const control: string = 1;");
  const { stdout } = await outcomeOf([join(ROOT, "node_modules", ".bin", "tsc"), "--noEmit", "-p", folder]);
  // Of the pieces: what they import is checked with the rest of the sources.
  const own = stdout.split("\n").filter((line) => /^(?:piece|control)/.test(line));
  expect(own).toEqual([expect.stringMatching(/^control\.ts\(1,14\): error TS2322/)]);
}, 60_000);
