/**
 * Where a producer keeps its epoch from one life to the next. The server's own memory of a producer decides; what is kept here
 * makes epochs grow also where the server has forgotten some (a restored backup, a stream that was made again).
 */

export interface EpochStore {
  /** The epoch saved last for this producer id; null when there is none. */
  load(id: string): Promise<number | null> | number | null;
  /** Called before the first request of an epoch. */
  save(id: string, epoch: number): Promise<void> | void;
}

/** What is needed of `localStorage`. */
export interface TextStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

const PREFIX = "streams-server:producer-epoch:";

/** Epochs in `localStorage`, or in anything like it. What is no epoch counts as none. */
export function localStorageEpochs(storage: TextStorage): EpochStore {
  return {
    load: (id) => {
      const text = storage.getItem(PREFIX + id);
      return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : null;
    },
    save: (id, epoch) => storage.setItem(PREFIX + id, String(epoch)),
  };
}
