/** A stream that is deleted and created again is another stream: its old offsets, ETags and producers mean nothing. */

import { expect, test } from "bun:test";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { errorOf, newStream, nextOffset, streamAt, type StreamUnderTest } from "../support/streams.ts";
import { within } from "../support/wait.ts";

const start = temporaryServers();
const server = sharedServer({ args: ["--long-poll-timeout", "1s"] });

async function recreated(name: string): Promise<{ stream: StreamUnderTest; oldOffset: string; oldEtag: string }> {
  const former = await newStream(server, name);
  await former.post("[1,2,3]");
  const read = await former.get();
  await former.delete();
  const stream = await newStream(server, name);
  await stream.post("[4,5,6]");
  return { stream, oldOffset: nextOffset(read), oldEtag: String(read.headers.get("etag")) };
}

test.each(["", "&live=long-poll", "&live=sse"])("an old offset is 410%s, with what to do next", async (live) => {
  const { stream, oldOffset } = await recreated(`epochs/offset${live}`.replace(/[&=]/g, "-"));
  const gone = await stream.get(`offset=${oldOffset}${live}`);
  expect(gone.status).toBe(410);
  expect((await errorOf(gone)).message).not.toBe("");
  expect(await stream.records("offset=-1")).toEqual([4, 5, 6]);
  expect(await stream.records("offset=0000000000000000_0000000000000000")).toEqual([4, 5, 6]);
});

test("an old ETag is not a 304", async () => {
  const { stream, oldEtag } = await recreated("epochs/etag");
  const response = await stream.get("", { headers: { "if-none-match": oldEtag } });
  expect(response.status).toBe(200);
  expect(response.headers.get("etag")).not.toBe(oldEtag);
});

test("offsets of the new stream sort after those of the old one", async () => {
  const { stream, oldOffset } = await recreated("epochs/order");
  expect((await stream.tail()) > oldOffset).toBe(true);
});

test("producers start over", async () => {
  const name = "epochs/producer";
  const producer = (seq: number) => ({ "producer-id": "p", "producer-epoch": "3", "producer-seq": String(seq) });
  const former = await newStream(server, name);
  expect((await former.post("1", producer(0))).status).toBe(200);
  expect((await former.post("2", producer(1))).status).toBe(200);
  await former.delete();
  const stream = await newStream(server, name);
  expect((await stream.post("3", producer(2))).status).toBe(409);
  expect((await stream.post("3", producer(0))).status).toBe(200);
  expect(await stream.records()).toEqual([3]);
});

test("readers that wait when the stream is deleted are let go", async () => {
  const stream = await newStream(server, "epochs/waiting");
  const tail = await stream.tail();
  const polling = stream.get(`offset=${tail}&live=long-poll`);
  const sse = await openSse(`${stream.url}?offset=${tail}&live=sse`);
  await sse.nextControl();
  expect((await stream.delete()).status).toBe(204);
  expect([204, 404, 410]).toContain((await within("the long-poll", polling)).status);
  const end = async (): Promise<void> => {
    for (let event = await sse.next(); event !== null; event = await sse.next());
  };
  await within("the end of the SSE response", end());
});

test("create, delete, create in a storm ends in one state that all see", async () => {
  const stream = streamAt(server, "epochs/storm");
  await Promise.all(
    Array.from({ length: 120 }, (_, index) => {
      if (index % 3 === 0) return stream.put();
      return index % 3 === 1 ? stream.post(String(index)) : stream.delete();
    }),
  );
  const head = await stream.head();
  expect([200, 404]).toContain(head.status);
  expect((await stream.get()).status).toBe(head.status);
});

test("epochs are not used again after kill -9", async () => {
  const first = await start();
  const former = await newStream(first, "epochs/crash");
  const oldOffset = nextOffset(await former.post("1"));
  await former.delete();
  await first.kill("SIGKILL");
  const second = await start({ dataDir: first.dataDir });
  expect((await streamAt(second, "epochs/crash").head()).status).toBe(404);
  const stream = await newStream(second, "epochs/crash");
  await stream.post("2");
  expect((await stream.get(`offset=${oldOffset}`)).status).toBe(410);
  expect(await stream.records()).toEqual([2]);
}, 60_000);
