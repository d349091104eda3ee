/** Creating, appending, closing, forking, forgetting and deleting, in every runtime of the client. */

import { utf8 } from "../../../src/kit/bytes.ts";
import { check, matches, refused, same, sameBytes } from "./asserts.ts";
import {
  bytesOf,
  BYTES_TYPE,
  fresh,
  JSON_TYPE,
  noise,
  recordsOf,
  type SuiteTest,
  TEXT_TYPE,
  textOf,
} from "./suite-test.ts";

const EVERY_BYTE = Uint8Array.from({ length: 256 }, (_, byte) => byte);
const UNICODE = "naïve, 日本語, עברית, 🎉👩‍👩‍👧, \u0000\u2028\ufeff\r\n";

export const writing: readonly SuiteTest[] = [
  {
    name: "create makes a stream, and finds the same one again",
    run: async ({ connect }) => {
      const stream = connect().stream("create/again");
      const first = (await stream.create({ contentType: JSON_TYPE })).unwrap();
      matches(first, { created: true, contentType: JSON_TYPE, closed: false });
      const again = (await stream.create({ contentType: JSON_TYPE })).unwrap();
      same(again, { ...first, created: false });
    },
  },
  {
    name: "create of a stream that is there with another configuration is a conflict",
    run: async (context) => {
      const stream = await fresh(context, "create/conflict");
      await refused(stream.create({ contentType: TEXT_TYPE }), 409, "config-conflict");
      await refused(stream.create({ contentType: JSON_TYPE, ttlSeconds: 60 }), 409, "config-conflict");
      same((await stream.head()).unwrap().contentType, JSON_TYPE);
    },
  },
  {
    name: "create with first records, a lifetime, retention, and closed",
    run: async (context) => {
      const stream = await fresh(context, "create/all", {
        ttlSeconds: 3600,
        retention: "max-age=7d, max-bytes=1MiB",
        closed: true,
        body: "[1,[2]]",
      });
      matches((await stream.head()).unwrap(), { closed: true, ttlSeconds: 3600, expiresAt: null });
      same(await recordsOf(stream), [1, [2]]);
      const { value } = (await stream.details()).unwrap() ?? {};
      matches(value ?? null, { records: 2, closed: true, retention: "max-age=604800000ms, max-bytes=1048576" });
    },
  },
  {
    name: "append of JSON: one value, several, and arrays that stay one record",
    run: async (context) => {
      const stream = await fresh(context, "append/json");
      (await stream.append('{"a":1}', { contentType: JSON_TYPE })).unwrap();
      (await stream.append("[2, 3.50]", { contentType: JSON_TYPE })).unwrap();
      const last = (await stream.appendJson([[4, 5], null, "six"])).unwrap();
      same(await recordsOf(stream), [{ a: 1 }, 2, 3.5, [4, 5], null, "six"]);
      same(last, { nextOffset: (await stream.head()).unwrap().nextOffset, duplicate: false, closed: false });
      // As it was written, not as a parser would write it.
      check("3.50 as it was written", (await textOf(stream)).includes("3.50"));
    },
  },
  {
    name: "append of bytes: every byte comes back, in order",
    run: async (context) => {
      const stream = await fresh(context, "append/bytes", { contentType: BYTES_TYPE });
      (await stream.append(EVERY_BYTE, { contentType: BYTES_TYPE })).unwrap();
      (await stream.append(EVERY_BYTE.slice(100, 200), { contentType: BYTES_TYPE })).unwrap();
      sameBytes(await bytesOf(stream), Uint8Array.from([...EVERY_BYTE, ...EVERY_BYTE.slice(100, 200)]));
    },
  },
  {
    name: "append of text and of JSON: every character comes back, and names may have any letters",
    run: async (context) => {
      const text = await fresh(context, "append/Grüße aus 日本 & 100 % 🎉?#", { contentType: TEXT_TYPE });
      (await text.append(UNICODE, { contentType: TEXT_TYPE })).unwrap();
      sameBytes(await bytesOf(text), utf8(UNICODE));
      const json = await fresh(context, "append/unicode");
      (await json.appendJson([UNICODE, { [UNICODE]: "\ud83d" }])).unwrap();
      same(await recordsOf(json), [UNICODE, { [UNICODE]: "\ud83d" }]);
    },
  },
  {
    name: "append of several megabytes, whole",
    run: async (context) => {
      const stream = await fresh(context, "append/large", { contentType: BYTES_TYPE });
      const bytes = noise(5 * 1024 * 1024 + 7);
      (await stream.append(bytes, { contentType: BYTES_TYPE })).unwrap();
      (await stream.append(bytes.slice(0, 3_000_000), { contentType: BYTES_TYPE })).unwrap();
      const back = await bytesOf(stream);
      sameBytes(back.subarray(0, bytes.length), bytes);
      sameBytes(back.subarray(bytes.length), bytes.subarray(0, 3_000_000));
    },
  },
  {
    name: "append by a producer is stored once, and an older epoch is refused",
    run: async (context) => {
      const stream = await fresh(context, "append/producer");
      const producer = { id: "p", epoch: 1, seq: 0 };
      const stored = (await stream.appendJson([1], { producer })).unwrap();
      const repeated = (await stream.appendJson([1], { producer })).unwrap();
      same([stored.duplicate, repeated.duplicate], [false, true]);
      const gap = await refused(stream.appendJson([3], { producer: { ...producer, seq: 2 } }), 409, "producer-gap");
      same(gap.expectedSeq, 1);
      const stale = stream.appendJson([0], { producer: { ...producer, epoch: 0 } });
      same((await refused(stale, 403, "producer-stale-epoch")).producerEpoch, 1);
      same(await recordsOf(stream), [1]);
    },
  },
  {
    name: "append only while the tail is where it was seen",
    run: async (context) => {
      const stream = await fresh(context, "append/if-match");
      const { nextOffset } = (await stream.head()).unwrap();
      const first = (await stream.appendJson([1], { ifMatch: nextOffset })).unwrap();
      const moved = await refused(stream.appendJson([2], { ifMatch: nextOffset }), 412, "tail-moved");
      same(moved.nextOffset, first.nextOffset);
      same(await recordsOf(stream), [1]);
    },
  },
  {
    name: "close ends a stream, by itself or with the last append",
    run: async (context) => {
      const alone = await fresh(context, "close/alone");
      (await alone.appendJson([1])).unwrap();
      const closed = (await alone.close()).unwrap();
      same(closed.closed, true);
      const late = await refused(alone.appendJson([2]), 409, "stream-closed");
      same([late.closed, late.nextOffset], [true, closed.nextOffset]);
      const withLast = await fresh(context, "close/with-last");
      same((await withLast.appendJson([1], { close: true })).unwrap().closed, true);
      await refused(withLast.appendJson([2]), 409, "stream-closed");
      same(await recordsOf(withLast), [1]);
      same((await withLast.read()).unwrap().closed, true);
    },
  },
  {
    name: "fork at the tail, at an offset and inside an append, and go on apart",
    run: async (context) => {
      const source = await fresh(context, "fork/source");
      const { nextOffset } = (await source.appendJson([1, 2, 3])).unwrap();
      (await source.appendJson([4, 5])).unwrap();
      const tail = await fresh(context, "fork/tail", { fork: { source: source.name } });
      const offset = await fresh(context, "fork/offset", { fork: { source: source.name, offset: nextOffset } });
      const inside = await fresh(context, "fork/inside", {
        fork: { source: source.name, offset: nextOffset, subOffset: 1 },
      });
      (await offset.appendJson(["own"])).unwrap();
      (await source.appendJson([6])).unwrap();
      same(await recordsOf(tail), [1, 2, 3, 4, 5]);
      same(await recordsOf(offset), [1, 2, 3, "own"]);
      same(await recordsOf(inside), [1, 2, 3, 4]);
      const nowhere = context.connect().stream("fork/nowhere");
      await refused(nowhere.create({ fork: { source: "fork/none" } }), 404, "fork-source-missing");
    },
  },
  {
    name: "retention can be changed and lifted",
    run: async (context) => {
      const stream = await fresh(context, "retention/changed");
      const now = async (): Promise<unknown> => (await stream.details()).unwrap()?.value["retention"];
      same(await now(), "none");
      (await stream.setRetention("max-bytes=1MiB")).unwrap();
      same(await now(), "max-bytes=1048576");
      (await stream.setRetention("none")).unwrap();
      same(await now(), "none");
      await refused(stream.setRetention("for ever and ever"), 400);
    },
  },
  {
    name: "delete takes the stream away; a new one of that name knows no offset of the old",
    run: async (context) => {
      const stream = await fresh(context, "delete/one");
      const { nextOffset } = (await stream.appendJson([1])).unwrap();
      (await stream.delete()).unwrap();
      await refused(stream.head(), 404);
      await refused(stream.delete(), 404, "not-found");
      await fresh(context, "delete/one");
      same(await recordsOf(stream), []);
      await refused(stream.read({ offset: nextOffset }), 410, "offset-gone");
    },
  },
];
