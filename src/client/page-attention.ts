/**
 * Whether anybody looks at the page. A page that stays hidden for a while is away, and back as soon as it is shown; where
 * there is no page (workers, servers) nobody is ever away. Owns one listener and one timer until `stop`.
 */

import { abortReason } from "./retry-policy.ts";
import { MAX_TIMER_MS } from "./transport.ts";

/** What of the platform's `document` is needed. */
export interface Page {
  readonly hidden: boolean;
  addEventListener(type: "visibilitychange", listener: () => void): void;
  removeEventListener(type: "visibilitychange", listener: () => void): void;
}

/** The browser's own page; null where there is none. */
export function documentPage(): Page | null {
  return (globalThis as { readonly document?: Page }).document ?? null;
}

export class PageAttention {
  readonly #page: Page | null;
  readonly #hiddenAfterMs: number;
  readonly #onAway: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #away = false;
  #onBack: (() => void) | null = null;

  /** `onAway` is called each time the page has been hidden for `hiddenAfterMs`. */
  constructor(page: Page | null, hiddenAfterMs: number, onAway: () => void) {
    this.#page = page;
    this.#hiddenAfterMs = Math.min(hiddenAfterMs, MAX_TIMER_MS);
    this.#onAway = onAway;
    page?.addEventListener("visibilitychange", this.#look);
    this.#look();
  }

  /** Resolves at once unless the page is away. Rejects with the signal's reason. One caller at a time. */
  back(signal: AbortSignal | undefined): Promise<void> {
    if (!this.#away) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#onBack = null;
        if (signal !== undefined) reject(abortReason(signal));
      };
      if (signal?.aborted === true) return onAbort();
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#onBack = () => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      };
    });
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#page?.removeEventListener("visibilitychange", this.#look);
  }

  readonly #look = (): void => {
    clearTimeout(this.#timer);
    if (this.#page?.hidden === true) {
      this.#timer = setTimeout(() => {
        this.#away = true;
        this.#onAway();
      }, this.#hiddenAfterMs);
      return;
    }
    this.#away = false;
    this.#onBack?.();
    this.#onBack = null;
  };
}
