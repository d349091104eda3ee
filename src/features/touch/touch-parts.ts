/** What all streams with touch share. */

import type { Admission } from "../../engine/admission.ts";
import type { Engine } from "../../engine/engine.ts";
import type { KeyWriter } from "../../protocol/touch-keys.ts";
import type { JournalBudget } from "./journal.ts";
import type { Replayer } from "./replay.ts";
import type { WakeQueue } from "./wake-queue.ts";

export interface TouchParts {
  readonly engine: Engine;
  readonly writer: KeyWriter;
  readonly budget: JournalBudget;
  readonly wakes: WakeQueue;
  readonly replayer: Replayer;
  /** Keys of all parked waits; taken before a wait, given back when it ends. */
  readonly parkedKeys: Admission;
  readonly onFault: (operation: string, cause: unknown) => void;
}
