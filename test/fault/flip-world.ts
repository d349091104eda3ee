/**
 * A data directory that has everything in it, and what a client sees of it. `buildWorld` fills one and kills its server;
 * `observe` asks a server the same questions each time, reads first, then what only a damaged memory of producers would get wrong.
 * The answers are comparable: nothing in them depends on the moment. `compare` judges a server against the truth.
 */

import { Database } from "bun:sqlite";
import { join } from "node:path";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";
import { systemClock } from "../../src/kit/clock.ts";
import { startServer } from "../support/server.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import { newSubscription, type SubscriptionShown } from "../support/subscription-client.ts";
import { clockPast } from "../support/wait.ts";

type At = { readonly url: string };

/** Of a record that lies in a file of its own. */
const HUGE_BYTES = 300_000;
/** Cold streams, small: their heads are a large share of the pages. */
const SMALL = 60;
/** Written again after everything was sealed, so that the log holds changes of known streams. */
const WARM = 6;
const SWEPT_MS = 2_500;
const HIGH_WATER_MARGIN_MS = 250;
/** Between two sets of appends: reads by time start here. */
const PAUSE_MS = 30;

export interface World {
  readonly dataDir: string;
  readonly questions: Questions;
}

export interface Questions {
  readonly names: readonly string[];
  /** Streams that are gone: they must stay gone. */
  readonly gone: readonly string[];
  readonly middle: string;
}

export interface Answer {
  readonly status: number;
  readonly headers: string;
  readonly body: string;
}

/** What was asked, and the answer; null when the connection broke. */
export type Observation = ReadonlyMap<string, Answer | null>;

const WAKES = "wakes";
const small = (index: number): string => `small/${String(index).padStart(3, "0")}`;

export async function buildWorld(dataDir: string): Promise<World> {
  const server = await startServer({ dataDir });
  const middle = await firstLife(server);
  await server.stop();
  await sealEverything(dataDir);
  const names = [
    ...Array.from({ length: SMALL }, (_, index) => small(index)),
    "bytes",
    "large",
    "huge",
    "forked",
    "fork",
    "fork/of/fork",
    "trimmed",
    "closed",
    "keyed",
    "view",
    "late",
  ];
  const second = await startServer({ dataDir });
  await secondLife(second);
  await clockPast(Date.now(), HIGH_WATER_MARGIN_MS);
  await second.kill("SIGKILL");
  return { dataDir, questions: { names, gone: ["gone", "never/was"], middle } };
}

async function firstLife(server: At): Promise<string> {
  for (let index = 0; index < SMALL; index++) {
    const stream = await newStream(server, small(index));
    for (const producer of ["a", "b", "c"]) {
      for (let seq = 0; seq < 2; seq++) await produce(server, small(index), producer, seq);
    }
    if (index % 4 === 0) await expectOk(stream.post(JSON.stringify({ index }), { "stream-seq": "5" }));
  }
  await expectOk((await newStream(server, "bytes", "text/plain")).post("some bytes"));
  const large = await newStream(server, "large");
  for (let n = 0; n < 12; n++) await expectOk(large.post(JSON.stringify({ n, pad: noise(1_500) })));
  const huge = await newStream(server, "huge");
  for (let n = 0; n < 2; n++) await expectOk(huge.post(JSON.stringify({ n, pad: noise(HUGE_BYTES) })));
  await forks(server);
  const middle = new Date((await clockPast(Date.now(), PAUSE_MS)) - PAUSE_MS / 2);
  await clockPast(middle.getTime(), PAUSE_MS);
  for (let n = 12; n < 16; n++) await expectOk(large.post(JSON.stringify({ n, pad: noise(1_500) })));
  await viewed(server);
  await trimmed(server);
  const closed = await newStream(server, "closed");
  await expectOk(closed.post("[1,2]"));
  await expectOk(closed.close());
  const keyed = await newStream(server, "keyed");
  for (let n = 0; n < 20; n++) await expectOk(keyed.post(String(n), { "stream-key": n % 2 === 0 ? "even" : "odd" }));
  await expectOk((await newStream(server, "gone")).post("1"));
  await expectOk(streamAt(server, "gone").delete());
  await newStream(server, WAKES);
  await newSubscription(server, "pull", { type: "pull-wake", streams: ["keyed"], wake_stream: WAKES });
  return middle.toISOString();
}

async function forks(server: At): Promise<void> {
  const source = await newStream(server, "forked");
  await expectOk(source.post("[1,2,3]"));
  const fork = await newStream(server, "fork", undefined, { headers: { "stream-forked-from": source.path } });
  await expectOk(source.post("[4]"));
  await expectOk(fork.post("[5]"));
  const again = await newStream(server, "fork/of/fork", undefined, { headers: { "stream-forked-from": fork.path } });
  await expectOk(again.post("[6]"));
}

async function viewed(server: At): Promise<void> {
  const view = await newStream(server, "view");
  await expectOk(
    call("POST", `${view.url}/_profile`, { body: JSON.stringify({ profile: { kind: "state-protocol" } }) }),
  );
  for (let n = 0; n < 40; n++) await expectOk(upsert(server, n));
  // Makes the view's rows, which are kept a little later.
  await expectOk(call("GET", `${view.url}/_view?limit=1000`));
}

async function trimmed(server: At): Promise<void> {
  const stream = await newStream(server, "trimmed", undefined, { headers: { "stream-retention": "max-bytes=4KiB" } });
  for (let n = 0; n < 40; n++) await expectOk(stream.post(JSON.stringify({ n, pad: noise(500) })));
  // A sweep a second; and the rows of views are kept.
  await clockPast(Date.now(), SWEPT_MS);
}

/** As the sealer would after a minute. Then all pages are in the database, and all of them in use: what is free hides no flip. */
async function sealEverything(directory: string): Promise<void> {
  const store = await SqliteStore.open({ directory, durability: "fsync", acceptLoss: false, clock: systemClock });
  await store.sealAll();
  await store.close();
  const db = new Database(join(directory, "log.db"), { strict: true });
  db.run("VACUUM");
  db.close();
}

async function secondLife(server: At): Promise<void> {
  for (let index = 0; index < WARM; index++) await produce(server, small(index), "a", 2);
  await produce(server, small(0), "new", 0);
  await expectOk((await newStream(server, "late")).post("[1,2,3]"));
  await expectOk(streamAt(server, "huge").post(JSON.stringify({ pad: noise(HUGE_BYTES) })));
  for (let n = 0; n < 10; n++) await expectOk(streamAt(server, "keyed").post(`"later ${n}"`));
  // Folds heads into their tables.
  await expectOk(call("GET", `${server.url}/v1/streams?limit=1000`));
  for (let index = 0; index < WARM; index++) await produce(server, small(index), "a", 3);
  for (let n = 0; n < 3; n++) await expectOk(upsert(server, n + 100));
}

function upsert(server: At, n: number): Promise<Response> {
  const record = { type: "t", key: `k${n % 25}`, value: { n }, headers: { operation: "upsert" } };
  return streamAt(server, "view").post(JSON.stringify(record));
}

function produced(server: At, name: string, producer: string, seq: number): Promise<Response> {
  const headers = { "producer-id": producer, "producer-epoch": "0", "producer-seq": String(seq) };
  return streamAt(server, name).post(JSON.stringify({ producer, seq }), headers);
}

async function produce(server: At, name: string, producer: string, seq: number): Promise<void> {
  await expectOk(produced(server, name, producer, seq));
}

async function expectOk(answer: Promise<Response>): Promise<void> {
  const response = await answer;
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${text}`);
}

/** Text that does not compress. */
function noise(length: number): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(length)))
    .toString("base64")
    .slice(0, length);
}

/** What of an answer does not depend on when workers were woken. */
const STEADY: readonly { readonly of: string; body(text: string): string }[] = [
  {
    of: "/v1/streams?",
    body: (text) => {
      const { streams } = JSON.parse(text) as { streams: { name: string }[] };
      return JSON.stringify(streams.filter(({ name }) => name !== WAKES));
    },
  },
  {
    of: "/subscriptions/",
    body: (text) => {
      const { id, type, wake_stream, lease_ttl_ms, created_at, streams } = JSON.parse(text) as SubscriptionShown;
      return JSON.stringify([id, type, wake_stream, lease_ttl_ms, created_at, streams.map(({ path }) => path)]);
    },
  },
];

/** The same questions in the same order; stops early when the server is gone. */
export async function observe(server: At, { names, gone, middle }: Questions): Promise<Observation> {
  const seen = new Map<string, Answer | null>();
  const ask = async (question: string, answer: Promise<Response>): Promise<void> => {
    const found = await answerOf(answer);
    const steady = STEADY.find(({ of }) => question.includes(of));
    const isTold = found === null || found.status !== 200 || steady === undefined;
    seen.set(question, isTold ? found : { ...found, body: steady.body(found.body) });
  };
  const get = (path: string): Promise<void> => ask(path, call("GET", server.url + path));
  await get("/v1/streams?limit=1000");
  await get("/v1/streams?limit=7&prefix=small");
  for (const name of [...names, ...gone]) {
    const stream = streamAt(server, name);
    await ask(`HEAD ${name}`, stream.head());
    await get(`${stream.path}?offset=-1`);
  }
  await get(`${streamAt(server, "large").path}?from=${middle}`);
  await get(`${streamAt(server, "keyed").path}?offset=-1&key=odd`);
  await get("/v1/stream/__ds/subscriptions/pull");
  await get(`${streamAt(server, "view").path}/_view?limit=1000`);
  await get(`${streamAt(server, "view").path}/_view?limit=1000#again`);
  for (const [index, name] of names.filter((known) => known.startsWith("small")).entries()) {
    const last = index < WARM ? 3 : 1;
    await ask(`again ${name}`, produced(server, name, "a", last));
    await ask(`again ${name} b`, produced(server, name, "b", 1));
    await ask(`next ${name}`, produced(server, name, "a", last + 1));
    await ask(`first ${name}`, produced(server, name, "other", 0));
    await ask(`read again ${name}`, call("GET", `${streamAt(server, name).url}?offset=-1`));
  }
  return seen;
}

/** Of the headers what a client relies on. */
const HEADERS = [
  "content-type",
  "stream-next-offset",
  "stream-closed",
  "stream-earliest-offset",
  "stream-up-to-date",
  "producer-epoch",
  "producer-seq",
  "producer-expected-seq",
];

async function answerOf(answer: Promise<Response>): Promise<Answer | null> {
  try {
    const response = await answer;
    const headers = HEADERS.map((name) => response.headers.get(name)).join("|");
    return { status: response.status, headers, body: await response.text() };
  } catch (cause) {
    if (cause instanceof Error) return null;
    throw cause;
  }
}

export interface Judgement {
  /** `error`: at least one answer named damage, and all others were right. */
  readonly kind: "equal" | "error" | "wrong";
  readonly detail: string;
}

const DAMAGE = /"code":"(records|stream|database)-damaged"/;
/** `mayEnd`: views that may answer 503. One that meets damage ends without telling what was damaged; its stream does tell. */
export function compare(truth: Observation, seen: Observation, mayEnd: RegExp = /_view\?/): Judgement {
  let error: string | null = null;
  for (const [question, expected] of truth) {
    const found = seen.get(question) ?? null;
    if (JSON.stringify(found) === JSON.stringify(expected)) continue;
    const isTold =
      found === null ||
      (question.startsWith("HEAD") && found.status === 500) ||
      (found.status >= 500 && (DAMAGE.test(found.body) || mayEnd.test(question)));
    if (!isTold) {
      return { kind: "wrong", detail: `${question}: ${shown(found, expected)} instead of ${shown(expected, found)}` };
    }
    error ??= `${question}: ${shown(found, expected)}`;
  }
  return error === null ? { kind: "equal", detail: "" } : { kind: "error", detail: error };
}

/** An answer from a little before where it begins to differ from the other. */
function shown(answer: Answer | null, other: Answer | null): string {
  if (answer === null) return "no answer";
  let at = 0;
  while (at < answer.body.length && answer.body[at] === other?.body[at]) at++;
  const from = Math.max(0, at - 30);
  return `${answer.status} ${answer.headers} ${from === 0 ? "" : "… "}${answer.body.slice(from, at + 150)}`;
}
