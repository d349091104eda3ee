/** Producers, trackers and streams with a schema, in every runtime of the client. */

import {
  connect,
  InvalidRecords,
  localStorageEpochs,
  type StandardSchema,
  type StreamHandle,
} from "../../../src/client/client.ts";
import { asRefused, check, refused, same, thrown } from "./asserts.ts";
import { BYTES_TYPE, bytesOf, eventually, fresh, recordsOf, type SuiteTest } from "./suite-test.ts";

const QUICK = { maxAttempts: 5, baseDelayMs: 1, maxDelayMs: 5 };

interface Order {
  readonly id: string;
  readonly total: number;
}

/** By hand, so that the suite needs no library: a text that is not empty, and a number. */
const orderSchema: StandardSchema<Order, Order> = {
  "~standard": {
    version: 1,
    vendor: "suite",
    validate: (value) => {
      const { id, total } = (value ?? {}) as Partial<Order>;
      if (typeof id !== "string" || id === "") return { issues: [{ message: "no id", path: ["id"] }] };
      if (typeof total !== "number") return { issues: [{ message: "no total", path: ["total"] }] };
      return { value: { id, total } };
    },
  },
};

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, number) => number);
}

/** The stream through a network that loses the answer of every third append, after the server has it. */
function losingAnswers({ url }: { readonly url: string }, name: string) {
  let requests = 0;
  let lost = 0;
  const stream: StreamHandle = connect({
    url,
    retry: QUICK,
    fetch: async (to, init) => {
      const answer = await fetch(to, init);
      if (init.method !== "POST" || ++requests % 3 !== 0) return answer;
      lost += 1;
      throw new TypeError("the answer got lost");
    },
  }).stream(name);
  return { stream, lost: () => lost };
}

export const sending: readonly SuiteTest[] = [
  {
    name: "producer: every value once and in order, though answers get lost",
    run: async (context) => {
      const made = await fresh(context, "producer/lossy");
      const { stream, lost } = losingAnswers(context, made.name);
      const producer = stream.producer({ maxBatchRecords: 10 });
      const acks = numbers(200).map((number) => producer.append({ number }));
      (await producer.flush()).unwrap();
      for (const ack of acks) check("an offset", (await ack).unwrap().nextOffset !== "");
      (await producer.close({ closeStream: true })).unwrap();
      check(`answers that got lost, not ${lost()}`, lost() >= 5);
      same(
        await recordsOf(made),
        numbers(200).map((number) => ({ number })),
      );
      check("no append to a closed producer", (await thrown(producer.append(1))) instanceof TypeError);
      await refused(made.appendJson([1]), 409, "stream-closed");
    },
  },
  {
    name: "producer: bytes stay as they are, and the stream's errors are told",
    run: async (context) => {
      const stream = await fresh(context, "producer/bytes", { contentType: BYTES_TYPE });
      const producer = stream.producer({ contentType: BYTES_TYPE });
      (await producer.append(Uint8Array.of(0, 255))).unwrap();
      (await producer.append("ä")).unwrap();
      same([...(await bytesOf(stream))], [0, 255, 0xc3, 0xa4]);
      (await stream.delete()).unwrap();
      await refused(producer.append("late"), 404, "not-found");
      await refused(producer.flush(), 404, "not-found");
    },
  },
  {
    name: "producer: one that starts again with its id goes on, and fences the one before",
    run: async (context) => {
      const stream = await fresh(context, "producer/again");
      const kept = new Map<string, string>();
      const epochs = localStorageEpochs({
        getItem: (key) => kept.get(key) ?? null,
        setItem: (key, value) => void kept.set(key, value),
      });
      const options = { id: "till-1", epochs };
      const [first, second] = [stream.producer(options), stream.producer(options)];
      (await first.append(1)).unwrap();
      (await second.append(2)).unwrap();
      const fenced = asRefused((await first.append(3)).isErr() ? await fencedBy(first) : null, 403);
      check("the epoch of the second", (fenced.producerEpoch ?? 0) > 0 && kept.size === 1);
      same(await recordsOf(stream), [1, 2]);
    },
  },
  {
    name: "tracker: events arrive, in batches, and losses are counted",
    run: async (context) => {
      const stream = await fresh(context, "tracker/events");
      (await stream.setProfile({ kind: "analytics", batchIntervalMs: 20, samplingRates: {}, aggregate: [] })).unwrap();
      const tracker = stream.tracker({ maxBatchEvents: 10 });
      for (const number of numbers(25)) {
        const took = tracker.track({ type: "command", data: { commandName: `c${number}`, success: true } });
        same(took, true);
      }
      same(tracker.track({ type: "command", data: { commandName: "x".repeat(40_000), success: true } }), false);
      (await tracker.close()).unwrap();
      same([tracker.droppedEvents, tracker.queuedEvents], [1, 0]);
      await eventually("the server has them", async () => {
        const batches = (await recordsOf(stream)) as { readonly events?: readonly unknown[] }[];
        return batches.flatMap(({ events }) => events ?? []).length === 25;
      });
    },
  },
  {
    name: "typed: what has the schema goes through, what has not is told",
    run: async (context) => {
      const stream = await fresh(context, "typed/orders");
      const orders = stream.typed(orderSchema);
      (await orders.append([{ id: "a", total: 1 }])).unwrap();
      const wrong = await orders.append([
        { id: "b", total: 2 },
        { id: "", total: 3 },
      ]);
      check("invalid records", wrong.isErr() && InvalidRecords.is(wrong.error) && wrong.error.records[0]?.index === 1);
      (await stream.appendJson([{ hello: 1 }, { id: "c", total: 4 }], { close: true })).unwrap();
      const ids: string[] = [];
      for await (const { values } of orders.follow({ onInvalid: "skip" })) ids.push(...values.map(({ id }) => id));
      for await (const { id } of (await orders.read({ onInvalid: "skip" })).unwrap()) ids.push(id);
      same(ids, ["a", "c", "a", "c"]);
      const cause = await thrown(orders.follow().next());
      check("an error of the second record", InvalidRecords.is(cause) && cause.records[0]?.index === 1);
    },
  },
];

/** Why a producer takes nothing any more. */
async function fencedBy(producer: ReturnType<StreamHandle["producer"]>): Promise<unknown> {
  const flushed = await producer.flush();
  return flushed.isErr() ? flushed.error : null;
}
