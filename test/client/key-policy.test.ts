/**
 * Touch keys in a real browser, with and without a content security policy that forbids WebAssembly: the same keys, in the page that
 * may by WebAssembly, in the other without an error. Skipped where there is no Chromium.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { basename, join } from "node:path";
import { chromiumOrSkip, sharedBrowser } from "../support/browser.ts";
import { until } from "../support/wait.ts";

const TODO_TABLE = "0c897182b17d6dc2";
const PAGE = "<!doctype html><meta charset=utf-8><title>Keys</title><script type=module src=/key-page.js></script>";
const POLICIES: Readonly<Record<string, string>> = { "/strict": "default-src 'self'", "/open": "" };

const program = chromiumOrSkip("touch keys under a content security policy");
const browser = sharedBrowser(program);
let pages: Bun.Server<undefined> | undefined;

beforeAll(async () => {
  const entrypoints = [join(import.meta.dir, "key-page.ts")];
  const built = await Bun.build({ entrypoints, target: "browser", format: "esm", minify: true, splitting: true });
  const scripts = new Map(built.outputs.map((output) => [`/${basename(output.path)}`, output]));
  pages = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      const { pathname } = new URL(request.url);
      const policy = POLICIES[pathname];
      if (policy === undefined) return new Response(scripts.get(pathname) ?? null);
      return new Response(PAGE, { headers: { "content-type": "text/html", "content-security-policy": policy } });
    },
  });
});

afterAll(() => pages?.stop(true));

async function toldBy(path: string): Promise<Readonly<Record<string, unknown>>> {
  const page = await browser.visit(`${pages?.url.origin ?? ""}${path}`);
  await until("the page has its key", () => page.run<boolean>("window.told !== undefined"));
  expect(page.uncaught()).toEqual([]);
  return page.run("window.told");
}

test.skipIf(program === null)(
  "a policy without wasm-unsafe-eval costs WebAssembly, and no key",
  async () => {
    const { compiles, ...strict } = await toldBy("/strict");
    expect(compiles).toContain("CompileError");
    expect(strict).toEqual({ plain: true, table: TODO_TABLE });
    expect(await toldBy("/open")).toEqual({ compiles: true, plain: false, table: TODO_TABLE });
  },
  60_000,
);
