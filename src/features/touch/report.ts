/** What touch hands over for `live.metrics` and `/metrics`: per stream and interval, and as it happens. Values only. */

import type { TouchActivity } from "./activity.ts";

/** One stream's interval, and where the stream stands at its end. */
export interface TouchReport {
  readonly id: number;
  readonly stream: string;
  readonly activity: TouchActivity;
  readonly now: {
    readonly coarseIntervalMs: number;
    readonly touchCoalesceWindowMs: number;
    readonly activeTemplates: number;
    readonly activeWaiters: number;
    /** Times the journal forgot everything because it was full. */
    readonly overflows: number;
    /** Seq of the next record, and of the first one that is not derived. */
    readonly next: number;
    readonly derived: number;
    /** First seq that is not sealed, and the bytes from there; null when all is sealed. */
    readonly unsealed: { readonly from: number; readonly bytes: number } | null;
  };
}

interface TemplateFacts {
  readonly templateId: string;
  readonly entity: string;
  readonly fields: readonly string[];
  readonly encodings: readonly string[];
}

/** Something that happened to a template. */
export type TemplateEvent =
  | ({
      readonly type: "live.template_activated";
      readonly reason: "declared";
      readonly activeFromTouchOffset: string;
      readonly inactivityTtlMs: number;
    } & TemplateFacts)
  | ({
      readonly type: "live.template_retired";
      readonly reason: "inactivity";
      readonly lastSeenAt: string;
      readonly inactiveForMs: number;
    } & TemplateFacts)
  | {
      readonly type: "live.template_evicted";
      readonly reason: "cap_exceeded";
      readonly templateId: string;
      readonly entity: string;
      readonly cap: number;
    };

/** An active template in a snapshot. */
export interface TemplateSnapshot {
  readonly templateId: string;
  readonly entity: string;
  readonly fields: readonly string[];
  readonly lastSeenAgoMs: number;
  readonly state: "active";
}

/** Told of template events as they happen; must not throw. */
export type TemplateListener = (stream: string, event: TemplateEvent) => void;
