/**
 * The house rules about the text of a file: names, headers, catches, clocks, processes, tests.
 * Each is a pure check with its own proof that it can fail; `test/tidy.test.ts` runs them over the repository.
 */

import { posix } from "node:path";
import { closingOffset, lineAt, scan, type SourceFile } from "./source-text.ts";
import { isTest, isTypeScript, matchesInCode, rule, sourceFiles, type Rule } from "./tidy-rule.ts";

const BANNED_WORD = /^(?:manager|helper|util|common|data|info)s?$/i;
const MAX_LINES = { src: 450, elsewhere: 600 };

/** Where the machine's clock and randomness may be read; everywhere else they are arguments. */
const CLOCK_ROOMS = ["src/kit/clock.ts", "src/client/transport.ts", "src/storage/", "src/server/", "src/cli/"];
/** Where timers may be armed; everything else asks `kit/deadlines.ts`. */
const TIMER_ROOMS = ["src/kit/deadlines.ts", "src/storage/sqlite/", "src/server/", "src/cli/", "src/client/"];
/** The rooms that own the process: its environment, its signals, its output, its end. */
const PROCESS_ROOMS = ["src/server/", "src/cli/"];
/** A command's file carries the command's name, and `info` is one. */
const NAMED_FOR_COMMAND = /^src\/cli\/(?:.+\/)?info(?:\.test)?\.ts$/;

/** `--data-dir` is a thing of its own, and this is its name. */
const NOT_BANNED = /data-directory|DataDirectory/g;

function startsWithAny(path: string, prefixes: readonly string[]): boolean {
  return prefixes.some((prefix) => path.startsWith(prefix));
}

function typeScript(files: readonly SourceFile[]): SourceFile[] {
  return files.filter(({ path }) => isTypeScript(path));
}

/** Production source outside the given rooms. */
function sourceOutside(files: readonly SourceFile[], rooms: readonly string[]): SourceFile[] {
  return sourceFiles(files).filter(({ path }) => !isTest(path) && !startsWithAny(path, rooms));
}

function sample(path: string, ...lines: string[]): SourceFile[] {
  return [{ path, text: lines.join("\n") }];
}

const inSource = (...lines: string[]): SourceFile[] => sample("src/engine/a.ts", ...lines);

function nameProblems({ path }: SourceFile): string[] {
  const parts = path.split("/");
  const odd = parts.filter(
    (part) => !/^[a-z0-9]+(?:-[a-z0-9]+)*(?:\.(?:test|suite|config|reporter|d))?(?:\.ts)?$/.test(part),
  );
  const banned = NAMED_FOR_COMMAND.test(path)
    ? []
    : parts.filter((part) =>
        part
          .replace(NOT_BANNED, "")
          .split(/[-.]/)
          .some((word) => BANNED_WORD.test(word)),
      );
  return [
    ...odd.map((part) => `${path}:1 not kebab-case: ${part}`),
    ...banned.map((part) => `${path}:1 a name that says nothing: ${part}`),
  ];
}

function typeNameProblems(file: SourceFile): string[] {
  return [...scan(file.text).code.matchAll(/\b(?:class|interface|enum|type)\s+([A-Z]\w*)/g)]
    .filter((match) =>
      (match[1] ?? "")
        .replace(NOT_BANNED, "")
        .split(/(?=[A-Z])/)
        .some((word) => BANNED_WORD.test(word)),
    )
    .map((match) => `${file.path}:${lineAt(file.text, match.index)} a name that says nothing: ${match[1] ?? ""}`);
}

function headerProblems({ path, text }: SourceFile): string[] {
  const first = scan(text).comments[0];
  const leads = first !== undefined && text.slice(0, first.start).replace(/^#!.*/, "").trim() === "";
  return leads && first.text.length >= 30 ? [] : [`${path}:1 no header comment that says what the file is`];
}

/** What a catch does that tells nobody anything. */
const SAYS_NOTHING = /\b(?:return|continue|break|null|undefined|false|true|void|\d+)\b|[{}[\]();,"'`\s-]/g;

/** A comment between the offsets, on the line of the first, or on the line above it. */
function isExplained(file: SourceFile, start: number, end: number): boolean {
  const line = lineAt(file.text, start);
  return scan(file.text).comments.some((comment) => {
    const lastLine = lineAt(file.text, comment.start + comment.text.length);
    return (comment.start >= start && comment.start < end) || lastLine === line || lastLine === line - 1;
  });
}

/** `catch {…}` and `.catch(() => …)` that neither use the error, nor act, nor say why not. */
function catchProblems(file: SourceFile): string[] {
  const { code } = scan(file.text);
  const blocks = [...code.matchAll(/\bcatch\s*(?:\(\s*(\w*)[^)]*\)\s*)?\{/g)].map((match) => {
    const open = match.index + match[0].length - 1;
    return { start: match.index, open, end: closingOffset(code, open), binding: match[1] ?? "", block: true };
  });
  const calls = [...code.matchAll(/\.catch\s*\(\s*(?:\(\s*(\w*)[^)]*\)|(\w+))\s*=>\s*/g)].map((match) => {
    const end = closingOffset(code, match.index + match[0].indexOf("(")) - 1;
    const open = match.index + match[0].length;
    return { start: match.index, open, end, binding: match[1] ?? match[2] ?? "", block: false };
  });
  return [...blocks, ...calls]
    .filter(({ start, open, end, binding, block }) => {
      const body = code.slice(open, end);
      const used = binding !== "" && new RegExp(`\\b${binding}\\b`).test(body);
      if (used || body.replace(SAYS_NOTHING, "") !== "") return false;
      const emptyBlock = block && body.replace(/[{}\s]/g, "") === "";
      return (emptyBlock && file.path.startsWith("src/")) || !isExplained(file, start, end);
    })
    .map(({ start }) => `${file.path}:${lineAt(file.text, start)} a catch that tells nobody`);
}

function statelessClasses(file: SourceFile): string[] {
  const { code } = scan(file.text);
  return [...code.matchAll(/\bclass\s+(\w+)[^{]*\{/g)]
    .filter((match) => !/\bextends\b/.test(match[0]))
    .filter((match) => {
      const open = match.index + match[0].length - 1;
      return !/\bthis\b|#\w/.test(code.slice(open, closingOffset(code, open)));
    })
    .map((match) => `${file.path}:${lineAt(file.text, match.index)} a class without state: ${match[1] ?? ""}`);
}

/** A comment that switches checking off; the linter's may, with a reason after `--` or in a comment just before. */
function isSilencer(file: SourceFile, start: number, text: string): boolean {
  if (/@ts-(?:ignore|nocheck)|@ts-expect-error\s*$/.test(text)) return true;
  if (!/(?:oxlint|eslint)-disable/.test(text) || /--\s*\S/.test(text)) return false;
  return !scan(file.text).comments.some(
    (other) => other.start < start && file.text.slice(other.start + other.text.length, start).trim() === "",
  );
}

const SQL =
  /\b(?:SELECT\s[^;]*\sFROM\s|INSERT\s+(?:OR\s+\w+\s+)?INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s|(?:CREATE|DROP|ALTER)\s+(?:UNIQUE\s+)?(?:TABLE|INDEX|TRIGGER|VIEW|VIRTUAL)\b|PRAGMA\s+\w|BEGIN\s+(?:IMMEDIATE|EXCLUSIVE))/;

function sqlProblems(file: SourceFile): string[] {
  return scan(file.text)
    .strings.filter(({ text }) => SQL.test(text))
    .map(({ start }) => `${file.path}:${lineAt(file.text, start)} SQL outside storage/sqlite`);
}

function barrelProblems(file: SourceFile): string[] {
  const feature = /^src\/features\/[^/]+\/index\.ts$/.test(file.path);
  if (feature) return [];
  return [
    ...(posix.basename(file.path) === "index.ts" ? [`${file.path}:1 an index.ts outside a feature`] : []),
    ...matchesInCode(file, /\bexport\s+(?:type\s+)?\*/g, "a barrel"),
  ];
}

function lineProblems({ path, text }: SourceFile): string[] {
  const limit = path.startsWith("src/") && !isTest(path) ? MAX_LINES.src : MAX_LINES.elsewhere;
  const count = text.split("\n").length - 1;
  return count > limit ? [`${path}:${limit} has ${count} lines, more than ${limit}`] : [];
}

export const textRules: readonly Rule[] = [
  rule("files are kebab-case, named for the noun they define", {
    check: (files) => typeScript(files).flatMap(nameProblems),
    violating: [
      sample("src/engine/appendQueue.ts", ""),
      sample("src/kit/time-utils.ts", ""),
      sample("src/data/a.ts", ""),
    ],
    fine: [sample("src/engine/append-queue.test.ts", ""), sample("src/cli/info.ts", "")],
  }),
  rule("types say more than Manager, Helper, Utils, Common, Data, Info", {
    check: (files) => typeScript(files).flatMap(typeNameProblems),
    violating: [
      inSource("class StreamManager {}"),
      inSource("export interface HeadInfo {"),
      inSource("type UserData = 1;"),
    ],
    fine: [inSource("interface Database {}", "class DataDirectory extends A {}", "// class StreamManager")],
  }),
  rule("every file begins with a comment that says what it is", {
    check: (files) => typeScript(files).flatMap(headerProblems),
    violating: [
      inSource("export const a = 1;"),
      inSource("// a", "export const a = 1; // a comment that comes too late"),
    ],
    fine: [inSource("#!/usr/bin/env bun", "/** The queue in front of the store, and its bound. */")],
  }),
  rule("no catch swallows an error in silence", {
    check: (files) => typeScript(files).flatMap(catchProblems),
    violating: [
      inSource("try { f(); } catch {}"),
      inSource("try { f(); } catch { /* with a word */ }"),
      inSource("try { f(); } catch (error) { return null; }"),
      inSource("f().catch(() => {});"),
      inSource("f().catch((error: unknown) => undefined);"),
      sample("test/a.test.ts", "try { f(); } catch {}"),
    ],
    fine: [
      inSource("try { f(); } catch (error) { throw new Fault(error); }"),
      inSource("try { f(); } catch { return { ok: false, reason }; }"),
      inSource("try { f(); } catch { return null; /* not a URL: the caller answers 400 */ }"),
      inSource("f().catch(() => { /* the sealer reports it */ });"),
      inSource("f().catch((error: unknown) => report(error));"),
      inSource('const text = "catch {}"; // catch {}'),
    ],
  }),
  rule("named exports only", {
    check: (files) =>
      typeScript(files)
        .filter(({ path }) => !path.endsWith(".config.ts"))
        .flatMap((file) => matchesInCode(file, /\bexport\s+default\b|\bas\s+default\b/g, "a default export")),
    violating: [inSource("export default 1;"), inSource("export { a as default };")],
    fine: [sample("test/conformance/vitest.config.ts", "export default {};"), inSource('"export default"')],
  }),
  rule("no barrels", {
    check: (files) => sourceFiles(files).flatMap(barrelProblems),
    violating: [inSource('export * from "./b.ts";'), sample("src/engine/index.ts", "export const a = 1;")],
    fine: [sample("src/features/touch/index.ts", "export const a = 1;")],
  }),
  rule("types are not silenced: no any, no `!`, no ts-comments, no lint switched off without a reason", {
    check: (files) =>
      typeScript(files).flatMap((file) => [
        ...matchesInCode(file, /[:<,|&(=]\s*any\b(?!\s*[:(.])|\bas\s+any\b/g, "any"),
        ...matchesInCode(file, /[\w\])]!(?!=)/g, "a non-null assertion"),
        ...scan(file.text)
          .comments.filter(({ start, text }) => isSilencer(file, start, text))
          .map(({ start, text }) => `${file.path}:${lineAt(file.text, start)} ${text.slice(0, 60)}`),
      ]),
    violating: [
      inSource("const a: any = 1;"),
      inSource("const a = b as any;"),
      inSource("const a: Map<string, any> = b;"),
      inSource("const a = b!.c;"),
      inSource("const a = b[0]!;"),
      inSource("// @ts-ignore"),
      inSource("// oxlint-disable-next-line no-console"),
    ],
    fine: [
      inSource("if (!a || b !== c) d(!e); // any! of them"),
      inSource("const any = 1; const text = `any ${a}!`;"),
      inSource("// oxlint-disable-next-line no-control-regex -- control characters are what it looks for"),
    ],
  }),
  rule("no EventEmitter inside, no class without state", {
    check: (files) =>
      sourceFiles(files).flatMap((file) => [
        ...matchesInCode(file, /\bEventEmitter\b/g, "an untyped channel"),
        ...statelessClasses(file),
      ]),
    violating: [
      inSource("class A extends EventEmitter {}"),
      inSource("class A {", "  add(a: number) { return a + 1; }", "}"),
    ],
    fine: [inSource("class A {", "  #a = 0;", "  add() { this.#a++; }", "}"), inSource("class A extends Error {}")],
  }),
  rule("a file is short enough to read", {
    check: (files) => typeScript(files).flatMap(lineProblems),
    violating: [inSource("\n".repeat(MAX_LINES.src + 1))],
    fine: [inSource("\n".repeat(MAX_LINES.src))],
  }),
  rule("SQL lives in storage/sqlite only", {
    check: (files) => sourceOutside(files, ["src/storage/sqlite/"]).flatMap(sqlProblems),
    violating: [inSource('db.run("SELECT a FROM b");'), inSource("db.run(`INSERT INTO ${t} VALUES (1)`);")],
    fine: [inSource('const help = "Select where to start from"; // SELECT a FROM b')],
  }),
  rule("time and randomness are arguments", {
    check: (files) =>
      sourceOutside(files, CLOCK_ROOMS).flatMap((file) =>
        matchesInCode(
          file,
          /\bMath\.random\b|\bDate\.now\b|\bnew\s+Date\s*\(\s*\)|\bperformance\.now\b|\brandomUUID\b|\bgetRandomValues\b/g,
          "take it as an argument (kit/clock.ts)",
        ),
      ),
    violating: [
      inSource("const a = Math.random();"),
      inSource("const a = Date.now();"),
      inSource("const a = new Date();"),
    ],
    fine: [inSource("const a = new Date(nowMs); // Date.now()"), sample("src/kit/clock.ts", "Date.now();")],
  }),
  rule("timers are armed in few places", {
    check: (files) =>
      sourceOutside(files, TIMER_ROOMS).flatMap((file) =>
        matchesInCode(file, /\b(?:setTimeout|setInterval|Bun\.sleep)\s*\(/g, "use kit/deadlines.ts"),
      ),
    violating: [inSource("setInterval(tick, 10);"), inSource("await Bun.sleep(1);")],
    fine: [inSource("let timer: ReturnType<typeof setTimeout>;"), sample("src/kit/deadlines.ts", "setTimeout(f, 1);")],
  }),
  rule("only the server and the command line own the process", {
    check: (files) =>
      sourceOutside(files, PROCESS_ROOMS).flatMap((file) =>
        matchesInCode(
          file,
          /\bprocess\.(?:exit|exitCode|env|on|once|argv|stdin|stdout)\b|\bBun\.env\b|\bconsole\.\w+/g,
          "belongs to src/server or src/cli",
        ),
      ),
    violating: [inSource("process.exit(1);"), inSource("const a = process.env.A;"), inSource('console.log("a");')],
    fine: [sample("src/cli/main.ts", "process.exit(1);"), inSource('process.kill(process.pid, "SIGKILL");')],
  }),
  rule("every test file expects something, and no test is left out", {
    check: (files) =>
      files
        .filter(({ path }) => isTest(path))
        .flatMap((file) => [
          ...(/\bexpect\s*\(|\bfc\.assert\s*\(|\brunConformanceTests\s*\(/.test(scan(file.text).code)
            ? []
            : [`${file.path}:1 expects nothing`]),
          ...matchesInCode(file, /\b(?:test|it|describe)\s*\.\s*(?:skip|only|todo|failing)\b/g, "a test left out"),
        ]),
    violating: [
      sample("test/a.test.ts", 'test("a", () => {}); // expect(1)'),
      sample("test/a.test.ts", 'test.only("a", () => expect(1).toBe(1));'),
      sample("test/a.test.ts", 'describe.skip("a", () => expect(1).toBe(1));'),
    ],
    fine: [sample("test/a.test.ts", 'test.skipIf(!xfs)("a", () => expect(1).toBe(1));')],
  }),
];
