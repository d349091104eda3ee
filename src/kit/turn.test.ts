/** Sharing turns of the event loop: who passes in which, and that nobody is overtaken. */

import { expect, test } from "bun:test";
import { nextTurn, TurnGate } from "./turn.ts";

/** Which of `costs` passed in each turn. */
async function passed(gate: TurnGate, costs: readonly number[]): Promise<number[][]> {
  const through: number[] = [];
  const all = Promise.all(costs.map((cost, index) => gate.pass(cost).then(() => through.push(index))));
  const turns: number[][] = [];
  for (let told = 0; told < costs.length; told = turns.flat().length) {
    // What passed at once is told in the same turn, after the promises.
    for (let step = 0; step < 4; step++) await Promise.resolve();
    turns.push(through.slice(told));
    await nextTurn();
  }
  await all;
  return turns;
}

test("so many pass in a turn, the others in later ones, in order", async () => {
  expect(await passed(new TurnGate(2), [1, 1, 1, 1, 1])).toEqual([[0, 1], [2, 3], [4]]);
});

test("by what they cost; the last one of a turn may cost more than is left, and more than a turn has", async () => {
  expect(await passed(new TurnGate(10), [4, 4, 4, 25, 1])).toEqual([[0, 1, 2], [3], [4]]);
});

test("a turn in which nobody came leaves nothing to a later one", async () => {
  const gate = new TurnGate(1);
  expect(await passed(gate, [1])).toEqual([[0]]);
  for (let turn = 0; turn < 3; turn++) await nextTurn();
  expect(await passed(gate, [1, 1])).toEqual([[0], [1]]);
});

test("who comes while others wait waits behind them", async () => {
  const gate = new TurnGate(1);
  const order: string[] = [];
  const come = (name: string): Promise<number> => gate.pass().then(() => order.push(name));
  const first = [come("a"), come("b"), come("c")];
  await nextTurn();
  await Promise.all([...first, come("d")]);
  expect(order).toEqual(["a", "b", "c", "d"]);
});
