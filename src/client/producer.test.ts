/**
 * The producer against a small model of a server: what shares a request, what a repeat stores, who is fenced, and what
 * happens to those who wait when a request fails. The model keeps the protocol's rules for producers and nothing else.
 */

import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { rejection, until, within } from "../../test/support/wait.ts";
import {
  type ClientOptions,
  connect,
  localStorageEpochs,
  type ProducerOptions,
  Refused,
  Unreachable,
} from "./client.ts";
import type { StreamProducer } from "./producer.ts";

/**
 * What happens to one request: it never arrives, its answer is lost, it arrives with one of the next, it is refused, or it is held
 * until told.
 */
type Mishap =
  | "lost-request"
  | "lost-answer"
  | { readonly late: number }
  | { readonly status: number; readonly headers?: Record<string, string> }
  | { readonly until: Promise<void> }
  | null;

interface Seen {
  readonly epoch: number;
  readonly seq: number;
  readonly key: string | null;
  readonly body: string;
}

/** The rules of PROTOCOL §5.2.1 for one stream. */
class ModelServer {
  readonly seen: Seen[] = [];
  readonly stored: unknown[] = [];
  readonly producers = new Map<string, { epoch: number; lastSeq: number }>();
  readonly mishaps: Mishap[] = [];
  /** The producer, epoch and seq that closed the stream. */
  closedBy: string | null = null;
  /** A record that no profile would take. */
  bad: unknown = "bad";
  /** Requests on their way, and before how many others they arrive. */
  #late: { others: number; readonly init: RequestInit }[] = [];

  readonly fetch = async (_url: string, init: RequestInit): Promise<Response> => {
    for (const late of this.#late)
      if (--late.others === 0) this.#append(new Headers(late.init.headers), late.init.body);
    const mishap = this.mishaps.shift() ?? null;
    if (mishap === "lost-request") throw new TypeError("connection refused");
    if (mishap !== null && typeof mishap === "object" && "late" in mishap) {
      this.#late.push({ others: mishap.late, init });
      throw new TypeError("connection lost");
    }
    if (mishap !== null && typeof mishap === "object" && "until" in mishap) await mishap.until;
    init.signal?.throwIfAborted();
    if (mishap !== null && typeof mishap === "object" && "status" in mishap) {
      return new Response("trouble", mishap);
    }
    const answer = this.#append(new Headers(init.headers), init.body);
    if (mishap === "lost-answer") throw new TypeError("connection lost");
    return answer;
  };

  #append(headers: Headers, sent: RequestInit["body"]): Response {
    const id = headers.get("producer-id") ?? "";
    const [epoch, seq] = [Number(headers.get("producer-epoch")), Number(headers.get("producer-seq"))];
    const body = sent instanceof Uint8Array ? new TextDecoder().decode(sent) : typeof sent === "string" ? sent : "";
    const isProbe = seq === Number.MAX_SAFE_INTEGER;
    if (!isProbe) this.seen.push({ epoch, seq, key: headers.get("stream-key"), body });
    const claim = `${id} ${epoch} ${seq}`;
    if (this.closedBy === claim) return answer(204, null, { "stream-closed": "true" });
    if (this.closedBy !== null) return answer(409, "stream-closed", { "stream-closed": "true" });
    const known = this.producers.get(id);
    if (known !== undefined && epoch < known.epoch) {
      return answer(403, "producer-stale-epoch", { "producer-epoch": String(known.epoch) });
    }
    if (known !== undefined && epoch > known.epoch && seq !== 0) return answer(400, "producer-epoch-start");
    const lastSeq = known?.epoch === epoch ? known.lastSeq : -1;
    if (seq <= lastSeq) return answer(204, null);
    if (seq > lastSeq + 1) return answer(409, "producer-gap", { "producer-expected-seq": String(lastSeq + 1) });
    const records = body === "" ? [] : headers.get("content-type") === "application/json" ? parsed(body) : [body];
    if (records.includes(this.bad)) return answer(400, "record-invalid");
    this.stored.push(...records);
    this.producers.set(id, { epoch, lastSeq: seq });
    if (headers.get("stream-closed") === "true") this.closedBy = claim;
    return answer(records.length > 0 ? 200 : 204, null);
  }
}

function parsed(body: string): unknown[] {
  const value: unknown = JSON.parse(body);
  return Array.isArray(value) ? value : [value];
}

function answer(status: number, code: string | null, headers: Record<string, string> = {}): Response {
  const body = code === null ? null : JSON.stringify({ error: { code, message: code } });
  return new Response(status === 204 ? null : body, { status, headers: { "stream-next-offset": "o", ...headers } });
}

const RETRY = { maxAttempts: 2, baseDelayMs: 1, maxDelayMs: 1 };

function producerOf(
  model: ModelServer,
  options: ProducerOptions = {},
  client: Partial<ClientOptions> = {},
): StreamProducer {
  return connect({ url: "http://model", fetch: model.fetch, retry: RETRY, ...client })
    .stream("s")
    .producer(options);
}

/** A request that waits until `go`. */
function held(): { readonly mishap: Mishap; readonly go: () => void } {
  let go: () => void = () => undefined;
  const mishap = { until: new Promise<void>((resolve) => (go = resolve)) };
  return { mishap, go };
}

/** The error that an append or flush was told. */
async function errorOf(told: Promise<{ isErr(): boolean; error?: unknown }>): Promise<unknown> {
  const settled = await told;
  expect(settled.isErr()).toBe(true);
  return settled.error;
}

describe("batches", () => {
  test("what is appended in one turn goes together, and what comes while that is under way is next", async () => {
    const model = new ModelServer();
    const { mishap, go } = held();
    model.mishaps.push(mishap);
    const producer = producerOf(model);
    const first = [1, [2], "3"].map((value) => producer.append(value));
    await until("the first request is under way", () => model.mishaps.length === 0);
    const later = [4, 5].map((value) => producer.append(value));
    go();
    for (const acked of await Promise.all([...first, ...later])) {
      expect(acked.unwrap()).toEqual({ nextOffset: "o", duplicate: false, closed: false });
    }
    expect(model.seen.map(({ seq, body }) => [seq, body])).toEqual([
      [0, '[1,[2],"3"]'],
      [1, "[4,5]"],
    ]);
    expect((await producer.close()).isOk()).toBe(true);
  });

  test("have at most so many records and bytes; a larger record travels alone", async () => {
    const model = new ModelServer();
    const producer = producerOf(model, { maxBatchRecords: 3, maxBatchBytes: 20 });
    for (const value of [1, 2, 3, 4, "x".repeat(50), "äöü", "äöü", "z"]) void producer.append(value);
    (await producer.flush()).unwrap();
    expect(model.seen.map(({ body }) => body)).toEqual([
      "[1,2,3]",
      "[4]",
      `["${"x".repeat(50)}"]`,
      '["äöü","äöü"]',
      '["z"]',
    ]);
  });

  test("are of one key", async () => {
    const model = new ModelServer();
    const producer = producerOf(model);
    for (const key of ["a", "a", "b", "a"]) void producer.append(key, { key });
    void producer.append(0);
    (await producer.flush()).unwrap();
    expect(model.seen.map(({ key, body }) => [key, body])).toEqual([
      ["a", '["a","a"]'],
      ["b", '["b"]'],
      ["a", '["a"]'],
      [null, "[0]"],
    ]);
  });

  test("of text or bytes are single records, copied when they are appended", async () => {
    const model = new ModelServer();
    const producer = producerOf(model, { contentType: "text/plain" });
    const bytes = new TextEncoder().encode("two");
    void producer.append("one");
    void producer.append(bytes);
    bytes.fill(0);
    (await producer.flush()).unwrap();
    expect(model.stored).toEqual(["one", "two"]);
    expect((await rejection(producer.append({}))).message).toContain("text or bytes");
  });

  test("linger when told to, until they are full or flushed", async () => {
    const model = new ModelServer();
    const producer = producerOf(model, { lingerMs: 60_000, maxBatchRecords: 2 });
    void producer.append(1);
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(model.seen).toEqual([]);
    (await producer.append(2)).unwrap();
    void producer.append(3);
    (await producer.flush()).unwrap();
    expect(model.seen.map(({ body }) => body)).toEqual(["[1,2]", "[3]"]);
  });

  test("linger no longer than an abort, and not after it", async () => {
    const abort = new AbortController();
    const producer = producerOf(new ModelServer(), { lingerMs: 60_000, signal: abort.signal });
    const lingering = producer.append(1);
    abort.abort(new Error("enough"));
    expect((await within("the end of the linger time", rejection(lingering))).message).toBe("enough");
    expect((await within("an append after it", rejection(producer.append(2)))).message).toBe("enough");
  });

  test("do not linger where the queue has no room for more", async () => {
    const model = new ModelServer();
    const producer = producerOf(model, { lingerMs: 60_000, maxQueueBytes: 1_000 });
    const values = Array.from({ length: 40 }, (_, at) => `${at}`.padEnd(100));
    for (const value of values) {
      await within("room in the queue", producer.ready());
      void producer.append(value);
    }
    (await producer.flush()).unwrap();
    expect(model.stored).toEqual(values);
  });

  test("wait in a queue of bounded bytes for those who ask", async () => {
    const model = new ModelServer();
    const { mishap, go } = held();
    model.mishaps.push(mishap);
    const producer = producerOf(model, { maxQueueBytes: 10 });
    await producer.ready();
    void producer.append("x".repeat(20));
    let isReady = false;
    const room = producer.ready().then(() => (isReady = true));
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(isReady).toBe(false);
    go();
    await room;
    expect(model.stored).toEqual(["x".repeat(20)]);
  });
});

describe("a full queue", () => {
  test("fails what comes on top, which flush tells; what waits is stored, and then there is room again", async () => {
    const model = new ModelServer();
    const { mishap, go } = held();
    model.mishaps.push(mishap);
    const producer = producerOf(model, { maxQueueBytes: 1_000 });
    const underWay = producer.append("u".repeat(100));
    await new Promise((resolve) => setTimeout(resolve, 5));
    const waiting = Array.from({ length: 7 }, () => producer.append("w".repeat(990)));
    const refused = [producer.append("r"), producer.append("r")];
    for (const one of refused) expect(await rejection(one)).toBeInstanceOf(RangeError);
    go();
    for (const one of [underWay, ...waiting]) (await one).unwrap();
    expect((await rejection(producer.flush())).message).toMatch(/queue is full/);
    (await producer.append("later")).unwrap();
    (await producer.flush()).unwrap();
    expect(model.stored).toEqual(["u".repeat(100), ...waiting.map(() => "w".repeat(990)), "later"]);
  });

  test("is also one of many small records", async () => {
    const model = new ModelServer();
    const { mishap, go } = held();
    model.mishaps.push(mishap);
    const producer = producerOf(model, { maxQueueBytes: 1_000 });
    // Nobody waits for them, and no rejection is without an owner.
    for (let n = 0; n < 100; n++) void producer.append(n);
    go();
    expect(await rejection(producer.flush())).toBeInstanceOf(RangeError);
    expect(model.stored.length).toBeLessThan(50);
    (await producer.close()).unwrap();
  });
});

describe("an unclear outcome", () => {
  test("is repeated with the same seq until it is clear, and stored once", async () => {
    const model = new ModelServer();
    model.mishaps.push("lost-answer", { status: 502 }, "lost-request", {
      status: 429,
      headers: { "retry-after": "0" },
    });
    const producer = producerOf(model);
    expect((await producer.append("a")).unwrap().duplicate).toBe(true);
    (await producer.append("b")).unwrap();
    expect(model.stored).toEqual(["a", "b"]);
    expect(model.seen.map(({ seq }) => seq)).toEqual([0, 0, 1]);
  });

  test("is given up in the end, with all that waits; then a new epoch begins, which fences what is still on its way", async () => {
    let nowMs = 0;
    const clock = { nowMs: () => nowMs, monotonicMs: () => (nowMs += 400) };
    const model = new ModelServer();
    model.mishaps.push("lost-request", "lost-answer", "lost-request");
    const producer = producerOf(model, { giveUpAfterMs: 1000, maxBatchRecords: 1 }, { clock });
    const both = [producer.append("a"), producer.append("b")];
    for (const acked of both) expect(Unreachable.is(await errorOf(acked))).toBe(true);
    expect(Unreachable.is(await errorOf(producer.flush()))).toBe(true);
    expect((await producer.append("c")).unwrap().duplicate).toBe(false);
    expect(model.stored).toEqual(["a", "c"]);
    const [first, last] = [model.seen[0], model.seen.at(-1)];
    expect(last).toMatchObject({ seq: 0, epoch: (first?.epoch ?? NaN) + 1 });
    expect((await producer.flush()).isOk()).toBe(true);
  });

  test("never stores twice or loses, whatever happens to requests, and of bad records none but those", async () => {
    const late = [1, 2, 5].map((others) => ({ late: others }));
    const known: Mishap[] = ["lost-request", "lost-answer", { status: 500 }, { status: 503 }, null];
    const mishaps = fc.constantFrom<Mishap>(...known, ...late);
    await fc.assert(
      fc.asyncProperty(
        fc.array(mishaps, { maxLength: 30 }),
        fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 8 }),
        fc.boolean(),
        fc.uniqueArray(fc.nat(20), { maxLength: 2 }),
        async (planned, groups, named, bad) => {
          const model = new ModelServer();
          model.mishaps.push(...planned);
          const producer = producerOf(model, named ? { id: "p" } : {}, { retry: { ...RETRY, baseDelayMs: 0 } });
          const values: unknown[] = [];
          for (const group of groups) {
            for (let more = group; more > 0; more--) {
              values.push(bad.includes(values.length) ? model.bad : values.length);
              void producer.append(values.at(-1));
            }
            await Promise.resolve();
          }
          expect((await producer.flush()).isErr()).toBe(values.includes(model.bad));
          (await producer.close({ closeStream: true })).unwrap();
          expect(model.stored).toEqual(values.filter((value) => value !== model.bad));
          expect(model.closedBy).toStartWith(producer.id);
        },
      ),
      { numRuns: 100 },
    );
  });
});

describe("a failure", () => {
  test.each<Mishap>([null, "lost-request", "lost-answer", { late: 2 }])(
    "of one record takes no other with it; the first request: %j",
    async (mishap) => {
      const model = new ModelServer();
      model.mishaps.push(mishap);
      const producer = producerOf(model);
      const values = [0, 1, 2, 3, "bad", 5, 6, 7, 8];
      const acks = await Promise.all(values.map((value) => producer.append(value)));
      expect(acks.map((acked) => acked.isOk())).toEqual(values.map((value) => value !== "bad"));
      expect(model.stored).toEqual([0, 1, 2, 3, 5, 6, 7, 8]);
      expect(await errorOf(producer.flush())).toMatchObject({ status: 400, code: "record-invalid" });
      expect((await producer.flush()).isOk()).toBe(true);
    },
  );

  test("of the kind that stays ends the producer and all that waits", async () => {
    for (const status of [404, 410, 409]) {
      const model = new ModelServer();
      model.mishaps.push({ status });
      const producer = producerOf(model, { maxBatchRecords: 1 });
      const both = [producer.append(1), producer.append(2)];
      for (const acked of both) expect(await errorOf(acked)).toMatchObject({ status });
      expect(await errorOf(producer.append(3))).toMatchObject({ status });
      expect(await errorOf(producer.close())).toMatchObject({ status });
      expect(model.stored).toEqual([]);
    }
  });

  test("of the credential fails all that waits, and passes with a new one", async () => {
    const model = new ModelServer();
    model.mishaps.push({ status: 401 });
    const producer = producerOf(model, { maxBatchRecords: 1 });
    const both = [producer.append(1), producer.append(2)];
    for (const acked of both) expect(await errorOf(acked)).toMatchObject({ status: 401 });
    (await producer.append(3)).unwrap();
    expect(model.seen).toMatchObject([{ seq: 0, body: "[3]" }]);
  });

  test("thrown by `auth` reaches each append and flush", async () => {
    const model = new ModelServer();
    let works = false;
    const auth = (): string => {
      if (works) return "Bearer t";
      throw new Error("no token");
    };
    const producer = producerOf(model, {}, { auth });
    expect((await rejection(producer.append(1))).message).toBe("no token");
    expect((await rejection(producer.flush())).message).toBe("no token");
    works = true;
    (await producer.append(2)).unwrap();
    expect(model.stored).toEqual([2]);
  });

  test("that nobody was told of is thrown when the producer is disposed of", async () => {
    const model = new ModelServer();
    const use = async (): Promise<void> => {
      await using producer = producerOf(model);
      void producer.append("bad");
    };
    expect(Refused.is(await rejection(use()))).toBe(true);
  });

  test("of the caller is a TypeError", async () => {
    const producer = producerOf(new ModelServer());
    const cycle: unknown[] = [];
    cycle.push(cycle);
    for (const value of [undefined, 1n, cycle]) {
      expect(await rejection(producer.append(value))).toBeInstanceOf(TypeError);
    }
    expect(await rejection(producer.append(1, { key: "a\nb" }))).toBeInstanceOf(TypeError);
    expect(await rejection(producer.flush())).toBeInstanceOf(TypeError);
    await producer.close();
    expect(await rejection(producer.append(1))).toBeInstanceOf(TypeError);
    expect(() => producerOf(new ModelServer(), { id: "" })).toThrow(TypeError);
    expect(() => producerOf(new ModelServer(), { epochs: { load: () => null, save: () => undefined } })).toThrow(
      TypeError,
    );
    for (const limit of ["maxBatchRecords", "maxBatchBytes", "maxQueueBytes"]) {
      for (const senseless of [0, -1, NaN]) {
        expect(() => producerOf(new ModelServer(), { [limit]: senseless })).toThrow(`${limit} `);
      }
    }
  });

  test("of the caller that nobody waits for is told by flush, and takes no other append with it", async () => {
    const model = new ModelServer();
    const producer = producerOf(model);
    const text = producerOf(model, { contentType: "text/plain" });
    // No rejection is without an owner.
    void producer.append("before");
    void producer.append(1n);
    void producer.append("after");
    void text.append({});
    expect((await rejection(producer.flush())).message).toMatch(/BigInt/);
    expect((await rejection(text.flush())).message).toMatch(/text or bytes/);
    (await producer.close()).unwrap();
    expect(model.stored).toEqual(["before", "after"]);
    void producer.append("too late");
    expect((await rejection(producer.flush())).message).toMatch(/closed/);
  });

  test("aborting rejects what waits with the reason, also later", async () => {
    const model = new ModelServer();
    const abort = new AbortController();
    model.mishaps.push("lost-request", "lost-request");
    const producer = producerOf(
      model,
      { signal: abort.signal },
      { retry: { ...RETRY, baseDelayMs: 60_000, maxDelayMs: 60_000 } },
    );
    const waiting = producer.append(1);
    await until("the first attempt failed", () => model.mishaps.length === 1);
    abort.abort(new Error("enough"));
    expect((await rejection(waiting)).message).toBe("enough");
    expect((await rejection(producer.append(2))).message).toBe("enough");
    expect((await rejection(producer.flush())).message).toBe("enough");
    expect(model.seen).toEqual([]);
  });
});

describe("a given id", () => {
  test("goes on in a higher epoch, saved before it is used, and fences the former one", async () => {
    const model = new ModelServer();
    const texts = new Map<string, string>();
    const storage = {
      getItem: (key: string) => texts.get(key) ?? null,
      setItem: (key: string, text: string) => {
        texts.set(key, text);
        expect(model.seen.every(({ epoch }) => epoch < Number(text))).toBe(true);
      },
    };
    const options = { id: "p", epochs: localStorageEpochs(storage) };
    const former = producerOf(model, options);
    (await former.append("a")).unwrap();
    const next = producerOf(model, options);
    (await next.append("b")).unwrap();
    expect(await errorOf(former.append("c"))).toMatchObject({ _tag: "Refused", status: 403 });
    expect(await errorOf(former.append("d"))).toMatchObject({ status: 403 });
    expect(model.stored).toEqual(["a", "b"]);
    expect([...texts.values()].map(Number)).toEqual([model.seen[1]?.epoch ?? NaN]);
  });

  test("that was used before is never taken for its own past, whatever the store remembers", async () => {
    for (const remembered of [null, 2, 3, 4]) {
      for (const mishap of [null, "lost-request", "lost-answer"] as const) {
        const model = new ModelServer();
        model.producers.set("p", { epoch: 3, lastSeq: 0 });
        // One for the question, one for the first append.
        model.mishaps.push(...(mishap === null ? [] : [mishap, null, mishap]));
        const epochs = { load: () => remembered, save: () => undefined };
        const producer = producerOf(model, { id: "p", epochs });
        expect((await producer.append("mine")).isOk()).toBe(true);
        expect(model.stored).toEqual(["mine"]);
        expect(model.seen[0]?.epoch).toBeGreaterThan(Math.max(3, remembered ?? 0));
      }
    }
  });

  test("of two that start at once, one is fenced and none loses in silence", async () => {
    const model = new ModelServer();
    const draws = [0.25, 0.75];
    const random = (): number => draws.shift() ?? 0.5;
    const both = [producerOf(model, { id: "p" }, { random }), producerOf(model, { id: "p" }, { random })];
    const acks = await Promise.all(both.map((producer, index) => producer.append(index)));
    const stored = acks.flatMap((acked, index) => (acked.isOk() && !acked.value.duplicate ? [index] : []));
    expect(model.stored).toEqual(stored);
    expect(acks.filter((acked) => acked.isOk() && acked.value.duplicate)).toEqual([]);
  });

  test("that was overtaken while a request was given up stays fenced", async () => {
    let nowMs = 0;
    const clock = { nowMs: () => nowMs, monotonicMs: () => (nowMs += 400) };
    const model = new ModelServer();
    const former = producerOf(model, { id: "p", giveUpAfterMs: 1 }, { clock });
    (await former.append("a")).unwrap();
    model.mishaps.push("lost-request");
    expect(Unreachable.is(await errorOf(former.append("b")))).toBe(true);
    const next = producerOf(model, { id: "p" });
    (await next.append("c")).unwrap();
    expect(await errorOf(former.append("d"))).toMatchObject({ status: 403 });
    (await next.append("e")).unwrap();
    expect(model.stored).toEqual(["a", "c", "e"]);
  });

  test("is asked for by a request that stores nothing, and a server without rules for seqs is found out", async () => {
    const fetch = (): Promise<Response> => Promise.resolve(answer(204, null));
    const producer = connect({ url: "http://model", fetch, retry: RETRY }).stream("s").producer({ id: "p" });
    expect(await errorOf(producer.append(1))).toMatchObject({ _tag: "BrokenAnswer" });
  });
});

test("text that is no epoch counts as none", () => {
  for (const text of ["", "x", "-1", "1.5", "9".repeat(40)]) {
    expect(localStorageEpochs({ getItem: () => text, setItem: () => undefined }).load("p")).toBeNull();
  }
});
