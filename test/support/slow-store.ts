/**
 * The store in memory whose reads wait for a test, and find nothing where retention has trimmed, as a store on disk does: for what
 * goes away while it is read.
 */

import { MemoryStore } from "../../src/storage/memory/memory-store.ts";
import type { Chunk, ReadRequest } from "../../src/storage/port.ts";

const nothing = (): void => undefined;

export class SlowStore extends MemoryStore {
  #beforeRead: () => Promise<unknown> | void = nothing;

  /** Called, and waited for, before each read from now on. */
  beforeReads(act: () => Promise<unknown> | void): void {
    this.#beforeRead = act;
  }

  /** Called, and waited for, before the next read only. */
  beforeNextRead(act: () => Promise<unknown> | void): void {
    this.#beforeRead = () => {
      this.#beforeRead = nothing;
      return act();
    };
  }

  override async read(request: ReadRequest): Promise<Chunk> {
    await this.#beforeRead();
    const head = await this.byId(request.id);
    if (head === undefined || head.retainedFrom > request.from) return { parts: [], next: request.from };
    return super.read(request);
  }
}
