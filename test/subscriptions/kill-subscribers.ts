/**
 * Everybody around a server that is killed: writers, receivers of webhooks, and workers that follow wake streams. All of them are moody,
 * until they are told to be well: they fail, die, are late, do half of their work. What they do is in the ledger.
 */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { once } from "node:events";
import { encodeOffset } from "../../src/protocol/offset.ts";
import type { SeededRandom } from "../support/random.ts";
import { clockPast } from "../support/wait.ts";
import type { Ack, DeliveryLedger, Subscriber, ToldStream } from "./delivery-ledger.ts";
import { epochOf, seqOf } from "./subscription-model.ts";

export const JSON_HEADERS = { "content-type": "application/json" };
const ASK_AGAIN_MS = 50;
const ANSWER_DEADLINE_MS = 5_000;
const POLL_DEADLINE_MS = 30_000;
/** In a row, so that no retry is scheduled further away than some seconds. */
const MAX_FAILURES_IN_A_ROW = 2;

export interface Surroundings {
  readonly ledger: DeliveryLedger;
  readonly random: SeededRandom;
  readonly stopping: AbortSignal;
  /** From now on everybody does what they should. */
  isWell: boolean;
  url: string;
}

interface Wake {
  readonly subscription_id: string;
  readonly wake_id: string;
  readonly generation: number;
  readonly streams: readonly ToldStream[];
}

/** The answer, or null when there is none: the server is down, or died meanwhile. */
export async function ask(
  method: string,
  url: string,
  { body, token, signal }: { body?: unknown; token?: string; signal?: AbortSignal } = {},
): Promise<{ readonly status: number; readonly headers: Headers; readonly json: unknown } | null> {
  const headers = { ...JSON_HEADERS, ...(token !== undefined && { authorization: `Bearer ${token}` }) };
  const content = body === undefined ? {} : { body: JSON.stringify(body) };
  try {
    const deadline = signal ?? AbortSignal.timeout(ANSWER_DEADLINE_MS);
    const response = await fetch(url, { method, headers, signal: deadline, ...content });
    const text = await response.text();
    return { status: response.status, headers: response.headers, json: text === "" ? null : JSON.parse(text) };
  } catch {
    // Nobody knows whether it was done.
    return null;
  }
}

/** Asks until there is an answer that says something about the request. */
export async function askUntilAnswered(
  around: Surroundings,
  method: string,
  path: string,
  body?: unknown,
): Promise<{ readonly status: number; readonly json: unknown }> {
  for (;;) {
    const answer = await ask(method, `${around.url}/v1/stream/${path}`, { body });
    if (answer !== null && answer.status !== 429 && answer.status !== 503) return answer;
    await clockPast(Date.now(), ASK_AGAIN_MS);
  }
}

/** Appends until it is stopped, to streams that nobody else writes; what is not answered is not sent again. */
export async function write(around: Surroundings, name: string, streams: readonly string[], known: Set<string>) {
  const { ledger, random, stopping } = around;
  for (let count = 0; !stopping.aborted && !around.isWell;) {
    const stream = streams[random.below(streams.length)] ?? "";
    const url = `${around.url}/v1/stream/${stream}`;
    if (!known.has(stream)) {
      const made = await ask("PUT", url);
      if (made !== null && made.status < 300) known.add(stream);
    }
    const ids = Array.from({ length: 1 + random.below(4) }, () => `${name}-${++count}`);
    const startedMs = performance.now();
    const answer = await ask("POST", url, { body: ids.map((id) => ({ id })) });
    if (answer !== null && answer.status < 300) ledger.appended({ stream, ids, startedMs });
    else ledger.count("appends without an answer");
    await clockPast(Date.now(), answer === null ? ASK_AGAIN_MS : 10 + random.below(40));
  }
}

/** Takes webhooks at `/<subscription>`. */
export async function receive(around: Surroundings): Promise<{ readonly url: string; close(): void }> {
  const server = createServer((request, response) => {
    response.on("error", () => request.destroy());
    answer(around, request, response).catch((cause: unknown) =>
      around.ledger.violated(`the receiver: ${String(cause)}`),
    );
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the receiver has no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

async function answer(around: Surroundings, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { ledger, random } = around;
  let text = "";
  try {
    for await (const chunk of request.setEncoding("utf8")) text += String(chunk);
  } catch {
    // The server died while it was sending.
    return;
  }
  if (text === "") return;
  const wake = JSON.parse(text) as Wake & { readonly callback_url: string; readonly callback_token: string };
  const subscriber = ledger.subscribers.get(wake.subscription_id);
  if (subscriber === undefined) return ledger.violated(`a webhook of ${wake.subscription_id}, which is not there`);
  ledger.noteWake(subscriber, wake.generation, wake.wake_id, subscriber.generation);
  ledger.count("webhooks");
  const say = (status: number, body: object): void => {
    response.writeHead(status, JSON_HEADERS).end(JSON.stringify(body));
  };
  const done = (): void => {
    const acks = tails(wake.streams);
    ledger.noteSaid(subscriber, acks);
    ledger.noteProcessed(subscriber, wake.streams, acks, false);
    say(200, { done: true });
  };
  const callBack = (acks: readonly Ack[], isDone: boolean): Promise<number | null> =>
    tellServer(around, subscriber, wake, acks, isDone, { url: wake.callback_url, token: wake.callback_token });

  const mood = around.isWell ? 99 : random.below(100);
  if (mood < 24 && subscriber.failuresInARow < MAX_FAILURES_IN_A_ROW) {
    subscriber.failuresInARow++;
    if (mood < 14) return say(500, { no: "not now" });
    request.socket.destroy();
    return;
  }
  subscriber.failuresInARow = 0;
  if (mood < 40) {
    // Longer than its lease, perhaps.
    await clockPast(Date.now(), random.below(2_500));
    return done();
  }
  if (mood < 50) {
    // It goes on to where the streams end by now, says so, and is done then.
    const ends = await Promise.all(pending(wake.streams).map(({ path }) => endOf(around, path)));
    await callBack(
      ends.filter((end) => end !== null),
      false,
    );
    return done();
  }
  if (mood < 80) {
    say(200, {});
    await clockPast(Date.now(), random.below(300));
    const acks = random.below(2) === 0 ? tails(wake.streams) : some(around, wake.streams);
    await callBack(acks, random.below(8) > 0);
    return;
  }
  done();
}

/** Follows the wake stream of a subscription, and works. */
export async function work(around: Surroundings, subscriber: Subscriber, worker: string): Promise<void> {
  const { ledger, stopping } = around;
  for (let offset = "-1"; !stopping.aborted;) {
    const url = `${around.url}/v1/stream/${subscriber.wakeStream ?? ""}?live=long-poll&offset=${offset}`;
    const signal = AbortSignal.any([stopping, AbortSignal.timeout(POLL_DEADLINE_MS)]);
    const news = await ask("GET", url, { signal });
    if (news === null || news.status >= 400) {
      if (news !== null && news.status !== 503) ledger.violated(`${worker} cannot follow: ${news.status}`);
      await clockPast(Date.now(), ASK_AGAIN_MS);
      continue;
    }
    offset = news.headers.get("stream-next-offset") ?? offset;
    const events = Array.isArray(news.json) ? (news.json as { subscription_id: string }[]) : [];
    if (events.some(({ subscription_id }) => subscription_id === subscriber.id))
      await claim(around, subscriber, worker);
  }
}

async function claim(around: Surroundings, subscriber: Subscriber, worker: string): Promise<void> {
  const { ledger, random } = around;
  const [floors, { generation }] = [subscriber.floors(), subscriber];
  const path = `__ds/subscriptions/${subscriber.id}`;
  const { status, json } = await askUntilAnswered(around, "POST", `${path}/claim`, { worker });
  if (status === 409) return ledger.count("claims in vain");
  if (status !== 200) return ledger.violated(`a claim of ${subscriber.id}: ${status} ${JSON.stringify(json)}`);
  const wake = json as Wake & { readonly token: string };
  if (subscriber.claimed.has(wake.generation)) ledger.violated(`${subscriber.id}: ${wake.wake_id} is claimed twice`);
  subscriber.claimed.add(wake.generation);
  ledger.noteWake(subscriber, wake.generation, wake.wake_id, generation);
  ledger.noteShown(subscriber, wake.streams, floors, "claimed");
  ledger.count("claims");

  const url = `${around.url}/v1/stream/${path}`;
  const to = { url: `${url}/ack`, token: wake.token };
  const mood = around.isWell ? 99 : random.below(100);
  if (mood < 8) return ledger.count("workers that died");
  if (mood < 16) {
    const { wake_id, generation: released } = wake;
    await ask("POST", `${url}/release`, { body: { wake_id, generation: released }, token: wake.token });
    return;
  }
  for (const stream of pending(wake.streams)) if (!(await readThrough(around, stream))) return;
  const tell = (acks: readonly Ack[], isDone: boolean): Promise<number | null> =>
    tellServer(around, subscriber, wake, acks, isDone, to);
  if (mood < 36) await tell(some(around, wake.streams), true);
  else if (mood < 50) {
    if ((await tell(some(around, wake.streams), false)) === 200) await tell(tails(wake.streams), true);
  } else await tell(tails(wake.streams), mood > 58);
}

/** Reads what is pending of a stream; false when the server does not answer. */
async function readThrough(around: Surroundings, stream: ToldStream): Promise<boolean> {
  const [from, to] = [seqOf(stream.acked_offset), seqOf(stream.tail_offset)];
  let offset = stream.acked_offset;
  for (let read = 0; read < to - from;) {
    const answer = await ask("GET", `${around.url}/v1/stream/${stream.path}?offset=${offset}`);
    if (answer === null) return false;
    const records = Array.isArray(answer.json) ? answer.json : [];
    if (answer.status !== 200 || records.length === 0) {
      around.ledger.violated(`${stream.path} has nothing from ${offset} to ${stream.tail_offset}: ${answer.status}`);
      return false;
    }
    read += records.length;
    offset = answer.headers.get("stream-next-offset") ?? offset;
  }
  return true;
}

/** An ack, with what it says noted before and what came of it after; the status, or null without an answer. */
async function tellServer(
  { ledger }: Surroundings,
  subscriber: Subscriber,
  { wake_id, generation, streams }: Wake,
  acks: readonly Ack[],
  done: boolean,
  to: { readonly url: string; readonly token: string },
): Promise<number | null> {
  ledger.noteSaid(subscriber, acks);
  const answered = await ask("POST", to.url, { body: { wake_id, generation, acks, done }, token: to.token });
  const status = answered?.status ?? null;
  if (status === null || status === 200) ledger.noteProcessed(subscriber, streams, acks, status === 200);
  else if (status !== 409 && status !== 429 && status !== 503)
    ledger.violated(`an ack of ${subscriber.id}: ${status} ${JSON.stringify(answered?.json)}`);
  ledger.count(`acks answered ${status ?? "not at all"}`);
  return status;
}

async function endOf({ url }: Surroundings, stream: string): Promise<Ack | null> {
  const head = await ask("HEAD", `${url}/v1/stream/${stream}`);
  const offset = head?.headers.get("stream-next-offset") ?? null;
  return offset === null ? null : { stream, offset };
}

function pending(streams: readonly ToldStream[]): ToldStream[] {
  return streams.filter(({ has_pending }) => has_pending);
}

function tails(streams: readonly ToldStream[]): Ack[] {
  return pending(streams).map(({ path, tail_offset }) => ({ stream: path, offset: tail_offset }));
}

/** A part of what is pending. */
function some({ random }: Surroundings, streams: readonly ToldStream[]): Ack[] {
  return pending(streams)
    .filter(() => random.below(3) > 0)
    .map(({ path, acked_offset, tail_offset }) => {
      const [from, to] = [seqOf(acked_offset), seqOf(tail_offset)];
      const seq = from + 1 + random.below(to - from);
      return { stream: path, offset: encodeOffset(epochOf(tail_offset), seq) };
    });
}
