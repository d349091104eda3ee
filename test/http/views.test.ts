/** Live views on a real port: as server-sent events, on a WebSocket, as one answer; changed in place, refused, and ended. */

import { expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { type Message, temporarySockets } from "../support/socket-client.ts";
import { openSse, type SseReader } from "../support/sse.ts";
import { call, errorOf, newStream, nextOffset, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const connect = temporarySockets();

interface StateRecord {
  readonly key?: string;
  readonly value?: { readonly mag?: number };
  readonly headers: { readonly operation?: string; readonly control?: string; readonly offset?: string };
}

async function stateStream(name: string): Promise<StreamUnderTest> {
  const stream = await newStream(server, name);
  const profile = { kind: "state-protocol" };
  expect((await call("POST", `${stream.url}/_profile`, { body: JSON.stringify({ profile }) })).status).toBe(200);
  return stream;
}

async function upsert(stream: StreamUnderTest, rows: Readonly<Record<string, object>>): Promise<void> {
  const records = Object.entries(rows).map(([key, value]) => ({
    type: "q",
    key,
    value,
    headers: { operation: "upsert" },
  }));
  expect((await stream.post(JSON.stringify(records))).status).toBe(204);
}

function remove(stream: StreamUnderTest, key: string): Promise<Response> {
  return stream.post(JSON.stringify([{ type: "q", key, headers: { operation: "delete" } }]));
}

/** What a page does with what it is told: resets forget, inserts and updates set, deletes remove. */
function show(rows: Map<string, unknown>, records: readonly StateRecord[]): string[] {
  for (const { key = "", value, headers } of records) {
    if (headers.control === "reset") rows.clear();
    else if (headers.operation === "delete") rows.delete(key);
    else if (headers.operation !== undefined) rows.set(key, value);
  }
  return [...rows.keys()].toSorted();
}

async function nextRecords(sse: SseReader): Promise<StateRecord[]> {
  for (;;) {
    const event = await sse.next();
    if (event === null) throw new Error("the connection ended");
    if (event.event === "data") return JSON.parse(event.data) as StateRecord[];
  }
}

async function viewIdOf(sse: SseReader): Promise<string> {
  const first = await sse.next();
  expect(first?.event).toBe("view");
  return (JSON.parse(first?.data ?? "") as { viewId: string }).viewId;
}

const EARTH = { mag: 5, lng: 0, lat: 0 };

test("server-sent events: the full set, then what changes, with offsets and control events", async () => {
  const stream = await stateStream("views/sse");
  await upsert(stream, { a: EARTH, b: { ...EARTH, mag: 3 } });
  const sse = await openSse(`${stream.url}/_view?live=sse&filter=${encodeURIComponent("mag > 4")}`);
  await viewIdOf(sse);
  const rows = new Map<string, unknown>();
  const full = await nextRecords(sse);
  expect(full.map(({ headers }) => headers.control ?? headers.operation)).toEqual([
    "reset",
    "snapshot-start",
    "insert",
    "snapshot-end",
  ]);
  expect(show(rows, full)).toEqual(["a"]);
  expect((await sse.nextControl())?.streamNextOffset).toStartWith(await stream.tail());
  await upsert(stream, { c: EARTH, d: EARTH, e: EARTH });
  show(rows, await nextRecords(sse));
  await upsert(stream, { b: EARTH });
  const [entered] = await nextRecords(sse);
  expect(entered).toMatchObject({ key: "b", headers: { operation: "insert", offset: await stream.tail() } });
  show(rows, entered === undefined ? [] : [entered]);
  await remove(stream, "a");
  expect(show(rows, await nextRecords(sse))).toEqual(["b", "c", "d", "e"]);
  sse.close();
});

test("a view is changed in place by the id that its client was told", async () => {
  const stream = await stateStream("views/update");
  await upsert(stream, Object.fromEntries(Array.from({ length: 20 }, (_, index) => [`r${index}`, { mag: index }])));
  const sse = await openSse(`${stream.url}/_view?live=sse&order=-mag&limit=10`);
  const id = await viewIdOf(sse);
  const rows = new Map<string, unknown>();
  expect(show(rows, await nextRecords(sse)).length).toBe(10);
  const change = (body: string, of = id): Promise<Response> => call("POST", `${stream.url}/_view?id=${of}`, { body });
  expect((await change(JSON.stringify({ order: "-mag", limit: 8 }))).status).toBe(204);
  expect(show(rows, await nextRecords(sse)).length).toBe(8);
  for (const [answer, status, code] of [
    [await change(JSON.stringify({ limit: 0 })), 400, "view-invalid"],
    [await change("{"), 400, "body-invalid"],
    [await change("{}", "no-such-view"), 404, "view-unknown"],
  ] as const) {
    expect([answer.status, (await errorOf(answer)).code]).toEqual([status, code]);
  }
  sse.close();
  await until("the view is forgotten", async () => (await change("{}")).status === 404);
});

/** A browser with one `EventSource`, which comes back to the address it was opened with and says the last id it has heard. */
function page(url: string) {
  const rows = new Map<string, unknown>();
  const heard = { lastEventId: "", viewId: "" };
  return {
    rows,
    heard,
    /** Connected until it shows the rows that `isShown` wants, or `during` says that it is enough. */
    session: async (
      what: string,
      isShown: (keys: string[]) => boolean,
      during?: () => Promise<void>,
    ): Promise<void> => {
      const cut = new AbortController();
      const headers: Record<string, string> = heard.lastEventId === "" ? {} : { "last-event-id": heard.lastEventId };
      const answer = await call("GET", url, { headers, signal: cut.signal });
      expect(answer.status).toBe(200);
      const reading = (async () => {
        let text = "";
        for await (const piece of answer.body ?? []) {
          text += new TextDecoder().decode(piece);
          const events = text.split("\n\n");
          text = events.pop() ?? "";
          for (const event of events) {
            const data = /^data: ?(.*)$/m.exec(event)?.[1] ?? "";
            heard.lastEventId = /^id: ?(.*)$/m.exec(event)?.[1] ?? heard.lastEventId;
            if (event.includes("event: view")) heard.viewId = (JSON.parse(data) as { viewId: string }).viewId;
            if (event.includes("event: data")) show(rows, JSON.parse(data) as StateRecord[]);
          }
        }
      })();
      if (during !== undefined) {
        await until("the page is told its view", () => heard.lastEventId !== "" && rows.size > 0);
        await during();
      }
      await until(what, () => isShown([...rows.keys()].toSorted()));
      cut.abort();
      await reading.catch(() => {
        /* It was cut. */
      });
    },
  };
}

test("a page whose view was changed comes back to its address, and shows what that says", async () => {
  const stream = await stateStream("views/changed-and-back");
  await upsert(
    stream,
    Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`k${String(n).padStart(2, "0")}`, { n }])),
  );
  const { session, heard } = page(`${stream.url}/_view?live=sse&filter=${encodeURIComponent("n < 5")}`);
  const late = ["k15", "k16", "k17", "k18", "k19"];
  const early = ["k00", "k01", "k02", "k03", "k04"];
  await session(
    "it shows what it was changed to",
    (keys) => keys.join() === late.join(),
    async () => {
      const body = JSON.stringify({ filter: "n >= 15" });
      expect((await call("POST", `${stream.url}/_view?id=${heard.viewId}`, { body })).status).toBe(204);
    },
  );
  await session("it shows what its address says", (keys) => keys.join() === early.join());
  // From there it is told what has changed, and only that.
  await upsert(stream, { k02: { n: 30 } });
  const back = await openSse(`${stream.url}/_view?live=sse&filter=${encodeURIComponent("n < 5")}`, {
    "last-event-id": heard.lastEventId,
  });
  await viewIdOf(back);
  expect((await nextRecords(back)).map(({ key, headers }) => [headers.operation, key])).toEqual([["delete", "k02"]]);
  back.close();
});

test("who says a mere offset of the stream is believed to have this view's rows up to there", async () => {
  const stream = await stateStream("views/mere-offset");
  await upsert(stream, { a: EARTH, b: EARTH });
  const shown = await call("GET", `${stream.url}/_view`);
  await upsert(stream, { c: EARTH });
  const sse = await openSse(`${stream.url}/_view?live=sse&offset=${nextOffset(shown)}`);
  await viewIdOf(sse);
  expect((await nextRecords(sse)).map(({ key, headers }) => [headers.operation, key])).toEqual([["insert", "c"]]);
  sse.close();
  const whole = await openSse(`${stream.url}/_view?live=sse&offset=-1`);
  await viewIdOf(whole);
  expect((await nextRecords(whole))[0]?.headers.control).toBe("reset");
  whole.close();
});

test("a coordinate beyond all numbers is on no map, and hides no other", async () => {
  const stream = await stateStream("views/infinite");
  const rows = Array.from(
    { length: 50 },
    (_, n) => `{"type":"q","key":"k${n}","value":{"x":${n},"y":${n}},"headers":{"operation":"insert"}}`,
  );
  for (const x of ["1e400", "-1e400"]) {
    rows.push(`{"type":"q","key":"at ${x}","value":{"x":${x},"y":0},"headers":{"operation":"insert"}}`);
  }
  expect((await stream.post(`[${rows.join(",")}]`)).status).toBe(204);
  // With two of them rows are found by a tree.
  const box = `${stream.url}/_view?viewport=x,y,0,0,100,100`;
  const other = await openSse(`${box}&live=sse&limit=10`);
  await viewIdOf(other);
  await nextRecords(other);
  const answer = (await (await call("GET", box)).json()) as StateRecord[];
  expect(answer.filter(({ key }) => key !== undefined).length).toBe(50);
  other.close();
});

test("one answer: what the view shows now", async () => {
  const stream = await stateStream("views/once");
  await upsert(stream, { a: { ...EARTH, lng: 20 }, b: EARTH });
  const answer = await call("GET", `${stream.url}/_view?viewport=lng,lat,-10,-10,10,10&type=q`);
  expect([answer.status, nextOffset(answer)]).toEqual([200, await stream.tail()]);
  expect(show(new Map(), (await answer.json()) as StateRecord[])).toEqual(["b"]);
});

test("on a WebSocket: beside subscriptions, changed in place, and unsubscribed", async () => {
  const stream = await stateStream("views/socket");
  await upsert(stream, { a: EARTH, b: { ...EARTH, mag: 2 } });
  const socket = await connect(server);
  const rows = new Map<string, unknown>();
  const told = async (): Promise<string[]> => {
    const message: Message<"rows"> = await socket.next("rows");
    return show(rows, message.changes as StateRecord[]);
  };
  socket.send({ type: "view", id: "strong", stream: stream.name, view: { filter: "mag > 4" } });
  await socket.next("subscribed");
  await socket.subscribe({ stream: stream.name, offset: "now" });
  expect(await told()).toEqual(["a"]);
  await upsert(stream, { c: EARTH });
  expect(await told()).toEqual(["a", "c"]);
  expect(await socket.records(stream.name, 1)).toMatchObject([{ key: "c" }]);
  socket.send({ type: "view", id: "strong", stream: stream.name, view: {} });
  expect(await told()).toEqual(["a", "b", "c"]);
  socket.send({ type: "view", id: "strong", stream: stream.name, view: { limit: -1 } });
  expect((await socket.next("error")).error.code).toBe("view-invalid");
  socket.send({ type: "unsubscribe", id: "strong" });
  await socket.next("unsubscribed");
  await upsert(stream, { d: EARTH });
  expect(await socket.records(stream.name, 1)).toMatchObject([{ key: "d" }]);
  expect(socket.violations()).toEqual([]);
});

test("what is no view is refused, and so is a stream without rows", async () => {
  const stream = await stateStream("views/bad");
  const plain = await newStream(server, "views/plain");
  for (const [url, status, code] of [
    [`${stream.url}/_view?filter=mag+%3E`, 400, "view-invalid"],
    [`${stream.url}/_view?limit=none`, 400, "view-invalid"],
    [`${stream.url}/_view?limit=100000`, 400, "view-invalid"],
    [`${stream.url}/_view?viewport=lng,lat,1,2,3`, 400, "view-invalid"],
    [`${stream.url}/_view?viewport=lng,lat,10,0,-10,0`, 400, "view-invalid"],
    [`${stream.url}/_view?viewport=lng,lat,a,0,1,0`, 400, "view-invalid"],
    [`${stream.url}/_view?order=a,b,c,d,e`, 400, "view-invalid"],
    [`${stream.url}/_view?order=a)%20or%20has(b`, 400, "view-invalid"],
    [`${stream.url}/_view?live=long-poll`, 400, "live-invalid"],
    [`${stream.url}/_view?live=sse&offset=now`, 400, "offset-invalid"],
    [`${stream.url}/_view?live=sse&offset=${await stream.tail()}~zz`, 400, "offset-invalid"],
    [`${stream.url}/_view?limit=1&limit=2`, 400, "parameter-repeated"],
    [`${plain.url}/_view`, 409, "view-needs-state-protocol"],
    [`${stream.url}x/_view`, 404, "not-found"],
    [`${server.url}/v1/stream/live.metrics/_view`, 409, "view-needs-state-protocol"],
  ] as const) {
    const answer = await call("GET", url);
    expect([url, answer.status, (await errorOf(answer)).code]).toEqual([url, status, code]);
  }
  const socket = await connect(server);
  socket.send({ type: "view", stream: plain.name, view: {} });
  expect((await socket.next("error")).error.code).toBe("view-needs-state-protocol");
});

test("a stream that is deleted ends its views", async () => {
  const stream = await stateStream("views/deleted");
  await upsert(stream, { a: EARTH });
  const sse = await openSse(`${stream.url}/_view?live=sse`);
  await nextRecords(sse);
  const socket = await connect(server);
  socket.send({ type: "view", stream: stream.name, view: {} });
  await socket.next("rows");
  await stream.delete();
  while ((await sse.next()) !== null);
  expect(await socket.next("unsubscribed")).toMatchObject({ reason: "error", error: { code: "not-found" } });
});

test("views are counted, and shown among the clients while they last", async () => {
  const stream = await stateStream("views/counted");
  const gauge = async (): Promise<number> => {
    const text = await (await call("GET", `${server.url}/metrics`)).text();
    return Number(/^streams_live_views (\S+)$/m.exec(text)?.[1]);
  };
  const before = await gauge();
  const sse = await openSse(`${stream.url}/_view?live=sse`);
  await viewIdOf(sse);
  await nextRecords(sse);
  expect(await gauge()).toBe(before + 1);
  const details = (await (await call("GET", `${server.url}/v1/server/_details`)).json()) as { liveViews: object[] };
  const described = details.liveViews.find((one) => "stream" in one && one.stream === stream.name);
  expect(described).toMatchObject({ views: 1, cohorts: 1, fullSends: 1, batcher: { totalUsersMarkedDirty: 1 } });
  const page = await (await call("GET", `${server.url}/health/clients`)).json();
  expect(JSON.stringify(page)).toContain('"stream":"views/counted"');
  sse.close();
  await until("it is gone", async () => (await gauge()) === before);
});

test("a page that was cut off before it was shown anything is shown everything when it comes back", async () => {
  const stream = await stateStream("views/cut-off");
  await upsert(stream, { a: { mag: 1 }, b: { mag: 2 } });
  const url = `${stream.url}/_view?live=sse`;
  // Its rows are known by then.
  const other = await openSse(url);
  await viewIdOf(other);
  await nextRecords(other);
  const cut = new AbortController();
  const answer = await call("GET", url, { signal: cut.signal });
  let told = "";
  for await (const piece of answer.body ?? []) {
    told += new TextDecoder().decode(piece);
    if (/event: ?view\n.*\n\n/.test(told)) break;
  }
  cut.abort();
  // What came after the greeting was lost: a browser says the last id that it has heard, if there was one.
  const greeting = told.slice(0, told.indexOf("event: view") + 1);
  const back = await openSse(url, { "last-event-id": /^id:(.*)$/m.exec(greeting)?.[1] ?? "" });
  await viewIdOf(back);
  expect(show(new Map(), await nextRecords(back))).toEqual(["a", "b"]);
  back.close();
  other.close();
});

test("nor does a socket that was cut off before its first rows miss them when it comes back to where it was told to be", async () => {
  const stream = await stateStream("views/cut-off-socket");
  await upsert(stream, { a: { mag: 1 }, b: { mag: 2 } });
  const socket = await connect(server);
  // Its rows are known by then.
  socket.send({ type: "view", id: "other", stream: stream.name, view: {} });
  await socket.next("rows");
  socket.send({ type: "view", id: "cut off", stream: stream.name, view: {} });
  const { offset } = await socket.next("subscribed", ({ id }) => id === "cut off");
  const back = await connect(server);
  back.send({ type: "view", stream: stream.name, view: {}, offset });
  const told: Message<"rows"> = await back.next("rows");
  expect(show(new Map(), told.changes as StateRecord[])).toEqual(["a", "b"]);
});
