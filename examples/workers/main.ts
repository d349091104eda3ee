/** Ships orders as they come in, together with other workers of its kind, against a running server. See README.md. */

import { parseArgs } from "node:util";
import { connect } from "../../src/client/client.ts";
import { connectSubscriptions } from "../../src/client/subscriptions.ts";
import { shipOrders } from "./ship-orders.ts";

const { values } = parseArgs({
  options: {
    url: { type: "string", default: process.env["STREAM_URL"] ?? "http://127.0.0.1:4437" },
    name: { type: "string", default: `worker-${process.pid}` },
    lease: { type: "string", default: "5" },
    slow: { type: "string", default: "1" },
  },
});
const { url, name } = values;
const client = connect({ url });
const subscriptions = connectSubscriptions({ url });

// Every worker makes what it needs; whoever comes later finds it there.
for (const stream of ["order-wakes", "shipped"]) {
  (await client.stream(stream).create({ contentType: "application/json" })).unwrap();
}
const leaseTtlMs = Number(values.lease) * 1000;
const config = { type: "pull-wake", pattern: "orders/*", wakeStream: "order-wakes", leaseTtlMs } as const;
(await subscriptions.subscription("shipping").create(config)).unwrap();

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
console.log(`${name} is ready`);
const ended = await subscriptions.work("shipping", {
  worker: name,
  handle: (job) => shipOrders(job, { worker: name, orderMs: Number(values.slow) * 1000, log: console.log }),
  onFailure: ({ during, cause }) =>
    console.error(`${name}: ${during}:`, cause instanceof Error ? cause.message : cause),
  signal: stop.signal,
});
if (ended.isErr()) throw ended.error;
console.log(`${name} has ended`);
