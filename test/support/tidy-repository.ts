/**
 * The house rules about the repository as a whole: exact versions, one lockfile, nothing that names a machine, and
 * the two commands of the README. Files that a rule needs and does not find are violations, not passes.
 */

import type { SourceFile } from "./source-text.ts";
import { lineAt } from "./source-text.ts";
import { rule, type Rule } from "./tidy-rule.ts";

const OTHER_LOCKFILES = /(?:^|\/)(?:package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|bun\.lockb)$/;

/** Spelled in pieces, so that this file does not break its own rules. */
const MACHINE_PATH = new RegExp(["(?<![\\w.:/-])/(?:work", "home", "root", "Users", "tmp)/\\w"].join("|"), "g");
const PEER_PACKAGE = ["@durable-streams", "server"].join("/");
const PEER = new RegExp(`${["pri", "sma"].join("")}|${PEER_PACKAGE}(?!-)`, "gi");
const MAY_NAME_PEERS = /^(?:bench\/|docs\/performance\.md$|package\.json$|bun\.lock$)/;

/** Both lines of the README, in both forms. CI runs the npm test line. */
export const COMMANDS = {
  npmStart: "npx --yes bun@1.4.5 install --frozen-lockfile && npm start",
  npmTest: "npx --yes bun@1.4.5 install --frozen-lockfile && npm test",
  bunStart: "bun install --frozen-lockfile && bun start",
  bunTest: "bun install --frozen-lockfile && bun run test",
};

function find(files: readonly SourceFile[], path: string): SourceFile | undefined {
  return files.find((file) => file.path === path);
}

function versionProblems(files: readonly SourceFile[]): string[] {
  const file = find(files, "package.json");
  if (file === undefined) return ["package.json:1 is missing"];
  const manifest = JSON.parse(file.text) as Record<string, Record<string, string> | undefined>;
  return ["dependencies", "devDependencies", "peerDependencies", "optionalDependencies"].flatMap((kind) =>
    Object.entries(manifest[kind] ?? {})
      .filter(([, version]) => !/^\d+\.\d+\.\d+(?:-[\w.]+)?$/.test(version))
      .map(([name, version]) => `package.json:1 ${name} is not pinned to an exact version: ${version}`),
  );
}

function lockProblems(files: readonly SourceFile[]): string[] {
  const lock = find(files, "bun.lock");
  return [
    ...(lock === undefined ? ["bun.lock:1 is missing"] : []),
    ...(lock !== undefined && /https?:\/\//.test(lock.text) ? ["bun.lock:1 names a registry host"] : []),
    ...files.filter(({ path }) => OTHER_LOCKFILES.test(path)).map(({ path }) => `${path}:1 a second lockfile`),
  ];
}

function mentions(files: readonly SourceFile[], pattern: RegExp, what: string): string[] {
  return files.flatMap(({ path, text }) =>
    [...text.matchAll(pattern)].map((match) => `${path}:${lineAt(text, match.index)} ${what}: ${match[0]}`),
  );
}

function commandProblems(files: readonly SourceFile[]): string[] {
  const readme = find(files, "README.md")?.text ?? "";
  const ciLines = (find(files, ".ci/run")?.text ?? "").split("\n").map((line) => line.trim());
  return [
    ...Object.values(COMMANDS)
      .filter((command) => !readme.includes(command))
      .map((command) => `README.md:1 lacks the command: ${command}`),
    ...(ciLines.includes(COMMANDS.npmTest) ? [] : [`.ci/run:1 lacks the line: ${COMMANDS.npmTest}`]),
  ];
}

const pinned: SourceFile = { path: "package.json", text: '{ "dependencies": { "a": "1.2.3" } }' };
const lock: SourceFile = { path: "bun.lock", text: "{}" };

export const repositoryRules: readonly Rule[] = [
  rule("dependencies are pinned exactly", {
    check: versionProblems,
    violating: [[{ path: "package.json", text: '{ "devDependencies": { "a": "^1.2.3" } }' }], []],
    fine: [[pinned]],
  }),
  rule("bun.lock is the only lockfile, and names no host", {
    check: lockProblems,
    violating: [
      [],
      [lock, { path: "package-lock.json", text: "{}" }],
      [{ ...lock, text: '"https://example.org/a.tgz"' }],
    ],
    fine: [[lock]],
  }),
  rule("no file names a machine's paths", {
    check: (files) => mentions(files, MACHINE_PATH, "a path of one machine"),
    violating: [
      [{ path: "docs/a.md", text: ["see ", "work", "main"].join("/") }],
      [{ path: "bench/a.ts", text: ['"', "tmp", 'a"'].join("/") }],
    ],
    fine: [[{ path: "docs/a.md", text: "./work/a and https://example.org/home/a" }]],
  }),
  rule("other servers are named only where they are measured", {
    check: (files) =>
      mentions(
        files.filter(({ path }) => !MAY_NAME_PEERS.test(path)),
        PEER,
        "a peer",
      ),
    violating: [[{ path: "README.md", text: `faster than ${PEER_PACKAGE}` }]],
    fine: [[{ path: "test/a.test.ts", text: "@durable-streams/server-conformance-tests" }]],
  }),
  rule("the README's two commands are what CI runs", {
    check: commandProblems,
    violating: [[{ path: "README.md", text: COMMANDS.npmStart }]],
  }),
];
