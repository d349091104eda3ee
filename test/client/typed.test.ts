/** A stream with a schema against a real server: what one side appends the other reads, and follows, as the schema says. */

import { expect, test } from "bun:test";
import { z } from "zod";
import { connect, InvalidRecords } from "../../src/client/client.ts";
import { sharedServer } from "../support/shared-server.ts";
import { newStream } from "../support/streams.ts";
import { rejection } from "../support/wait.ts";

const server = sharedServer();

const order = z.object({
  id: z.string(),
  total: z.number().positive(),
  at: z.iso.datetime().transform((at) => new Date(at)),
});
const AT = "2026-01-02T03:04:05Z";

test("what was appended is read and followed as the schema gives it", async () => {
  const stream = await newStream(server, "client-typed/orders");
  const orders = connect({ url: server.url }).stream(stream.name).typed(order);
  const first = (await orders.append([{ id: "a", total: 1, at: AT }])).unwrap();
  expect(first).toMatchObject({ duplicate: false, closed: false });
  const refused = await orders.append([
    { id: "b", total: 2, at: AT },
    { id: "c", total: -1, at: AT },
  ]);
  expect(
    refused.isErr() && InvalidRecords.is(refused.error) && refused.error.records.map(({ index }) => index),
  ).toEqual([1]);
  // Nothing of it was sent.
  expect(await stream.tail()).toBe(first.nextOffset);

  await orders.append([{ id: "d", total: 4, at: AT }], { close: true });
  const expected = [
    { id: "a", total: 1, at: new Date(AT) },
    { id: "d", total: 4, at: new Date(AT) },
  ];
  const read: z.output<typeof order>[] = [];
  for await (const record of (await orders.read()).unwrap()) read.push(record);
  expect(read).toEqual(expected);
  const followed: Date[] = [];
  for await (const { values } of orders.follow({ offset: first.nextOffset }))
    followed.push(...values.map(({ at }) => at));
  expect(followed).toEqual([new Date(AT)]);
});

test("what others appended is an error, or passed over", async () => {
  const stream = await newStream(server, "client-typed/mixed");
  await stream.post(JSON.stringify([{ id: "a", total: 1, at: AT }, { hello: 1 }, { id: "b", total: 2, at: AT }]));
  await stream.close();
  const orders = connect({ url: server.url }).stream(stream.name).typed(order);
  const ids: string[] = [];
  const reading = async (): Promise<void> => {
    for await (const { id } of (await orders.read()).unwrap()) ids.push(id);
  };
  const error = await rejection(reading());
  expect([InvalidRecords.is(error), ids]).toEqual([true, ["a"]]);
  for await (const { values } of orders.follow({ onInvalid: "skip" })) ids.push(...values.map(({ id }) => id));
  expect(ids).toEqual(["a", "a", "b"]);
});

test("without a schema values come as they are, and what is no JSON stream is told", async () => {
  const stream = await newStream(server, "client-typed/any");
  const values = connect({ url: server.url }).stream(stream.name).json<{ n: number } | number[] | null>();
  (await values.append([{ n: 1 }, [2, 3], null], { close: true })).unwrap();
  expect(await Array.fromAsync((await values.read()).unwrap())).toEqual([{ n: 1 }, [2, 3], null]);
  const followed: unknown[] = [];
  for await (const delivery of values.follow()) followed.push(...delivery.values);
  expect(followed).toEqual([{ n: 1 }, [2, 3], null]);
  const text = await newStream(server, "client-typed/text", "text/plain");
  const read = await connect({ url: server.url }).stream(text.name).json().read();
  expect(read.isErr() && read.error).toMatchObject({ _tag: "BrokenAnswer" });
});
