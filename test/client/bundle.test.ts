/**
 * What an application loads when it imports the client: small, with nothing of Bun or Node, and without the heavy packages, which
 * come in chunks of their own when they are needed first. Built as an application would build it.
 */

import { expect, test } from "bun:test";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..", "..");
const ENTRY = join(ROOT, "src", "client", "client.ts");
const MAX_GZIPPED_BYTES = 25_000;
/** Loaded by `import()` only. */
const HEAVY = ["hash-wasm", "fzstd"];

interface Chunk {
  readonly text: string;
  /** Files it was made of, from its source map. */
  readonly sources: readonly string[];
}

interface Loaded {
  readonly files: number;
  readonly gzippedBytes: number;
  readonly text: string;
  readonly sources: readonly string[];
}

/** The minified chunks of an entry by file name, and the entry's own name. */
async function build(entry: string): Promise<{ readonly entry: string; readonly chunks: Map<string, Chunk> }> {
  const built = await Bun.build({
    entrypoints: [entry],
    target: "browser",
    format: "esm",
    minify: true,
    splitting: true,
    sourcemap: "external",
  });
  // By their names: with several chunks `output.sourcemap` of Bun 1.4.5 is another file's.
  const texts = new Map<string, string>();
  for (const output of built.outputs) texts.set(output.path, await output.text());
  const chunks = new Map<string, Chunk>();
  for (const [name, text] of texts) {
    const map = texts.get(`${name}.map`);
    if (map !== undefined) chunks.set(name, { text, sources: (JSON.parse(map) as { sources: string[] }).sources });
  }
  return { entry: built.outputs.find(({ kind }) => kind === "entry-point")?.path ?? "", chunks };
}

/** The entry with everything it loads at once. */
function loadedAtOnce({ entry, chunks }: Awaited<ReturnType<typeof build>>): Loaded {
  const transpiler = new Bun.Transpiler({ loader: "js" });
  const names = new Set([entry]);
  for (const name of names) {
    for (const { kind, path } of transpiler.scanImports(chunks.get(name)?.text ?? "")) {
      if (kind === "import-statement") names.add(path);
    }
  }
  const loaded = [...names].map(
    (name) => chunks.get(name) ?? { text: `/* outside the bundle: ${name} */`, sources: [] },
  );
  return {
    files: loaded.length,
    gzippedBytes: loaded.reduce((total, { text }) => total + Bun.gzipSync(text).length, 0),
    text: loaded.map(({ text }) => text).join("\n"),
    sources: loaded.flatMap(({ sources }) => sources),
  };
}

function heavyIn(sources: readonly string[]): string[] {
  return HEAVY.filter((name) => sources.some((path) => path.includes(`node_modules/${name}/`)));
}

const OUTSIDE_BROWSERS =
  /\bnode:|\bbun:|\b(?:Bun|process|Buffer|__dirname)\b\s*[.(]|\brequire\s*\(|outside the bundle/g;

test("what is loaded at once is below 25 kB gzipped, runs in a browser, and has no heavy package", async () => {
  const built = await build(ENTRY);
  const loaded = loadedAtOnce(built);
  const all = [...built.chunks.values()];
  console.log(
    `the client: ${loaded.gzippedBytes} bytes gzipped, ${loaded.text.length} minified, in ${loaded.files} of ${all.length} files`,
  );
  expect(loaded.gzippedBytes).toBeLessThan(MAX_GZIPPED_BYTES);
  expect(loaded.sources.some((path) => path.endsWith("src/client/transport.ts"))).toBe(true);
  expect(heavyIn(loaded.sources)).toEqual([]);
  for (const { text } of all) expect(text.match(OUTSIDE_BROWSERS) ?? []).toEqual([]);
});

test("control: a heavy package that is loaded at once would be seen, and be too large", async () => {
  const loaded = loadedAtOnce(await build(Bun.resolveSync("hash-wasm", ROOT)));
  expect(heavyIn(loaded.sources)).toEqual(["hash-wasm"]);
  expect(loaded.gzippedBytes).toBeGreaterThan(MAX_GZIPPED_BYTES);
});

test("control: what only a server has would be seen", () => {
  const bad = ['import"node:fs"', "process.env.A", "Bun.hash(1)", "Buffer.from(a)", 'require("x")'];
  expect(bad.filter((text) => text.match(OUTSIDE_BROWSERS) === null)).toEqual([]);
});
