/** Random things that clients, workers and receivers of webhooks do to subscriptions, each told to the model with what came of it. */

import type { Subscription } from "../../src/features/subscriptions/subscription.ts";
import type { AckRequest, SubscriptionConfig } from "../../src/features/subscriptions/subscription-config.ts";
import { type Answer, isRefused, type RefusalCode } from "../../src/features/subscriptions/subscription-port.ts";
import { encodeOffset } from "../../src/protocol/offset.ts";
import type { StreamHead } from "../../src/protocol/stream.ts";
import type { SeededRandom } from "../support/random.ts";
import {
  type Credentials,
  epochOf,
  type Model,
  ModelledSubscription,
  type PossibleAck,
  seqOf,
  WAKE_STREAMS,
} from "./subscription-model.ts";

const NAMES = ["a/1", "a/2", "a/3", "b/1", "b/2", "b/x/1", "b/x/2", "c"];
const PATTERNS = ["a/*", "b/**", "**", "*/1", "b/*/1", "c/**", null];
const WAKES = [`${WAKE_STREAMS}1`, `${WAKE_STREAMS}2`];
const IDS = ["s1", "s2", "s3", "s4", "s5"];
const LEASES_MS = [1_000, 3_000, 10_000];
/** Jitter is a fifth, and times are whole. */
const RETRY = { firstMs: 1_000, lastMs: 60_000, jitter: 0.2, roundingMs: 1 };

export class SubscriptionLife {
  readonly #model: Model;
  readonly #random: SeededRandom;
  /** Asked and not answered. */
  readonly #asked = new Set<string>();
  #count = 0;
  #acts = 0;

  constructor(model: Model, random: SeededRandom) {
    this.#model = model;
    this.#random = random;
  }

  readonly isBusy = (): boolean => this.#asked.size > 0;

  forgetAsked(): void {
    this.#asked.clear();
  }

  /** One thing that somebody does; `alone`: nothing else is under way. While that is so and nothing else comes, its outcome is known. */
  async act(alone: boolean): Promise<void> {
    const share = this.#random.below(100);
    const acts = ++this.#acts;
    const isAlone = (): boolean => alone && this.#acts === acts;
    if (share < 10) return this.#clash(isAlone);
    const heads = await this.#model.world.heads();
    if (share < 26) this.append(heads);
    else if (share < 33) this.createStream(this.#one([...NAMES, ...NAMES, ...WAKES]));
    else if (share < 37) this.deleteStream(this.#one(this.#random.below(5) === 0 ? WAKES : NAMES));
    else if (share < 45) this.put(this.#one(IDS), this.#config(), heads, isAlone);
    else if (share < 47) this.remove(this.#one(IDS));
    else if (share < 52) this.#changeStreams(heads);
    else if (share < 62) this.#claim(heads, isAlone);
    else if (share < 78) this.#ack(heads, isAlone);
    else if (share < 82) this.#release(isAlone);
    else this.#answer(isAlone);
  }

  async actOnStreams(): Promise<void> {
    const share = this.#random.below(4);
    if (share === 0) this.createStream(this.#one(NAMES));
    else if (share === 1) this.deleteStream(this.#one(NAMES));
    else this.append(await this.#model.world.heads());
  }

  /** News, and soon after it something else: while the wake is on its way, or the subscription is being made. */
  async #clash(isAlone: () => boolean): Promise<void> {
    const { world } = this.#model;
    const id = this.#one(IDS);
    const share = this.#random.below(10);
    if (share < 4 && !this.#model.subscriptions.has(id)) {
      this.put(id, this.#config(), await world.heads(), isAlone);
      this.#acts++;
      await world.turns(this.#random.below(12));
    }
    if (this.#random.below(3) === 0) this.createStream(this.#one(NAMES));
    else this.append(await world.heads());
    await world.turns(this.#random.below(8));
    if (share < 6) {
      const credentials = this.#model.credentials.findLast((one) => one.model === this.#model.subscriptions.get(id));
      const acks = (await world.heads()).map((head) => ({ name: head.config.name, offset: this.#offsetOf(head) }));
      // Its stream may be looked up while the subscription goes.
      if (credentials !== undefined) this.ack(credentials, acks.slice(0, 2), false, () => false);
      await world.turns(this.#random.below(3));
      this.remove(id);
    } else if (share < 7) this.#changeStreams(await world.heads());
    else this.#ack(await world.heads(), () => false);
  }

  createStream(name: string, mayBeFull = true): void {
    const isFull = mayBeFull && this.#random.below(2) === 0 && !name.startsWith(WAKE_STREAMS);
    const body = new TextEncoder().encode(isFull ? "[1,2]" : "");
    const { engine } = this.#model.world;
    this.#begin(async () => {
      const contentType = "application/json";
      const expiry = { kind: "never" } as const;
      await engine.create({ name, contentType, expiry, retention: null, close: false, body, key: null, fork: null });
    });
  }

  deleteStream(name: string): void {
    const { engine } = this.#model.world;
    this.#begin(() => engine.delete(name));
  }

  append(heads: readonly StreamHead[]): void {
    const name = this.#one(heads.map(({ config }) => config.name).filter((each) => !each.startsWith(WAKE_STREAMS)));
    if (name === undefined) return;
    const records = Array.from({ length: 1 + this.#random.below(3) }, () => ++this.#count);
    const body = new TextEncoder().encode(JSON.stringify(records));
    const { engine } = this.#model.world;
    const none = { producer: null, streamSeq: null, ifMatch: null, key: null, close: false };
    this.#begin(() => engine.append({ name, contentType: "application/json", body, ...none }));
  }

  put(id: string, config: SubscriptionConfig, heads: readonly StreamHead[], isAlone: () => boolean): void {
    const { subscriptions, removed } = this.#model;
    const known = subscriptions.get(id);
    // One change at a time for an id, and no new one before the old one's last wakes are seen.
    if (removed.has(id) || (known !== undefined && (known.state !== "present" || known.explicitNext !== null))) return;
    const isSame = known !== undefined && this.#random.below(2) === 0;
    const asked = isSame ? known.config : config;
    const model = known ?? new ModelledSubscription(id, config, new Map(heads.map((head) => [head.id, head.next])));
    subscriptions.set(id, model);
    this.#ask(async () => {
      const answer = await this.#model.world.subscriptions.put(id, asked, "http://test");
      if (model === known) {
        const same = JSON.stringify(asked) === JSON.stringify(known.config);
        const refused = isRefused(answer) ? answer.refused.code : null;
        if (refused !== (same ? null : "SUBSCRIPTION_ALREADY_EXISTS"))
          this.#model.violated(`a PUT of ${id}, which is ${same ? "the same" : "another"}: ${refused ?? "confirmed"}`);
        return;
      }
      if (isRefused(answer) || !answer.created)
        this.#model.violated(`a PUT of ${id}, which is new: ${JSON.stringify(answer)}`);
      model.state = "present";
      for (const link of this.#subscription(id)
        ?.links.first(Infinity)
        .map((one) => one.link) ?? []) {
        const oldTail = model.oldTails.get(link.streamId);
        if (oldTail !== undefined && link.acked < oldTail)
          this.#model.violated(`${id} begins ${link.name} at ${link.acked}, which was at ${oldTail} before`);
        model.acked.set(link.streamId, link.acked);
        // Made while it was: at its start, or at its tail.
        if (!isAlone()) model.unknown.add(link.name);
      }
    });
  }

  remove(id: string): void {
    const model = this.#model.subscriptions.get(id);
    if (model === undefined || model.state !== "present" || model.explicitNext !== null) return;
    const subscription = this.#subscription(id);
    model.state = "removing";
    this.#ask(async () => {
      await this.#model.world.subscriptions.remove(id);
      this.#model.subscriptions.delete(id);
      this.#model.removed.set(id, model);
      // Whoever has found it before, and asks only now.
      const answer = await subscription?.claim("late");
      if (answer !== undefined)
        this.#expectRefused(`a claim of ${id} after it was deleted`, answer, "SUBSCRIPTION_NOT_FOUND");
    });
  }

  #changeStreams(heads: readonly StreamHead[]): void {
    const model = this.#one([...this.#model.subscriptions.values()]);
    if (model === undefined || model.state !== "present" || model.explicitNext !== null) return;
    const { id } = model;
    const { subscriptions } = this.#model.world;
    const isRemoval = this.#random.below(2) === 0;
    const name = this.#one(isRemoval && model.explicit.size > 0 ? [...model.explicit] : NAMES);
    const before = heads.find(({ config }) => config.name === name);
    const oldTail = before?.next ?? 0;
    const wasLinked = model.matches(name);
    model.explicitNext = isRemoval ? model.explicit.difference(new Set([name])) : model.explicit.union(new Set([name]));
    this.#ask(async () => {
      const answer = await (isRemoval ? subscriptions.removeStream(id, name) : subscriptions.addStreams(id, [name]));
      if (isRefused(answer)) this.#model.violated(`${name} of ${id}: ${JSON.stringify(answer)}`);
      model.explicit = model.explicitNext ?? model.explicit;
      model.explicitNext = null;
      const link = this.#subscription(id)?.links.byName(name);
      const isLinked = model.matches(name);
      if (isLinked === wasLinked) return;
      if (before === undefined || (link !== undefined && link.streamId !== before.id)) model.unknown.add(name);
      else if (!isLinked) model.acked.delete(before.id);
      else if (link !== undefined) {
        if (link.acked < oldTail)
          this.#model.violated(`${id} begins ${name} at ${link.acked}, not at its tail ${oldTail}`);
        model.acked.set(link.streamId, link.acked);
      }
    });
  }

  #claim(heads: readonly StreamHead[], isAlone: () => boolean): void {
    const model = this.#one([...this.#model.subscriptions.values()]);
    if (model !== undefined) this.claim(model, heads, isAlone);
  }

  claim(model: ModelledSubscription, heads: readonly StreamHead[], isAlone: () => boolean): void {
    const subscription = this.#subscription(model.id);
    if (subscription === undefined) return;
    const { record, links } = subscription;
    const startMs = this.#model.world.time.ms;
    const { wake } = record;
    const isHeld = wake !== null && wake.holder !== null && wake.untilMs > startMs;
    const generation = record.generation + (wake !== null && wake.holder === null ? 0 : 1);
    const isPending = this.#model.isPending(model, heads) || links.hasPending;
    model.notBeforeMs = 0;
    this.#ask(async () => {
      const before = model.held;
      const answer = await subscription.claim("worker");
      if (isRefused(answer)) {
        const { code } = answer.refused;
        const expected = isHeld ? "ALREADY_CLAIMED" : isPending ? null : "NO_PENDING_WORK";
        const right = model.config.type === "webhook" ? "INVALID_REQUEST" : expected;
        if (isAlone() && code !== right)
          this.#model.violated(`a claim of ${model.id}: ${code} instead of ${right ?? "it"}`);
        return;
      }
      const { wake_id: wakeId, token, streams } = answer;
      if (isAlone() && (answer.generation !== generation || isHeld || !isPending))
        this.#model.violated(
          `a claim of ${model.id}: ${answer.generation} instead of ${generation}, pending ${isPending}`,
        );
      if (before !== null && model.held === before && before.untilMs > this.#model.world.time.ms)
        this.#model.violated(`${model.id}: ${wakeId} is claimed while ${before.wakeId} is held`);
      model.held = { wakeId, untilMs: startMs + model.config.leaseMs, mayBeOver: false };
      this.#model.noteWake(model, answer.generation, wakeId);
      this.#model.noteStreams(model, streams, "a claim");
      this.#model.credentials.push({ model, token, wakeId, generation: answer.generation });
    });
  }

  #ack(heads: readonly StreamHead[], isAlone: () => boolean): void {
    const credentials = this.#someCredentials();
    if (credentials === undefined) return;
    const names = heads.filter(({ config }) => credentials.model.matches(config.name) || this.#random.below(8) === 0);
    const acks = Array.from({ length: this.#random.below(4) }, () => this.#one(names))
      .filter((head) => head !== undefined)
      .map((head) => ({ name: head.config.name, offset: this.#offsetOf(head) }));
    this.ack(credentials, acks, this.#random.below(3) === 0, isAlone);
  }

  ack(credentials: Credentials, acks: AckRequest["acks"], done: boolean, isAlone: () => boolean): void {
    const { model } = credentials;
    const subscription = this.#subscription(model.id);
    if (subscription === undefined) return;
    const request = { wake_id: credentials.wakeId, generation: credentials.generation, acks, done };
    if (this.#random.below(12) === 0) request.generation += this.#random.below(2) === 0 ? 1 : -1;
    if (this.#random.below(12) === 0) request.wake_id = "w_0";
    const token = this.#tokenFor(credentials);
    const refusal = this.#refusalOf(subscription, token, request, acks);
    const latest = model.generation;
    const owner = this.#ownerOf(token);
    const isOwn = owner?.model === model && owner.generation === credentials.generation;
    const startMs = this.#model.world.time.ms;
    const possible: PossibleAck[] = acks.map(({ offset }) => ({ streamId: epochOf(offset), seq: seqOf(offset) }));
    for (const one of possible) model.possible.add(one);
    this.#mayEnd(credentials, done);
    this.#ask(async () => {
      const answer = await subscription.ack(token, request);
      for (const one of possible) model.possible.delete(one);
      const code = isRefused(answer) ? answer.refused.code : null;
      if (isAlone() && code !== refusal)
        this.#model.violated(
          `an ack of ${model.id}: ${code ?? "taken"} instead of ${refusal ?? "taken"}: ${JSON.stringify(request)}`,
        );
      if (code !== null) return;
      if (!isOwn || request.generation < latest || request.wake_id !== credentials.wakeId)
        this.#model.violated(
          `an ack of ${model.id} that is not of the present wake was taken: ${JSON.stringify(request)}`,
        );
      for (const { streamId, seq } of possible)
        model.acked.set(streamId, Math.max(seq, model.acked.get(streamId) ?? 0));
      if (model.held?.wakeId !== credentials.wakeId) return;
      if (done) model.held = null;
      else model.held.untilMs = startMs + model.config.leaseMs;
    });
  }

  /** Acks everything there is, with the right words. */
  async finish({ model, token, wakeId, generation }: Credentials): Promise<void> {
    const subscription = this.#subscription(model.id);
    const links = (subscription?.links.first(Infinity) ?? [])
      .map(({ link }) => link)
      .filter(({ acked, tail }) => tail > acked);
    const acks = links.map(({ name, streamId, tail }) => ({ name, offset: encodeOffset(streamId, tail) }));
    this.#ask(async () => {
      const answer = await subscription?.ack(token, { wake_id: wakeId, generation, acks, done: true });
      if (answer === undefined || isRefused(answer))
        return this.#model.violated(`the last ack of ${model.id}: ${JSON.stringify(answer)}`);
      for (const { streamId, tail } of links) model.acked.set(streamId, tail);
      model.held = null;
    });
  }

  #release(isAlone: () => boolean): void {
    const credentials = this.#someCredentials();
    if (credentials === undefined) return;
    const { model, wakeId, generation } = credentials;
    const subscription = this.#subscription(model.id);
    if (subscription === undefined) return;
    const token = this.#tokenFor(credentials);
    const request = { wake_id: wakeId, generation };
    const refusal = this.#refusalOf(subscription, token, request, []);
    this.#mayEnd(credentials, true);
    this.#ask(async () => {
      const answer = await subscription.release(token, request);
      const code = isRefused(answer) ? answer.refused.code : null;
      if (isAlone() && code !== refusal)
        this.#model.violated(`a release of ${model.id}: ${code ?? "taken"} instead of ${refusal ?? "taken"}`);
      if (code === null && model.held?.wakeId === wakeId) model.held = null;
    });
  }

  /** A webhook's answer, whatever comes of it. */
  #answer(isAlone: () => boolean): void {
    const open = this.#one(this.#model.open());
    if (open === undefined) return;
    const { delivery, model } = open;
    const subscription = this.#subscription(model.id);
    const isPresent = subscription !== undefined && subscription.record.wake?.id === delivery.wake.wake.id;
    const share = this.#random.below(10);
    const [{ life }, acts, startMs] = [this.#model.world, this.#acts, this.#model.world.time.ms];
    const before = model.failures;
    model.failures = null;
    if (share < 4) this.answerDone(delivery, model);
    else delivery.answer(share < 6 ? { kind: "taken" } : { kind: "failed", reason: "500" });
    if (!isAlone() || !isPresent) return;
    this.#ask(async () => {
      await this.#model.world.settle();
      // Something else has happened since.
      if (this.#model.world.life !== life || this.#acts !== acts) return;
      if (share < 6) model.failures = 0;
      else this.#expectBackoff(model, subscription, before, startMs);
    });
  }

  answerDone(delivery: Model["deliveries"][number]["delivery"], model: ModelledSubscription): void {
    for (const { tail_offset } of delivery.wake.streams)
      model.possible.add({ streamId: epochOf(tail_offset), seq: seqOf(tail_offset) });
    delivery.answer({ kind: "done" });
  }

  #expectBackoff(
    model: ModelledSubscription,
    { record: { retry } }: Subscription,
    before: number | null,
    startMs: number,
  ): void {
    if (retry === null || retry.atMs === null)
      return this.#model.violated(`${model.id}: no retry after a webhook that failed`);
    const { attempts, atMs } = retry;
    if (before !== null && attempts !== before + 1)
      this.#model.violated(`${model.id}: ${attempts} attempts after ${before} failures`);
    model.failures = attempts;
    model.notBeforeMs = atMs;
    const backoffMs = Math.min(RETRY.lastMs, RETRY.firstMs * 2 ** (attempts - 1));
    const offMs = Math.abs(atMs - startMs - backoffMs);
    if (offMs > backoffMs * RETRY.jitter + RETRY.roundingMs)
      this.#model.violated(`${model.id}: attempt ${attempts} is tried again after ${atMs - startMs} ms`);
  }

  /** What is to come of a request when nothing else is under way. */
  #refusalOf(
    { id, record, links }: Subscription,
    token: string,
    request: { readonly wake_id: string; readonly generation: number },
    acks: AckRequest["acks"],
  ): RefusalCode | null {
    const owner = this.#ownerOf(token);
    const isOwn = owner !== undefined && this.#model.subscriptions.get(id) === owner.model;
    if (!isOwn) return "TOKEN_INVALID";
    const isPresent = owner.generation === record.generation && request.generation === record.generation;
    if (!isPresent || record.wake === null || record.wake.id !== request.wake_id) return "FENCED";
    const isValid = acks.every(({ name, offset }) => {
      const link = links.byName(name);
      const seq = seqOf(offset);
      return link !== undefined && epochOf(offset) === link.streamId && seq >= link.acked && seq <= link.tail;
    });
    return isValid ? null : "INVALID_OFFSET";
  }

  /** A retry that was scheduled may be none any more, a lease over. */
  #mayEnd({ model, wakeId }: Credentials, isEnd: boolean): void {
    model.notBeforeMs = 0;
    model.failures = null;
    if (isEnd && model.held?.wakeId === wakeId) model.held.mayBeOver = true;
  }

  #someCredentials(): Credentials | undefined {
    const { credentials } = this.#model;
    return this.#one(this.#random.below(4) === 0 ? credentials : credentials.slice(-4));
  }

  #ownerOf(token: string): Credentials | undefined {
    return this.#model.credentials.find((one) => one.token === token);
  }

  #tokenFor({ token }: Credentials): string {
    const share = this.#random.below(20);
    if (share === 0) return `${token.slice(0, -2)}AA`;
    return share === 1 ? (this.#one(this.#model.credentials)?.token ?? token) : token;
  }

  #offsetOf({ id, next }: StreamHead): string {
    const share = this.#random.below(10);
    if (share < 6) return encodeOffset(id, next);
    if (share < 9) return encodeOffset(id, this.#random.below(next + 1));
    return encodeOffset(id, next + 1);
  }

  #config(): SubscriptionConfig {
    const pattern = this.#one(PATTERNS);
    const count = this.#random.below(3) + (pattern === null ? 1 : 0);
    const streams = [...new Set(Array.from({ length: count }, () => this.#one(NAMES)))].sort();
    const isWebhook = this.#random.below(2) === 0;
    return {
      type: isWebhook ? "webhook" : "pull-wake",
      pattern,
      streams,
      webhookUrl: isWebhook ? "http://127.0.0.1/" : null,
      wakeStream: isWebhook ? null : this.#one(WAKES),
      leaseMs: this.#one(LEASES_MS),
      description: null,
    };
  }

  #subscription(id: string): Subscription | undefined {
    return this.#model.world.subscriptions.get(id);
  }

  #expectRefused(what: string, answer: Answer<object>, code: RefusalCode): void {
    if (!isRefused(answer) || answer.refused.code !== code) this.#model.violated(`${what}: ${JSON.stringify(answer)}`);
  }

  /** Requests about subscriptions wait until a start knows their streams. */
  #ask(task: () => Promise<unknown>): void {
    this.#begin(() => this.#model.world.subscriptions.whenReady().then(task));
  }

  /** Under way until it is answered; never, when the process dies. */
  #begin(task: () => Promise<unknown>): void {
    const { world } = this.#model;
    const { life } = world;
    const key = `${life}/${++this.#count}`;
    this.#asked.add(key);
    const isOver = (): boolean => world.life !== life;
    task().then(
      () => this.#asked.delete(key),
      (cause: unknown) => {
        this.#asked.delete(key);
        if (!isOver())
          this.#model.violated(`it threw: ${cause instanceof Error ? (cause.stack ?? "") : String(cause)}`);
      },
    );
  }

  #one<T>(values: readonly [T, ...T[]]): T;
  #one<T>(values: readonly T[]): T;
  #one<T>(values: readonly T[]): T {
    return values[this.#random.below(values.length)] as T;
  }
}
