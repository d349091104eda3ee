/**
 * Following on a page that the browser itself hides, because another tab came before it or its window was minimized, and shows
 * again. The real server says which connections are there; a reader that does not pause says what the others miss meanwhile.
 *
 * The pages that Playwright opens are never hidden: it has the browser treat each as the one that is looked at. So the tabs are
 * opened over the DevTools protocol, in a browser context that Playwright does not know and therefore leaves alone.
 */

import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { join } from "node:path";
import { type Browser, type CDPSession, chromium } from "playwright-core";
import type { FollowOptions } from "../../src/client/client.ts";
import type { ClientHealth } from "../../src/http/live/clients.ts";
import { chromiumOrSkip } from "../support/browser.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { call, newStream } from "../support/streams.ts";
import { until, within } from "../support/wait.ts";
import type { PageReport, Visibility } from "./hidden-page.ts";

const START_DEADLINE_MS = 30_000;
const STEP_DEADLINE_MS = 10_000;
const TEST_DEADLINE_MS = 60_000;
const HIDDEN_AFTER_MS = 300;
/** How long a page may be hidden in vain: longer than any test. */
const NEVER_MS = 600_000;
/** All on one page and one stream. `watching` is there to see what the others do not. */
const READERS = {
  auto: { hiddenAfterMs: HIDDEN_AFTER_MS },
  polling: { live: "long-poll", hiddenAfterMs: HIDDEN_AFTER_MS },
  socket: { live: "websocket", hiddenAfterMs: HIDDEN_AFTER_MS },
  watching: { live: "sse", pauseWhenHidden: false },
} as const satisfies Record<string, FollowOptions>;

const program = chromiumOrSkip("pages that are really hidden");
const temporary = temporaryServers();
let browser: Browser | undefined;
let site: ReturnType<typeof Bun.serve> | undefined;
/** What closes the tabs that a test has opened. */
const opened: (() => Promise<unknown>)[] = [];

if (program !== null) {
  beforeAll(async () => {
    const entry = join(import.meta.dir, "hidden-page.ts");
    const built = await Bun.build({ entrypoints: [entry], target: "browser", format: "iife" });
    const script = (await built.outputs[0]?.text()) ?? "";
    const page = `<!doctype html><meta charset=utf-8><title>A page that is hidden</title><script src=page.js></script>`;
    site = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: ({ url }) => {
        const isScript = new URL(url).pathname === "/page.js";
        const type = isScript ? "text/javascript" : "text/html";
        return new Response(isScript ? script : page, { headers: { "content-type": type } });
      },
    });
    browser = await chromium.launch({
      executablePath: program,
      timeout: START_DEADLINE_MS,
      // As in test/support/browser.ts: the only pages are ours, and a signal must still end this process.
      chromiumSandbox: false,
      handleSIGHUP: false,
      handleSIGINT: false,
      handleSIGTERM: false,
    });
  }, START_DEADLINE_MS + 1000);
  afterEach(async () => {
    for (const close of opened.splice(0)) await within("closing a tab", close(), STEP_DEADLINE_MS);
  }, STEP_DEADLINE_MS + 1000);
  afterAll(async () => {
    await site?.stop(true);
    if (browser !== undefined) await within("closing the browser", browser.close(), STEP_DEADLINE_MS);
  }, STEP_DEADLINE_MS + 1000);
}

interface Tab {
  readonly session: CDPSession;
  readonly targetId: string;
  readonly browserContextId: string;
  run<T>(expression: string): Promise<T>;
  report(): Promise<PageReport>;
}

/** What comes back from the tab of a session for `Runtime.evaluate`. */
interface Evaluated {
  readonly id: number;
  readonly result?: { readonly result: { readonly value?: unknown }; readonly exceptionDetails?: object };
}

/** A tab in a window of its own, whose page has loaded. */
async function openTab(url: string): Promise<Tab> {
  if (browser === undefined) throw new Error("the browser runs inside tests only");
  const session = await browser.newBrowserCDPSession();
  const { browserContextId } = await session.send("Target.createBrowserContext");
  opened.push(async () => {
    await session.send("Target.disposeBrowserContext", { browserContextId });
    await session.detach();
  });
  const { targetId } = await session.send("Target.createTarget", { url, browserContextId, newWindow: true });
  const { sessionId } = await session.send("Target.attachToTarget", { targetId, flatten: false });
  const waiting = new Map<number, (answer: Evaluated) => void>();
  session.on("Target.receivedMessageFromTarget", ({ message }) => {
    const answer = JSON.parse(message) as Evaluated;
    waiting.get(answer.id)?.(answer);
    waiting.delete(answer.id);
  });
  let asked = 0;
  const run = async <T>(expression: string): Promise<T> => {
    const id = ++asked;
    const params = { expression, returnByValue: true };
    const answered = new Promise<Evaluated>((resolve) => waiting.set(id, resolve));
    await session.send("Target.sendMessageToTarget", {
      sessionId,
      message: JSON.stringify({ id, method: "Runtime.evaluate", params }),
    });
    const answer = await within(`running ${expression}`, answered, STEP_DEADLINE_MS);
    if (answer.result === undefined || answer.result.exceptionDetails !== undefined) {
      throw new Error(`${expression}: ${JSON.stringify(answer)}`);
    }
    return answer.result.result.value as T;
  };
  await until("the page has loaded", () => run<boolean>("typeof report === 'function'"), STEP_DEADLINE_MS);
  return { session, targetId, browserContextId, run, report: () => run<PageReport>("report()") };
}

/** Ways in which the browser hides a tab, each with the way back. */
const WAYS = [
  {
    way: "behind another tab of its window",
    hide: async ({ session, browserContextId }: Tab): Promise<void> => {
      await session.send("Target.createTarget", { url: "about:blank", browserContextId });
    },
    show: ({ session, targetId }: Tab): Promise<void> =>
      session.send("Target.activateTarget", { targetId }).then(() => {}),
  },
  {
    way: "in a window that is minimized",
    hide: (tab: Tab): Promise<void> => setWindow(tab, "minimized"),
    show: (tab: Tab): Promise<void> => setWindow(tab, "normal"),
  },
] as const;

async function setWindow({ session, targetId }: Tab, windowState: "minimized" | "normal"): Promise<void> {
  const { windowId } = await session.send("Browser.getWindowForTarget", { targetId });
  await session.send("Browser.setWindowBounds", { windowId, bounds: { windowState } });
}

/** A server, a stream on it, a page that follows it, and what is known of all three. */
async function world(readers: Readonly<Record<string, FollowOptions>>) {
  const origin = site?.url.origin ?? "";
  const server = await temporary({ args: ["--cors-origin", origin] });
  const stream = await newStream(server, "hidden");
  const tab = await openTab(`${origin}/`);
  let written = 0;
  await tab.run(`followAll(${[server.url, stream.name, readers].map((value) => JSON.stringify(value)).join()})`);
  const clients = async (): Promise<readonly ClientHealth[]> => {
    const answer = await call("GET", `${server.url}/health/clients`);
    return ((await answer.json()) as { clients: ClientHealth[] }).clients;
  };
  return {
    tab,
    stream,
    written: () => Array.from({ length: written }, (_, at) => at),
    append: async (records: number): Promise<void> => {
      for (const end = written + records; written < end; written++) {
        expect((await stream.post(String(written))).status).toBe(204);
      }
    },
    clientIds: async (): Promise<string[]> => (await clients()).map(({ clientId }) => clientId),
    /** Live connections by kind, and how many live requests the server counts: long-polls too, and a WebSocket besides what is followed on it. */
    connections: async () => {
      const kinds = (await clients()).map(({ kind }) => kind).sort();
      const text = await (await call("GET", `${server.url}/metrics`)).text();
      return { kinds, waiting: Number(/^streams_live_requests (\S+)$/m.exec(text)?.[1]) };
    },
  };
}

type World = Awaited<ReturnType<typeof world>>;

/** The page itself says that it became that, by an event. */
async function becomes({ tab }: World, visibility: Visibility): Promise<void> {
  const now = async (): Promise<boolean> => {
    const { visibility: is, changes } = await tab.report();
    return is === visibility && changes.at(-1) === visibility;
  };
  await until(`the page is ${visibility}`, now, STEP_DEADLINE_MS);
}

async function connected({ connections }: World, kinds: readonly string[], waiting: number): Promise<void> {
  const wanted = JSON.stringify({ kinds, waiting });
  const found = async (): Promise<boolean> => JSON.stringify(await connections()) === wanted;
  await until(`the connections are ${wanted}`, found, STEP_DEADLINE_MS).catch(async (cause: unknown) => {
    throw new Error(`they are ${JSON.stringify(await connections())}`, { cause });
  });
}

async function haveCome({ tab, written }: World, names: readonly string[]): Promise<void> {
  const all = written().length;
  const come = async (): Promise<boolean> => {
    const { seen } = await tab.report();
    return names.every((name) => (seen[name]?.length ?? 0) >= all);
  };
  await until(`all ${all} have come to ${names.join()}`, come, STEP_DEADLINE_MS);
}

const ALL = ["auto", "polling", "socket", "watching"] as const satisfies (keyof typeof READERS)[];
const PAUSING = ["auto", "polling", "socket"] as const satisfies (keyof typeof READERS)[];

test.skipIf(program === null).each(WAYS)(
  "a tab $way: its readers let go of their connections, and get what they missed, once, when it is shown",
  async ({ hide, show }) => {
    const page = await world(READERS);
    const { tab, append, written } = page;
    expect(await tab.report()).toMatchObject({ visibility: "visible", changes: [] });
    await connected(page, ["sse", "sse", "websocket"], ALL.length + 1);
    await append(3);
    await haveCome(page, ALL);

    await hide(tab);
    await becomes(page, "hidden");
    await connected(page, ["sse"], 1);
    const before = written();
    await append(5);
    // The browser lets a hidden page have them: who does not, pauses.
    await haveCome(page, ["watching"]);
    const hidden = await tab.report();
    expect(hidden.visibility).toBe("hidden");
    expect(PAUSING.map((name) => hidden.seen[name])).toEqual(PAUSING.map(() => before));
    await connected(page, ["sse"], 1);

    await show(tab);
    await becomes(page, "visible");
    await haveCome(page, ALL);
    await connected(page, ["sse", "sse", "websocket"], ALL.length + 1);
    await append(2);
    expect((await page.stream.close()).status).toBe(204);
    await until(
      "all have come to the end",
      async () => (await tab.report()).ended.length === ALL.length,
      STEP_DEADLINE_MS,
    );
    const { seen, failures, changes } = await tab.report();
    expect(seen).toEqual(Object.fromEntries(ALL.map((name) => [name, written()])));
    expect([failures, changes]).toEqual([[], ["hidden", "visible"]]);
  },
  TEST_DEADLINE_MS,
);

test.skipIf(program === null)(
  "a tab that is hidden for a shorter time keeps its connections, and gets everything meanwhile",
  async () => {
    const patient = Object.fromEntries(PAUSING.map((name) => [name, { ...READERS[name], hiddenAfterMs: NEVER_MS }]));
    const page = await world(patient);
    const { tab, append, written, clientIds } = page;
    await connected(page, ["sse", "websocket"], PAUSING.length + 1);
    const ids = await clientIds();
    for (const { hide, show } of WAYS) {
      await hide(tab);
      await becomes(page, "hidden");
      await append(3);
      await haveCome(page, PAUSING);
      expect((await tab.report()).visibility).toBe("hidden");
      await show(tab);
      await becomes(page, "visible");
    }
    expect(await clientIds()).toEqual(ids);
    const { seen, failures, changes } = await tab.report();
    expect(seen).toEqual(Object.fromEntries(PAUSING.map((name) => [name, written()])));
    expect([failures, changes]).toEqual([[], ["hidden", "visible", "hidden", "visible"]]);
  },
  TEST_DEADLINE_MS,
);
