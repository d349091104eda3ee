/**
 * The loop of a worker against a small model of a subscription behind a `fetch` of our own: one wake at a time, generations, a
 * wake stream that can be waited on, and answers that can be replaced by whatever may go wrong.
 */

import { expect, test } from "bun:test";
import { clockPast, rejection, until, within } from "../../test/support/wait.ts";
import { BrokenAnswer, Refused, Unreachable } from "./client.ts";
import { connectSubscriptions, type Job, LeaseConflict, type WorkFailure, type WorkOptions } from "./subscriptions.ts";

type Call = "get" | "follow" | "claim" | "ack" | "release";
/** No connection, no answer, an answer that breaks off without an end, a refusal; or what the model's own answer waits for. */
type Mishap =
  | "lost"
  | "silent"
  | "stalled"
  | { readonly status: number; readonly code?: string; readonly retryAfter?: string }
  | (() => Promise<void>);

interface Seen {
  readonly call: Call;
  readonly body: { readonly acks?: readonly { stream: string; offset: string }[]; readonly done?: boolean };
}

const QUICK = { maxAttempts: 2, baseDelayMs: 1, maxDelayMs: 2 };

/** A subscription to the streams a and b. */
class ModelServer {
  readonly seen: Seen[] = [];
  /** Answers that replace those of the model, first come first served. */
  readonly mishaps: Partial<Record<Call, Mishap[]>> = {};
  /** Tail and acked, by stream. */
  readonly tails = new Map([
    ["a", 0],
    ["b", 0],
  ]);
  readonly acked = new Map([
    ["a", 0],
    ["b", 0],
  ]);
  leaseTtlMs = 600;
  wakeStream: string | null = "wakes";
  isClosed = false;
  wakesAreJson = true;
  held: number | null = null;
  #generation = 0;
  readonly #events: string[] = [];
  #waiting: (() => void)[] = [];

  /** Writes a record; nobody is woken while a claim is held. */
  append(stream: string): void {
    this.tails.set(stream, (this.tails.get(stream) ?? 0) + 1);
    if (this.held === null) this.wake();
  }

  wake(subscriptionId = "s"): void {
    this.tell(JSON.stringify({ type: "wake", subscription_id: subscriptionId, stream: "a", generation: 1, ts: 0 }));
  }

  tell(event: string): void {
    this.#events.push(event);
    for (const go of this.#waiting.splice(0)) go();
  }

  close(): void {
    this.isClosed = true;
    for (const go of this.#waiting.splice(0)) go();
  }

  calls(call: Call): Seen["body"][] {
    return this.seen.flatMap((seen) => (seen.call === call ? [seen.body] : []));
  }

  readonly fetch = async (url: string, { method, body, signal }: RequestInit): Promise<Response> => {
    const { pathname, searchParams } = new URL(url);
    const call: Call =
      pathname === "/v1/stream/wakes"
        ? "follow"
        : method === "GET"
          ? "get"
          : (pathname.slice("/v1/stream/__ds/subscriptions/s/".length) as Call);
    const sent = (typeof body === "string" ? JSON.parse(body) : {}) as Seen["body"];
    this.seen.push({ call, body: sent });
    signal?.throwIfAborted();
    const mishap = this.mishaps[call]?.shift();
    if (mishap === "lost") throw new TypeError("connection lost");
    if (mishap === "silent") return new Promise((_, reject) => whenAborted(signal, reject));
    if (mishap === "stalled") return stalled(signal);
    if (typeof mishap === "object") {
      const { status, code = "some-trouble", retryAfter } = mishap;
      const headers = retryAfter === undefined ? {} : { "retry-after": retryAfter };
      return Response.json({ error: { code, message: "scripted" } }, { status, headers });
    }
    await mishap?.();
    const answer = await this.#answer(call, searchParams, sent, signal ?? null);
    // A server does what it was asked for whether or not somebody still waits for it.
    signal?.throwIfAborted();
    return answer;
  };

  async #answer(call: Call, query: URLSearchParams, sent: Seen["body"], signal: AbortSignal | null): Promise<Response> {
    if (call === "follow") return this.#follow(query, signal);
    if (call === "get") return Response.json(this.#stored());
    if (call === "claim") return this.#claim();
    return this.#settle(call, sent);
  }

  async #follow(query: URLSearchParams, signal: AbortSignal | null): Promise<Response> {
    const offset = query.get("offset");
    const from = offset === "now" ? this.#events.length : Number(offset);
    if (query.get("live") !== null && from === this.#events.length && !this.isClosed) {
      await new Promise<void>((resolve, reject) => {
        this.#waiting.push(resolve);
        signal?.addEventListener("abort", () => reject(new Error("aborted")));
      });
    }
    const closed = this.isClosed ? { "stream-closed": "true" } : {};
    const headers = {
      "content-type": this.wakesAreJson ? "application/json" : "text/plain",
      "stream-up-to-date": "true",
      "stream-next-offset": String(this.#events.length),
      ...closed,
    };
    const found = this.#events.slice(from);
    return new Response(this.wakesAreJson ? `[${found.join(",")}]` : found.join("\n"), { headers });
  }

  #stored(): object {
    const wake = this.wakeStream === null ? {} : { wake_stream: this.wakeStream };
    return { id: "s", type: "pull-wake", lease_ttl_ms: this.leaseTtlMs, streams: [], ...wake };
  }

  #claim(): Response {
    const pending = [...this.tails].filter(([stream, tail]) => tail > (this.acked.get(stream) ?? 0));
    if (this.held !== null) return conflict("ALREADY_CLAIMED");
    if (pending.length === 0) return conflict("NO_PENDING_WORK");
    this.held = ++this.#generation;
    const streams = [...this.tails].map(([path, tail]) => ({
      path,
      link_type: "explicit",
      acked_offset: String(this.acked.get(path)),
      tail_offset: String(tail),
      has_pending: pending.some(([stream]) => stream === path),
    }));
    return Response.json({
      wake_id: "w",
      generation: this.held,
      token: `t${this.held}`,
      streams,
      lease_ttl_ms: this.leaseTtlMs,
    });
  }

  #settle(call: Call, { acks = [], done = false }: Seen["body"]): Response {
    if (this.held === null) return conflict("FENCED");
    for (const { stream, offset } of acks) this.acked.set(stream, Number(offset));
    if (call === "release" || done) this.held = null;
    const isPending = [...this.tails].some(([stream, tail]) => tail > (this.acked.get(stream) ?? 0));
    if (this.held === null && isPending) this.wake();
    return call === "release" ? new Response(null, { status: 204 }) : Response.json({ ok: true, next_wake: isPending });
  }
}

function whenAborted(signal: AbortSignal | null | undefined, then: (reason: Error) => void): void {
  signal?.addEventListener("abort", () => then(signal.reason as Error), { once: true });
}

/** An answer whose body begins and does not go on. */
function stalled(signal: AbortSignal | null | undefined): Response {
  const body = new ReadableStream<Uint8Array>({
    start: (controller) => {
      controller.enqueue(new TextEncoder().encode('{"'));
      whenAborted(signal, (reason) => controller.error(reason));
    },
  });
  return new Response(body, { headers: { "content-type": "application/json" } });
}

function conflict(code: string): Response {
  return Response.json({ error: { code } }, { status: 409 });
}

interface Work {
  readonly model: ModelServer;
  readonly jobs: Job[];
  readonly failures: WorkFailure[];
  readonly ended: ReturnType<ReturnType<typeof connectSubscriptions>["work"]>;
  stop(): Promise<void>;
}

function work(model: ModelServer, handle: WorkOptions["handle"] = () => undefined): Work {
  const abort = new AbortController();
  const jobs: Job[] = [];
  const failures: WorkFailure[] = [];
  const options = { url: "http://model", retry: QUICK, fetch: model.fetch, random: () => 0 };
  const client = connectSubscriptions(options);
  const ended = client.work("s", {
    worker: "ann",
    handle: (job) => {
      jobs.push(job);
      return handle(job);
    },
    onFailure: (failure) => failures.push(failure),
    signal: abort.signal,
  });
  return {
    model,
    jobs,
    failures,
    ended,
    stop: async () => {
      abort.abort(new Error("enough"));
      expect((await within("the worker's end", ended)).isOk()).toBe(true);
    },
  };
}

const during = ({ failures }: Work): string[] => failures.map((failure) => failure.during);
const idle = (model: ModelServer): Promise<true> =>
  until("the worker waits for a wake", () => model.seen.at(-1)?.call === "follow" && model.seen.length > 3);

test("what was pending before it came is claimed; what is new is handed over and acked", async () => {
  const model = new ModelServer();
  model.append("a");
  model.append("a");
  const running = work(model);
  await until("the job is acked", () => model.acked.get("a") === 2);
  await idle(model);
  model.append("b");
  await until("the next job is acked", () => model.acked.get("b") === 1);
  await running.stop();
  expect(running.jobs.map(({ streams }) => streams)).toEqual([
    [{ path: "a", linkType: "explicit", ackedOffset: "0", tailOffset: "2", hasPending: true }],
    [{ path: "b", linkType: "explicit", ackedOffset: "0", tailOffset: "1", hasPending: true }],
  ]);
  expect(running.jobs.map(({ subscriptionId, generation }) => [subscriptionId, generation])).toEqual([
    ["s", 1],
    ["s", 2],
  ]);
  expect(model.calls("ack").map(({ acks, done }) => [acks, done])).toEqual([
    [[{ stream: "a", offset: "2" }], true],
    [[{ stream: "b", offset: "1" }], true],
  ]);
  expect(running.failures).toEqual([]);
});

test("it claims for wakes of its own subscription only, and for what it cannot read; in vain is fine", async () => {
  const model = new ModelServer();
  const running = work(model);
  await idle(model);
  const follows = (count: number): Promise<true> =>
    until(`${count} steps`, () => model.calls("follow").length === count);
  model.wake("other");
  await follows(3);
  model.tell("null");
  await follows(4);
  expect(model.calls("claim").length).toBe(1);
  model.wake();
  await follows(5);
  expect(model.calls("claim").length).toBe(2);
  model.held = 7;
  model.wake();
  await follows(6);
  expect(model.calls("claim").length).toBe(3);
  await running.stop();
  expect([running.jobs, running.failures]).toEqual([[], []]);
});

test("a wake stream of bytes wakes too", async () => {
  const model = new ModelServer();
  model.wakesAreJson = false;
  const running = work(model);
  await idle(model);
  model.tell("of somebody else");
  model.append("a");
  await until("the job is acked", () => model.acked.get("a") === 1);
  await running.stop();
});

test("heartbeats keep the lease and carry progress once; the last ack says what the handler said", async () => {
  const model = new ModelServer();
  model.append("a");
  model.append("b");
  const { promise: mayEnd, resolve: end } = Promise.withResolvers<void>();
  const running = work(model, async (job) => {
    job.processed("a", "5");
    expect(() => job.processed("c", "1")).toThrow(TypeError);
    await mayEnd;
  });
  await until("three heartbeats", () => model.calls("ack").length >= 3);
  expect(model.calls("ack").slice(0, 3)).toMatchObject([{ acks: [{ stream: "a", offset: "5" }] }, { acks: [] }, {}]);
  end();
  await until("the end", () => model.held === null);
  await running.stop();
  expect(model.calls("ack").at(-1)).toMatchObject({
    acks: [
      { stream: "a", offset: "5" },
      { stream: "b", offset: "1" },
    ],
    done: true,
  });
  expect(running.failures).toEqual([]);
});

test("a job that fails is given back with what was done of it, and comes again", async () => {
  const model = new ModelServer();
  model.append("a");
  model.append("a");
  let tries = 0;
  const running = work(model, (job) => {
    if (++tries > 2) return;
    if (tries === 1) job.processed("a", "1");
    throw new Error(`try ${tries}`);
  });
  await until("the third try", () => tries === 3 && model.acked.get("a") === 2);
  await running.stop();
  expect(during(running)).toEqual(["handle", "handle"]);
  expect(running.failures.map(({ cause }) => cause instanceof Error && cause.message)).toEqual(["try 1", "try 2"]);
  expect(running.jobs.map(({ streams }) => streams[0]?.ackedOffset)).toEqual(["0", "1", "1"]);
  expect(model.seen.flatMap(({ call }) => (call === "ack" || call === "release" ? [call] : []))).toEqual([
    "ack",
    "release",
    "release",
    "ack",
  ]);
});

test("a heartbeat that is fenced stops the handler, and nothing is acked any more", async () => {
  const model = new ModelServer();
  model.append("a");
  model.mishaps.ack = [{ status: 409, code: "FENCED" }];
  const running = work(model, (job) => aborted(job));
  await until("the heartbeat", () => running.failures.length > 0);
  await until("it waits again", () => model.seen.at(-1)?.call === "follow");
  await running.stop();
  expect(during(running)).toEqual(["heartbeat"]);
  expect(LeaseConflict.is(running.jobs[0]?.signal.reason)).toBe(true);
  expect([model.calls("ack").length, model.calls("release").length]).toEqual([1, 0]);
});

test.each(["lost", "silent", "stalled"] as const)(
  "a handler knows that its lease is over when its time is, not later: heartbeats %s",
  async (mishap) => {
    const model = new ModelServer();
    model.append("a");
    const { promise: looked, resolve } = Promise.withResolvers<boolean>();
    const firstBeat = async (): Promise<void> => {
      // The lease that it begins began before: however busy the machine is, this timer is due after that of the lease.
      setTimeout(() => resolve(running.jobs[0]?.signal.aborted === true), model.leaseTtlMs + 20);
    };
    model.mishaps.ack = [firstBeat, ...Array.from({ length: 1000 }, () => mishap)];
    const running = work(model, async () => {
      await looked;
      // The connection is back.
      model.mishaps.ack = [];
    });
    expect(await within("the lease's end", looked)).toBe(true);
    // Nobody else has claimed: what was done counts.
    await until("it is acked", () => model.acked.get("a") === 1);
    await running.stop();
    expect(new Set(during(running))).toEqual(new Set(["heartbeat"]));
    expect(Unreachable.is(running.jobs[0]?.signal.reason)).toBe(true);
  },
);

test("a heartbeat that vanished costs no lease: the next one is not later for it", async () => {
  const model = new ModelServer();
  model.leaseTtlMs = 1200;
  model.append("a");
  model.mishaps.ack = ["silent"];
  const { promise: mayEnd, resolve: end } = Promise.withResolvers<void>();
  const running = work(model, () => mayEnd);
  await until("a lease and a heartbeat", () => model.calls("ack").length >= 4);
  expect(running.jobs[0]?.signal.aborted).toBe(false);
  end();
  await until("it is acked", () => model.held === null);
  await running.stop();
  expect(during(running)).toEqual(["heartbeat"]);
});

test("a lease begins with the claim that was granted, not with one that was put off", async () => {
  const model = new ModelServer();
  model.append("a");
  // Longer than the lease.
  model.mishaps.claim = [{ status: 429, retryAfter: "1" }];
  const { promise: mayEnd, resolve: end } = Promise.withResolvers<void>();
  const running = work(model, () => mayEnd);
  await until("a heartbeat", () => model.calls("ack").length === 1);
  expect(running.jobs[0]?.signal.aborted).toBe(false);
  end();
  await until("it is acked", () => model.held === null);
  await running.stop();
  expect(running.failures).toMatchObject([{ during: "claim", cause: { status: 429 } }]);
});

test("a claim and a last ack whose answers stall are given up after a lease, and tried again", async () => {
  const model = new ModelServer();
  model.leaseTtlMs = 150;
  model.append("a");
  model.mishaps.claim = ["stalled"];
  model.mishaps.ack = ["stalled"];
  const running = work(model);
  await until("the job is acked", () => model.acked.get("a") === 1);
  await running.stop();
  expect([during(running), running.jobs.length]).toEqual([["claim", "ack"], 2]);
});

test("a claim that is answered after the signal is given back", async () => {
  const model = new ModelServer();
  model.append("a");
  const { promise: mayAnswer, resolve: answer } = Promise.withResolvers<void>();
  model.mishaps.claim = [() => mayAnswer];
  const running = work(model);
  await until("the claim", () => model.calls("claim").length === 1);
  const stopped = running.stop();
  await clockPast(Date.now(), 20);
  answer();
  await stopped;
  expect([model.held, model.calls("release").length]).toEqual([null, 1]);
  expect([running.jobs, running.failures]).toEqual([[], []]);
});

test("a claim that nobody answers holds up the end for a lease at most, and is told of", async () => {
  const model = new ModelServer();
  model.leaseTtlMs = 150;
  model.mishaps.claim = ["silent"];
  const running = work(model);
  await until("the claim", () => model.calls("claim").length === 1);
  await running.stop();
  expect([during(running), model.calls("claim").length]).toEqual([["claim"], 1]);
});

test("offsets that the server does not take cost no lease; the last ack releases", async () => {
  const model = new ModelServer();
  model.append("a");
  const refusal = { status: 409, code: "INVALID_OFFSET" };
  model.mishaps.ack = [refusal];
  const { promise: mayEnd, resolve: end } = Promise.withResolvers<void>();
  let tries = 0;
  const running = work(model, async (job) => {
    if (++tries > 1) return;
    job.processed("a", "9");
    await mayEnd;
    model.mishaps.ack = [refusal];
  });
  await until("the heartbeat without offsets", () => model.calls("ack").length >= 2);
  expect(model.calls("ack").slice(0, 2)).toMatchObject([{ acks: [{ stream: "a", offset: "9" }] }, { acks: [] }]);
  end();
  await until("the second try", () => tries === 2 && model.held === null);
  await running.stop();
  expect(during(running)).toEqual(["ack", "ack"]);
  expect(model.calls("release").length).toBe(1);
});

test("many streams are acked in several requests, the last of which ends the claim", async () => {
  const model = new ModelServer();
  for (let at = 0; at < 250; at++) model.append(`s${at}`);
  const running = work(model);
  await until("all are acked", () => model.held === null && model.acked.size >= 252);
  await running.stop();
  expect(model.calls("ack").map(({ acks, done }) => [acks?.length, done ?? false])).toEqual([
    [100, false],
    [100, false],
    [50, true],
  ]);
});

test("a last ack that is fenced is not followed by a release", async () => {
  const model = new ModelServer();
  model.append("a");
  model.mishaps.ack = [{ status: 409, code: "FENCED" }];
  const running = work(model);
  await until("the ack", () => running.failures.length > 0);
  await until("it waits again", () => model.seen.at(-1)?.call === "follow");
  await running.stop();
  expect([during(running), model.calls("release").length]).toEqual([["ack"], 0]);
});

test("a claim is asked for until it is answered", async () => {
  const model = new ModelServer();
  model.append("a");
  model.mishaps.claim = ["lost", { status: 500 }, "lost"];
  const running = work(model);
  await until("the job is acked", () => model.acked.get("a") === 1);
  await running.stop();
  expect(during(running)).toEqual(["claim", "claim", "claim"]);
});

test("a lost connection, an overload and a trimmed wake stream are overcome, and what came meanwhile is claimed", async () => {
  const model = new ModelServer();
  model.mishaps.get = ["lost", "lost", { status: 503 }, { status: 503 }];
  // Found; then nobody there for a while, which following overcomes by itself; then trimmed.
  model.mishaps.follow = [{ status: 503 }, { status: 503 }];
  const running = work(model);
  await until("it follows", () => model.calls("claim").length === 1);
  model.mishaps.follow = ["lost", "lost", "lost", { status: 410 }];
  model.wake("other");
  await until("it follows again", () => model.calls("claim").length === 2);
  model.append("a");
  await until("the job is acked", () => model.acked.get("a") === 1);
  await running.stop();
  expect(during(running)).toEqual(["follow", "follow", "follow", "follow"]);
  expect(running.failures.at(-1)?.cause).toMatchObject({ status: 410 });
});

test.each([
  ["get", 404, "SUBSCRIPTION_NOT_FOUND"],
  ["get", 401, "TOKEN_INVALID"],
  ["follow", 404, "stream-not-found"],
  ["follow", 410, "gone"],
  ["claim", 403, "forbidden"],
] as const)("what waiting cannot cure ends it: %s %d", async (call, status, code) => {
  const model = new ModelServer();
  model.mishaps[call] = [{ status, code }];
  const running = work(model);
  const ended = await within("the end", running.ended);
  if (ended.isOk()) throw new Error("it ended well");
  expect(Refused.is(ended.error) && [ended.error.status, ended.error.code]).toEqual([status, code]);
  expect(running.failures).toEqual([]);
});

test("an answer that is not the protocol's ends it", async () => {
  const model = new ModelServer();
  const fetch = (): Promise<Response> => Promise.resolve(new Response("hello"));
  const { signal } = new AbortController();
  const options = { worker: "ann", handle: () => undefined, onFailure: () => undefined, signal };
  const ended = await connectSubscriptions({ url: "http://model", fetch }).work("s", options);
  expect(ended.isErr() && BrokenAnswer.is(ended.error)).toBe(true);
  expect(model.seen).toEqual([]);
});

test("a subscription without a wake stream is no work for a worker", async () => {
  const model = new ModelServer();
  model.wakeStream = null;
  expect(await rejection(work(model).ended)).toBeInstanceOf(TypeError);
});

test("the end of the wake stream ends the work", async () => {
  const model = new ModelServer();
  const running = work(model);
  await idle(model);
  model.close();
  expect((await within("the end", running.ended)).isOk()).toBe(true);
});

test("the signal reaches the handler, whose work is acked or given back before the end", async () => {
  for (const [handle, last] of [
    [(job: Job) => aborted(job).catch((cause: unknown) => expect(cause).toBe(job.signal.reason)), "ack"],
    [(job: Job) => aborted(job), "release"],
  ] as const) {
    const model = new ModelServer();
    model.append("a");
    const running = work(model, handle);
    await until("the job", () => running.jobs.length === 1);
    await running.stop();
    expect(model.seen.at(-1)?.call).toBe(last);
    expect([model.held, running.failures]).toEqual([null, []]);
  }
});

test("a signal that aborted before is respected", async () => {
  const model = new ModelServer();
  const running = work(model);
  await running.stop();
  expect([running.jobs, running.failures]).toEqual([[], []]);
});

/** Waits until the job is to end, then throws its reason, as whatever is given the signal does. */
function aborted({ signal }: Job): Promise<never> {
  return new Promise((_resolve, reject) =>
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true }),
  );
}
