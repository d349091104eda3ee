/** Streams with a schema: what is sent, what is given out, and what becomes of records that do not have it. */

import { expect, test } from "bun:test";
import { z } from "zod";
import { rejection, within } from "../../test/support/wait.ts";
import { connect, InvalidRecords, type StandardSchema, type TypedStream } from "./client.ts";
import { anyJson } from "./typed-stream.ts";

const order = z.object({ id: z.string(), total: z.string().transform(Number), note: z.string().default("none") });
type Input = z.input<typeof order>;
type Output = z.output<typeof order>;

/** By hand, and it takes its time. */
const positive: StandardSchema<number, { readonly amount: number }> = {
  "~standard": {
    version: 1,
    vendor: "test",
    validate: async (value) =>
      typeof value === "number" && value > 0
        ? { value: { amount: value } }
        : { issues: [{ message: "not positive", path: ["at", { key: 0 }] }] },
  },
};

interface World<In, Out> {
  readonly stream: TypedStream<In, Out>;
  readonly sent: string[];
}

/** A closed stream with these records. */
function open<In, Out>(
  schema: StandardSchema<In, Out>,
  records: readonly unknown[] = [],
  type = "application/json",
): World<In, Out> {
  const sent: string[] = [];
  const headers = { "content-type": type, "stream-next-offset": "o1", "stream-closed": "true" };
  const fetch = async (_url: string, { method, body }: RequestInit): Promise<Response> => {
    if (typeof body === "string") sent.push(body);
    return method === "POST"
      ? new Response(null, { status: 204, headers })
      : new Response(JSON.stringify(records), { headers });
  };
  return { stream: connect({ url: "http://model", fetch }).stream("s").typed(schema), sent };
}

async function all<T>(values: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const value of values) found.push(value);
  return found;
}

test("types come from the schema", async () => {
  const { stream } = open(order, [{ id: "a", total: "1" }]);
  const given: readonly Input[] = [{ id: "a", total: "1" }];
  expect((await stream.append(given)).isOk()).toBe(true);
  // @ts-expect-error: a total is sent as text
  expect((await stream.append([{ id: "a", total: 1 }])).isErr()).toBe(true);
  const found: Output[] = (await all(stream.follow())).flatMap(({ values }) => [...values]);
  const totals: number[] = found.map(({ total }) => total);
  expect(totals).toEqual([1]);
});

test("append sends what was given, all or nothing", async () => {
  const { stream, sent } = open(order);
  expect((await stream.append([{ id: "a", total: "1.50" }])).unwrap().nextOffset).toBe("o1");
  expect(sent).toEqual(['[{"id":"a","total":"1.50"}]']);
  const mixed = [{ id: "b", total: "2" }, { id: "c" }, { id: 3, total: "x" }] as unknown as Input[];
  const refused = await stream.append(mixed);
  if (refused.isOk() || !InvalidRecords.is(refused.error)) throw new Error("expected invalid records");
  expect(refused.error.records.map(({ index }) => index)).toEqual([1, 2]);
  expect(refused.error.message).toStartWith("record 1 does not have the schema: total: ");
  expect(sent.length).toBe(1);
});

test("what is checked is what will be read: JSON has no dates, and no undefined", async () => {
  const { stream, sent } = open(z.object({ at: z.date() }));
  expect((await stream.append([{ at: new Date() }])).isErr()).toBe(true);
  const numbers = open(z.number());
  expect((await numbers.stream.append([NaN])).isErr()).toBe(true);
  expect([sent, numbers.sent]).toEqual([[], []]);
});

test("read and follow give out the schema's output", async () => {
  const records = [
    { id: "a", total: "1.50" },
    { id: "b", total: "2", note: "x" },
  ];
  const expected = [
    { id: "a", total: 1.5, note: "none" },
    { id: "b", total: 2, note: "x" },
  ];
  const { stream } = open(order, records);
  const read = (await stream.read()).unwrap();
  expect([read.nextOffset, read.closed, await all(read)]).toEqual(["o1", true, expected]);
  const deliveries = await all(stream.follow());
  expect(deliveries.flatMap(({ values }) => values)).toEqual(expected);
  expect(deliveries.at(-1)).toMatchObject({ nextOffset: "o1", closed: true });
});

test("a record without the schema is an error, or passed over", async () => {
  const { stream } = open(positive, [1, -2, 3, "x"]);
  const given: number[] = [];
  const reading = async (): Promise<void> => {
    for await (const { amount } of (await stream.read()).unwrap()) given.push(amount);
  };
  const error = await rejection(reading());
  expect(InvalidRecords.is(error) && error.records.map(({ index }) => index)).toEqual([1]);
  expect([error.message, given]).toEqual(["record 1 does not have the schema: at.0: not positive", [1]]);
  const followed = await rejection(all(stream.follow()));
  expect(InvalidRecords.is(followed) && followed.records.map(({ index }) => index)).toEqual([1, 3]);

  const onInvalid = "skip";
  const values = await all((await stream.read({ onInvalid })).unwrap());
  expect(values).toEqual([{ amount: 1 }, { amount: 3 }]);
  expect((await all(stream.follow({ onInvalid }))).flatMap(({ values: each }) => each)).toEqual(values);
});

test("a stream that is not JSON has no schema", async () => {
  const { stream } = open(positive, [1], "text/plain");
  const read = await stream.read();
  expect(read.isErr() && read.error._tag).toBe("BrokenAnswer");
  // Bytes that happen to be JSON are one record; what is none is told.
  const text = connect({
    url: "http://model",
    fetch: () =>
      Promise.resolve(
        new Response("no json", {
          headers: { "content-type": "text/plain", "stream-next-offset": "o1", "stream-closed": "true" },
        }),
      ),
  });
  expect((await rejection(all(text.stream("s").typed(positive).follow()))).message).toContain("is not JSON");
});

test("nothing is given out after an abort, which is thrown", async () => {
  const records = [1, 2, 3];
  // After each of them: also the last, and also while the schema takes its time.
  for (const at of records) {
    for (const duringCheck of [false, true]) {
      const abort = new AbortController();
      const stop = (n: number): void => {
        if (n === at) abort.abort(new Error("enough"));
      };
      const { validate } = anyJson<number>()["~standard"];
      const slow: StandardSchema<number> = {
        "~standard": {
          version: 1,
          vendor: "test",
          validate: async (value) => {
            await Promise.resolve();
            if (duringCheck) stop(Number(value));
            return validate(value);
          },
        },
      };
      const given: number[] = [];
      const reading = async (): Promise<void> => {
        for await (const n of (await open(slow, records).stream.read({ signal: abort.signal })).unwrap()) {
          given.push(n);
          if (!duringCheck) stop(n);
        }
      };
      expect((await rejection(reading())).message).toBe("enough");
      expect(given).toEqual(records.slice(0, duringCheck ? at - 1 : at));
    }
  }
});

test("that a stream is not JSON is a result at once, whatever becomes of its body", async () => {
  const broken = new ReadableStream({ pull: (body) => body.error(new TypeError("connection lost")) });
  const silent = new ReadableStream({ pull: () => new Promise(() => undefined) });
  for (const body of [broken, silent]) {
    const signals: (AbortSignal | null | undefined)[] = [];
    const fetch = (_url: string, { signal }: RequestInit): Promise<Response> => {
      signals.push(signal);
      return Promise.resolve(
        new Response(body, { headers: { "content-type": "text/plain", "stream-next-offset": "o1" } }),
      );
    };
    const read = await within("the result", connect({ url: "http://model", fetch }).stream("s").json().read());
    expect(read.isErr() && read.error._tag).toBe("BrokenAnswer");
    expect(signals.map((signal) => signal?.aborted)).toEqual([true]);
  }
});
