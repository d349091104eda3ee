/**
 * The templates of one stream: which are active, since when, and how long after their last use. Owns the rules of activation,
 * caps, eviction and inactivity; says what has to be made durable and writes nothing itself.
 * Invariant: a template that a parked wait names is never retired.
 */

import type { z } from "zod";
import type { KeyWriter } from "../../protocol/touch-keys.ts";
import type { TouchSettings } from "../state-protocol/index.ts";
import type { TemplateTrace } from "./journal.ts";
import { formatCursor } from "./requests.ts";
import type { TemplateEvent } from "./report.ts";
import { HOT_MS, MAX_RETIRED_TEMPLATES, TEMPLATE_GC_BATCH } from "./limits.ts";
import { makeTemplate, sameEncodings, type Template, type templateSpec } from "./template.ts";

export type TemplateSpec = z.output<typeof templateSpec>;
export type RetiredReason = "inactivity" | "cap_exceeded";
export type DeniedReason = "rate_limited" | "invalid" | "cap_exceeded";

/** Attribute changes that make a step durable. */
export type Durable = Map<string, string | null>;

export interface ActiveTemplate {
  readonly template: Template;
  readonly trace: TemplateTrace;
  /** Tail at its (re)activation. */
  readonly activeFrom: number;
  ttlMs: number;
  lastSeenMs: number;
  /** `lastSeenMs` as it is on disk. */
  persistedMs: number;
  /** Its fine keys are recorded until then, whether anybody waits or not. */
  hotUntilMs: number;
}

export interface Activation {
  readonly activated: readonly ActiveTemplate[];
  readonly denied: readonly { readonly templateId: string; readonly reason: DeniedReason }[];
}

/** What the owner of the stream knows and the rules need. */
export interface TemplateSurroundings {
  readonly nowMs: number;
  readonly tail: number;
  /** Records before this seq have been derived. */
  readonly derived: number;
  isWaitedFor(templateId: string): boolean;
}

interface StoredTemplate extends TemplateSpec {
  readonly activeFrom: number;
  readonly ttlMs: number;
  readonly lastSeenMs: number;
  readonly retired: RetiredReason | null;
}

const PREFIX = "touch/template/";
const NO_ID = "0".repeat(16);

export class Templates {
  readonly #settings: TouchSettings["templates"];
  readonly #writer: KeyWriter;
  readonly #active = new Map<string, ActiveTemplate>();
  readonly #byEntity = new Map<string, ActiveTemplate[]>();
  /** From template keys to ids. */
  readonly #byKey = new Map<bigint, string>();
  readonly #byKeyId = new Map<number, string>();
  /** Entities of templates that were retired or denied, by id, oldest first: a client may still name them. */
  readonly #retired = new Map<string, Template>();
  readonly #streamId: number;
  #events: TemplateEvent[] = [];
  #tokens: number;
  #tokensAtMs: number;

  constructor(streamId: number, settings: TouchSettings["templates"], writer: KeyWriter, nowMs: number) {
    this.#streamId = streamId;
    this.#settings = settings;
    this.#writer = writer;
    this.#tokens = settings.activationRateLimitPerMinute;
    this.#tokensAtMs = nowMs;
  }

  get size(): number {
    return this.#active.size;
  }

  /** Whether a key that no named template explains may belong to a template that is active no longer. */
  get someRetired(): boolean {
    return this.#retired.size > 0;
  }

  all(): Iterable<ActiveTemplate> {
    return this.#active.values();
  }

  get(id: string): ActiveTemplate | undefined {
    return this.#active.get(id);
  }

  ofEntity(entity: string): readonly ActiveTemplate[] {
    return this.#byEntity.get(entity) ?? NONE;
  }

  /** The active template whose own key this is. */
  idOfKey(key: bigint): string | undefined {
    return this.#byKey.get(key);
  }

  idOfKeyId(keyId: number): string | undefined {
    return this.#byKeyId.get(keyId);
  }

  /** Entity of a template that is or was active. */
  entityOf(id: string): string | undefined {
    return (this.#active.get(id)?.template ?? this.#retired.get(id))?.entity;
  }

  /** Takes over what is durable and not known here: of a former run of the server, or of a state that was dropped. */
  load(attributes: ReadonlyMap<string, string | null>, around: TemplateSurroundings): void {
    for (const [key, value] of attributes) {
      if (!key.startsWith(PREFIX) || value === null) continue;
      const stored = JSON.parse(value) as StoredTemplate;
      const template = makeTemplate(stored, this.#writer);
      if (template === null || this.entityOf(template.id) !== undefined) continue;
      if (stored.retired !== null) this.#retired.set(template.id, template);
      else this.#insert(template, { ...stored, persistedMs: stored.lastSeenMs, hotUntilMs: 0 }, around);
    }
  }

  /** What happened since the last call; to be told once it is durable. */
  takeEvents(): readonly TemplateEvent[] {
    const events = this.#events;
    if (events.length > 0) this.#events = [];
    return events;
  }

  /** Activates what can be, in order; what is active already is only seen again. */
  activate(
    specs: readonly TemplateSpec[],
    ttlMs: number | null,
    around: TemplateSurroundings,
    durable: Durable,
  ): Activation {
    const activated: ActiveTemplate[] = [];
    const denied: { templateId: string; reason: DeniedReason }[] = [];
    const fresh = new Set<string>();
    for (const spec of specs) {
      const template = makeTemplate(spec, this.#writer);
      const outcome =
        template === null ? "invalid" : this.#activateOne(template, ttlMs, around, { durable, keep: fresh });
      if (typeof outcome === "string") {
        if (outcome !== "invalid" && template !== null) this.#remember(template, durable);
        denied.push({ templateId: outcome === "invalid" ? NO_ID : (template?.id ?? NO_ID), reason: outcome });
      } else {
        fresh.add(outcome.template.id);
        activated.push(outcome);
      }
    }
    return { activated, denied };
  }

  /** Clients still use these templates. */
  see(ids: readonly string[], nowMs: number, durable: Durable): void {
    for (const id of ids) {
      const active = this.#active.get(id);
      if (active === undefined) continue;
      active.lastSeenMs = nowMs;
      active.hotUntilMs = nowMs + HOT_MS;
      if (nowMs - active.persistedMs < this.#settings.lastSeenPersistIntervalMs) continue;
      active.persistedMs = nowMs;
      this.#persist(active, durable);
    }
  }

  /** Retires what nobody has used for its time to live. */
  collect(around: TemplateSurroundings, durable: Durable): void {
    let retired = 0;
    for (const active of this.#active.values()) {
      if (retired === TEMPLATE_GC_BATCH) return;
      if (active.lastSeenMs + active.ttlMs >= around.nowMs || around.isWaitedFor(active.template.id)) continue;
      this.#retire(active, "inactivity", durable);
      this.#events.push({
        type: "live.template_retired",
        reason: "inactivity",
        ...factsOf(active.template),
        lastSeenAt: new Date(active.lastSeenMs).toISOString(),
        inactiveForMs: around.nowMs - active.lastSeenMs,
      });
      retired++;
    }
  }

  /** Uses that are not durable yet. */
  flush(durable: Durable): void {
    for (const active of this.#active.values()) {
      if (active.lastSeenMs > active.persistedMs) this.#persist(active, durable);
    }
  }

  #activateOne(
    template: Template,
    ttlMs: number | null,
    around: TemplateSurroundings,
    { durable, keep }: { durable: Durable; keep: ReadonlySet<string> },
  ): ActiveTemplate | DeniedReason {
    const { nowMs } = around;
    const known = this.#active.get(template.id);
    if (known !== undefined) {
      if (!sameEncodings(known.template, template)) return "invalid";
      if (ttlMs !== null && ttlMs !== known.ttlMs) {
        if (!this.#takeToken(nowMs)) return "rate_limited";
        known.ttlMs = ttlMs;
        this.#persist(known, durable);
      }
      this.see([template.id], nowMs, durable);
      return known;
    }
    // An id keeps its encodings while it is remembered: a client may still wait by the keys of the old ones.
    const retired = this.#retired.get(template.id);
    if (retired !== undefined && !sameEncodings(retired, template)) return "invalid";
    if (!this.#takeToken(nowMs)) return "rate_limited";
    const { maxActiveTemplatesPerEntity, maxActiveTemplatesPerStream, defaultInactivityTtlMs } = this.#settings;
    const ofEntity = this.ofEntity(template.entity);
    if (
      ofEntity.length >= maxActiveTemplatesPerEntity &&
      !this.#evict(ofEntity, around, durable, keep, maxActiveTemplatesPerEntity)
    ) {
      return "cap_exceeded";
    }
    if (
      this.#active.size >= maxActiveTemplatesPerStream &&
      !this.#evict(this.all(), around, durable, keep, maxActiveTemplatesPerStream)
    ) {
      return "cap_exceeded";
    }
    this.#retired.delete(template.id);
    const times = { lastSeenMs: nowMs, persistedMs: nowMs, hotUntilMs: nowMs + HOT_MS };
    const state = { activeFrom: around.tail, ttlMs: ttlMs ?? defaultInactivityTtlMs, ...times };
    const active = this.#insert(template, state, around);
    this.#persist(active, durable);
    this.#events.push({
      type: "live.template_activated",
      reason: "declared",
      ...factsOf(template),
      activeFromTouchOffset: formatCursor(this.#streamId, active.activeFrom),
      inactivityTtlMs: active.ttlMs,
    });
    return active;
  }

  #insert(
    template: Template,
    state: Omit<ActiveTemplate, "template" | "trace">,
    around: TemplateSurroundings,
  ): ActiveTemplate {
    const { activeFrom, ttlMs, lastSeenMs, persistedMs, hotUntilMs } = state;
    const trace: TemplateTrace = { coveredFrom: around.derived, lastCoarse: -1, lastSeen: -1 };
    const active = { template, trace, activeFrom, ttlMs, lastSeenMs, persistedMs, hotUntilMs };
    this.#active.set(template.id, active);
    this.#byKey.set(template.key, template.id);
    this.#byKeyId.set(template.keyId, template.id);
    const siblings = this.#byEntity.get(template.entity);
    if (siblings === undefined) this.#byEntity.set(template.entity, [active]);
    else siblings.push(active);
    return active;
  }

  /** Makes room by retiring the least recently seen of `candidates`; false when all are needed. */
  #evict(
    candidates: Iterable<ActiveTemplate>,
    around: TemplateSurroundings,
    durable: Durable,
    keep: ReadonlySet<string>,
    cap: number,
  ): boolean {
    let oldest: ActiveTemplate | null = null;
    for (const candidate of candidates) {
      const { id } = candidate.template;
      if (keep.has(id) || around.isWaitedFor(id)) continue;
      if (oldest === null || candidate.lastSeenMs < oldest.lastSeenMs) oldest = candidate;
    }
    if (oldest === null) return false;
    this.#retire(oldest, "cap_exceeded", durable);
    const { id: templateId, entity } = oldest.template;
    this.#events.push({ type: "live.template_evicted", reason: "cap_exceeded", templateId, entity, cap });
    return true;
  }

  #retire(active: ActiveTemplate, reason: RetiredReason, durable: Durable): void {
    const { id, entity, key, keyId } = active.template;
    this.#active.delete(id);
    this.#byKey.delete(key);
    this.#byKeyId.delete(keyId);
    const siblings = this.ofEntity(entity).filter((sibling) => sibling !== active);
    if (siblings.length === 0) this.#byEntity.delete(entity);
    else this.#byEntity.set(entity, siblings);
    this.#persist(active, durable, reason);
    this.#remember(active.template, durable);
  }

  #remember(template: Template, durable: Durable): void {
    if (this.#active.has(template.id)) return;
    this.#retired.set(template.id, template);
    const [eldest] = this.#retired.keys();
    if (this.#retired.size > MAX_RETIRED_TEMPLATES && eldest !== undefined) {
      this.#retired.delete(eldest);
      durable.set(PREFIX + eldest, null);
    }
  }

  #persist(active: ActiveTemplate, durable: Durable, retired: RetiredReason | null = null): void {
    const { template, activeFrom, ttlMs, lastSeenMs } = active;
    const { entity } = template;
    const stored: StoredTemplate = { entity, fields: [...template.fields], activeFrom, ttlMs, lastSeenMs, retired };
    durable.set(PREFIX + template.id, JSON.stringify(stored));
  }

  /** A token bucket that refills within a minute; a limit of 0 is none. */
  #takeToken(nowMs: number): boolean {
    const perMinute = this.#settings.activationRateLimitPerMinute;
    if (perMinute === 0) return true;
    const refill = (Math.max(0, nowMs - this.#tokensAtMs) * perMinute) / 60_000;
    this.#tokens = Math.min(perMinute, this.#tokens + refill);
    this.#tokensAtMs = nowMs;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}

function factsOf({ id, entity, fields }: Template) {
  return {
    templateId: id,
    entity,
    fields: fields.map((field) => field.name),
    encodings: fields.map((field) => field.encoding),
  };
}

const NONE: readonly ActiveTemplate[] = [];
