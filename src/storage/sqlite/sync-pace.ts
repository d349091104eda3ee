/**
 * Whether the disk is so quick that waiting for it is cheaper than handing the sync to another thread and being woken. Judged by the
 * last syncs, wherever they ran; one that took long is enough to say no until it is forgotten, so that a disk which becomes
 * slow holds the event loop once.
 */

/** With half of them above it, the disk is not quick: a hop to another thread and back costs 0.1 to 0.2 ms. */
const QUICK_MS = 0.3;
/** A turn of the event loop may be held this long. */
const LONG_MS = 5;
const REMEMBERED = 32;

export class SyncPace {
  readonly #recentMs = new Float64Array(REMEMBERED).fill(Infinity);
  #at = 0;
  #notQuick = REMEMBERED;
  #long = REMEMBERED;

  note(ms: number): void {
    const forgottenMs = this.#recentMs[this.#at] ?? Infinity;
    this.#notQuick += Number(ms > QUICK_MS) - Number(forgottenMs > QUICK_MS);
    this.#long += Number(ms > LONG_MS) - Number(forgottenMs > LONG_MS);
    this.#recentMs[this.#at] = ms;
    this.#at = (this.#at + 1) % REMEMBERED;
  }

  get isQuick(): boolean {
    return this.#long === 0 && this.#notQuick * 2 < REMEMBERED;
  }
}
