/** The few largest of many, in turns that others can get between. O(n) with a short list at hand. */

import { nextTurn } from "./turn.ts";

/** Items looked at in one turn: about 1 ms. */
const ITEMS_PER_TURN = 20_000;

/** Largest first; those of size 0 are left out. `items` may be walked over several turns. */
export async function largest<T>(items: Iterable<T>, limit: number, sizeOf: (item: T) => number): Promise<T[]> {
  const top: { item: T; size: number }[] = [];
  let looked = 0;
  for (const item of items) {
    if (++looked % ITEMS_PER_TURN === 0) await nextTurn();
    const size = sizeOf(item);
    if (size <= 0 || (top.length === limit && size <= (top[limit - 1]?.size ?? 0))) continue;
    top.push({ item, size });
    top.sort((left, right) => right.size - left.size);
    if (top.length > limit) top.pop();
  }
  return top.map(({ item }) => item);
}
