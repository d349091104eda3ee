/**
 * The house rules, held over the text of the repository. Every rule is first shown to fail on its own samples,
 * so a rule that stopped seeing anything cannot pass for one that found nothing.
 */

import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { importsOf, scan, type SourceFile } from "./support/source-text.ts";
import { repositoryRules } from "./support/tidy-repository.ts";
import { roomRules } from "./support/tidy-rooms.ts";
import { textRules } from "./support/tidy-rules.ts";

const ROOT = join(import.meta.dir, "..");
const NOT_OURS = new Set(["node_modules", ".git", "streams-data", "coverage", "dist", "tmp", "LICENSE"]);
const TEXT = /\.(?:ts|json|toml|lock|lockb|yaml|md|sh|yml|html|txt)$|^[^.]+$|^\.[a-z]+$/;

function repositoryFiles(folder = ""): SourceFile[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
    if (NOT_OURS.has(entry.name)) return [];
    if (entry.isDirectory()) return repositoryFiles(path);
    return TEXT.test(entry.name) ? [{ path, text: readFileSync(join(ROOT, path), "utf8") }] : [];
  });
}

const files = repositoryFiles();

describe("house rules", () => {
  for (const { name, check, violating, fine } of [...roomRules, ...textRules, ...repositoryRules]) {
    test(`can fail: ${name}`, () => {
      expect(violating.filter((sample) => check(sample).length === 0)).toEqual([]);
      expect((fine ?? []).flatMap((sample) => check(sample))).toEqual([]);
    });
    test(name, () => {
      expect(check(files)).toEqual([]);
    });
  }

  test("the rules see the repository", () => {
    const paths = files.map(({ path }) => path);
    expect(paths).toContain("src/protocol/offset.ts");
    expect(paths).toContain("test/tidy.test.ts");
    expect(paths).toContain(".ci/run");
    expect(paths).toContain("bin/streams-server");
  });
});

describe("the scanner behind them", () => {
  test("keeps every position and blanks what is not code", () => {
    const text = 'const a = "x // y"; // c "d"\nconst b = `t ${f("}")} u`; /* e\n */ const r = /["/]`/g.test(a) / 2;';
    const { code, comments, strings } = scan(text);
    expect(code).toHaveLength(text.length);
    expect(code.replaceAll(/ +/g, " ")).toBe(
      'const a = " "; \nconst b = ` ${f(" ")} `; \n const r = / /g.test(a) / 2;',
    );
    expect(comments.map((comment) => comment.text)).toEqual(['// c "d"', "/* e\n */"]);
    expect(strings.map((string) => string.text)).toEqual(["x // y", "t ", "}", " u"]);
  });

  test("finds every form of import, and none in comments or strings", () => {
    const text = `import a from "1"; import type { B } from '2'; export * from "3"; import "4";
      await import("5"); type C = import("6").C; new Worker(new URL("./7.ts", import.meta.url));
      // import x from "no"
      const s = 'import x from "no"';`;
    expect(importsOf(text).map(({ specifier }) => specifier)).toEqual(["1", "2", "3", "4", "5", "6", "./7.ts"]);
  });
});
