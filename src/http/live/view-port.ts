/**
 * Live views as a connection sees them: somebody opens one, puts what it shows now into a mailbox for one frame, and is told when
 * that was taken. A connection that does not take a frame is not given the next: it gets the difference later.
 */

import type { HttpProblem } from "../errors.ts";
import type { Followed } from "./clients.ts";
import type { SharedFrames } from "./shared-frames.ts";

/** What a view tells: State Protocol records, comma-joined JSON. */
export interface ViewFrame {
  /** Begins with a reset: forget what was shown. */
  readonly full: boolean;
  /** Position in the stream that the view then shows. */
  readonly offset: string;
  readonly records: string;
  readonly bytes: SharedFrames<Uint8Array>;
  readonly texts: SharedFrames<string>;
}

export interface OpenedView extends Followed {
  /** Shows something else from now on; or why not. */
  update(request: unknown): HttpProblem | null;
  /** The connection has taken what it was sent. */
  drained(): void;
  /** Idempotent. */
  close(): void;
}

export interface ViewOpener {
  /** `since`: an offset up to which the client has what the view showed; null = it has nothing. */
  open(stream: string, request: unknown, since: string | null, mailbox: ViewMailbox): Promise<OpenedView | HttpProblem>;
}

/** Room for one frame between a view and its connection. */
export class ViewMailbox {
  #frame: ViewFrame | null = null;
  #ended: { readonly why: HttpProblem | null } | null = null;
  #wake: (() => void) | null = null;
  #offset: string | null = null;
  #onDrained: () => void = () => undefined;

  /** Who is told that there is room again. */
  connect(view: OpenedView): void {
    this.#onDrained = () => view.drained();
  }

  /** Whether a frame would be taken at once. */
  isReady(): boolean {
    return this.#wake !== null && this.#ended === null;
  }

  put(frame: ViewFrame): void {
    this.#frame = frame;
    this.#awake();
  }

  /** Nothing more comes; null = the connection wants it so. */
  end(why: HttpProblem | null): void {
    this.#ended ??= { why };
    this.#awake();
  }

  /** Resolves when there is something to take. */
  ready(): Promise<void> {
    if (this.#frame !== null || this.#ended !== null) return Promise.resolve();
    const ready = new Promise<void>((resolve) => (this.#wake = resolve));
    this.#onDrained();
    return ready;
  }

  take(): ViewFrame | null {
    const frame = this.#frame;
    this.#frame = null;
    if (frame !== null) this.#offset = frame.offset;
    return frame;
  }

  /** Of the last frame that was taken; null before the first. */
  get offset(): string | null {
    return this.#offset;
  }

  /** Why nothing more comes; null while something may. */
  get ended(): { readonly why: HttpProblem | null } | null {
    return this.#frame === null ? this.#ended : null;
  }

  #awake(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }
}
