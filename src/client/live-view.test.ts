/**
 * A live view against a scripted server: what it shows, where it comes back to, how it is changed in place, and how it ends.
 * Each GET takes the next answer of the script; a POST takes the next of its own.
 */

import { expect, test } from "bun:test";
import { rejection, until } from "../../test/support/wait.ts";
import { utf8 } from "../kit/bytes.ts";
import type { Clock } from "../kit/clock.ts";
import {
  connect,
  type LiveView,
  type LiveViewDefinition,
  type LiveViewOptions,
  Refused,
  Unreachable,
} from "./client.ts";

type Answer = (signal: AbortSignal) => Response | Promise<Response>;

interface Asked {
  readonly method: string;
  readonly query: URLSearchParams;
  readonly body: string;
}

interface World {
  readonly view: LiveView;
  readonly asked: Asked[];
  /** What the GETs asked for, as text. */
  readonly queries: () => string[];
  /** What the POSTs asked for. */
  readonly changes: () => unknown[];
}

const QUICK = { maxAttempts: 3, baseDelayMs: 1, maxDelayMs: 2 };

interface OpenOptions extends LiveViewOptions {
  readonly definition?: LiveViewDefinition;
  readonly posts?: readonly Answer[];
  readonly clock?: Clock;
}

function open(gets: readonly Answer[], options: OpenOptions = {}): World {
  const asked: Asked[] = [];
  const [answers, posts] = [[...gets], [...(options.posts ?? [])]];
  const fetch = async (url: string, init: RequestInit): Promise<Response> => {
    const { method = "GET", body, signal } = init;
    asked.push({ method, query: new URL(url).searchParams, body: typeof body === "string" ? body : "" });
    const answer = (method === "GET" ? answers : posts).shift() ?? (method === "GET" ? sse("open") : status(204));
    return answer(signal ?? new AbortController().signal);
  };
  const own = options.clock === undefined ? {} : { clock: options.clock };
  const stream = connect({ url: "http://model", fetch, retry: QUICK, ...own }).stream("s");
  return {
    view: stream.liveView(options.definition ?? {}, options),
    asked,
    queries: () => asked.filter(({ method }) => method === "GET").map(({ query }) => query.toString()),
    changes: () => asked.filter(({ method }) => method === "POST").map(({ body }): unknown => JSON.parse(body)),
  };
}

/** A connection that tells these events, then ends, breaks, or stays open. */
function sse(end: "end" | "break" | "open", ...events: readonly string[]): Answer {
  return (signal) => {
    const left = events.map((event) => utf8(event));
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => signal.addEventListener("abort", () => controller.error(signal.reason)),
      pull: (controller) => {
        const next = left.shift();
        if (next !== undefined) controller.enqueue(next);
        else if (end === "end") controller.close();
        else if (end === "break") controller.error(new TypeError("connection lost"));
        else return new Promise(() => undefined);
        return undefined;
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  };
}

const status =
  (code: number, error?: string): Answer =>
  () =>
    new Response(error === undefined ? null : JSON.stringify({ error: { code: error, message: error } }), {
      status: code,
    });
const unreachable: Answer = () => Promise.reject(new TypeError("connection refused"));

const greet = (id: string): string => `id:o99\nevent: view\ndata:${JSON.stringify({ viewId: id })}\n\n`;
const place = (offset: string): string => `event: control\ndata:${JSON.stringify({ streamNextOffset: offset })}\n\n`;
const tell = (offset: string, ...records: readonly object[]): string =>
  `event: data\ndata:${JSON.stringify(records)}\n\n${place(offset)}`;
const row = (key: string, value: unknown, offset = "o1", operation = "insert"): object => ({
  type: "t",
  key,
  value,
  headers: { operation, offset },
});
const gone = (key: string): object => ({ type: "t", key, headers: { operation: "delete" } });
const reset = { headers: { control: "reset" } };

const shown = (view: LiveView): string =>
  [...view].map(({ key, value }) => `${key}=${JSON.stringify(value)}`).join(" ");

test("shows rows in their order, and tells what each message changed", async () => {
  const { view, queries } = open(
    [sse("open", greet("v"), tell("o1", reset, row("a", 1), row("b", 2)), tell("o2", gone("a"), row("c", 0, "o2")))],
    { definition: { type: "t", filter: "x > 1", order: "-n", limit: 9, viewport: viewport(1.5) } },
  );
  const told: unknown[] = [];
  view.subscribe((changes) => void told.push(changes.map(({ before, after }) => [before?.key, after?.key])));
  const stop = view.subscribe(() => void told.push("never"));
  stop();
  expect((await view.ready()).isOk()).toBe(true);
  await until("all is told", () => told.length === 2);
  expect(told).toEqual([
    [
      [undefined, "a"],
      [undefined, "b"],
    ],
    [
      ["a", undefined],
      [undefined, "c"],
    ],
  ]);
  expect(shown(view)).toBe("b=2 c=0");
  expect([view.size, view.get("c")?.value, view.get("c", "u"), view.get("a")]).toEqual([2, 0, undefined, undefined]);
  expect(queries()).toEqual(["type=t&filter=x+%3E+1&order=-n&limit=9&viewport=x%2Cy%2C1.5%2C0%2C10%2C10&live=sse"]);
  await view.close();
  expect((await view.done()).isOk()).toBe(true);
  expect(shown(view)).toBe("b=2 c=0");
});

function viewport(minX: number): NonNullable<LiveViewDefinition["viewport"]> {
  return { x: "x", y: "y", minX, minY: 0, maxX: 10, maxY: 10 };
}

test("comes back to where it was, from an end and from a break", async () => {
  const { view, queries } = open([
    sse("end", greet("v"), tell("o1", reset, row("a", 1))),
    sse("break", greet("w"), tell("o2", row("a", 1), gone("z"), row("b", 2, "o2"))),
    sse("open", greet("x"), tell("o3", gone("a"))),
  ]);
  await until("it is up to date", () => shown(view) === "b=2");
  expect(queries()).toEqual(["live=sse", "live=sse&offset=o1", "live=sse&offset=o2"]);
  await view.close();
});

test("what the server says before its first message is no place to come back to", async () => {
  const { view, queries } = open([
    sse("break", greet("v"), place("o9")),
    sse("open", greet("w"), tell("o1", reset, row("a", 1))),
  ]);
  await view.ready();
  expect(queries()).toEqual(["live=sse", "live=sse"]);
  await view.close();
});

test("an end without a word is asked about: why, or what is shown", async () => {
  const ended = open([sse("end", greet("v")), status(507, "view-state-too-large")]);
  const why = await ended.view.ready();
  expect(why.isErr() && Refused.is(why.error) && why.error.code).toBe("view-state-too-large");
  expect((await ended.view.done()).isErr()).toBe(true);
  expect(ended.queries()).toEqual(["live=sse", ""]);

  const answered = (): Response =>
    new Response(JSON.stringify([reset, row("a", 1)]), { headers: { "stream-next-offset": "o1" } });
  const { view, queries } = open([sse("end", greet("v")), answered]);
  await view.ready();
  expect(shown(view)).toBe("a=1");
  await until("it listens again", () => queries().length === 3);
  expect(queries()[2]).toBe("live=sse&offset=o1");
  await view.close();
});

test("waits out what waiting may cure, and ends with what it cannot", async () => {
  const { view, queries } = open([
    sse("break", greet("v"), tell("o1", reset, row("a", 1))),
    status(503, "closing"),
    unreachable,
    unreachable,
    unreachable,
    sse("break", greet("v"), tell("o2", row("b", 2, "o2"))),
    status(404, "not-found"),
  ]);
  const ended = await view.done();
  expect(ended.isErr() && Refused.is(ended.error) && ended.error.code).toBe("not-found");
  expect([shown(view), queries().length]).toEqual(["a=1 b=2", 7]);
  expect((await view.ready()).isOk()).toBe(true);
  expect((await view.update({})).isErr()).toBe(true);
});

test("gives up: without contact after the policy's attempts, later when the time is up", async () => {
  const never = open(Array.from({ length: 9 }, () => unreachable));
  const first = await never.view.ready();
  expect(first.isErr() && Unreachable.is(first.error)).toBe(true);
  expect(never.queries().length).toBe(3);

  let nowMs = 0;
  const late: Answer = (signal) => {
    nowMs += 5;
    return unreachable(signal);
  };
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
  const lost = open([sse("end", tell("o1", reset)), ...Array.from({ length: 500 }, () => late)], {
    clock,
    giveUpAfterMs: 30,
  });
  expect((await lost.view.done()).isErr()).toBe(true);
  expect(lost.queries().length).toBe(9);
});

test("failures that take long count as others do; only an answer that lived for a while ends their streak", async () => {
  let nowMs = 0;
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
  const late =
    (answer: Answer): Answer =>
    (signal) => {
      nowMs += 1_200;
      return answer(signal);
    };
  /** Headers, and a while later the end. */
  const breaksLate: Answer = () => {
    const pull = (controller: ReadableStreamDefaultController): void => {
      nowMs += 1_200;
      controller.error(new TypeError("connection lost"));
    };
    return new Response(new ReadableStream({ pull }, { highWaterMark: 0 }));
  };
  // Whoever never gives up is told so in the end.
  const often = (...answers: readonly Answer[]): Answer[] => [
    ...Array.from({ length: 30 }, () => answers).flat(),
    status(404, "not-found"),
  ];
  const told = sse("break", tell("o1", reset));
  const giveUpAfterMs = 5_000;
  for (const [gets, tag, code, requests] of [
    [often(late(unreachable)), "Unreachable", "", 3],
    [often(late(status(503, "closing"))), "Refused", "closing", 3],
    [[told, ...often(late(unreachable))], "Unreachable", "", 6],
    // Contact, but never a set of rows.
    [often(breaksLate), "Unreachable", "", 6],
    [often(sse("end"), late(status(503, "closing"))), "Refused", "closing", 12],
    // Up to date, and nothing changed meanwhile.
    [[told, ...often(breaksLate)], "Refused", "not-found", 32],
  ] as const) {
    const { view, queries } = open(gets, { clock, giveUpAfterMs });
    const ended = await view.done();
    const error = ended.isErr() ? ended.error : expect.unreachable("it ends with an error");
    expect([error._tag, Refused.is(error) ? error.code : "", queries().length]).toEqual([tag, code, requests]);
  }
});

test("an answer that is none of a view ends it", async () => {
  for (const event of ["event: data\ndata:[1]\n\n", "event: data\ndata:[\n\n", "event: view\ndata:{}\n\n"]) {
    const ended = await open([sse("open", event)]).view.ready();
    expect(ended.isErr() && ended.error._tag).toBe("BrokenAnswer");
  }
});

/** A connection that a test speaks on. */
function line(): { readonly answer: Answer; say(...events: readonly string[]): void; end(): void } {
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  return {
    answer: (signal) => {
      const start = (own: ReadableStreamDefaultController<Uint8Array>): void => {
        controller = own;
        signal.addEventListener("abort", () => own.error(signal.reason));
      };
      return new Response(new ReadableStream({ start }), { headers: { "content-type": "text/event-stream" } });
    },
    say: (...events) => {
      for (const event of events) controller?.enqueue(utf8(event));
    },
    end: () => controller?.close(),
  };
}

test("is changed in place, at once in another order; afterwards it comes back for the whole set", async () => {
  const first = line();
  const { view, queries, changes, asked } = open([first.answer], { definition: { order: "n" } });
  first.say(greet("v1"), tell("o1", reset, row("a", { n: 1 }), row("b", { n: 2 })));
  await view.ready();
  let reorders = 0;
  view.subscribe((told) => void (reorders += told.length === 0 ? 1 : 0));
  expect((await view.update({ order: "-n" })).isOk()).toBe(true);
  expect([shown(view), reorders, changes()]).toEqual(['b={"n":2} a={"n":1}', 1, [{ order: "-n" }]]);
  expect(asked.at(-1)?.query.get("id")).toBe("v1");
  first.say(tell("o2", gone("a")));
  await until("the difference is there", () => view.size === 1);
  first.end();
  await until("it comes back", () => queries().length === 2);
  expect(queries()).toEqual(["order=n&live=sse", "order=-n&live=sse"]);
  await view.close();
});

test("a change that is refused leaves what was there", async () => {
  const first = line();
  const posts = [status(400, "view-invalid")];
  const { view, queries } = open([first.answer], { definition: { limit: 5 }, posts });
  first.say(greet("v1"), tell("o1", reset, row("a", 1)));
  await view.ready();
  const refused = await view.update({ limit: 0 });
  expect(refused.isErr() && Refused.is(refused.error) && refused.error.code).toBe("view-invalid");
  first.say(tell("o2", row("b", 2, "o2")));
  await until("it goes on", () => view.size === 2);
  first.end();
  await until("it comes back", () => queries().length === 2);
  expect(queries()[1]).toBe("limit=5&live=sse");
  await view.close();
});

test("a connection that cannot be changed, or may have been, is opened again", async () => {
  for (const [posts, limit, isOk] of [
    [[status(404, "view-unknown")], 7, true],
    [[unreachable, unreachable, unreachable], 5, false],
  ] as const) {
    const first = line();
    const { view, queries } = open([first.answer], { definition: { limit: 5 }, posts });
    first.say(greet("v1"), tell("o1", reset, row("a", 1)));
    await view.ready();
    expect((await view.update({ limit: 7 })).isOk()).toBe(isOk);
    await until("it is opened again", () => queries().length === 2);
    expect(queries()[1]).toBe(`limit=${limit}&live=sse`);
    await view.close();
  }
});

test("what is wanted while it connects is told as soon as it may be", async () => {
  const first = line();
  const { view, changes, queries } = open([first.answer], { definition: { limit: 5 } });
  expect((await view.update({ limit: 6 })).isOk()).toBe(true);
  expect([changes(), queries()]).toEqual([[], ["limit=5&live=sse"]]);
  first.say(greet("v1"));
  await until("it is told", () => changes().length === 1);
  expect(changes()).toEqual([{ limit: 6 }]);
  await view.close();
});

test("of many changes only the newest waits", async () => {
  const first = line();
  let answer: (response: Response) => void = () => undefined;
  const held: Answer = () => new Promise((resolve) => (answer = resolve));
  const { view, changes } = open([first.answer], { posts: [held] });
  first.say(greet("v1"), tell("o1", reset));
  await view.ready();
  const all = Promise.all([1, 2, 3, 4].map((limit) => view.update({ limit })));
  await until("the first is sent", () => changes().length === 1);
  answer(new Response(null, { status: 204 }));
  expect((await all).every((one) => one.isOk())).toBe(true);
  expect(changes()).toEqual([{ limit: 1 }, { limit: 4 }]);
  await view.close();
});

test("a signal that aborts, and a close, end it at any moment", async () => {
  const hanging: Answer = (signal) =>
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)));
  for (const answer of [hanging, sse("open", greet("v")), unreachable]) {
    const abort = new AbortController();
    const { view } = open([answer], { signal: abort.signal });
    const waits = [rejection(view.ready()), rejection(view.done())];
    abort.abort(new Error("enough"));
    expect((await Promise.all(waits)).map(({ message }) => message)).toEqual(["enough", "enough"]);

    const closed = open([answer]).view;
    const waiting = rejection(closed.ready());
    await closed.close();
    expect((await waiting).name).toBe("AbortError");
    expect((await closed.done()).isOk()).toBe(true);
  }
});

test("what lies ready when it is closed or aborted is neither shown nor told", async () => {
  const piece = [greet("v"), tell("o1", reset, row("a", 1)), tell("o2", row("b", 2)), tell("o3", row("c", 3))].join("");
  for (const how of ["close", "abort"] as const) {
    const abort = new AbortController();
    const { view } = open([sse("open", piece)], { signal: abort.signal });
    const told: string[] = [];
    view.subscribe(() => {
      told.push("first");
      if (how === "close") void view.close();
      else abort.abort(new Error("enough"));
    });
    view.subscribe(() => void told.push("second"));
    if (how === "close") expect((await view.done()).isOk()).toBe(true);
    else expect((await rejection(view.done())).message).toBe("enough");
    expect([told, shown(view)]).toEqual([["first"], "a=1"]);
  }
});

test("an answer that was asked for, and is whole when it is aborted, is not shown", async () => {
  const abort = new AbortController();
  const asked: Answer = () => {
    const pull = (controller: ReadableStreamDefaultController): void => {
      controller.enqueue(utf8(JSON.stringify([reset, row("a", 1)])));
      abort.abort(new Error("enough"));
      controller.close();
    };
    return new Response(new ReadableStream({ pull }, { highWaterMark: 0 }));
  };
  const { view } = open([sse("end"), asked], { signal: abort.signal });
  expect((await rejection(view.done())).message).toBe("enough");
  expect(view.size).toBe(0);
});

test("a view that is over takes no update, and says why; nobody has to wait for that", async () => {
  const abort = new AbortController();
  const aborted = open([sse("open", greet("v"))], { signal: abort.signal });
  abort.abort(new Error("enough"));
  expect((await rejection(aborted.view.update({ limit: 1 }))).message).toBe("enough");

  const first = line();
  // The server takes the change while the view is closed.
  const posts = [
    (): Response => {
      void closing.view.close();
      return new Response(null, { status: 204 });
    },
  ];
  const closing = open([first.answer], { definition: { order: "n" }, posts });
  first.say(greet("v"), tell("o1", reset, row("a", { n: 1 }), row("b", { n: 2 })));
  await closing.view.ready();
  expect((await rejection(closing.view.update({ order: "-n" }))).name).toBe("AbortError");
  await closing.view.close();
  expect((await rejection(closing.view.update({ order: "-n" }))).name).toBe("AbortError");
  // An unhandled rejection would fail the test: what follows gives it the time.
  void closing.view.update({ order: "-n" });
  expect([shown(closing.view), closing.changes().length]).toEqual(['a={"n":1} b={"n":2}', 1]);

  const second = line();
  let answer: (response: Response) => void = () => undefined;
  const held: Answer = () => new Promise((resolve) => (answer = resolve));
  const ended = open([second.answer, status(404, "not-found")], { posts: [held] });
  second.say(greet("v"), tell("o1", reset));
  await ended.view.ready();
  const update = ended.view.update({ limit: 1 });
  await until("it is sent", () => ended.changes().length === 1);
  second.end();
  await ended.view.done();
  answer(new Response(null, { status: 204 }));
  const told = await update;
  expect(told.isErr() && Refused.is(told.error) && told.error.code).toBe("not-found");
});

test("listeners that come or go while a message is told: the former hear the next one, the latter nothing more", async () => {
  const first = line();
  const { view } = open([first.answer]);
  first.say(greet("v"), tell("o1", reset));
  await view.ready();
  const told: string[] = [];
  const once = (): void => {
    const stop = view.subscribe(() => {
      stop();
      leave();
      // Else a loop without an end would be one.
      if (told.push("again") < 10) once();
    });
  };
  once();
  const leave = view.subscribe(() => void told.push("left"));
  first.say(tell("o2", row("a", 1)));
  await until("it is shown", () => view.size === 1);
  expect(told).toEqual(["again"]);
  first.say(tell("o3", row("b", 2)));
  await until("the next is shown", () => view.size === 2);
  expect(told).toEqual(["again", "again"]);
  await view.close();
});

test("a listener that throws ends it, and is told of", async () => {
  const { view } = open([sse("open", greet("v"), tell("o1", reset, row("a", 1)))]);
  view.subscribe(() => {
    throw new Error("no");
  });
  expect((await rejection(view.done())).message).toBe("no");
});
