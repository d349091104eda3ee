/** The live views of one stream in this process, on a clock of the test's own, with clients that keep what they are shown. */

import { KeptRows, type RowStore } from "../../src/features/live-views/kept-rows.ts";
import { parseView, type ViewDefinition, type ViewRow } from "../../src/features/live-views/view-definition.ts";
import {
  type ViewClient,
  type ViewEnd,
  type ViewMessage,
  ViewStream,
} from "../../src/features/live-views/view-stream.ts";
import { liveWorld, turns } from "../live-delivery/live-world.ts";

export type Change =
  | {
      readonly operation: "insert" | "update" | "upsert";
      readonly type?: string;
      readonly key: string;
      readonly value: unknown;
    }
  | { readonly operation: "delete"; readonly type?: string; readonly key: string };

/** A client as an application would write one: a map, and a count of what came. */
export class Screen implements ViewClient {
  readonly rows = new Map<string, ViewRow>();
  readonly messages: ViewMessage[] = [];
  ended: ViewEnd | null = null;
  ready = true;
  /** It came back: what it is told may be what it shows already. */
  isLenient = false;

  isReady(): boolean {
    return this.ready;
  }

  send(message: ViewMessage): void {
    this.messages.push(message);
    const { diff } = message;
    if (diff.kind === "full") {
      this.rows.clear();
      for (const row of diff.rows) this.rows.set(row.id, row);
      return;
    }
    for (const { operation, row } of diff.changes) {
      if (!this.isLenient && this.rows.has(row.id) === (operation === "insert"))
        throw new Error(`${operation} of ${row.key}, which is wrong`);
      if (operation === "delete") this.rows.delete(row.id);
      else this.rows.set(row.id, row);
    }
  }

  end(why: ViewEnd): void {
    this.ended = why;
  }

  /** Keys and values, by key. */
  shown(): [string, unknown][] {
    return [...this.rows.values()].map(({ key, value }): [string, unknown] => [key, value]).sort(byKey);
  }
}

function byKey([left]: [string, unknown], [right]: [string, unknown]): number {
  return left < right ? -1 : 1;
}

export function view(request: object): ViewDefinition {
  const parsed = parseView(request);
  if (typeof parsed === "string") throw new Error(parsed);
  return parsed;
}

const DEFAULT_STATE_BYTES = 64 * 1024 * 1024;

export async function viewWorld(
  options: {
    readonly maxStateBytes?: number;
    /** What other streams take up. */
    readonly otherBytes?: () => number;
    readonly enableBatching?: boolean;
    readonly store?: RowStore;
  } = {},
) {
  const world = liveWorld();
  await world.create("s");
  const follower = world.follow(await world.plan("s", "start"));
  const { engine, faults } = world;
  const kept = new KeptRows(options.store ?? null, engine.clock, (operation, cause) => {
    faults.push([operation, cause]);
  });
  const stream: ViewStream = new ViewStream(follower, {
    clock: engine.clock,
    deadlines: engine.deadlines,
    batching: { enableBatching: options.enableBatching ?? true },
    kept: kept.of(follower.plan.id),
    fromStart: async () => world.follow(await world.plan("s", "start")),
    hash: (text) => Bun.hash.xxHash3(text),
    hasRoom: (moreBytes = 0) =>
      stream.bytes + (options.otherBytes?.() ?? 0) + moreBytes <= (options.maxStateBytes ?? DEFAULT_STATE_BYTES),
    onFault: (operation, cause) => void faults.push([operation, cause]),
  });
  const running = stream.run();
  await turns(3);
  return {
    ...world,
    stream,
    running,
    change: async (...changes: readonly Change[]): Promise<void> => {
      const records = changes.map(({ operation, type = "t", ...rest }) => ({ type, ...rest, headers: { operation } }));
      await world.append("s", records);
      await turns(3);
    },
    control: async (control: string): Promise<void> => {
      await world.append("s", [{ headers: { control } }]);
      await turns(3);
    },
    /** Time in steps, so that what is due is worked on between them. */
    wait: async (ms: number): Promise<void> => {
      for (let passed = 0; passed < ms; passed += 20) await world.pass(20);
    },
  };
}
