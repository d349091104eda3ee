/** Reading once, looking at streams and listing them, in every runtime of the client. */

import { check, matches, refused, same, sameBytes } from "./asserts.ts";
import {
  bytesOf,
  BYTES_TYPE,
  fresh,
  nothingOpen,
  waitsAtServer,
  noise,
  recordsOf,
  type SuiteContext,
  type SuiteTest,
  TEXT_TYPE,
  textOf,
  watchedFetch,
} from "./suite-test.ts";

async function numbered(context: SuiteContext, name: string, count: number) {
  const stream = await fresh(context, name);
  const offsets: string[] = [];
  for (let number = 0; number < count; number++) {
    const key = number % 2 === 0 ? "even" : "odd";
    offsets.push((await stream.appendJson([{ number, key }], { key })).unwrap().nextOffset);
  }
  const numbersOf = async (options: Parameters<typeof recordsOf>[1]): Promise<number[]> =>
    ((await recordsOf(stream, options)) as { number: number }[]).map(({ number }) => number);
  return { stream, offsets, numbersOf };
}

export const reading: readonly SuiteTest[] = [
  {
    name: "read says where it ends, and its body comes piece by piece",
    run: async (context) => {
      const { stream, offsets } = await numbered(context, "read/whole", 3);
      const read = (await stream.read()).unwrap();
      matches(read, {
        nextOffset: offsets[2],
        upToDate: true,
        closed: false,
        json: true,
        contentType: "application/json",
      });
      let text = "";
      const decoder = new TextDecoder();
      for await (const piece of read) text += decoder.decode(piece, { stream: true });
      same(JSON.parse(text).length, 3);
    },
  },
  {
    name: "read from an offset, from the tail, and nothing",
    run: async (context) => {
      const { offsets, numbersOf } = await numbered(context, "read/offset", 4);
      const [first = "", , third = ""] = offsets;
      same(await numbersOf({ offset: "-1" }), [0, 1, 2, 3]);
      same(await numbersOf({ offset: first }), [1, 2, 3]);
      same(await numbersOf({ offset: third }), [3]);
      same(await numbersOf({ offset: "now" }), []);
      same(await numbersOf({ tail: 2 }), [2, 3]);
    },
  },
  {
    name: "read by key, by filter and by time",
    run: async (context) => {
      const { numbersOf } = await numbered(context, "read/selected", 5);
      same(await numbersOf({ key: "odd" }), [1, 3]);
      same(await numbersOf({ filter: 'key = "even" and number > 0' }), [2, 4]);
      same(await numbersOf({ key: "odd", filter: "number > 1" }), [3]);
      same(await numbersOf({ from: "-1h" }), [0, 1, 2, 3, 4]);
      same(await numbersOf({ from: "2999-01-01T00:00:00Z" }), []);
    },
  },
  {
    name: "read of what has changed since shows the change, whatever the runtime keeps",
    run: async (context) => {
      const stream = await fresh(context, "read/changed");
      for (let count = 1; count <= 5; count++) {
        (await stream.appendJson([count])).unwrap();
        same(((await recordsOf(stream)) as number[]).length, count);
        same(((await recordsOf(stream)) as number[]).length, count);
      }
      (await stream.close()).unwrap();
      same((await stream.read()).unwrap().closed, true);
    },
  },
  {
    name: "read of megabytes of JSON and of text, whole",
    run: async (context) => {
      const stream = await fresh(context, "read/large");
      const values = Array.from({ length: 20_000 }, (_, number) => ({
        number,
        text: `${"日本 ".repeat(20)}${number}`,
      }));
      (await stream.appendJson(values.slice(0, 10_000))).unwrap();
      (await stream.appendJson(values.slice(10_000))).unwrap();
      same(JSON.stringify(await recordsOf(stream)) === JSON.stringify(values), true);
      const text = await fresh(context, "read/large-text", { contentType: TEXT_TYPE });
      const line = "Straße, 🎉 and a few more letters\r\n".repeat(50_000);
      (await text.append(line, { contentType: TEXT_TYPE })).unwrap();
      check("the text whole", (await textOf(text)) === line);
    },
  },
  {
    name: "read that the client unpacks itself gives the same",
    run: async (context) => {
      const stream = await fresh(context, "read/packed");
      for (let round = 0; round < 3; round++) {
        const values = Array.from({ length: 2_000 }, (_, number) => ({ number, text: "again and again ".repeat(20) }));
        (await stream.appendJson(values)).unwrap();
      }
      const asked: string[] = [];
      const unpacking = context.connect({
        zstd: "sdk",
        fetch: (url, init) => {
          asked.push(url);
          return fetch(url, init);
        },
      });
      const packed = await bytesOf(unpacking.stream(stream.name));
      check(
        `frames asked for, not ${asked.join()}`,
        asked.some((url) => url.includes("encoding=zstd")),
      );
      sameBytes(packed, await bytesOf(stream));
    },
  },
  {
    name: "many reads at once, more than a browser has connections",
    run: async (context) => {
      const stream = await fresh(context, "read/many", { contentType: BYTES_TYPE });
      const bytes = noise(300_000);
      (await stream.append(bytes, { contentType: BYTES_TYPE })).unwrap();
      for (const back of await Promise.all(Array.from({ length: 12 }, () => bytesOf(stream)))) sameBytes(back, bytes);
    },
  },
  {
    name: "leaving a read in its middle gives its connection up",
    run: async (context) => {
      const { fetch, open } = watchedFetch();
      const made = await fresh(context, "read/left", { contentType: BYTES_TYPE });
      (await made.append(noise(4 * 1024 * 1024), { contentType: BYTES_TYPE })).unwrap();
      const stream = context.connect({ fetch }).stream("read/left");
      for (let round = 0; round < 7; round++) {
        for await (const piece of (await stream.read()).unwrap()) {
          same([piece.length > 0, open()], [true, 1]);
          break;
        }
        same(open(), 0);
      }
      same((await bytesOf(stream)).length, 4 * 1024 * 1024);
    },
  },
  {
    name: "head and details say what there is",
    run: async (context) => {
      const stream = await fresh(context, "look/one", { ttlSeconds: 600 });
      const { nextOffset } = (await stream.appendJson([1, 2])).unwrap();
      const status = (await stream.head()).unwrap();
      same(status, { contentType: "application/json", nextOffset, closed: false, ttlSeconds: 600, expiresAt: null });
      const details = (await stream.details()).unwrap();
      matches(details?.value ?? null, { name: "look/one", nextOffset, records: 2, json: true });
      const etag = details?.etag ?? "";
      same((await stream.details({ ifNoneMatch: etag })).unwrap(), null);
      (await stream.appendJson([3])).unwrap();
      matches((await stream.details({ ifNoneMatch: etag })).unwrap()?.value ?? null, { records: 3 });
    },
  },
  {
    name: "details wait for a change",
    run: async (context) => {
      const stream = await fresh(context, "look/wait");
      const { etag } = (await stream.details()).unwrap() ?? { etag: null };
      const waiting = stream.details({ ifNoneMatch: etag ?? "", wait: true });
      await waitsAtServer(context);
      (await stream.appendJson([1])).unwrap();
      matches((await waiting).unwrap()?.value ?? null, { records: 1 });
      await nothingOpen(context);
    },
  },
  {
    name: "list by prefix, over many pages, in order",
    run: async (context) => {
      const client = context.connect();
      const names = ["list/ä", "list/b/1", "list/b/2", "list/b/3", "list/c 1"].sort();
      for (const name of names) await fresh(context, name);
      const listed: string[] = [];
      for await (const { name } of client.list({ prefix: "list/", limit: 2 })) listed.push(name);
      same(listed, names);
      const page = (await client.listPage({ prefix: "list/b/", limit: 2 }, null)).unwrap();
      same([page.streams.map(({ name }) => name), typeof page.cursor], [["list/b/1", "list/b/2"], "string"]);
      const rest = (await client.listPage({ prefix: "list/b/", limit: 2 }, page.cursor)).unwrap();
      same([rest.streams.map(({ name }) => name), rest.cursor], [["list/b/3"], null]);
      for await (const stream of client.list({ prefix: "list/none" })) throw new Error(`listed ${stream.name}`);
    },
  },
  {
    name: "what is closed and was read is not there any more once it is deleted",
    run: async (context) => {
      const stream = await fresh(context, "read/deleted", { closed: true, body: "[1]", ttlSeconds: 3600 });
      same(await recordsOf(stream, { offset: "-1" }), [1]);
      same(await recordsOf(stream), [1]);
      matches((await stream.head()).unwrap(), { closed: true, ttlSeconds: 3600 });
      (await stream.delete()).unwrap();
      await refused(stream.head(), 404);
      await refused(stream.read(), 404);
      await refused(stream.read({ offset: "-1" }), 404);
    },
  },
  {
    name: "the server's figures come as text",
    run: async ({ connect }) => {
      const text = (await connect().metricsText()).unwrap();
      check("figures", /^streams_live_requests \d/m.test(text));
    },
  },
];
