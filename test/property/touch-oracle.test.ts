/**
 * Touch against a naive oracle: random changes, templates, waits, gaps, restarts, lag and overflow; after every step no client is
 * parked that a change concerned, and a client that was woken was woken by something: a change that concerns its query, or
 * one that its record leaves open. A failure prints its seed; `FC_SEED` runs it again.
 */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { Engine } from "../../src/engine/engine.ts";
import { stateProtocol } from "../../src/features/state-protocol/index.ts";
import { KeyWriter, keyIdOf } from "../../src/protocol/touch-keys.ts";
import type { Durable } from "../../src/features/touch/templates.ts";
import { Touch, TOUCH_OFF } from "../../src/features/touch/touch.ts";
import type { TouchStream, WaitAnswer } from "../../src/features/touch/touch-stream.ts";
import { nextTurn } from "../../src/kit/turn.ts";
import { MemoryStore } from "../../src/storage/memory/memory-store.ts";
import {
  type Change,
  concerns,
  isCoarse,
  keyOf,
  type Query,
  query,
  recordOf,
  SPECS,
  templatesOf,
  type Wish,
  wish,
  World,
} from "./touch-world.ts";

const SEQUENCES = Number(process.env["FC_RUNS"] ?? 10_000);
const seed = Number(process.env["FC_SEED"] ?? Date.now() % 2 ** 31);
const REPLAY_RECORDS = 40;
const LAG_MARK = 6;
const CLIENTS = 4;

type Naming = "named" | "named-ids" | "unnamed";

interface ClientPlan {
  readonly queries: readonly Query[];
  readonly naming: Naming;
}

type Step =
  | { readonly kind: "append"; readonly wishes: readonly Wish[] }
  | { readonly kind: "reset" | "foreign" | "restart" | "recreate" | "settle" }
  | { readonly kind: "activate"; readonly spec: number }
  | { readonly kind: "wait" | "poll" | "abort"; readonly client: number }
  | { readonly kind: "advance"; readonly ms: number };

const client: fc.Arbitrary<ClientPlan> = fc.record({
  queries: fc.array(query, { minLength: 1, maxLength: 2 }),
  naming: fc.constantFrom<Naming>("named", "named", "named-ids", "unnamed"),
});
const clientNo = fc.nat(CLIENTS - 1);
const only = (kind: "reset" | "foreign" | "restart" | "recreate" | "settle") => fc.constant<Step>({ kind });

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({ kind: fc.constant("append" as const), wishes: fc.array(wish, { maxLength: 3 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("append" as const),
      wishes: fc.array(wish, { minLength: 10, maxLength: 60 }),
    }),
  },
  { weight: 10, arbitrary: fc.record({ kind: fc.constant("wait" as const), client: clientNo }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("poll" as const), client: clientNo }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("abort" as const), client: clientNo }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("activate" as const), spec: fc.nat(SPECS.length - 1) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("advance" as const),
      ms: fc.constantFrom(1_000, 31_000, 61_000, 130_000, 3_700_000),
    }),
  },
  { weight: 1, arbitrary: only("reset") },
  { weight: 1, arbitrary: only("foreign") },
  { weight: 2, arbitrary: only("restart") },
  { weight: 1, arbitrary: only("recreate") },
  { weight: 3, arbitrary: only("settle") },
);

/** One record of the stream as the oracle sees it; `loose`: it may wake anybody. */
interface Event {
  readonly epoch: number;
  readonly seq: number;
  readonly change: Change | null;
  readonly loose: boolean;
}

interface Client extends ClientPlan {
  naming: Naming;
  cursor: { epoch: number; seq: number };
  wait: { readonly since: number; readonly exact: boolean; readonly abort: AbortController } | null;
}

interface Tally {
  touched: number;
  untouched: number;
  stale: number;
  parkedChecks: number;
}

test(`no wake is missed and none is false, in ${SEQUENCES} sequences (seed ${seed})`, async () => {
  const tally: Tally = { touched: 0, untouched: 0, stale: 0, parkedChecks: 0 };
  await fc.assert(
    fc.asyncProperty(
      fc.array(client, { minLength: CLIENTS, maxLength: CLIENTS }),
      fc.array(step, { minLength: 5, maxLength: 30 }),
      fc.record({
        slow: fc.boolean(),
        journalEntries: fc.constantFrom(3, 20, 100_000),
        maxTemplates: fc.constantFrom(1, 2, 256),
        skipBefore: fc.constantFrom(false, false, false, true),
      }),
      async (plans, steps, setting) => {
        const run = new Run(plans, setting, tally);
        await run.start();
        for (const one of steps) await run.take(one);
        await run.finish();
      },
    ),
    { seed, numRuns: SEQUENCES, endOnFailure: false },
  );
  console.log(`touch oracle: seed ${seed}, ${JSON.stringify(tally)}`);
  expect(tally.touched).toBeGreaterThan(SEQUENCES / 2);
  expect(tally.parkedChecks).toBeGreaterThan(SEQUENCES);
}, 600_000);

interface Setting {
  readonly slow: boolean;
  readonly journalEntries: number;
  readonly maxTemplates: number;
  readonly skipBefore: boolean;
}

class Run {
  readonly #time = { ms: 1_000_000 };
  readonly #writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));
  readonly #templates = templatesOf(this.#writer);
  readonly #setting: Setting;
  readonly #tally: Tally;
  readonly #store: MemoryStore;
  readonly #clients: Client[];
  readonly #events: Event[] = [];
  readonly #world = new World();
  /** Found while answers came in. */
  readonly #failures: unknown[] = [];
  #engine: Engine;
  #touch: Touch;
  #epoch = 0;
  #tail = 0;

  constructor(plans: readonly ClientPlan[], setting: Setting, tally: Tally) {
    this.#setting = setting;
    this.#tally = tally;
    this.#store = new MemoryStore(this.#clock());
    this.#clients = plans.map((plan) => ({ ...plan, cursor: { epoch: 1, seq: 0 }, wait: null }));
    [this.#engine, this.#touch] = this.#boot();
  }

  async start(): Promise<void> {
    await this.#create();
    for (const spec of SPECS.keys()) await this.#activate(spec);
  }

  async take(one: Step): Promise<void> {
    switch (one.kind) {
      case "append":
        await this.#append(one.wishes);
        break;
      case "reset":
        await this.#send([{ headers: { control: "reset" } }], [null]);
        break;
      case "foreign":
        await this.#engine.setProfile("s", this.#epoch, null);
        await this.#send([{ junk: true }], [null]);
        await this.#setProfile();
        break;
      case "activate":
        await this.#activate(one.spec);
        break;
      case "wait":
      case "poll":
        await this.#wait(one.client, one.kind === "poll" ? 0 : 120_000);
        break;
      case "abort":
        this.#clients[one.client]?.wait?.abort.abort();
        break;
      case "advance":
        await this.#settle();
        this.#time.ms += one.ms;
        this.#engine.deadlines.tick();
        break;
      case "restart":
        this.#touch.close();
        this.#engine.deadlines.close();
        [this.#engine, this.#touch] = this.#boot();
        break;
      case "recreate":
        await this.#engine.delete("s");
        await this.#create();
        break;
      case "settle":
        await this.#settle();
    }
    if (this.#setting.slow && one.kind !== "settle") return;
    await this.#settle();
    this.#checkParked();
  }

  /** Ends what is open; nothing of it may be left behind. */
  async finish(): Promise<void> {
    await this.#settle();
    this.#checkParked();
    for (const { wait } of this.#clients) wait?.abort.abort();
    await this.#settle();
    const { waiters, indexEntries, parkedKeys } = this.#touch.holdings();
    expect({ waiters, indexEntries, parkedKeys }).toEqual({ waiters: 0, indexEntries: 0, parkedKeys: 0 });
    // One timer for the sweep of the engine, one for the upkeep of the stream.
    expect(this.#engine.deadlines.size).toBeLessThanOrEqual(1 + this.#touch.holdings().streams);
    this.#touch.close();
    expect(this.#touch.holdings().journalEntries).toBe(0);
    this.#engine.deadlines.close();
  }

  #clock() {
    const { slow } = this.#setting;
    // A slow machine: every look at the clock finds it later, so derivation and replay need many turns.
    return { nowMs: () => 1e12 + this.#time.ms, monotonicMs: () => (slow ? (this.#time.ms += 0.9) : this.#time.ms) };
  }

  #boot(): [Engine, Touch] {
    const onFault = (operation: string, cause: unknown): never => {
      throw new Error(operation, { cause });
    };
    const options = { store: this.#store, clock: this.#clock(), onFault, random: () => 0, profiles: [stateProtocol] };
    const engine = new Engine(options);
    const bounds = { journalEntries: this.#setting.journalEntries, replayRecords: REPLAY_RECORDS };
    const hash64 = (bytes: Uint8Array): bigint => Bun.hash.xxHash3(bytes);
    return [engine, new Touch({ engine, hash64, onFault, bounds })];
  }

  async #create(): Promise<void> {
    const outcome = await this.#engine.create({
      name: "s",
      contentType: "application/json",
      expiry: { kind: "never" },
      retention: null,
      close: false,
      body: new Uint8Array(),
      key: null,
      fork: null,
    });
    if (outcome.kind !== "created") throw new Error(`create: ${outcome.kind}`);
    this.#epoch = outcome.head.id;
    this.#tail = 0;
    await this.#setProfile();
  }

  async #setProfile(): Promise<void> {
    const { maxTemplates, skipBefore } = this.#setting;
    const parsed = stateProtocol.parse(
      {
        touch: {
          enabled: true,
          onMissingBefore: skipBefore ? "skipBefore" : "coarse",
          lagDegradeFineTouchesAtSourceOffsets: LAG_MARK,
          lagRecoverFineTouchesAtSourceOffsets: 2,
          templates: { maxActiveTemplatesPerEntity: maxTemplates, activationRateLimitPerMinute: 0 },
        },
      },
      "s",
    );
    if ("reason" in parsed) throw new Error(parsed.reason);
    await this.#engine.setProfile("s", this.#epoch, { kind: stateProtocol.kind, config: parsed.config });
  }

  async #append(wishes: readonly Wish[]): Promise<void> {
    const changes = wishes.flatMap((asked) => this.#world.apply(asked) ?? []);
    if (changes.length > 0) await this.#send(changes.map(recordOf), changes);
  }

  async #send(records: readonly unknown[], changes: readonly (Change | null)[]): Promise<void> {
    const stream = await this.#open();
    const derived = stream === null ? this.#tail : stream.position.derived;
    const loose = this.#tail + records.length - derived > LAG_MARK || stream?.position.lagging === true;
    for (const change of changes) {
      this.#events.push({ epoch: this.#epoch, seq: this.#tail++, change, loose: loose || change === null });
    }
    const outcome = await this.#engine.append({
      name: "s",
      contentType: "application/json",
      body: new TextEncoder().encode(JSON.stringify(records)),
      producer: null,
      streamSeq: null,
      ifMatch: null,
      key: null,
      close: false,
    });
    expect(outcome.kind).toBe("appended");
  }

  /** The touch state if it is in memory: looking must not bring it there. */
  async #open(): Promise<TouchStream | null> {
    if (this.#touch.holdings().streams === 0) return null;
    const stream = await this.#touch.open("s");
    return stream === TOUCH_OFF || "kind" in stream ? null : stream;
  }

  async #mustOpen(): Promise<TouchStream> {
    const stream = await this.#touch.open("s");
    if (stream === TOUCH_OFF || "kind" in stream) throw new Error("touch is on");
    return stream;
  }

  /** False when the template was denied. */
  async #activate(spec: number): Promise<boolean> {
    const stream = await this.#mustOpen();
    const durable: Durable = new Map();
    const { denied } = stream.templates.activate(SPECS.slice(spec, spec + 1), null, stream.around(), durable);
    await this.#touch.persist(stream, durable);
    return denied.length === 0;
  }

  async #wait(no: number, timeoutMs: number): Promise<void> {
    const one = this.#clients[no];
    if (one === undefined || one.wait !== null) return;
    const stream = await this.#mustOpen();
    const named = one.naming === "unnamed" ? [] : one.queries.filter(({ kind }) => kind !== "table");
    const templateIds = named.map(({ spec }) => this.#templates[spec]?.id ?? "");
    const durable: Durable = new Map();
    stream.templates.see(templateIds, stream.around().nowMs, durable);
    const all = one.queries.map((asked) => keyOf(asked, this.#templates, this.#writer));
    const byId = one.naming === "named-ids";
    const naming = { keys: byId ? [] : all, keyIds: byId ? all.map(keyIdOf) : [], templateIds, coarse: false };
    const { interest } = stream.resolve(naming);
    const { cursor } = one;
    if (cursor.epoch !== stream.id) {
      this.#tally.stale++;
      one.cursor = { epoch: stream.id, seq: stream.position.tail };
      // Another incarnation knows none of its templates: clients activate them again (docs/live-queries.md).
      // A client whose template was denied names it, so that the server knows what it does not know.
      for (const { spec } of one.queries) if (!(await this.#activate(spec))) one.naming = "named";
      return;
    }
    const exact = !interest.everything && !interest.unnamed && interest.templates.length >= new Set(templateIds).size;
    const wait = { since: cursor.seq, exact, abort: new AbortController() };
    one.wait = wait;
    const answered = stream.wait(interest, cursor.seq, timeoutMs, wait.abort.signal);
    const noted = answered.then((answer) => this.#answered(one, stream, answer));
    noted.catch((cause: unknown) => this.#failures.push(cause));
    await this.#touch.persist(stream, durable);
  }

  #answered(one: Client, stream: TouchStream, { end, cursor }: WaitAnswer): void {
    const { wait } = one;
    if (wait === null) throw new Error("an answer without a wait");
    one.wait = null;
    if (end === "aborted" || end === "ended") return;
    const since = this.#events.filter(({ epoch, seq }) => epoch === stream.id && seq >= wait.since);
    if (end === "touched") {
      this.#tally.touched++;
      if (wait.exact && !since.some((event) => this.#mayWake(one, event))) throw new Error("a false wake");
    } else if (end === "timeout") {
      this.#tally.untouched++;
      if (since.some((event) => event.seq < cursor && this.#mustWake(one, event))) throw new Error("a missed wake");
    } else {
      this.#tally.stale++;
      if (since.length <= REPLAY_RECORDS) throw new Error(`${end} within the replay bound`);
    }
    one.cursor = { epoch: stream.id, seq: cursor };
  }

  #mustWake(one: Client, { change }: Event): boolean {
    if (change === null) return false;
    // The declared exception: with skipBefore a change that does not tell its old row only touches where the row is now.
    return one.queries.some(
      (asked) => concerns(asked, change) && !(this.#setting.skipBefore && isCoarse(asked, change)),
    );
  }

  #mayWake(one: Client, { change, loose }: Event): boolean {
    if (loose || change === null) return true;
    return one.queries.some((asked) => concerns(asked, change) || isCoarse(asked, change));
  }

  /** Nobody may sleep through a change that concerns it. */
  #checkParked(): void {
    if (this.#failures.length > 0) throw new AggregateError(this.#failures, "a wrong answer");
    for (const [no, { wait }] of this.#clients.entries()) {
      const one = this.#clients[no];
      if (wait === null || one === undefined) continue;
      this.#tally.parkedChecks++;
      const missed = this.#events.find(
        (event) => event.epoch === this.#epoch && event.seq >= wait.since && this.#mustWake(one, event),
      );
      if (missed !== undefined) {
        throw new Error(`client ${no} waits since ${wait.since} and sleeps through ${JSON.stringify(missed)}`);
      }
    }
  }

  /** Until derivation, replays and answers are through. */
  async #settle(): Promise<void> {
    for (let turn = 0; turn < 30; turn++) await nextTurn();
    const stream = await this.#open();
    if (stream === null) return;
    for (let turn = 0; stream.position.derived < this.#tail && turn < 1000; turn++) await nextTurn();
  }
}
