/**
 * A real browser follows a stream, with what a page has to follow one, while its network comes and goes. Skipped where
 * there is no Chromium. A follower of another transport is one more entry of `FOLLOWERS`.
 */

import { afterEach, expect, test } from "bun:test";
import { startNetwork, type BrowserNetwork } from "../support/browser-network.ts";
import { chromiumOrSkip, sharedBrowser, type BrowserPage } from "../support/browser.ts";
import { runSeed, seededRandom, type SeededRandom } from "../support/random.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { newStream, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

interface Follower {
  readonly name: string;
  /**
   * Defines `window.follow(serverUrl, streamName)`: pushes the records into `window.records`, counts in `window.opens`
   * the connections that the server accepted and in `window.errors` what the page heard of lost and refused ones.
   */
  readonly script: string;
  /** Matches the head of every request by which the page comes back after it had a record. */
  readonly comingBack: RegExp;
  /** How many errors a page sees when it loses its connection while it is offline, before it is online again. */
  readonly errorsOffline: number;
}

const FOLLOWERS: readonly Follower[] = [
  {
    name: "EventSource",
    // An answer that is cut inside its head makes Chromium give up for good: then the page begins again where it was.
    script: `window.follow = (serverUrl, streamName) => {
      let offset = "-1";
      const connect = () => {
        const source = new EventSource(serverUrl + "/v1/stream/" + streamName + "?offset=" + offset + "&live=sse");
        source.addEventListener("data", (event) => {
          window.records.push(...JSON.parse(event.data));
          offset = event.lastEventId;
        });
        source.addEventListener("open", () => window.opens++);
        source.addEventListener("error", () => {
          window.errors++;
          if (source.readyState === EventSource.CLOSED) setTimeout(connect, 300);
        });
      };
      connect();
    };`,
    comingBack: /^last-event-id: *\S|^GET \S+\?offset=\d+_\d+&/im,
    // The loss itself, and one try in vain: some time later it tries again.
    errorsOffline: 2,
  },
  {
    name: "WebSocket",
    script: `window.follow = (serverUrl, streamName) => {
      let offset = "-1";
      const connect = () => {
        const socket = new WebSocket(serverUrl.replace("http", "ws") + "/v1/ws", ["streams.v1"]);
        socket.onopen = () => {
          window.opens++;
          socket.send(JSON.stringify({ type: "subscribe", stream: streamName, offset }));
        };
        socket.onmessage = ({ data }) => {
          const message = JSON.parse(data);
          if (message.type === "records") window.records.push(...message.records);
          offset = message.offset ?? offset;
        };
        socket.onclose = () => {
          window.errors++;
          setTimeout(connect, 300);
        };
      };
      connect();
    };`,
    // The offset travels in a message.
    comingBack: /^GET \/v1\/ws HTTP/,
    // Chromium 156 tells a page only when it is online again that its WebSocket has ended.
    errorsOffline: 0,
  },
];

const RECORDS = 300;
const OUTAGES = 5;
const RECORDS_PER_OUTAGE = RECORDS / (OUTAGES + 1);
/** An answer's head is about 500 bytes, a record's two events about 250: an outage begins anywhere in the first few. */
const MAX_BYTES_BEFORE_OUTAGE = 1500;
/** Far above the three seconds after which Chromium's EventSource comes back. */
const RETURN_DEADLINE_MS = 15_000;
const TEST_DEADLINE_MS = 120_000;

function numbers(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, at) => from + at);
}

/** Appends 0, 1, 2, … straight to the server, a few at a time. */
function appender(stream: StreamUnderTest, random: SeededRandom) {
  let appended = 0;
  return {
    appended: () => appended,
    async append(count: number): Promise<void> {
      for (const end = appended + count; appended < end;) {
        const next = Math.min(end, appended + 1 + random.below(7));
        const { status } = await stream.post(JSON.stringify(numbers(appended, next)));
        expect(status).toBe(204);
        appended = next;
      }
    },
  };
}

const program = chromiumOrSkip("a real browser follows a stream");
const browser = sharedBrowser(program);
const temporary = temporaryServers();
const networks: BrowserNetwork[] = [];
afterEach(() => {
  for (const network of networks.splice(0)) network.close();
});

/** A page that follows a new stream over a network of its own, and has its first record. */
async function following(follower: Follower) {
  const random = seededRandom(runSeed());
  const server = await temporary({ args: ["--cors-origin", browser.origin] });
  const stream = await newStream(server, `browser/${follower.name}`);
  const network = await startNetwork(server);
  networks.push(network);
  const page = await browser.open(`Object.assign(window, { records: [], opens: 0, errors: 0 }); ${follower.script}`);
  await page.run(`void window.follow("${network.url}", "${stream.name}")`);
  const all = { follower, random, network, page, writer: appender(stream, random) };
  await all.writer.append(1);
  await catchesUp(all);
  return all;
}

interface Following {
  readonly follower: Follower;
  readonly random: SeededRandom;
  readonly network: BrowserNetwork;
  readonly page: BrowserPage;
  readonly writer: ReturnType<typeof appender>;
}

function count(page: BrowserPage, what: "records.length" | "opens" | "errors"): Promise<number> {
  return page.run(`window.${what}`);
}

function waits({ random }: Following, what: string, check: () => boolean | Promise<boolean>): Promise<unknown> {
  return until(`${what} (TEST_SEED=${random.seed})`, check, RETURN_DEADLINE_MS);
}

/** Waits until the page has as many records as there are, or more: `expectEveryRecordOnce` looks at them. */
async function catchesUp(all: Following): Promise<void> {
  const appended = all.writer.appended();
  await waits(
    all,
    `the page has ${appended} records`,
    async () => (await count(all.page, "records.length")) >= appended,
  );
}

/** Takes the network down while records are on their way, or, when few bytes are, once all have arrived. */
async function loseNetwork(all: Following): Promise<void> {
  const { network, page, writer, random } = all;
  network.goDownAfter(1 + random.below(MAX_BYTES_BEFORE_OUTAGE));
  await writer.append(RECORDS_PER_OUTAGE / 2);
  const allArrived = async () => (await count(page, "records.length")) >= writer.appended();
  await waits(
    all,
    "the network goes down or has nothing to carry",
    async () => network.isDown() || (await allArrived()),
  );
  network.goDown();
}

async function expectEveryRecordOnce(all: Following): Promise<void> {
  await catchesUp(all);
  const { page, writer, random } = all;
  const [seed, uncaught, records] = [random.seed, page.uncaught(), await page.run<number[]>("window.records")];
  expect({ seed, uncaught, records }).toEqual({ seed, uncaught: [], records: numbers(0, writer.appended()) });
}

/** Every request but the first, which begins the stream, is one that comes back. */
function expectCameBack({ network, follower }: Following, leastTimes: number): void {
  const later = network.requests().slice(1);
  expect(later.length).toBeGreaterThanOrEqual(leastTimes);
  expect(later.filter((head) => !follower.comingBack.test(head))).toEqual([]);
}

for (const follower of FOLLOWERS) {
  test.skipIf(program === null)(
    `${follower.name} follows a stream, loses its network, and resumes: every record once, in order`,
    async () => {
      const all = await following(follower);
      const { network, writer, random } = all;
      for (let outage = 0; outage < OUTAGES; outage++) {
        await loseNetwork(all);
        await writer.append(RECORDS_PER_OUTAGE / 2);
        const refused = network.refused();
        if (outage % 2 === 0) await waits(all, "the page tries in vain", () => network.refused() > refused);
        network.comeBack();
        // Else the next outage finds the page still away, or catching up.
        if (random.below(2) === 0) await catchesUp(all);
      }
      await writer.append(RECORDS - writer.appended());
      await expectEveryRecordOnce(all);
      expectCameBack(all, OUTAGES);
    },
    TEST_DEADLINE_MS,
  );

  test.skipIf(program === null)(
    `${follower.name} goes offline and online again: every record once, in order`,
    async () => {
      const all = await following(follower);
      const { network, page, writer } = all;
      const errors = (await count(page, "errors")) + follower.errorsOffline;
      await page.setOffline(true);
      // Chromium 156 makes no new connections now, but what is open lives on: the network has to end it.
      network.goDown();
      network.comeBack();
      await writer.append(RECORDS_PER_OUTAGE);
      await waits(all, `the page has seen ${errors} errors`, async () => (await count(page, "errors")) >= errors);
      expect([await count(page, "opens"), network.requests().length]).toEqual([1, 1]);
      await page.setOffline(false);
      await catchesUp(all);
      await writer.append(RECORDS_PER_OUTAGE);
      await expectEveryRecordOnce(all);
      expectCameBack(all, 1);
    },
    TEST_DEADLINE_MS,
  );
}
