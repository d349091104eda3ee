/**
 * Where subscriptions are kept: each as attributes of an internal stream of its own below `__ds/subscriptions/`: what it is, which
 * streams it names, the state of its wakes, and a cursor for every stream that it is not at the start of. So deleting it frees what
 * it had, a start finds them all by their attribute, and a wake writes no more than itself.
 */

import type { Engine } from "../../engine/engine.ts";
import { joinRecords } from "../../protocol/json-records.ts";
import { INTERNAL } from "../../protocol/stream.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import { CURSORS_PER_COMMIT } from "./limits.ts";
import type { SubscriptionRecord, SubscriptionState } from "./subscription-port.ts";

export interface StoredSubscription {
  readonly id: string;
  /** Id of its internal stream. */
  readonly home: number;
  readonly record: SubscriptionRecord;
  readonly cursors: Map<number, number>;
}

const HOME = "__ds/subscriptions/";
/** What never changes; last to be written when a subscription is made. */
const FIXED = "subscription";
const EXPLICIT = "explicit";
const STATE = "state";
const CURSOR = "cursor/";
const PAGE = 1_000;

export class SubscriptionStore {
  readonly #engine: Engine;

  readonly #onFault: (operation: string, cause: unknown) => void;

  constructor(engine: Engine, onFault: (operation: string, cause: unknown) => void) {
    this.#engine = engine;
    this.#onFault = onFault;
  }

  /** A damaged one is passed over, and told. */
  async *all(): AsyncGenerator<StoredSubscription> {
    for (let after = 0; ;) {
      const homes = await this.#engine.annotated(FIXED, after, PAGE);
      for (const home of homes) {
        const stored = await this.#read(home).catch((cause: unknown) => {
          this.#onFault(`taking up the subscription of stream ${home}`, cause);
          return null;
        });
        if (stored !== null) yield stored;
      }
      after = homes.at(-1) ?? 0;
      if (homes.length < PAGE) return;
    }
  }

  /** An empty place for a subscription; it is none before its record is saved. */
  async make(id: string): Promise<number> {
    const name = HOME + id;
    // What a process left that ended while it made one.
    await this.#engine.delete(name);
    await this.#engine.createOwn(name);
    const head = await this.#engine.find(name, "look");
    if ("kind" in head) throw new Error(`${name} cannot be made: ${head.kind}`);
    const { id: home } = head;
    const outcome = await this.#engine.setProfile(name, home, { kind: INTERNAL, config: {} });
    if (outcome.kind === "rejected") throw new Error(`${name} cannot be made: ${outcome.rejection.kind}`);
    return home;
  }

  async remove(id: string): Promise<void> {
    await this.#engine.delete(HOME + id);
  }

  /** All of it; from then on it is there. */
  async saveWhole(home: number, { config, createdMs, base, explicit, ...state }: SubscriptionRecord): Promise<void> {
    const fixed = JSON.stringify({ config, createdMs, base });
    const rest = [[EXPLICIT, JSON.stringify(explicit)], stateOf(state)] as const;
    await this.#annotate(home, new Map([...rest, [FIXED, fixed]]));
  }

  async saveFixed(
    home: number,
    { config, createdMs, base }: Pick<SubscriptionRecord, "config" | "createdMs" | "base">,
  ): Promise<void> {
    await this.#annotate(home, new Map([[FIXED, JSON.stringify({ config, createdMs, base })]]));
  }

  /** One commit. */
  async save(home: number, state: SubscriptionState, cursors: ReadonlyMap<number, number>): Promise<void> {
    await this.#annotate(home, new Map([stateOf(state), ...[...cursors].map(cursorOf)]));
  }

  async saveExplicit(
    home: number,
    names: readonly string[],
    cursors: ReadonlyMap<number, number | null>,
  ): Promise<void> {
    await this.#annotate(home, new Map([[EXPLICIT, JSON.stringify(names)], ...[...cursors].map(cursorOf)]));
  }

  async saveCursors(home: number, cursors: ReadonlyMap<number, number | null>): Promise<void> {
    const all = [...cursors];
    for (let at = 0; at < all.length; at += CURSORS_PER_COMMIT) {
      await this.#annotate(home, new Map(all.slice(at, at + CURSORS_PER_COMMIT).map(cursorOf)));
    }
  }

  /** Appends a wake to its stream, in one commit with the state; why not, when it cannot. */
  async tell(home: number, wakeStream: string, event: object, state: SubscriptionState): Promise<string | null> {
    // Given since the subscription was made: wakes would come into it past its rules.
    const head = await this.#engine.find(wakeStream, "look");
    if (!("kind" in head) && head.profile !== null)
      return `the wake stream ${wakeStream}: it has the profile ${head.profile.kind}, and takes no wakes`;
    const note = { id: home, attributes: new Map([stateOf(state)]) };
    const outcome = await this.#engine.record(wakeStream, joinRecords([JSON.stringify(event)]), ["wake"], { note });
    if (outcome.kind === "appended") return null;
    return `the wake stream ${wakeStream}: ${outcome.kind === "rejected" ? outcome.rejection.kind : outcome.kind}`;
  }

  async #read(home: number): Promise<StoredSubscription | null> {
    const head = await this.#engine.byId(home);
    const attributes = await this.#engine.attributes(home);
    const [fixed, explicit, state] = [FIXED, EXPLICIT, STATE].map((key) => attributes.get(key));
    if (head === undefined || fixed === undefined || !head.config.name.startsWith(HOME)) return null;
    const cursors = new Map<number, number>();
    for (const [key, value] of attributes)
      if (key.startsWith(CURSOR)) cursors.set(Number(key.slice(CURSOR.length)), Number(value));
    // The server alone writes attributes.
    const record = {
      ...(JSON.parse(fixed) as SubscriptionRecord),
      ...(JSON.parse(state ?? "{}") as SubscriptionState),
      explicit: JSON.parse(explicit ?? "[]") as string[],
    };
    return { id: head.config.name.slice(HOME.length), home, record, cursors };
  }

  async #annotate(home: number, attributes: ReadonlyMap<string, string | null>): Promise<void> {
    const outcome = await this.#engine.annotate(home, attributes);
    if (outcome.kind === "rejected") throw new NotSaved(outcome.rejection);
  }
}

/** The log did not take it. */
export class NotSaved extends Error {
  override readonly name = "NotSaved";
  readonly why: Rejection;

  constructor(why: Rejection) {
    super(`a subscription was not saved: ${why.kind}`);
    this.why = why;
  }
}

function stateOf({ generation, wake, retry }: SubscriptionState): [string, string] {
  return [STATE, JSON.stringify({ generation, wake, retry })];
}

function cursorOf([streamId, seq]: readonly [number, number | null]): [string, string | null] {
  return [CURSOR + streamId, seq === null ? null : String(seq)];
}
