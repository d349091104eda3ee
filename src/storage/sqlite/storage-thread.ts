/**
 * The main thread's handle of the storage worker: one request at a time, in order. A failing or dying worker is fatal: it
 * checkpoints and syncs, and after a failed sync nothing may be acknowledged.
 */

import { assert } from "../../kit/assert.ts";
import { failStop } from "./fatal.ts";
import type { CheckpointReply, PrepareReply, WorkerReply, WorkerRequest } from "./worker-messages.ts";

const HINT = "Look for disk errors and free space, then start the server again: it recovers by itself.";

export class StorageThread {
  readonly #worker: Worker;
  #waiting: ((reply: WorkerReply) => void) | null = null;
  #tail: Promise<unknown> = Promise.resolve();
  #closing = false;

  constructor(databasePath: string) {
    this.#worker = new Worker(new URL("./worker.ts", import.meta.url).href);
    this.#worker.onmessage = (event: MessageEvent<WorkerReply>) => {
      const reply = event.data;
      if (reply.kind === "failed") failStop("the storage thread", new Error(reply.reason), HINT);
      const waiting = this.#waiting;
      this.#waiting = null;
      assert(waiting !== null, "a reply without a request");
      waiting(reply);
    };
    this.#worker.onerror = (event) => failStop("the storage thread", new Error(event.message), HINT);
    this.#worker.addEventListener("close", () => {
      if (!this.#closing) failStop("the storage thread", new Error("it ended"), HINT);
    });
    this.#tail = this.#ask({ kind: "open", path: databasePath });
  }

  async checkpoint(last: boolean): Promise<CheckpointReply> {
    const reply = await this.#ask({ kind: "checkpoint", last });
    assert(reply.kind === "checkpoint", `unexpected reply ${reply.kind}`);
    return reply;
  }

  /** Null: not now, for want of file descriptors. */
  async prepare(from: number, to: number): Promise<PrepareReply | null> {
    const reply = await this.#ask({ kind: "prepare", from, to });
    if (reply.kind === "later") return null;
    assert(reply.kind === "prepare", `unexpected reply ${reply.kind}`);
    return reply;
  }

  /** Its connection closes first: the last one to close decides what becomes of the WAL, and ours keeps it. */
  async close(): Promise<void> {
    await this.#ask({ kind: "close" });
    this.#closing = true;
    this.#worker.terminate();
  }

  #ask(request: WorkerRequest): Promise<WorkerReply> {
    const answered = this.#tail.then(
      () =>
        new Promise<WorkerReply>((resolve) => {
          this.#waiting = resolve;
          this.#worker.postMessage(request);
        }),
    );
    this.#tail = answered;
    return answered;
  }
}
