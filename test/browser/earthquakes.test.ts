/**
 * The example of a live map in two windows of a real browser: while a week of earthquakes is played and both pan, and after it, each
 * shows exactly the quakes that a plain look over all rows finds in its box. Skipped where there is no Chromium.
 */

import { afterEach, expect, test } from "bun:test";
import { makeStream, play, readQuakes, timeline, type Change } from "../../examples/earthquakes/play.ts";
import { servePage } from "../../examples/earthquakes/serve.ts";
import { startNetwork, type BrowserNetwork } from "../support/browser-network.ts";
import { type BrowserPage, chromiumOrSkip, sharedBrowser } from "../support/browser.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const HOUR_MS = 3_600_000;
/** As the page asks for. */
const LIMIT = 200;
const WORLD = "-180,-70,180,80";
const CALIFORNIA = "-125,32,-114,42";
/** A week in four seconds. */
const RATE = (7 * 24 * HOUR_MS) / 4_000;
/** A storm is told at the latest after five seconds; a lost connection is found and made again in two more. */
const SHOWN_DEADLINE_MS = 12_000;

interface Box {
  readonly minX: number;
  readonly minY: number;
  readonly maxX: number;
  readonly maxY: number;
}

interface Placed {
  readonly mag: number;
  readonly lng: number;
  readonly lat: number;
}

/** What all changes so far have made of the rows. */
class Rows {
  readonly #rows = new Map<string, Placed>();

  apply(changes: readonly Change[]): void {
    for (const { record } of changes) {
      const { key, value } = record as { key: string; value?: Placed };
      if (value === undefined) this.#rows.delete(key);
      else this.#rows.set(key, value);
    }
  }

  /** Keys of the strongest in a box, the strongest first. */
  strongestIn({ minX, minY, maxX, maxY }: Box): string[] {
    return [...this.#rows]
      .filter(([, { lng, lat }]) => lng >= minX && lng <= maxX && lat >= minY && lat <= maxY)
      .sort(([leftKey, left], [rightKey, right]) => right.mag - left.mag || (leftKey < rightKey ? -1 : 1))
      .slice(0, LIMIT)
      .map(([key]) => key);
  }
}

const program = chromiumOrSkip("a live map in a real browser");
const browser = sharedBrowser(program);
const temporary = temporaryServers();
const opened: { stop(): void }[] = [];
afterEach(() => {
  for (const one of opened.splice(0)) one.stop();
});

async function network(server: { readonly url: string }): Promise<BrowserNetwork> {
  const made = await startNetwork(server);
  opened.push({ stop: () => made.close() });
  return made;
}

function keysShown(page: BrowserPage): Promise<string[]> {
  return page.run<{ keys: string[] }>("window.shown()").then(({ keys }) => keys);
}

async function showsExactly(what: string, page: BrowserPage, rows: Rows): Promise<number> {
  const box = await page.run<Box>("window.visibleBox()");
  const wanted = rows.strongestIn(box);
  await until(
    `${what} shows its ${wanted.length} quakes`,
    async () => JSON.stringify(await keysShown(page)) === JSON.stringify(wanted),
    SHOWN_DEADLINE_MS,
  );
  return wanted.length;
}

test.skipIf(program === null)(
  "two windows pan while a week is played, and each shows what lies in its box",
  async () => {
    const site = servePage(0);
    opened.push({ stop: () => void site.stop(true) });
    const server = await temporary({ args: ["--cors-origin", site.url.origin] });
    const stream = streamAt(server, "quakes");
    await makeStream(stream.url);
    const changes = timeline(await readQuakes(), 48 * HOUR_MS);
    const rows = new Rows();
    const line = await network(server);
    const visit = (box: string, through: { readonly url: string }): Promise<BrowserPage> =>
      browser.visit(`${site.url.origin}/?${new URLSearchParams({ server: through.url, stream: "quakes", box })}`);
    const [world, california] = [await visit(WORLD, server), await visit(CALIFORNIA, line)];

    const playing = play(stream.url, changes, { rate: RATE, tickMs: 100 });
    for (let step = 0; step < 12; step++) {
      await world.run(`window.showBox(${-180 + step}, -70, ${180 + step}, 80)`);
      await california.run(`window.showBox(${-125 - step / 4}, 32, ${-114 + step / 4}, 42)`);
      await Bun.sleep(250);
    }
    await playing;
    rows.apply(changes);
    expect(await showsExactly("the world", world, rows)).toBe(LIMIT);
    expect(await showsExactly("California", california, rows)).toBeGreaterThan(20);

    // A row that moves out of one window, into the sea; another that is the strongest of all comes into both.
    const [key = ""] = await keysShown(california);
    const moved = { type: "quake", key, value: { mag: 9, place: "sea", time: 0, lng: -160, lat: 0, depth: 1 } };
    const moving: Change = { atMs: 0, record: { ...moved, headers: { operation: "upsert" } } };
    const big = { type: "quake", key: "big", value: { ...moved.value, lng: -120, lat: 37 } };
    const coming: Change = { atMs: 0, record: { ...big, headers: { operation: "upsert" } } };
    await stream.post(JSON.stringify([moving.record, coming.record]));
    rows.apply([moving, coming]);
    await showsExactly("California", california, rows);
    await showsExactly("the world", world, rows);
    expect((await keysShown(california))[0]).toBe("big");
    expect((await keysShown(world)).slice(0, 2)).toEqual(["big", key]);

    line.goDown();
    const gone: Change = { atMs: 0, record: { type: "quake", key: "big", headers: { operation: "delete" } } };
    await stream.post(JSON.stringify([gone.record]));
    rows.apply([gone]);
    await showsExactly("the world", world, rows);
    expect((await keysShown(california))[0]).toBe("big");
    line.comeBack();
    await showsExactly("California", california, rows);
    expect([...world.uncaught(), ...california.uncaught()]).toEqual([]);
  },
  60_000,
);
