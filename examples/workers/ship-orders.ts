/**
 * The handler of one job: reads what is new in its streams, ships order after order, and writes each into `shipped`. An order
 * that was shipped and not acked when its worker died comes again: its key in `shipped` tells that it was done.
 */

import { jsonValues } from "../../src/client/json-array-splitter.ts";
import type { Job } from "../../src/client/subscriptions.ts";

const MAX_RECORD_BYTES = 1024 * 1024;

interface Order {
  readonly id: string;
}

/** A record of `shipped`. */
interface Shipped {
  readonly order: string;
  readonly worker: string;
}

export interface Shipping {
  readonly worker: string;
  /** How long one order takes. */
  readonly orderMs: number;
  readonly log: (line: string) => void;
}

export async function shipOrders(job: Job, { worker, orderMs, log }: Shipping): Promise<void> {
  const shipped = job.stream("shipped");
  for (const { path, ackedOffset } of job.streams) {
    const read = (await job.stream(path).read({ offset: ackedOffset, signal: job.signal })).unwrap();
    const orders = await valuesOf<Order>(read);
    log(`${worker} ships ${orders.length} of ${path}`);
    for (const { id } of orders) {
      // A lease that is lost, or a worker that is to end, leaves the rest to the next one.
      job.signal.throwIfAborted();
      const key = `${path}/${id}`;
      if (await isThere(job, key)) continue;
      await Bun.sleep(orderMs);
      const record: Shipped = { order: key, worker };
      (await shipped.append(JSON.stringify(record), { contentType: "application/json", key })).unwrap();
    }
    job.processed(path, read.nextOffset);
  }
}

async function isThere(job: Job, key: string): Promise<boolean> {
  const read = (await job.stream("shipped").read({ key })).unwrap();
  return (await valuesOf<Shipped>(read)).some(({ order }) => order === key);
}

async function valuesOf<T>(read: AsyncIterable<Uint8Array>): Promise<T[]> {
  const decoder = new TextDecoder();
  const values: T[] = [];
  for await (const group of jsonValues(read, MAX_RECORD_BYTES)) {
    for (const value of group) values.push(JSON.parse(decoder.decode(value)) as T);
  }
  return values;
}
