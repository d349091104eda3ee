/**
 * The rooms of `src/` and the one direction of imports (docs/architecture.md), as rules over source text.
 * Type-only imports, `import()`, `import("…").T` and worker URLs count. Unit tests beside the code are exempt: they may
 * bring any store they like; but nothing else may import a test.
 */

import { posix } from "node:path";
import { importsOf, lineAt, scan, type SourceFile } from "./source-text.ts";
import { isTest, rule, sourceFiles, type Rule } from "./tidy-rule.ts";

interface Room {
  /** Rooms it may import, besides itself. `features/*` means their `index.ts`. */
  readonly imports: readonly string[];
  /** Packages and built-in modules it may import; `*` means any built-in module. */
  readonly packages: readonly string[];
}

const BUILT_IN = "*";

/** Add a package to a room only for a reason you can write down. */
const ROOMS: Readonly<Record<string, Room>> = {
  kit: { imports: [], packages: ["better-result", "tinyqueue", "lru-cache"] },
  protocol: { imports: ["kit"], packages: ["better-result", "zod"] },
  storage: { imports: ["protocol", "kit"], packages: ["better-result"] },
  "storage/memory": { imports: ["storage", "protocol", "kit"], packages: ["better-result", "lru-cache"] },
  "storage/sqlite": {
    imports: ["storage", "protocol", "kit"],
    packages: [BUILT_IN, "bun:sqlite", "better-result", "lru-cache", "tinyqueue", "@logtape/logtape"],
  },
  engine: {
    imports: ["storage", "protocol", "kit"],
    // node:crypto: what the server gives out and takes back carries a MAC.
    packages: ["better-result", "lru-cache", "node:crypto", "tinyqueue", "@logtape/logtape"],
  },
  http: {
    imports: ["engine", "protocol", "kit"],
    packages: ["better-result", "lru-cache", "zod", "@logtape/logtape"],
  },
  "features/*": {
    imports: ["features/*", "http", "engine", "protocol", "kit"],
    // jose: JSON Web Tokens.
    // rbush: live views find viewports and points in it (docs/decisions/010-rbush.md).
    // node:crypto: subscriptions sign their webhooks (Ed25519) and their tokens.
    // node:net, node:dns/promises, node:http(s): webhooks resolve, judge and pin addresses; `fetch` cannot, and follows proxies.
    // node:zlib: Bun's own zstd has no bound on what it unpacks.
    packages: [
      "better-result",
      "jose",
      "lru-cache",
      "node:crypto",
      "node:dns/promises",
      "node:http",
      "node:https",
      "node:net",
      "node:zlib",
      "rbush",
      "tinyqueue",
      "zod",
      "@logtape/logtape",
    ],
  },
  // Both only ever loaded by import(). hash-wasm: touch keys and checksums. fzstd: history that the platform does not unpack.
  client: { imports: ["protocol", "kit"], packages: ["better-result", "fzstd", "hash-wasm"] },
  server: {
    imports: ["features/*", "http", "engine", "storage", "storage/memory", "storage/sqlite", "protocol", "kit"],
    packages: [BUILT_IN, "better-result", "zod", "@logtape/logtape", "@opentelemetry/api"],
  },
  cli: {
    imports: ["client", "server", "protocol", "kit"],
    packages: [BUILT_IN, "better-result", "commander", "zod", "@logtape/logtape"],
  },
};

/** `src/storage/sqlite/x.ts` → `storage/sqlite`; null for a file that lies in no known room. */
function roomOf(path: string): string | null {
  const match = /^src\/(features\/[^/]+|storage\/[^/]+(?=\/)|[^/]+)\//.exec(path);
  const room = match?.[1] ?? null;
  if (room === null) return null;
  return tableEntry(room) === undefined ? null : room;
}

function tableEntry(room: string): Room | undefined {
  return ROOMS[room.startsWith("features/") ? "features/*" : room];
}

/** Commands of the server's machine; every other one is a client over HTTP. */
const ON_THE_DIRECTORY = /\/(serve|keys|doctor|backup|restore)[^/]*\.ts$/;

interface Import {
  readonly from: SourceFile;
  readonly specifier: string;
  /** Repository path of a relative import, else null. */
  readonly target: string | null;
  readonly where: string;
}

function importsIn(file: SourceFile): Import[] {
  return importsOf(file.text).map(({ specifier, start }) => ({
    from: file,
    specifier,
    target: specifier.startsWith(".") ? posix.normalize(posix.join(posix.dirname(file.path), specifier)) : null,
    where: `${file.path}:${lineAt(file.text, start)}`,
  }));
}

function production(files: readonly SourceFile[]): SourceFile[] {
  return sourceFiles(files).filter((file) => !isTest(file.path));
}

function roomProblem({ from, target, where }: Import): string | null {
  if (target === null) return null;
  if (isTest(target) || target.startsWith("test/")) return `${where} imports a test: ${target}`;
  const room = roomOf(from.path);
  if (room === null) return `${from.path} lies in no room of the table in test/support/tidy-rooms.ts`;
  if (target === "package.json") return room === "server" || room === "cli" ? null : `${where} reads package.json`;
  const other = roomOf(target);
  if (other === null) return `${where} imports ${target}, which lies in no room`;
  if (other === room) return null;
  if (tableEntry(room)?.imports.includes(other.startsWith("features/") ? "features/*" : other) !== true) {
    return `${where} ${room} may not import ${other} (${target})`;
  }
  if (other.startsWith("features/") && !/^src\/features\/[^/]+\/index\.ts$/.test(target)) {
    return `${where} reaches past a feature's index.ts: ${target}`;
  }
  if (room === "cli" && other === "server" && !ON_THE_DIRECTORY.test(from.path)) {
    return `${where} only commands that work on a data directory may import the server`;
  }
  return null;
}

const isBuiltIn = (specifier: string): boolean => /^(node:|bun:|bun$)/.test(specifier);

function packageName(specifier: string): string {
  return specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
}

function packageProblem({ from, specifier, target, where }: Import): string | null {
  if (target !== null) return null;
  const room = roomOf(from.path);
  const allowed = room === null ? [] : (tableEntry(room)?.packages ?? []);
  if (isBuiltIn(specifier)) {
    if (allowed.includes(specifier)) return null;
    if (allowed.includes(BUILT_IN) && specifier !== "bun:sqlite") return null;
  } else if (allowed.includes(packageName(specifier))) {
    return null;
  }
  return `${where} ${room ?? "no room"} may not import the package ${specifier} (table in test/support/tidy-rooms.ts)`;
}

const GLOBALS_OUTSIDE_BROWSERS = /\b(?:Bun|Buffer|process|__dirname|require)\b\s*[.(]/g;

/** Everything the SDK pulls in runs in a browser. */
function browserProblems(files: readonly SourceFile[]): string[] {
  const byPath = new Map(files.map((file) => [file.path, file]));
  const reached = new Set(files.filter((file) => roomOf(file.path) === "client" && !isTest(file.path)));
  const problems: string[] = [];
  for (const file of reached) {
    for (const { specifier, target, where } of importsIn(file)) {
      const next = target === null ? undefined : byPath.get(target);
      if (next !== undefined) reached.add(next);
      if (isBuiltIn(specifier)) problems.push(`${where} is reached from src/client and imports ${specifier}`);
    }
    for (const match of scan(file.text).code.matchAll(GLOBALS_OUTSIDE_BROWSERS)) {
      problems.push(`${file.path}:${lineAt(file.text, match.index)} is reached from src/client and uses ${match[0]}`);
    }
  }
  return problems;
}

function cycles(files: readonly SourceFile[]): string[] {
  const targets = new Map(
    production(files).map((file) => [file.path, importsIn(file).flatMap(({ target }) => target ?? [])]),
  );
  const done = new Set<string>();
  const problems: string[] = [];
  const visit = (path: string, trail: readonly string[]): void => {
    const seenAt = trail.indexOf(path);
    if (seenAt !== -1) problems.push(`import cycle: ${[...trail.slice(seenAt), path].join(" → ")}`);
    if (seenAt !== -1 || done.has(path)) return;
    for (const target of targets.get(path) ?? []) visit(target, [...trail, path]);
    done.add(path);
  };
  for (const path of targets.keys()) visit(path, []);
  return problems;
}

function sample(path: string, text: string): SourceFile[] {
  return [{ path, text }];
}

export const roomRules: readonly Rule[] = [
  rule("imports follow the one direction of the rooms", {
    check: (files) => production(files).flatMap((file) => importsIn(file).flatMap((site) => roomProblem(site) ?? [])),
    violating: [
      sample("src/engine/a.ts", 'import { b } from "../http/b.ts";'),
      sample("src/engine/a.ts", 'import type { B } from "../storage/sqlite/b.ts";'),
      sample("src/http/a.ts", 'import {\n  b,\n} from "../storage/port.ts";'),
      sample("src/storage/sqlite/a.ts", 'const b = await import("../../engine/b.ts");'),
      sample("src/storage/memory/a.ts", 'export { b } from "../sqlite/b.ts";'),
      sample("src/client/a.ts", 'type B = import("../engine/b.ts").B;'),
      sample("src/engine/a.ts", 'new Worker(new URL("../storage/sqlite/w.ts", import.meta.url));'),
      sample("src/cli/read.ts", 'import { open } from "../server/open.ts";'),
      sample("src/features/touch/a.ts", 'import { b } from "../views/b.ts";'),
      sample("src/kit/a.ts", 'import { b } from "./b.test.ts";'),
      sample("src/other/a.ts", 'import { b } from "./b.ts";'),
    ],
    fine: [
      sample("src/engine/a.ts", 'import type { B } from "../storage/port.ts"; // not from "../http/b.ts"'),
      sample("src/cli/serve.ts", 'import { open } from "../server/open.ts";'),
      sample("src/features/touch/a.ts", 'import { b } from "../views/index.ts";'),
      sample("src/engine/a.test.ts", 'import { b } from "../storage/memory/b.ts";'),
    ],
  }),
  rule("a room imports only its own packages, and bun:sqlite lives in storage/sqlite", {
    check: (files) =>
      production(files).flatMap((file) => importsIn(file).flatMap((site) => packageProblem(site) ?? [])),
    violating: [
      sample("src/engine/a.ts", 'import { Database } from "bun:sqlite";'),
      sample("src/server/a.ts", 'import type { Database } from "bun:sqlite";'),
      sample("src/protocol/a.ts", 'import { readFile } from "node:fs/promises";'),
      sample("src/http/a.ts", 'import { Command } from "commander";'),
      sample("src/kit/a.ts", 'import "left-pad/now";'),
    ],
    fine: [
      sample(
        "src/storage/sqlite/a.ts",
        'import { Database } from "bun:sqlite"; import { open } from "node:fs/promises";',
      ),
      sample("src/cli/a.ts", 'import { Command } from "commander/esm";'),
    ],
  }),
  rule("what the SDK reaches runs in a browser", {
    check: browserProblems,
    violating: [
      sample("src/client/a.ts", "const key = process.env.KEY;"),
      [
        { path: "src/client/a.ts", text: 'import { b } from "../kit/b.ts";' },
        { path: "src/kit/b.ts", text: "export const b = Bun.hash(1);" },
      ],
    ],
    fine: [sample("src/kit/b.ts", "export const b = Bun.hash(1);")],
  }),
  rule("no import cycles, type imports included", {
    check: cycles,
    violating: [
      [
        { path: "src/kit/a.ts", text: 'import { b } from "./b.ts";' },
        { path: "src/kit/b.ts", text: 'import type { A } from "./a.ts";' },
      ],
    ],
  }),
  rule("every import names its file or package as a plain string", {
    check: (files) =>
      sourceFiles(files).flatMap((file) => [
        ...[...scan(file.text).code.matchAll(/\bimport\s*\((?!\s*["'])/g)].map(
          (match) => `${file.path}:${lineAt(file.text, match.index)} import() of something computed`,
        ),
        ...importsIn(file)
          .filter(({ specifier, target }) => target !== null && !/\.(ts|json)$/.test(specifier))
          .map(({ where, specifier }) => `${where} relative import without its extension: ${specifier}`),
      ]),
    violating: [
      sample("src/kit/a.ts", "await import(name);"),
      sample("src/kit/a.ts", "await import(`./${name}.ts`);"),
      sample("src/kit/a.ts", 'import { b } from "./b";'),
    ],
  }),
];
