/**
 * The process that holds the subscribers of one measurement, apart from the one that publishes: a burst of deliveries cannot
 * delay an append, and its CPU share can be told alone. Takes one order at a time from its parent, and ends with it.
 */

import type { LiveOrder } from "./live-process.ts";
import { LiveSubscribers } from "./live-subscribers.ts";

const subscribers = new LiveSubscribers();

async function answerTo(order: LiveOrder): Promise<unknown> {
  if (order.kind === "open") return subscribers.open(order);
  if (order.kind === "settle") return subscribers.settle(order);
  return subscribers.wake();
}

process.on("disconnect", () => process.exit());
process.on("message", (order: LiveOrder) => {
  void answerTo(order).then((answer) => process.send?.({ answer: answer ?? null }));
});
