/** Nobody writes while a hold is taken, also when it was taken a moment after they could have looked. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { Background } from "./background.ts";
import { Hold } from "./hold.ts";

/** What is handed over begins at once, or not in this turn. */
async function isHeld(hold: Hold, seen: boolean[]): Promise<void> {
  let began = false;
  const done = hold.whenFree(() => {
    began = true;
  });
  seen.push(!began);
  await done;
}

// A look at the hold, and work that begins a microtask later, let the second taker in between.
test.each([0, 1, 2, 3])(
  "work that waited does not begin in a hold taken %i microtasks after the last",
  async (delay) => {
    const hold = new Hold();
    const background = new Background(new Database(":memory:"), hold, () => undefined);
    await hold.take();
    const released = Promise.withResolvers<void>();
    const again = (async () => {
      await released.promise;
      for (let waited = 0; waited < delay; waited++) await Promise.resolve();
      await hold.take();
    })();
    const seen: boolean[] = [];
    const looks: Promise<void>[] = [];
    const look = (): void => void looks.push(isHeld(hold, seen));
    const done = background.once(look);
    hold.release();
    released.resolve();
    await again;
    hold.release();
    await Promise.all([done, ...looks]);
    expect(seen).toEqual([false]);
  },
);
