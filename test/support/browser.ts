/**
 * A real browser for tests, if this machine has one: finds Chromium, runs it for one test file, and opens pages that are
 * blank but for a script. Owns the browser, its pages and the server those pages come from, which is another origin
 * than the stream server. Invariants: every wait has a deadline; a page ends with its test, the browser with its file.
 */

import { afterAll, afterEach, beforeAll } from "bun:test";
import { chromium, type Browser, type BrowserContext } from "playwright-core";
import { within } from "./wait.ts";

const PROGRAMS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const LAUNCH_DEADLINE_MS = 30_000;
const CLOSE_DEADLINE_MS = 30_000;
const PAGE_DEADLINE_MS = 30_000;

/** The program of the browser; where there is none, null, after a line on stderr that says what is skipped. */
export function chromiumOrSkip(skipped: string): string | null {
  const asked = process.env["CHROMIUM_PATH"] ?? "";
  const candidates = asked === "" ? PROGRAMS : [asked];
  const program = candidates.map((name) => Bun.which(name)).find((path) => path !== null) ?? null;
  if (program !== null) return program;
  if (asked !== "") throw new Error(`CHROMIUM_PATH is not a program: ${asked}`);
  console.error(
    `SKIPPED, no browser: ${skipped}. To run it, install Chromium (Debian: apt-get install chromium) ` +
      `so that one of ${PROGRAMS.join(", ")} is on the PATH, or set CHROMIUM_PATH to the program.`,
  );
  return null;
}

export interface BrowserPage {
  /** The value of an expression in the page, as JSON would carry it. */
  run<T>(expression: string): Promise<T>;
  /** What the browser's own "offline" does: it makes no new connections. */
  setOffline(offline: boolean): Promise<void>;
  /** Errors that nothing in the page caught. */
  uncaught(): readonly string[];
}

export interface SharedBrowser {
  /** Where the pages come from, as `--cors-origin` wants it. Known inside tests only. */
  readonly origin: string;
  /** A page of its own cookies and caches, in which `script` has run. */
  open(script: string): Promise<BrowserPage>;
  /** A window of its own cookies and caches on a page of somebody else's. */
  visit(url: string): Promise<BrowserPage>;
}

/** Starts the browser before the first test of a file and ends it after the last; without a program it does nothing. */
export function sharedBrowser(program: string | null): SharedBrowser {
  let running: { readonly browser: Browser; readonly pages: ReturnType<typeof servePages> } | undefined;
  const contexts: BrowserContext[] = [];
  const started = () => {
    if (running === undefined) throw new Error("the browser runs inside tests only");
    return running;
  };
  if (program !== null) {
    beforeAll(async () => {
      running = { browser: await launch(program), pages: servePages() };
    }, LAUNCH_DEADLINE_MS + 1000);
    afterEach(async () => {
      for (const context of contexts.splice(0)) await within("closing a page", context.close(), CLOSE_DEADLINE_MS);
    }, CLOSE_DEADLINE_MS + 1000);
    afterAll(async () => {
      await running?.pages.stop(true);
      if (running !== undefined) await within("closing the browser", running.browser.close(), CLOSE_DEADLINE_MS);
    }, CLOSE_DEADLINE_MS + 1000);
  }
  async function newContext(): Promise<BrowserContext> {
    const context = await within("opening a page", started().browser.newContext(), PAGE_DEADLINE_MS);
    contexts.push(context);
    return context;
  }
  return {
    get origin() {
      return started().pages.url.origin;
    },
    async open(script) {
      const context = await newContext();
      await context.addInitScript({ content: script });
      return within("loading a page", openPage(context, started().pages.url.origin), PAGE_DEADLINE_MS);
    },
    visit: async (url) => within("loading a page", openPage(await newContext(), url), PAGE_DEADLINE_MS),
  };
}

/** A blank page, whatever is asked for. */
function servePages() {
  const page = "<!doctype html><meta charset=utf-8><title>A page that follows a stream</title>";
  const headers = { "content-type": "text/html" };
  return Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response(page, { headers }) });
}

function launch(program: string): Promise<Browser> {
  return chromium.launch({
    executablePath: program,
    timeout: LAUNCH_DEADLINE_MS,
    // Passes `--no-sandbox`: root cannot have the sandbox, nor can many containers, and the only pages are ours.
    chromiumSandbox: false,
    // This process ends the browser; a signal must still end this process.
    handleSIGHUP: false,
    handleSIGINT: false,
    handleSIGTERM: false,
  });
}

async function openPage(context: BrowserContext, url: string): Promise<BrowserPage> {
  const uncaught: string[] = [];
  const page = await context.newPage();
  page.on("pageerror", (error) => uncaught.push(String(error)));
  await page.goto(url);
  return {
    run: <T>(expression: string) => within<T>(`running ${expression}`, page.evaluate(expression), PAGE_DEADLINE_MS),
    setOffline: (offline) => within("going off or on line", context.setOffline(offline), PAGE_DEADLINE_MS),
    uncaught: () => uncaught,
  };
}
