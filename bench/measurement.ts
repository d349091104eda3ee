/** What one server gave in one round of one workload: the figures of each kind of workload, or why there are none. Types only. */

import type { AppendFigures } from "./append-run.ts";
import type { GrowthFigures } from "./growth-run.ts";
import type { IdleServerFigures } from "./idle-run.ts";
import type { LargeFigures } from "./large-run.ts";
import type { FanOutFigures, IdleFigures, StalledFigures } from "./live-run.ts";
import type { RandomReadFigures } from "./random-read-run.ts";
import type { ReadFigures } from "./read-run.ts";
import type { TouchMemoryFigures, TouchRateFigures, TouchWakeFigures } from "./touch-run.ts";
import type { WakeFigures } from "./wake-run.ts";
import type { Workload } from "./workloads.ts";

/** Short, in several rounds, or long, to see whether it lasts. */
export type Form = "burst" | "sustained";

export type Kind = Workload["kind"];

export interface FiguresOf extends Readonly<Record<Kind, unknown>> {
  readonly append: AppendFigures;
  readonly large: LargeFigures;
  readonly read: ReadFigures;
  readonly "random-read": RandomReadFigures;
  readonly wake: WakeFigures;
  readonly "touch-wake": TouchWakeFigures;
  readonly "touch-rate": TouchRateFigures;
  readonly "touch-memory": TouchMemoryFigures;
  readonly "live-fan-out": FanOutFigures;
  readonly "live-stalled": StalledFigures;
  readonly "live-idle": IdleFigures;
  readonly "idle-server": IdleServerFigures;
  readonly growth: GrowthFigures;
}

/** One kind, or one of several. */
export type Result<K extends Kind = Kind> = {
  [Each in K]: { readonly kind: Each; readonly figures: FiguresOf[Each] };
}[K];

export interface Failure {
  readonly kind: "failed";
  readonly reason: string;
}

export interface Place {
  readonly workload: string;
  readonly server: string;
  readonly round: number;
  readonly form: Form;
}

export type Measurement = Place & (Result | Failure);
