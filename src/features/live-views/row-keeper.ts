/**
 * What of one state is not kept yet: rows that changed are saved a while after the first change, together with others, and the rest when the
 * state is let go. Bounded by the rows of the state: an id is noted once.
 */

import type { Deadline, Deadlines } from "../../kit/deadlines.ts";
import type { KeptState } from "./kept-rows.ts";
import type { MaterialisedState, RowChange } from "./materialised-state.ts";

/** Rows that changed are kept this much later. */
const SAVE_AFTER_MS = 2_000;

/** A state, and how many records of the stream it shows. */
interface Shown {
  readonly state: MaterialisedState;
  readonly seq: number;
}

export class RowKeeper {
  readonly #kept: KeptState;
  readonly #deadlines: Deadlines;
  readonly #onFault: (operation: string, cause: unknown) => void;
  readonly #shown: () => Shown;
  /** Ids of rows that changed since the last save. */
  #unsaved = new Set<string>();
  /** All rows were forgotten since the last save. */
  #wasReset = false;
  #saving: Promise<void> | null = null;
  #saveLater: Deadline | null = null;
  #isStopped = false;

  /** `shown`: the state as it is. */
  constructor(
    kept: KeptState,
    shown: () => Shown,
    deadlines: Deadlines,
    onFault: (operation: string, cause: unknown) => void,
  ) {
    this.#kept = kept;
    this.#shown = shown;
    this.#deadlines = deadlines;
    this.#onFault = onFault;
  }

  /** What a change makes of the kept rows. */
  note(change: RowChange | "reset" | null): void {
    if (change === null) return;
    if (change === "reset") {
      this.#unsaved.clear();
      this.#wasReset = true;
    } else {
      const row = change.after ?? change.before;
      if (row !== null) this.#unsaved.add(row.id);
    }
    this.#saveSoon();
  }

  /** Begins no more saves, and waits for the one that is under way. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#saveLater?.cancel();
    await this.#saving;
  }

  /** Saves what is not kept yet, after `stop`. Nothing may change any more. */
  finish(): Promise<void> {
    return this.#save();
  }

  #saveSoon(): void {
    if (this.#isStopped) return;
    this.#saveLater ??= this.#deadlines.after(SAVE_AFTER_MS, () => {
      this.#saving = this.#save();
    });
  }

  async #save(): Promise<void> {
    // As it is now: a state that is given up meanwhile is still the one that these rows are of.
    const { state, seq } = this.#shown();
    const ids = this.#unsaved;
    this.#unsaved = new Set();
    try {
      if (this.#wasReset) {
        this.#wasReset = false;
        await this.#kept.forget();
      }
      await this.#kept.save(seq, ids, (id) => state.get(id));
    } catch (cause) {
      this.#onFault("keeping rows", cause);
    }
    this.#saveLater = null;
    if (this.#unsaved.size > 0) this.#saveSoon();
  }
}
