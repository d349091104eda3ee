/**
 * The publisher's side of `live-client.ts`: starts that process, gives it orders, and ends it. Owns the process. Invariant: a
 * client that ends or falls silent rejects the order that waits for it.
 */

import { join } from "node:path";
import type { DeliveryOutcome, OpenOrder, OpenOutcome, SettleOrder } from "./live-subscribers.ts";

export type LiveOrder =
  | ({ readonly kind: "open" } & OpenOrder)
  | ({ readonly kind: "settle" } & SettleOrder)
  | { readonly kind: "wake" };

/** No order takes longer, its own time limit aside. */
const ANSWER_TIMEOUT_MS = 60_000;

export class LiveProcess {
  readonly #child: Bun.Subprocess;
  #answered: (answer: unknown) => void = () => {};

  constructor() {
    this.#child = Bun.spawn([process.execPath, join(import.meta.dir, "live-client.ts")], {
      stdin: "ignore",
      stdout: "inherit",
      stderr: "inherit",
      ipc: (message: { readonly answer: unknown }) => this.#answered(message.answer),
    });
  }

  get pid(): number {
    return this.#child.pid;
  }

  async open(order: OpenOrder): Promise<OpenOutcome> {
    return (await this.#ask({ kind: "open", ...order }, 0)) as OpenOutcome;
  }

  async wake(): Promise<void> {
    await this.#ask({ kind: "wake" }, 0);
  }

  async settle(order: SettleOrder): Promise<DeliveryOutcome> {
    return (await this.#ask({ kind: "settle", ...order }, order.timeoutMs)) as DeliveryOutcome;
  }

  async stop(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.exited;
  }

  #ask(order: LiveOrder, extraMs: number): Promise<unknown> {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#answered = resolve;
    const timer = setTimeout(
      () => reject(new Error(`the client gave no answer to ${order.kind}`)),
      ANSWER_TIMEOUT_MS + extraMs,
    );
    void this.#child.exited.then((code) => reject(new Error(`the client ended with ${code}`)));
    this.#child.send(order);
    return promise.finally(() => clearTimeout(timer));
  }
}
