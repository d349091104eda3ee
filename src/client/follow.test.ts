/**
 * Following a stream over interruptions: each record once, in order, whatever breaks. The other side is a small model of
 * a server behind a `fetch` of our own, so that answers can be cut at any byte.
 */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { rejection } from "../../test/support/wait.ts";
import { type ClientOptions, connect, type FollowOptions, Refused, Unreachable } from "./client.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** What happens to one answer. `cut`: it breaks off after that many bytes. */
type Mishap = { readonly cut: number } | { readonly status: number } | "unreachable" | null;

class ModelServer {
  readonly seen: URLSearchParams[] = [];
  readonly #records: string[];
  /** Appended one group per live request. */
  readonly #later: string[][];
  readonly #mishaps: Mishap[];
  readonly #contentType: string;

  constructor(contentType: string, records: string[], later: string[][], mishaps: Mishap[] = []) {
    this.#contentType = contentType;
    this.#records = [...records];
    this.#later = [...later];
    this.#mishaps = [...mishaps];
  }

  readonly fetch = (url: string): Promise<Response> => {
    const query = new URL(url).searchParams;
    this.seen.push(query);
    const mishap = this.#mishaps.shift() ?? null;
    if (mishap === "unreachable") return Promise.reject(new TypeError("connection refused"));
    if (mishap !== null && "status" in mishap) return Promise.resolve(new Response(null, { status: mishap.status }));
    const answer = query.get("live") === "sse" ? this.#sse(query) : this.#plain(query);
    return Promise.resolve(mishap === null ? answer.whole() : answer.cut(mishap.cut));
  };

  #plain(query: URLSearchParams): ModelAnswer {
    const live = query.get("live") !== null;
    const from = this.#position(query);
    if (live && from === this.#records.length) this.#records.push(...(this.#later.shift() ?? []));
    const found = this.#records.slice(from);
    const closed = this.#later.length === 0;
    const headers = {
      "content-type": this.#contentType,
      "stream-next-offset": `o${this.#records.length}`,
      "stream-up-to-date": "true",
      "stream-cursor": `c${this.seen.length}`,
      ...(closed ? { "stream-closed": "true" } : {}),
    };
    if (live && found.length === 0) return new ModelAnswer(204, headers, "");
    return new ModelAnswer(
      200,
      headers,
      this.#contentType === "application/json" ? `[${found.join(",")}]` : found.join(""),
    );
  }

  /** Two groups per connection, then the server ends it. */
  #sse(query: URLSearchParams): ModelAnswer {
    let from = this.#position(query);
    let text = ": hello\n\n";
    const base64 = !/^text|json/.test(this.#contentType);
    for (let group = 0; group < 2; group++) {
      if (from === this.#records.length) this.#records.push(...(this.#later.shift() ?? []));
      const found = this.#records.slice(from);
      from = this.#records.length;
      const joined = this.#contentType === "application/json" ? `[${found.join(",")}]` : found.join("");
      if (found.length > 0) text += `event: data\ndata: ${base64 ? btoa(joined) : joined}\n\n`;
      const closed = this.#later.length === 0;
      const control = { streamNextOffset: `o${from}`, ...(closed ? { streamClosed: true } : { upToDate: true }) };
      text += `event: control\ndata: ${JSON.stringify(control)}\n\n`;
      if (closed) break;
    }
    const headers = {
      "content-type": "text/event-stream",
      "stream-next-offset": `o${from}`,
      ...(base64 ? { "stream-sse-data-encoding": "base64" } : {}),
    };
    return new ModelAnswer(200, headers, text);
  }

  #position(query: URLSearchParams): number {
    const tail = query.get("tail");
    if (tail !== null) return Math.max(0, this.#records.length - Number(tail));
    const offset = query.get("offset") ?? "-1";
    if (offset === "now") return this.#records.length;
    return offset === "-1" ? 0 : Number(offset.slice(1));
  }
}

class ModelAnswer {
  readonly #status: number;
  readonly #headers: Record<string, string>;
  readonly #body: Uint8Array;

  constructor(status: number, headers: Record<string, string>, body: string) {
    this.#status = status;
    this.#headers = headers;
    this.#body = encoder.encode(body);
  }

  whole(): Response {
    return this.#respond((controller) => controller.close(), this.#body.length);
  }

  cut(at: number): Response {
    return this.#respond((controller) => controller.error(new TypeError("connection lost")), at);
  }

  /** In pieces of 3 bytes, so that values are cut everywhere. */
  #respond(end: (controller: ReadableStreamDefaultController<Uint8Array>) => void, limit: number): Response {
    let at = 0;
    const to = Math.min(limit, this.#body.length);
    const body = new ReadableStream<Uint8Array>({
      pull: (controller) => {
        if (at >= to) return end(controller);
        controller.enqueue(this.#body.slice(at, Math.min(at + 3, to)));
        at += 3;
      },
    });
    return new Response(this.#status === 204 ? null : body, { status: this.#status, headers: this.#headers });
  }
}

const QUICK: Partial<ClientOptions> = { retry: { maxAttempts: 3, baseDelayMs: 1, maxDelayMs: 1 } };

async function collect(
  model: ModelServer,
  options: FollowOptions = {},
): Promise<{ parts: string[]; last: string | null }> {
  const stream = connect({ url: "http://model", fetch: model.fetch, zstd: "native", ...QUICK }).stream("s");
  const parts: string[] = [];
  let last: string | null = null;
  for await (const delivery of stream.follow(options)) {
    for (const part of delivery.parts) parts.push(decoder.decode(part));
    last = delivery.nextOffset;
  }
  return { parts, last };
}

const JSON_TYPE = "application/json";

test.each(["auto", "long-poll", "sse"] as const)("%s: catches up, follows, ends with the stream", async (live) => {
  const model = new ModelServer(JSON_TYPE, ["1", '{"a": [2]}'], [["3"], ["4", '"5"'], ["6"]]);
  const { parts, last } = await collect(model, { live });
  expect(parts).toEqual(["1", '{"a": [2]}', "3", "4", '"5"', "6"]);
  expect(last).toBe("o6");
});

test("text and bytes travel unchanged over long-poll, bytes over SSE too", async () => {
  for (const [contentType, live] of [
    ["text/plain", "long-poll"],
    ["application/octet-stream", "long-poll"],
    ["application/octet-stream", "sse"],
  ] as const) {
    const { parts } = await collect(new ModelServer(contentType, ["one\r\n", "two"], [["three\r"], ["\n"]]), { live });
    expect(parts.join("")).toBe("one\r\ntwothree\r\n");
  }
});

test("now: only what comes later, from the tail as it was at the start", async () => {
  const model = new ModelServer(JSON_TYPE, ["1", "2"], [["3"], ["4"]]);
  expect((await collect(model, { offset: "now", live: "long-poll" })).parts).toEqual(["3", "4"]);
  expect(model.seen.map((query) => query.get("offset"))).toEqual(["now", "o2", "o3"]);
});

test("live requests echo the cursor and keep the key", async () => {
  const model = new ModelServer(JSON_TYPE, ["1"], [["2"], ["3"]]);
  await collect(model, { key: "k", live: "long-poll" });
  expect(model.seen.map(String)).toEqual([
    "key=k",
    "offset=o1&key=k&live=long-poll",
    "offset=o2&key=k&live=long-poll&cursor=c2",
  ]);
});

test("whatever breaks, each record comes once and in order", async () => {
  const mishap = fc.oneof(
    fc.record({ cut: fc.nat({ max: 60 }) }),
    fc.constantFrom<Mishap>("unreachable", { status: 503 }, null),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.jsonValue({ maxDepth: 1 }), { maxLength: 6 }),
      fc.array(fc.array(fc.jsonValue({ maxDepth: 1 }), { minLength: 1, maxLength: 3 }), { maxLength: 5 }),
      fc.array(mishap, { maxLength: 5 }),
      fc.constantFrom<readonly ["auto" | "long-poll" | "sse", boolean]>(
        ["auto", true],
        ["auto", false],
        ["long-poll", true],
        ["long-poll", false],
        ["sse", true],
      ),
      async (records, later, mishaps, [live, json]) => {
        const texts = records.map((value) => JSON.stringify(value));
        const groups = later.map((group) => group.map((value) => JSON.stringify(value)));
        const model = new ModelServer(json ? JSON_TYPE : "text/plain", texts, groups, [null, ...mishaps]);
        const { parts } = await collect(model, { live });
        const expected = [...texts, ...groups.flat()];
        if (json) expect(parts).toEqual(expected);
        else expect(parts.join("")).toBe(expected.join(""));
      },
    ),
    { numRuns: 60 },
  );
});

test("a catch-up that is cut and resumed skips exactly what was delivered", async () => {
  const model = new ModelServer(JSON_TYPE, ["10", "20", "30", "40"], [], [{ cut: 7 }, { cut: 11 }, null]);
  expect((await collect(model)).parts).toEqual(["10", "20", "30", "40"]);
  expect(model.seen.length).toBe(3);
});

test("a start told by count cannot be resumed inside its first answer, and says so", async () => {
  const model = new ModelServer("text/plain", ["aaaa", "bbbb"], [], [{ cut: 7 }]);
  expect(Unreachable.is(await rejection(collect(model, { tail: 2 })))).toBe(true);
});

test("without first contact it gives up after the policy's attempts", async () => {
  const model = new ModelServer(
    JSON_TYPE,
    [],
    [],
    Array.from({ length: 9 }, () => "unreachable" as const),
  );
  expect(Unreachable.is(await rejection(collect(model)))).toBe(true);
  expect(model.seen.length).toBe(3);
});

test("after contact it keeps trying until the time is up", async () => {
  const model = new ModelServer(
    JSON_TYPE,
    ["1"],
    [["2"], ["3"]],
    [null, ...Array.from({ length: 500 }, () => "unreachable" as const)],
  );
  expect(Unreachable.is(await rejection(collect(model, { giveUpAfterMs: 30 })))).toBe(true);
  expect(model.seen.length).toBeGreaterThan(4);
});

test("a refusal that waiting cannot cure ends it", async () => {
  expect(
    Refused.is(
      await rejection(
        collect(new ModelServer(JSON_TYPE, ["1"], [["2"]], [null, { status: 410 }]), { live: "long-poll" }),
      ),
    ),
  ).toBe(true);
});

test("an answer that is not what it says is told, not retried", async () => {
  const fetchOther = (): Promise<Response> =>
    Promise.resolve(new Response("[1,2", { headers: { "content-type": JSON_TYPE, "stream-next-offset": "o2" } }));
  const stream = connect({ url: "http://model", fetch: fetchOther, ...QUICK }).stream("s");
  expect((await rejection(stream.follow().next())).message).toContain("is not a JSON array");
});

test("a server that answers at once without progress is not hammered", async () => {
  const model = new ModelServer(JSON_TYPE, [], [[], [], [], [], [], []]);
  const startedMs = performance.now();
  const retry = { maxAttempts: 3, baseDelayMs: 10, maxDelayMs: 20 };
  const stream = connect({ url: "http://model", fetch: model.fetch, retry, random: () => 0 }).stream("s");
  for await (const delivery of stream.follow({ live: "long-poll" })) expect(delivery.parts).toEqual([]);
  expect(performance.now() - startedMs).toBeGreaterThan(30);
});

test("server-sent events that break after each greeting are given up in the end, as any failure", async () => {
  const control = `event: control\ndata: ${JSON.stringify({ streamNextOffset: "o0", upToDate: true })}\n\n`;
  let asked = 0;
  const fetchBroken = (url: string): Promise<Response> => {
    asked++;
    const headers = { "stream-next-offset": "o0", "stream-up-to-date": "true", "content-type": JSON_TYPE };
    if (!url.includes("live=sse")) return Promise.resolve(new Response("[]", { headers }));
    let isGreeted = false;
    const body = new ReadableStream({
      pull: (controller) => {
        if (isGreeted) return controller.error(new TypeError("reset"));
        isGreeted = true;
        controller.enqueue(new TextEncoder().encode(control));
      },
    });
    return Promise.resolve(new Response(body, { headers: { ...headers, "content-type": "text/event-stream" } }));
  };
  const stream = connect({ url: "http://model", fetch: fetchBroken, ...QUICK }).stream("s");
  const following = (async () => {
    for await (const { parts } of stream.follow({ live: "sse", giveUpAfterMs: 100 })) expect(parts).toEqual([]);
  })();
  expect((await rejection(following)).message).toContain("reset");
  expect(asked).toBeGreaterThan(2);
});

test("after an abort nothing more is given out of what came before it", async () => {
  const model = new ModelServer(JSON_TYPE, ["1"], [["2"], ["3"], ["4"]]);
  const abort = new AbortController();
  const stream = connect({ url: "http://model", fetch: model.fetch, ...QUICK }).stream("s");
  const seen: string[] = [];
  const following = (async () => {
    for await (const { parts } of stream.follow({ live: "sse", signal: abort.signal })) {
      for (const part of parts) seen.push(decoder.decode(part));
      if (seen.length === 2) abort.abort(new Error("enough"));
    }
  })();
  expect((await rejection(following)).message).toBe("enough");
  expect(seen).toEqual(["1", "2"]);
});

test("a mode that there is not is a TypeError", async () => {
  const stream = connect({ url: "http://model", ...QUICK }).stream("s");
  const live = "longpoll" as "long-poll";
  expect(await rejection(stream.follow({ live }).next())).toBeInstanceOf(TypeError);
});
