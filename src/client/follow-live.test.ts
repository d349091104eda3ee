/**
 * How a follower waits at the tail: which way `auto` takes and when it takes another, what the server says about the delivery
 * itself, hidden pages, and a start that moves. The other side is a `fetch` that answers by a script.
 */

import { expect, test } from "bun:test";
import { rejection, until, within } from "../../test/support/wait.ts";
import {
  BrokenAnswer,
  connect,
  type Delivery,
  type FollowOptions,
  type LiveOptions,
  type Page,
  Unreachable,
} from "./client.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const JSON_TYPE = "application/json";
const RETRY = { maxAttempts: 3, baseDelayMs: 1, maxDelayMs: 1 };

interface Request {
  readonly live: string | null;
  readonly offset: string | null;
  readonly query: URLSearchParams;
  readonly signal: AbortSignal;
}
type Script = (request: Request) => Response | Promise<Response>;

function head(next: number, more: Record<string, string> = {}): Record<string, string> {
  return { "content-type": JSON_TYPE, "stream-next-offset": `o${next}`, "stream-up-to-date": "true", ...more };
}

/** An answer of these pieces; then it ends, breaks, or stays open until it is given up. */
function answer(
  headers: Record<string, string>,
  pieces: readonly string[],
  end: "end" | "break" | AbortSignal,
): Response {
  const rest = [...pieces];
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      if (end instanceof AbortSignal) end.addEventListener("abort", () => controller.error(end.reason));
    },
    pull(controller) {
      const piece = rest.shift();
      if (piece !== undefined) return controller.enqueue(encoder.encode(piece));
      if (end === "end") return controller.close();
      if (end === "break") return controller.error(new TypeError("connection lost"));
      return undefined;
    },
  });
  return new Response(body, { headers });
}

const control = (next: number, more: object = {}): string =>
  `event: control\ndata: ${JSON.stringify({ streamNextOffset: `o${next}`, ...more })}\n\n`;
const sse = (pieces: readonly string[], end: "end" | "break" | AbortSignal): Response =>
  answer({ "content-type": "text/event-stream" }, pieces, end);

interface Run {
  readonly requests: Request[];
  readonly deliveries: Delivery[];
  readonly done: Promise<void>;
  texts(): string[];
}

function run(script: Script, options: FollowOptions = {}, live: LiveOptions = {}): Run {
  const requests: Request[] = [];
  const fetch = async (address: string, init: RequestInit): Promise<Response> => {
    const query = new URL(address).searchParams;
    const signal = init.signal ?? AbortSignal.abort();
    const request = { live: query.get("live"), offset: query.get("offset"), query, signal };
    requests.push(request);
    const answered = script(request);
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason as Error));
    });
    return Promise.race([answered, aborted]);
  };
  const stream = connect({ url: "http://model", fetch, retry: RETRY, page: null, ...live }).stream("s");
  const deliveries: Delivery[] = [];
  const follow = async (): Promise<void> => {
    for await (const delivery of stream.follow(options)) deliveries.push(delivery);
  };
  const texts = (): string[] => deliveries.flatMap(({ parts }) => parts.map((part) => decoder.decode(part)));
  return { requests, deliveries, done: follow(), texts };
}

const ways = ({ requests }: Run): (string | null)[] => requests.map(({ live }) => live);

/** Catches up with one record; then what `live` says. */
const caughtUp =
  (live: Script, contentType = JSON_TYPE): Script =>
  (request) =>
    request.live === null
      ? new Response(contentType === JSON_TYPE ? "[0]" : "0", { headers: head(1, { "content-type": contentType }) })
      : live(request);

test("auto: server-sent events for JSON, long-poll for bytes and for text, whose line ends SSE would change", async () => {
  const ending: Script = ({ live }) =>
    live === "sse"
      ? sse([`event: data\ndata: [1]\n\n${control(2, { streamClosed: true })}`], "end")
      : new Response("1", { headers: head(2, { "content-type": "text/plain", "stream-closed": "true" }) });
  const json = run(caughtUp(ending));
  await within("the end", json.done);
  expect([ways(json), json.texts()]).toEqual([
    [null, "sse"],
    ["0", "1"],
  ]);
  for (const contentType of ["text/plain", "application/octet-stream"]) {
    const other = run(caughtUp(ending, contentType));
    await within("the end", other.done);
    expect([ways(other), other.texts()]).toEqual([
      [null, "long-poll"],
      ["0", "1"],
    ]);
  }
});

/** Long-poll brings the end. */
const pollEnds = (): Response => new Response("[1]", { headers: head(2, { "stream-closed": "true" }) });

test("auto: answers that break before their first event lead to long-poll; `sse` goes on trying", async () => {
  for (const end of ["end", "break"] as const) {
    const broken = caughtUp(({ live }) =>
      live === "sse" ? sse([": hello\n\n", "event: data\ndata: [1]\n\n"], end) : pollEnds(),
    );
    const auto = run(broken);
    await within("the end", auto.done);
    expect([ways(auto), auto.texts()]).toEqual([
      [null, "sse", "sse", "long-poll"],
      ["0", "1"],
    ]);
  }
  const only = run(
    caughtUp(() => sse([], "break")),
    { live: "sse", giveUpAfterMs: 20 },
  );
  expect(Unreachable.is(await within("the failure", rejection(only.done)))).toBe(true);
  expect(new Set(ways(only).slice(1))).toEqual(new Set(["sse"]));
});

test("auto: an answer that a proxy keeps for itself is given up, before its head and after it", async () => {
  for (const kept of [() => new Promise<Response>(() => {}), ({ signal }: Request) => sse([], signal)]) {
    const auto = run(
      caughtUp((request) => (request.live === "sse" ? kept(request) : pollEnds())),
      {},
      { firstEventLimitMs: 20 },
    );
    await within("the end", auto.done);
    expect([ways(auto), auto.texts()]).toEqual([
      [null, "sse", "sse", "long-poll"],
      ["0", "1"],
    ]);
  }
});

test("auto: a server that refuses server-sent events is asked by long-poll at once, and from then on", async () => {
  const polls = [() => new Response("[1]", { headers: head(2) }), pollEnds];
  const live: Script = (request) =>
    request.live === "sse" ? new Response(null, { status: 406 }) : (polls.shift() ?? pollEnds)();
  const auto = run(caughtUp(live));
  await within("the end", auto.done);
  expect(ways(auto)).toEqual([null, "sse", "long-poll", "long-poll"]);
});

test("auto: breaks of answers that had come through, and servers that are away, say nothing against SSE", async () => {
  let at = 0;
  const script = caughtUp(() => {
    // Three refusals in a row, and an empty answer only now and then.
    const turn = at++ % 5;
    if (turn > 1) throw new TypeError("connection refused");
    return sse(turn === 0 ? [control(1, { upToDate: true })] : [], "break");
  });
  const abort = new AbortController();
  const auto = run(script, { signal: abort.signal });
  const failure = rejection(auto.done);
  await until("many answers", () => at > 25);
  abort.abort(new Error("enough"));
  expect((await failure).message).toBe("enough");
  expect(new Set(ways(auto).slice(1))).toEqual(new Set(["sse"]));
});

test("notices pass: a gap moves the reader on, lagged does not; `overflow` is asked for where it means something", async () => {
  let at = 0;
  const notice = (kind: string, more: object): string =>
    `event: ${kind}\ndata: ${JSON.stringify({ fromOffset: "o1", toOffset: "o5", ...more })}\n\n`;
  const live: Script = () =>
    [
      sse([control(1), notice("lagged", { ms: 1200 })], "break"),
      sse([control(1), notice("gap", { count: 4 })], "break"),
      sse([`event: data\ndata: [5]\n\n${control(6, { streamClosed: true })}`], "end"),
    ][at++] ?? new Response(null, { status: 500 });
  const lost = run(caughtUp(live), { live: "sse", overflow: "drop-oldest" });
  await within("the end", lost.done);
  expect(lost.texts()).toEqual(["0", "5"]);
  expect(lost.requests.map(({ offset }) => offset)).toEqual([null, "o1", "o1", "o5"]);
  expect(lost.requests.map(({ query }) => query.get("overflow"))).toEqual([
    null,
    ...Array.from({ length: 3 }, () => "drop-oldest"),
  ]);
  const notices = lost.deliveries.filter(({ notice: said }) => said !== undefined);
  expect(notices.map(({ notice: said, nextOffset }) => [said, nextOffset])).toEqual([
    [{ kind: "lagged", fromOffset: "o1", toOffset: "o5", ms: 1200 }, "o1"],
    [{ kind: "gap", fromOffset: "o1", toOffset: "o5", count: 4 }, "o5"],
  ]);
});

class ModelPage implements Page {
  hidden = false;
  readonly listeners = new Set<() => void>();

  addEventListener(_type: "visibilitychange", listener: () => void): void {
    this.listeners.add(listener);
  }

  removeEventListener(_type: "visibilitychange", listener: () => void): void {
    this.listeners.delete(listener);
  }

  show(visible: boolean): void {
    this.hidden = !visible;
    for (const listener of this.listeners) listener();
  }
}

test.each(["sse", "long-poll"] as const)(
  "%s: a page hidden for long gives up its connection, and goes on when seen",
  async (live) => {
    const page = new ModelPage();
    let next = 1;
    let wake = (): void => {};
    /** One record per answer, when it is woken. */
    const script = caughtUp(async ({ live: way, signal }) => {
      const begin = way === "sse" ? [control(next)] : [];
      if (way === "sse") return sse([...begin, `event: data\ndata: [${next}]\n\n${control(++next)}`], signal);
      await new Promise<void>((resolve) => (wake = resolve));
      return new Response(`[${next}]`, { headers: head(++next) });
    });
    const abort = new AbortController();
    const seen = run(script, { live, hiddenAfterMs: 30, signal: abort.signal }, { page });
    const failure = rejection(seen.done);
    await until("it is live", () => seen.requests.length === 2);
    wake();
    await until("a record came", () => seen.texts().length === 2);

    // Hidden for a moment only: nothing happens.
    page.show(false);
    page.show(true);
    const before = seen.requests.length;
    page.show(false);
    await until("its connection is given up", () => seen.requests.at(-1)?.signal.aborted === true);
    const away = seen.requests.length;
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(seen.requests.length).toBe(away);
    expect(away).toBe(before);
    page.show(true);
    await until("it is back", () => seen.requests.length > away);
    expect(seen.requests.at(-1)?.offset).toBe("o2");
    wake();
    await until("the next record came", () => seen.texts().length === 3);
    expect(seen.texts()).toEqual(["0", "1", "2"]);
    abort.abort(new Error("enough"));
    expect((await failure).message).toBe("enough");
    expect(page.listeners.size).toBe(0);
  },
);

test("hidden pages: an abort is heard while away, and `pauseWhenHidden: false` goes on", async () => {
  const page = new ModelPage();
  page.show(false);
  const abort = new AbortController();
  const script = caughtUp(({ signal }) => sse([control(1)], signal));
  const away = run(script, { hiddenAfterMs: 1, signal: abort.signal }, { page });
  const failure = rejection(away.done);
  await until(
    "it has caught up and is away",
    () => away.requests.length >= 1 && away.requests.every(({ live, signal }) => live === null || signal.aborted),
  );
  const on = run(script, { hiddenAfterMs: 1, pauseWhenHidden: false, signal: abort.signal }, { page });
  const other = rejection(on.done);
  await until("it is live", () => on.deliveries.length === 2);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(on.requests.at(-1)?.signal.aborted).toBe(false);
  expect(page.listeners.size).toBe(1);
  abort.abort(new Error("enough"));
  for (const ended of [failure, other]) expect((await within("the abort", ended)).message).toBe("enough");
  expect(page.listeners.size).toBe(0);
});

test("a start that moved while the first answer was broken off is told: counting would skip other records", async () => {
  const bodies = (etags: readonly string[]): Script => {
    const rest = [...etags];
    return () => {
      const etag = rest.shift() ?? "";
      const headers = head(4, { etag, "stream-closed": "true" });
      return rest.length > 0
        ? answer(headers, ["[10,", "20,", "3"], "break")
        : answer(headers, ["[10,20,30,40]"], "end");
    };
  };
  for (const moved of ['"7:2:6"', '"8:0:4"']) {
    const trimmed = run(bodies(['"7:0:4"', moved]));
    expect(BrokenAnswer.is(await within("the end", rejection(trimmed.done)))).toBe(true);
    expect(trimmed.texts()).toEqual(["10", "20"]);
  }
  // The same start: the control.
  for (const same of ['"7:0:5"', 'W/"7:0:5"', '"another-form"', ""]) {
    const whole = run(bodies(['"7:0:4"', same]));
    await within("the end", whole.done);
    expect(whole.texts()).toEqual(["10", "20", "30", "40"]);
  }
});
