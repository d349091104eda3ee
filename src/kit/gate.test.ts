/** So many at a time, in order; who gives up is passed over, and no place is lost. */

import { expect, test } from "bun:test";
import { Gate } from "./gate.ts";
import { nextTurn } from "./turn.ts";

const never = new AbortController().signal;

test("lets so many in, the others in order as places come free", async () => {
  const gate = new Gate(2);
  const entered: number[] = [];
  for (const one of [1, 2, 3, 4]) void gate.enter(never).then(() => entered.push(one));
  await nextTurn();
  expect(entered).toEqual([1, 2]);
  gate.leave();
  await nextTurn();
  expect(entered).toEqual([1, 2, 3]);
  gate.leave();
  gate.leave();
  await nextTurn();
  expect(entered).toEqual([1, 2, 3, 4]);
  expect(gate.isEmpty).toBe(false);
  gate.leave();
  expect(gate.isEmpty).toBe(true);
});

test("who gives up is passed over, also in the moment of its turn", async () => {
  const gate = new Gate(1);
  const outcomes: string[] = [];
  const wait = (name: string, signal: AbortSignal): void =>
    void gate.enter(signal).then((isInside) => outcomes.push(`${name} ${isInside}`));
  const [second, third] = [new AbortController(), new AbortController()];
  wait("first", never);
  wait("second", second.signal);
  wait("third", third.signal);
  wait("fourth", never);
  second.abort();
  await nextTurn();
  expect(outcomes).toEqual(["first true", "second false"]);
  gate.leave();
  third.abort();
  await nextTurn();
  expect(outcomes.slice(2)).toEqual(["third true"]);
  gate.leave();
  await nextTurn();
  expect(outcomes.slice(3)).toEqual(["fourth true"]);
  gate.leave();
  expect(gate.isEmpty).toBe(true);
  expect(await gate.enter(AbortSignal.abort())).toBe(false);
});
