/** The loop of a live query against a scripted server: what it asks in which order, when it tries again, and how it ends. */

import { expect, test } from "bun:test";
import { rejection } from "../../test/support/wait.ts";
import { BrokenAnswer, type ClientOptions, connect, Refused, type StreamHandle, Unreachable } from "./client.ts";
import type { TouchTemplate } from "./touch-keys.ts";

interface Ask {
  /** What follows `touch/`. */
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
  readonly signal: AbortSignal;
}

type Script = (ask: Ask, count: number) => Response | Promise<Response>;

const QUICK = { maxAttempts: 3, baseDelayMs: 1, maxDelayMs: 2 };
const byUser: TouchTemplate = { entity: "todo", fields: [{ name: "userId", encoding: "string" }] };

/** A stream whose waits are answered by `script`, the others as a server would; `asked` collects all. */
function scripted(script: Script, options: Partial<ClientOptions> = {}): { stream: StreamHandle; asked: Ask[] } {
  const asked: Ask[] = [];
  let waits = 0;
  const fetch: ClientOptions["fetch"] = async (url, { body, signal }) => {
    const path = new URL(url).pathname.split("/touch/")[1] ?? expect.unreachable(url);
    const json = typeof body === "string" ? (JSON.parse(body) as Ask["body"]) : {};
    const ask = { path, body: json, signal: signal ?? expect.unreachable("every request has a signal") };
    asked.push(ask);
    if (path === "meta") return Response.json({ cursor: "1:0" });
    if (path === "templates/activate") return Response.json({ activated: [], denied: [], limits: {} });
    return script(ask, ++waits);
  };
  return { stream: connect({ url: "http://touch.test", fetch, retry: QUICK, ...options }).stream("s"), asked };
}

const told = (touched: boolean, seq: number): Response => Response.json({ touched, cursor: `1:${seq}` });
const stale = (cursor: string): Response =>
  Response.json({ touched: false, stale: true, cursor, error: { code: "stale", message: "query again" } });

/** Never answers, as fetch does: it rejects when the request is aborted. */
const parked: Script = ({ signal }) =>
  new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason as Error));
  });

async function take<T>(results: AsyncGenerator<T, void>, count: number): Promise<T[]> {
  const taken: T[] = [];
  for await (const result of results) if (taken.push(result) === count) break;
  return taken;
}

test("the cursor comes before the query, and every wait goes on from the answer before it", async () => {
  const { stream, asked } = scripted((_, count) =>
    count === 1 ? told(false, 3) : count === 2 ? told(true, 7) : count === 3 ? stale("2:0") : told(true, 9),
  );
  const askedAtRun: number[] = [];
  const run = (): number => askedAtRun.push(asked.length);
  expect(await take(stream.liveQuery({ templates: [byUser], keys: ["k"], run }), 4)).toEqual([1, 2, 3, 4]);
  expect(asked.map(({ path }) => path)).toEqual(["templates/activate", "meta", "wait", "wait", "wait", "wait"]);
  // After the cursor; after a timeout and a touch; after a stale answer; after a touch.
  expect(askedAtRun).toEqual([2, 4, 5, 6]);
  const templates = [byUser];
  expect(asked.map(({ body }) => body)).toEqual([
    { templates },
    {},
    ...["1:0", "1:3", "1:7", "2:0"].map((cursor) => ({ keys: ["k"], cursor, declareTemplates: templates })),
  ]);
});

test("keys may be told by the rows last read", async () => {
  const { stream, asked } = scripted((_, count) => told(true, count));
  let rows = 0;
  const query = stream.liveQuery({
    keys: (count: number) => Array.from({ length: count }, (_, row) => `row ${row}`),
    run: () => ++rows,
  });
  await take(query, 3);
  expect(asked.map(({ path, body }) => (path === "wait" ? body["keys"] : path))).toEqual([
    "meta",
    ["row 0"],
    ["row 0", "row 1"],
  ]);
});

test("what waiting may help is tried again with the same cursor: overload, a broken connection, a broken body", async () => {
  const broken = new ReadableStream({
    start(controller) {
      controller.enqueue(new TextEncoder().encode('{"touched":'));
      controller.error(new TypeError("connection reset"));
    },
  });
  const { stream, asked } = scripted((_, count) => {
    if (count === 1) return new Response(null, { status: 503, headers: { "retry-after": "0" } });
    if (count === 2) return Promise.reject(new TypeError("connection refused"));
    if (count === 3) return new Response(broken);
    if (count < 10) return new Response(null, { status: 502 });
    return told(true, 1);
  });
  expect(await take(stream.liveQuery({ keys: ["k"], run: () => 1 }), 2)).toEqual([1, 1]);
  const cursors = asked.filter(({ path }) => path === "wait").map(({ body }) => body["cursor"]);
  expect(cursors).toEqual(Array.from({ length: 10 }, () => "1:0"));
});

test("nobody there ends it after the policy's attempts; lost contact after a while", async () => {
  let attempts = 0;
  const fetchNothing = (): Promise<Response> => {
    attempts++;
    return Promise.reject(new TypeError("connection refused"));
  };
  const run = (): number => 1;
  const alone = connect({ url: "http://touch.test", fetch: fetchNothing, retry: QUICK }).stream("s");
  expect(await rejection(take(alone.liveQuery({ keys: ["k"], run }), 1))).toBeInstanceOf(Unreachable);
  expect(attempts).toBe(QUICK.maxAttempts);

  let nowMs = 0;
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
  const { stream, asked } = scripted(
    () => {
      nowMs += 1000;
      return new Response(null, { status: 502 });
    },
    { clock },
  );
  const lost = take(stream.liveQuery({ keys: ["k"], run, giveUpAfterMs: 10_000 }), 2);
  expect(await rejection(lost)).toMatchObject({ _tag: "Refused", status: 502 });
  expect(asked.filter(({ path }) => path === "wait")).toHaveLength(12);
});

test("what waiting cannot help ends it: a refusal, an answer of something else", async () => {
  const off = scripted(() => Response.json({ error: { code: "touch-off", message: "touch is off" } }, { status: 404 }));
  const refused = await rejection(take(off.stream.liveQuery({ keys: ["k"], run: () => 1 }), 2));
  expect(Refused.is(refused) && refused.code).toBe("touch-off");
  for (const answer of ["<html>", "[]", '{"touched":true}', `{"touched":true,"cursor":"${"1".repeat(2 ** 20)}"}`]) {
    const odd = scripted(() => new Response(answer));
    const error = await rejection(take(odd.stream.liveQuery({ keys: ["k"], run: () => 1 }), 2));
    expect(BrokenAnswer.is(error)).toBe(true);
  }
});

test("a template the server calls invalid is the application's mistake; one it has no room for is not", async () => {
  const denying = (reason: string): StreamHandle => {
    const denied = [{ templateId: "0".repeat(16), reason }];
    const fetch = (url: string): Promise<Response> =>
      Promise.resolve(
        url.endsWith("activate") ? Response.json({ activated: [], denied }) : Response.json({ cursor: "1:0" }),
      );
    return connect({ url: "http://touch.test", fetch }).stream("s");
  };
  const query = { templates: [byUser], keys: ["k"], run: () => "rows" };
  const error = await rejection(take(denying("invalid").liveQuery(query), 1));
  expect(error).toBeInstanceOf(TypeError);
  expect(await take(denying("cap_exceeded").liveQuery(query), 1)).toEqual(["rows"]);
});

test("what run throws ends it, or runs again when onError says so", async () => {
  const { stream, asked } = scripted(parked);
  const failing = (): never => {
    throw new Error("no database");
  };
  expect((await rejection(take(stream.liveQuery({ keys: ["k"], run: failing }), 1))).message).toBe("no database");
  const badKeys = stream.liveQuery({ keys: failing, run: () => 1 });
  expect((await rejection(take(badKeys, 1))).message).toBe("no database");

  const seen: unknown[] = [];
  let runs = 0;
  const patient = stream.liveQuery({
    keys: ["k"],
    run: () => (++runs < 5 ? Promise.reject(new Error(`run ${runs}`)) : Promise.resolve(runs)),
    onError: (error) => seen.push(error) < 10,
  });
  expect(await take(patient, 1)).toEqual([5]);
  expect(seen.map(String)).toEqual(["Error: run 1", "Error: run 2", "Error: run 3", "Error: run 4"]);
  // One cursor per query: no run takes a newer one.
  expect(asked.map(({ path }) => path)).toEqual(["meta", "meta", "meta"]);
});

test("aborting ends it with the reason, wherever it is", async () => {
  const reason = new Error("no longer needed");
  /** Aborts once `reached` resolves, in a query that otherwise would hang or go on for ever. */
  async function abortedAt(moment: string, script: Script, run: (signal: AbortSignal) => unknown): Promise<void> {
    const abort = new AbortController();
    const { stream, asked } = scripted(
      (ask, count) => {
        if (moment === "wait") setTimeout(() => abort.abort(reason), 5);
        return script(ask, count);
      },
      { retry: { maxAttempts: 3, baseDelayMs: 60_000, maxDelayMs: 60_000 } },
    );
    const query = stream.liveQuery({
      keys: ["k"],
      run: (signal) => {
        expect(signal).toBe(abort.signal);
        if (moment !== "wait") setTimeout(() => abort.abort(reason), 5);
        return run(signal);
      },
      onError: () => true,
      minIntervalMs: moment === "interval" ? 60_000 : 0,
      signal: abort.signal,
    });
    expect(await rejection(take(query, 3))).toBe(reason);
    if (moment === "wait") expect(asked.at(-1)?.signal.aborted).toBe(true);
  }
  const never = new Promise<never>(() => undefined);
  await abortedAt("wait", parked, () => 1);
  await abortedAt(
    "backoff",
    () => new Response(null, { status: 502 }),
    () => 1,
  );
  await abortedAt("a run that ignores it", parked, () => never);
  await abortedAt("a run that heeds it", parked, (signal) => rejected(signal));
  await abortedAt("after a failed run", parked, () => Promise.reject(new Error("no database")));
  await abortedAt(
    "interval",
    (_, count) => told(true, count),
    () => 1,
  );
  const late = scripted(parked).stream.liveQuery({ keys: ["k"], run: () => 1, signal: AbortSignal.abort(reason) });
  expect(await rejection(take(late, 1))).toBe(reason);
});

function rejected(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(new Error("the driver's own words")));
  });
}

test("runs keep their distance when they are told to", async () => {
  const { stream } = scripted((_, count) => told(true, count));
  const startsMs: number[] = [];
  const run = (): number => startsMs.push(performance.now());
  await take(stream.liveQuery({ keys: ["k"], run, minIntervalMs: 30 }), 4);
  // Timers may fire a fraction of a millisecond early.
  expect(startsMs.slice(1).every((startMs, index) => startMs - (startsMs[index] ?? 0) >= 29)).toBe(true);
});

test("runs keep their distance after one that failed, too", async () => {
  const { stream } = scripted((_, count) => told(true, count));
  const startsMs: number[] = [];
  const run = (): number => {
    const count = startsMs.push(performance.now());
    if (count < 4) throw new Error("no database");
    return count;
  };
  await take(stream.liveQuery({ keys: ["k"], run, minIntervalMs: 30, onError: () => true }), 2);
  expect(startsMs).toHaveLength(5);
  expect(startsMs.slice(1).every((startMs, index) => startMs - (startsMs[index] ?? 0) >= 29)).toBe(true);
});

test("after an abort nothing runs, and a result that is there is not given out", async () => {
  const reason = new Error("no longer needed");
  const abort = new AbortController();
  const keys = (): string[] => {
    abort.abort(reason);
    return ["k"];
  };
  const query = scripted(parked).stream.liveQuery({ keys, run: () => 1, signal: abort.signal });
  expect(await rejection(query.next())).toBe(reason);

  const late = new AbortController();
  const touched = scripted((_, count) => {
    late.abort(reason);
    return told(true, count);
  });
  let runs = 0;
  const run = (): number => ++runs;
  expect(await rejection(take(touched.stream.liveQuery({ keys: ["k"], run, signal: late.signal }), 2))).toBe(reason);
  expect(runs).toBe(1);
});

test("a server that answers at once and says nothing is not asked in a tight loop", async () => {
  const retry = { maxAttempts: 3, baseDelayMs: 20, maxDelayMs: 40 };
  // Each time five such answers: after the second and those that follow it 10, 20, 20 and 20 ms.
  const silent = scripted((_, count) => (count < 6 ? told(false, 0) : told(true, 1)), { retry, random: () => 0 });
  const lost = scripted(() => stale("1:0"), { retry, random: () => 0 });
  for (const [stream, results] of [
    [silent.stream, 2],
    [lost.stream, 6],
  ] as const) {
    const startMs = performance.now();
    await take(stream.liveQuery({ keys: ["k"], run: () => 1 }), results);
    expect(performance.now() - startMs).toBeGreaterThanOrEqual(65);
  }
});
