/** The life of templates: activation, caps, eviction, inactivity, and what survives a restart. */

import { expect, test } from "bun:test";
import { KeyWriter } from "../../protocol/touch-keys.ts";
import { stateProtocol, touchSettingsOf } from "../state-protocol/index.ts";
import { HOT_MS, MAX_RETIRED_TEMPLATES } from "./limits.ts";
import { type Durable, Templates, type TemplateSpec } from "./templates.ts";

const MINUTE = 60_000;
const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));

class World {
  nowMs = 1_000_000;
  readonly waited = new Set<string>();
  readonly stored = new Map<string, string>();
  readonly #settings;
  templates: Templates;

  constructor(settings: object = {}) {
    const parsed = stateProtocol.parse({ touch: { enabled: true, templates: settings } }, "s");
    if ("reason" in parsed) throw new Error(parsed.reason);
    const touch = touchSettingsOf({ kind: stateProtocol.kind, config: parsed.config });
    if (touch === null) throw new Error("touch is on");
    this.#settings = touch.templates;
    this.templates = new Templates(1, this.#settings, writer, this.nowMs);
  }

  around() {
    return { nowMs: this.nowMs, tail: 7, derived: 5, isWaitedFor: (id: string) => this.waited.has(id) };
  }

  activate(specs: readonly TemplateSpec[], ttlMs: number | null = null): string[] {
    const durable: Durable = new Map();
    const { activated, denied } = this.templates.activate(specs, ttlMs, this.around(), durable);
    this.keep(durable);
    return [...activated.map(({ template }) => template.id), ...denied.map(({ reason }) => reason)];
  }

  collect(): void {
    const durable: Durable = new Map();
    this.templates.collect(this.around(), durable);
    this.keep(durable);
  }

  see(...ids: readonly string[]): number {
    const durable: Durable = new Map();
    this.templates.see(ids, this.nowMs, durable);
    this.keep(durable);
    return durable.size;
  }

  keep(durable: Durable): void {
    for (const [key, value] of durable) {
      if (value === null) this.stored.delete(key);
      else this.stored.set(key, value);
    }
  }

  restart(): void {
    this.templates = new Templates(1, this.#settings, writer, this.nowMs);
    this.templates.load(this.stored, this.around());
  }

  get active(): string[] {
    return Array.from(this.templates.all(), ({ template }) => template.id);
  }
}

const spec = (entity: string, ...names: readonly string[]): TemplateSpec => ({
  entity,
  fields: names.map((name) => ({ name, encoding: "string" as const })),
});

test("activation is idempotent, whatever the order of fields; other encodings are invalid", () => {
  const world = new World();
  const [id = ""] = world.activate([spec("a", "x", "y")]);
  expect(world.activate([spec("a", "y", "x")])).toEqual([id]);
  expect(world.active).toEqual([id]);
  expect(world.templates.get(id)).toMatchObject({ activeFrom: 7, trace: { coveredFrom: 5 } });
  const other: TemplateSpec = {
    entity: "a",
    fields: [
      { name: "x", encoding: "int64" },
      { name: "y", encoding: "string" },
    ],
  };
  expect(world.activate([other])).toEqual(["invalid"]);
  expect(world.activate([spec("a", "x", "x")])).toEqual(["invalid"]);
});

test("activations are limited per minute; what is active already is free", () => {
  const world = new World({ activationRateLimitPerMinute: 2 });
  const [first = "", second = ""] = world.activate([spec("a", "x"), spec("a", "y")]);
  expect(world.activate([spec("a", "z"), spec("a", "x")])).toEqual([first, "rate_limited"]);
  world.nowMs += MINUTE / 2;
  const [third = ""] = world.activate([spec("a", "z")]);
  expect(world.active).toEqual([first, second, third]);
  expect(world.activate([spec("a", "w")])).toEqual(["rate_limited"]);
  expect(
    new World({ activationRateLimitPerMinute: 0 }).activate(Array.from({ length: 300 }, (_, n) => spec(`e${n}`, "x"))),
  ).not.toContain("rate_limited");
});

test("over a cap the least recently seen makes room, never one that is waited for or just activated", () => {
  const world = new World({ maxActiveTemplatesPerEntity: 2 });
  const [x = "", y = ""] = world.activate([spec("a", "x"), spec("a", "y")]);
  world.nowMs += 10;
  world.see(x);
  const [z = ""] = world.activate([spec("a", "z")]);
  expect(world.active).toEqual([x, z]);
  expect(world.templates.entityOf(y)).toBe("a");
  expect(world.templates.someRetired).toBe(true);
  world.waited.add(x);
  world.nowMs += 10;
  world.see(z);
  const [w = ""] = world.activate([spec("a", "w")]);
  expect(world.active).toEqual([x, w]);
  world.waited.add(w);
  expect(world.activate([spec("a", "v")])).toEqual(["cap_exceeded"]);
  expect(world.activate([spec("b", "x")])).toHaveLength(1);
  const small = new World({ maxActiveTemplatesPerStream: 1 });
  expect(small.activate([spec("a", "x"), spec("b", "x")])[1]).toBe("cap_exceeded");
});

test("what nobody has used for its time to live is retired, in memory and on disk", () => {
  const world = new World({ defaultInactivityTtlMs: 10 * MINUTE });
  const [x = "", y = ""] = world.activate([spec("a", "x"), spec("a", "y")]);
  const [z = ""] = world.activate([spec("a", "z")], 60 * MINUTE);
  world.nowMs += 10 * MINUTE;
  world.collect();
  expect(world.active).toEqual([x, y, z]);
  world.see(x);
  world.nowMs += 1;
  world.waited.add(y);
  world.collect();
  expect(world.active).toEqual([x, y, z]);
  world.waited.clear();
  world.collect();
  expect(world.active).toEqual([x, z]);
  world.restart();
  expect(world.active.sort()).toEqual([x, z].sort());
  expect(world.templates.entityOf(y)).toBe("a");
  expect(world.activate([spec("a", "y")])).toEqual([y]);
  world.restart();
  expect(world.active.sort()).toEqual([x, y, z].sort());
});

test("a use is made durable now and then, and keeps a template hot", () => {
  const world = new World({ lastSeenPersistIntervalMs: 5 * MINUTE });
  const [x = ""] = world.activate([spec("a", "x")]);
  world.nowMs += MINUTE;
  expect(world.see(x)).toBe(0);
  expect(world.templates.get(x)?.hotUntilMs).toBe(world.nowMs + HOT_MS);
  world.nowMs += 5 * MINUTE;
  expect(world.see(x)).toBe(1);
  world.nowMs += MINUTE;
  expect(world.see(x)).toBe(0);
  const durable: Durable = new Map();
  world.templates.flush(durable);
  expect(durable.size).toBe(1);
  expect(world.see("0".repeat(16))).toBe(0);
});

test("retired templates are remembered up to a bound", () => {
  const world = new World({ maxActiveTemplatesPerStream: 1, activationRateLimitPerMinute: 0 });
  for (let no = 0; no <= MAX_RETIRED_TEMPLATES + 10; no++) {
    world.nowMs++;
    world.activate([spec(`e${no}`, "x")]);
  }
  expect(world.stored.size).toBe(MAX_RETIRED_TEMPLATES + 1);
  expect(world.active).toHaveLength(1);
});
