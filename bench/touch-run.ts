/**
 * Touch: how fast a change wakes the live query it concerns, how many changes a second become touches, and what a parked wait
 * costs in memory. Ten templates over four fields of one entity; each waiter waits for a row of its own; every change is an
 * update with its old value, so none is coarse. Works against every server that speaks the touch routes.
 */

import { KeyWriter, formatKey } from "../src/protocol/touch-keys.ts";
import { makeTemplate, type Template } from "../src/features/touch/template.ts";
import { HttpConnection } from "./http-connection.ts";
import type { RunningServer } from "./peers.ts";
import { memoryBytes } from "./process-usage.ts";
import { postRequest } from "./workloads.ts";

export interface TouchWakeFigures {
  readonly wakes: number;
  readonly ackToWakeP50Ms: number;
  readonly ackToWakeP99Ms: number;
  readonly sendToWakeP50Ms: number;
  readonly sendToWakeP99Ms: number;
  readonly maxMs: number;
  /** Woken, and nothing had changed. */
  readonly falseWakes: number;
  /** Changed, and not woken within LATE_MS. */
  readonly missed: number;
  /** Coarse changes as the server counts them; null when it does not. */
  readonly coarse: number | null;
}

export interface TouchRateFigures {
  readonly acceptedPerSecond: number;
  /** Accepted less what the server still had to look at, between the end of the warm-up and the end. */
  readonly derivedPerSecond: number;
  readonly touchesPerChange: number;
  readonly coarse: number | null;
}

export interface TouchMemoryFigures {
  readonly waiters: number;
  readonly bytesPerWait: number;
  readonly bytesPerLongPoll: number;
}

const STREAM = "/v1/stream/bench-touch";
const FIELDS = ["userId", "projectId", "status", "assignee"] as const;
const CHANGES_PER_SECOND = 100;
const LATE_MS = 5_000;
const RATE_CONNECTIONS = 16;
const CHANGES_PER_REQUEST = 100;
const RATE_WARMUP_MS = 1_000;
const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));

/** Each field alone and each pair: ten. */
const TEMPLATES: readonly Template[] = FIELDS.flatMap((first, index) =>
  [[first], ...FIELDS.slice(index + 1).map((second) => [first, second])].map((names) => {
    const fields = names.map((name) => ({ name, encoding: "string" as const }));
    const template = makeTemplate({ entity: "todo", fields }, writer);
    if (template === null) throw new Error("the templates are valid");
    return template;
  }),
);

export async function measureTouchWakes(
  { url }: RunningServer,
  waiters: number,
  durationMs: number,
): Promise<TouchWakeFigures> {
  const client = await TouchClient.open(url);
  const parked = new Map<number, Parked>();
  const latencies: number[] = [];
  const fromSend: number[] = [];
  let falseWakes = 0;
  let missed = 0;
  const run = { isOn: true };
  const loops = Array.from({ length: waiters }, async (_, waiter) => {
    const connection = await HttpConnection.open(url);
    let cursor = client.cursor;
    while (run.isOn) {
      const own: Parked = { changedAt: null, ackedAt: null };
      parked.set(waiter, own);
      const answer = await post(connection, url, `${STREAM}/touch/wait`, client.waitBody(waiter, cursor, 30_000));
      const at = performance.now();
      if (!run.isOn) break;
      // A peer cuts long waits: the same wait again.
      if (answer.status !== 200) continue;
      cursor = cursorOf(answer, cursor);
      if (answer.json["touched"] !== true) continue;
      if (own.changedAt === null) falseWakes++;
      else {
        // A wake may be here before the ack is: both leave the server in the same turn.
        latencies.push(Math.max(0, at - (own.ackedAt ?? at)));
        fromSend.push(at - own.changedAt);
      }
    }
    connection.close();
  });
  const appender = await HttpConnection.open(url);
  await Bun.sleep(1_500);
  const startMs = performance.now();
  const outstanding: Promise<void>[] = [];
  for (let change = 0; performance.now() - startMs < durationMs; change++) {
    const dueMs = startMs + (change * 1000) / CHANGES_PER_SECOND;
    await Bun.sleep(Math.max(0, dueMs - performance.now()));
    const waiter = (change * 7919) % waiters;
    const waiting = parked.get(waiter);
    if (waiting === undefined || waiting.changedAt !== null) continue;
    waiting.changedAt = performance.now();
    const answer = await post(appender, url, STREAM, JSON.stringify([changeOf(waiter, change)]));
    if (answer.status >= 300) throw new Error(`a change answered ${answer.status}`);
    waiting.ackedAt = performance.now();
    outstanding.push(
      Bun.sleep(LATE_MS).then(() => {
        if (parked.get(waiter) === waiting) missed++;
      }),
    );
  }
  await Promise.all(outstanding);
  run.isOn = false;
  const coarse = await client.coarse();
  client.close();
  appender.close();
  void Promise.allSettled(loops);
  const ofAck = quantilesOf(latencies);
  const ofSend = quantilesOf(fromSend);
  return {
    wakes: latencies.length,
    ackToWakeP50Ms: ofAck(0.5),
    ackToWakeP99Ms: ofAck(0.99),
    maxMs: ofAck(1),
    sendToWakeP50Ms: ofSend(0.5),
    sendToWakeP99Ms: ofSend(0.99),
    falseWakes,
    missed,
    coarse,
  };
}

function quantilesOf(values: readonly number[]): (q: number) => number {
  const sorted = values.toSorted((left, right) => left - right);
  return (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}

export async function measureTouchRate(
  { url }: RunningServer,
  waiters: number,
  durationMs: number,
): Promise<TouchRateFigures> {
  const client = await TouchClient.open(url);
  const run = { isOn: true };
  const idle = Array.from({ length: waiters }, async (_, waiter) => {
    const connection = await HttpConnection.open(url);
    let cursor = client.cursor;
    while (run.isOn && !connection.isClosed) {
      const answer = await post(connection, url, `${STREAM}/touch/wait`, client.waitBody(waiter, cursor, 120_000));
      if (answer.status === 200) cursor = cursorOf(answer, cursor);
    }
    connection.close();
  });
  await Bun.sleep(1_500);
  let accepted = 0;
  // Rows that nobody waits for: what is measured is the looking, not the answering.
  const bodies = Array.from({ length: 50 }, (_, body) =>
    JSON.stringify(Array.from({ length: CHANGES_PER_REQUEST }, (__, at) => changeOf(1e6 + body * 1000 + at, at))),
  );
  const endMs = performance.now() + RATE_WARMUP_MS + durationMs;
  const writers = Array.from({ length: RATE_CONNECTIONS }, async (_, index) => {
    const connection = await HttpConnection.open(url);
    for (let turn = index; performance.now() < endMs; turn++) {
      const answer = await post(connection, url, STREAM, bodies[turn % bodies.length] ?? "[]");
      if (answer.status < 300) accepted += CHANGES_PER_REQUEST;
      else await Bun.sleep(50);
    }
    connection.close();
  });
  // As the appends are measured: what the server compiles in its first second is not counted, for no server.
  await Bun.sleep(RATE_WARMUP_MS);
  const look = async () => {
    const { lagSourceOffsets, touchesEmitted } = await client.meta();
    const derived = accepted - Number(lagSourceOffsets ?? 0);
    return { atMs: performance.now(), accepted, derived, touches: Number(touchesEmitted ?? 0) };
  };
  const first = await look();
  await Promise.all(writers);
  const last = await look();
  run.isOn = false;
  const coarse = await client.coarse();
  client.close();
  void Promise.allSettled(idle);
  const seconds = (last.atMs - first.atMs) / 1000;
  const derived = Math.max(0, last.derived - first.derived);
  return {
    acceptedPerSecond: (last.accepted - first.accepted) / seconds,
    derivedPerSecond: derived / seconds,
    touchesPerChange: (last.touches - first.touches) / Math.max(1, derived),
    coarse,
  };
}

/** Resident memory of the server with so many parked waits, and with as many idle long-polls; each on a server of its own. */
export async function measureTouchMemory(
  start: () => Promise<RunningServer>,
  waiters: number,
): Promise<TouchMemoryFigures> {
  const bytes: number[] = [];
  for (const kind of ["wait", "long-poll"] as const) {
    const running = await start();
    const { url } = running;
    const client = await TouchClient.open(url);
    const connections: HttpConnection[] = [];
    const park = async (count: number): Promise<void> => {
      for (let index = 0; index < count; index++) {
        const connection = await HttpConnection.open(url);
        connections.push(connection);
        const target = `${STREAM}?offset=now&live=long-poll`;
        const request =
          kind === "wait"
            ? postRequest(url, `${STREAM}/touch/wait`, client.waitBody(connections.length, client.cursor, 120_000))
            : Buffer.from(`GET ${target} HTTP/1.1\r\nHost: ${new URL(url).host}\r\n\r\n`);
        connection.start(request, () => undefined);
        if (index % 100 === 99) await Bun.sleep(1);
      }
      await Bun.sleep(1_000);
    };
    // Warm first: the heap and the code it grows for at first are not the cost of a wait.
    await park(waiters / 10);
    const before = memoryBytes(running.pid).now;
    await park(waiters);
    bytes.push((memoryBytes(running.pid).now - before) / waiters);
    for (const connection of connections) connection.close();
    client.close();
    await running.stop();
  }
  const [bytesPerWait = NaN, bytesPerLongPoll = NaN] = bytes;
  return { waiters, bytesPerWait, bytesPerLongPoll };
}

/** An update of row `row`: what its waiter waits for stays, the title changes. */
function changeOf(row: number, turn: number): unknown {
  const template = TEMPLATES[row % TEMPLATES.length];
  const named: Record<string, string> = { userId: "-", projectId: "-", status: "-", assignee: "-" };
  template?.fields.forEach(({ name }, index) => (named[name] = index === 0 ? `w${row}` : "x"));
  const value = { id: `t${row}`, ...named, title: `title ${turn}` };
  const old = { ...value, title: `title ${turn - 1}` };
  return { type: "todo", key: value.id, value, old_value: old, headers: { operation: "update" } };
}

/** A wait under way, and the change that is to wake it. */
interface Parked {
  changedAt: number | null;
  ackedAt: number | null;
}

interface JsonAnswer {
  readonly status: number;
  readonly json: Readonly<Record<string, unknown>>;
}

function cursorOf({ json }: JsonAnswer, otherwise: string): string {
  const { cursor } = json;
  return typeof cursor === "string" ? cursor : otherwise;
}

async function exchange(connection: HttpConnection, request: Uint8Array): Promise<JsonAnswer> {
  let text = "";
  const { status } = await connection.exchange(request, (bytes) => (text += Buffer.from(bytes).toString()));
  return { status, json: text.startsWith("{") ? (JSON.parse(text) as JsonAnswer["json"]) : {} };
}

function post(connection: HttpConnection, url: string, target: string, body: string): Promise<JsonAnswer> {
  return exchange(connection, postRequest(url, target, body));
}

class TouchClient {
  readonly #connection: HttpConnection;
  readonly #url: string;
  cursor = "now";

  private constructor(connection: HttpConnection, url: string) {
    this.#connection = connection;
    this.#url = url;
  }

  /** A stream with touch and ten active templates. */
  static async open(url: string): Promise<TouchClient> {
    const client = new TouchClient(await HttpConnection.open(url), url);
    const host = new URL(url).host;
    const put = `PUT ${STREAM} HTTP/1.1\r\nHost: ${host}\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n`;
    await exchange(client.#connection, Buffer.from(put));
    await client.#ask(`${STREAM}/_profile`, { profile: { kind: "state-protocol", touch: { enabled: true } } });
    const templates = TEMPLATES.map(({ entity, fields }) => ({ entity, fields }));
    const { activated } = await client.#ask(`${STREAM}/touch/templates/activate`, { templates });
    if (!Array.isArray(activated) || activated.length !== TEMPLATES.length) throw new Error("templates were denied");
    client.cursor = cursorOf({ status: 200, json: await client.meta() }, "now");
    return client;
  }

  waitBody(waiter: number, cursor: string, timeoutMs: number): string {
    const template = TEMPLATES[waiter % TEMPLATES.length];
    if (template === undefined) throw new Error("there are templates");
    const args = template.fields.map((_, index) => (index === 0 ? `w${waiter}` : "x"));
    const key = formatKey(writer.watch(template.idWords, args));
    return JSON.stringify({ keys: [key], cursor, timeoutMs, templateIdsUsed: [template.id] });
  }

  async meta(): Promise<Readonly<Record<string, unknown>>> {
    const request = `GET ${STREAM}/touch/meta HTTP/1.1\r\nHost: ${new URL(this.#url).host}\r\n\r\n`;
    return (await exchange(this.#connection, Buffer.from(request))).json;
  }

  async coarse(): Promise<number | null> {
    const { coarseChanges } = await this.meta();
    return typeof coarseChanges === "number" ? coarseChanges : null;
  }

  close(): void {
    this.#connection.close();
  }

  async #ask(target: string, body: unknown): Promise<Readonly<Record<string, unknown>>> {
    const { status, json } = await post(this.#connection, this.#url, target, JSON.stringify(body));
    if (status >= 300) throw new Error(`${target} answered ${status}: ${JSON.stringify(json)}`);
    return json;
  }
}
