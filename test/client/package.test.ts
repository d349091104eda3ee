/**
 * The package as an application has it: packed, unpacked below another directory's node_modules, loaded by Node, which runs no
 * TypeScript there, and compiled against by an application that knows neither Bun nor Node.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sharedServer } from "../support/shared-server.ts";

const ROOT = join(import.meta.dir, "..", "..");
/** What the SDK needs of others; all that an application would have to install for it. */
const LIBRARIES = ["better-result", "fzstd", "hash-wasm"];
const server = sharedServer();
const node = Bun.which("node");
let app = "";

function run(command: readonly string[], cwd: string): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync([...command], { cwd, stdout: "pipe", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stdout.toString()}${stderr.toString()}`);
  return stdout.toString();
}

const tsc = (...options: string[]): string[] => [
  process.execPath,
  "--bun",
  join(ROOT, "node_modules", ".bin", "tsc"),
  ...options,
];

beforeAll(() => {
  app = mkdtempSync(join(tmpdir(), "streams-package-"));
  const modules = join(app, "node_modules");
  const installed = join(modules, "streams-server");
  mkdirSync(installed, { recursive: true });
  run([process.execPath, "pm", "pack", "--ignore-scripts", "--quiet", "--filename", join(app, "package.tgz")], ROOT);
  run(["tar", "xzf", join(app, "package.tgz"), "-C", installed, "--strip-components=1"], app);
  // What the last build made is in it; the sources may have changed since.
  expect(existsSync(join(installed, "dist", "sdk", "client", "client.js"))).toBe(true);
  run(tsc("-p", join(ROOT, "tsconfig.client.json"), "--outDir", join(installed, "dist", "sdk")), ROOT);
  for (const name of LIBRARIES) symlinkSync(join(ROOT, "node_modules", name), join(modules, name));
  writeFileSync(join(app, "package.json"), '{ "type": "module" }');
}, 60_000);

afterAll(() => {
  rmSync(app, { recursive: true, force: true });
});

test("it has what it needs, and no tests", () => {
  const installed = join(app, "node_modules", "streams-server");
  for (const path of ["bin/streams-server", "src/server/open.ts", "docs/client.md", "README.md", "LICENSE"]) {
    expect([path, existsSync(join(installed, path))]).toEqual([path, true]);
  }
  expect([...new Bun.Glob("**/*.test.ts").scanSync({ cwd: installed })]).toEqual([]);
  for (const path of ["test", "bench", "dist/streams-server"]) expect(existsSync(join(installed, path))).toBe(false);
});

const PROGRAM = `
import { connect } from "streams-server/client";
import { connectSubscriptions } from "streams-server/subscriptions";
const stream = connect({ url: process.argv[2] }).stream("package/" + process.argv[3]);
(await stream.create({ contentType: "application/json" })).unwrap();
const producer = stream.producer();
for (let n = 0; n < 100; n++) void producer.append({ n });
(await producer.close({ closeStream: true })).unwrap();
let count = 0;
for await (const { values } of stream.json().follow()) count += values.length;
console.log(count, typeof connectSubscriptions);
`;

test.skipIf(node === null && Bun.env["CI"] === undefined)("Node loads it and works with it", () => {
  writeFileSync(join(app, "app.js"), PROGRAM);
  expect(run([node ?? "node", "app.js", server.url, "node"], app)).toBe("100 function\n");
});

test("Bun loads it and works with it", () => {
  writeFileSync(join(app, "app.js"), PROGRAM);
  expect(run([process.execPath, "app.js", server.url, "bun"], app)).toBe("100 function\n");
});

const TYPED = `
import { connect, isStreamError, Refused, type Delivery, type LiveRow } from "streams-server/client";
const stream = connect({ url: "http://127.0.0.1:4437" }).stream("a");
export const head = () => stream.head();
export async function main(): Promise<void> {
  const read = (await stream.read()).unwrap();
  for await (const piece of read) console.log(piece.length, read.nextOffset);
  for await (const delivery of stream.follow({ live: "sse" })) {
    const known: Delivery = delivery;
    console.log(known.nextOffset);
  }
  for await (const { values } of stream.json<{ n: number }>().follow()) {
    const n: number | undefined = values[0]?.n;
    console.log(n);
  }
  const view = stream.liveView<{ n: number }>({ order: "-n" });
  const rows: readonly LiveRow<{ n: number }>[] = view.rows();
  const appended = await stream.appendJson(rows.map(({ value }) => value));
  if (appended.isErr() && Refused.is(appended.error)) console.log(appended.error.status);
  if (appended.isErr() && !isStreamError(appended.error)) throw new Error();
}
`;

test.each([
  ["ESNext", "Bundler"],
  ["NodeNext", "NodeNext"],
])("a strict application compiles against it, module %s", (module, moduleResolution) => {
  writeFileSync(join(app, "typed.ts"), TYPED);
  const language = [
    "--strict",
    "--target",
    "ES2022",
    "--lib",
    "ES2022,DOM,DOM.Iterable,ESNext.Disposable",
    "--types",
    "",
  ];
  const output = ["--declaration", "--outDir", join(app, "out")];
  run(tsc(...language, ...output, "--module", module, "--moduleResolution", moduleResolution, "typed.ts"), app);
  writeFileSync(join(app, "typed.ts"), TYPED.replace("known.nextOffset", "known.nothing"));
  expect(() =>
    run(tsc(...language, "--noEmit", "--module", module, "--moduleResolution", moduleResolution, "typed.ts"), app),
  ).toThrow(/TS2339.*nothing/);
});
