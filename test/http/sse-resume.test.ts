/** SSE as a browser's EventSource uses it: ids, `Last-Event-ID`, and connections cut anywhere. */

import { expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { seededRandom } from "../support/random.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf, newStream, streamAt } from "../support/streams.ts";

const server = sharedServer();

/** Reads raw bytes of an event stream until `done`, then cuts the connection; returns whole events with their ids. */
async function readEvents(
  url: string,
  lastEventId: string | null,
  done: (events: readonly RawEvent[]) => boolean,
): Promise<RawEvent[]> {
  const headers: Record<string, string> = lastEventId === null ? {} : { "last-event-id": lastEventId };
  const response = await fetch(url, { headers });
  expect(response.status).toBe(200);
  const reader = response.body?.getReader() ?? expect.unreachable("a body");
  const events: RawEvent[] = [];
  let text = "";
  const decoder = new TextDecoder();
  for (;;) {
    const { value, done: ended } = await reader.read();
    if (ended) return events;
    text += decoder.decode(value, { stream: true });
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const event = parseEvent(text.slice(0, end));
      text = text.slice(end + 2);
      if (event !== null) events.push(event);
      if (!done(events)) continue;
      await reader.cancel();
      return events;
    }
  }
}

interface RawEvent {
  readonly event: string;
  readonly id: string;
  readonly data: string;
}

function parseEvent(frame: string): RawEvent | null {
  const field = (name: string): string | undefined =>
    frame
      .split("\n")
      .find((line) => line.startsWith(`${name}:`))
      ?.slice(name.length + 1)
      .trim();
  const [event, id, data] = [field("event"), field("id"), field("data")];
  return event === undefined || id === undefined || data === undefined ? null : { event, id, data };
}

test("every event has the id of the position after it", async () => {
  const stream = await newStream(server, "sse-resume/ids");
  await stream.post("[1,2]");
  const events = await readEvents(`${stream.url}?live=sse&offset=-1`, null, (seen) => seen.length === 2);
  const tail = await stream.tail();
  expect(events.map(({ event, id }) => [event, id])).toEqual([
    ["data", tail],
    ["control", tail],
  ]);
});

test("cut after any event, also between data and control, a reader that says its last id gets each record once", async () => {
  const stream = await newStream(server, "sse-resume/cuts");
  const seed = Number(process.env["FC_SEED"] ?? Date.now() % 1e6);
  const random = seededRandom(seed);
  const received: number[] = [];
  let lastId: string | null = null;
  let appended = 0;
  while (received.length < 120) {
    for (let at = random.below(3); at >= 0 && appended < 120; at--) await stream.post(`[${appended++},${appended++}]`);
    const wanted = 1 + random.below(3);
    // After the last event that there is, no more would come.
    const isEnough = (seen: readonly RawEvent[]): boolean =>
      seen.length === wanted || seen.at(-1)?.data.includes("upToDate") === true;
    const events = await readEvents(`${stream.url}?live=sse&offset=-1`, lastId, isEnough);
    for (const { event, data } of events) if (event === "data") received.push(...(JSON.parse(data) as number[]));
    lastId = events.at(-1)?.id ?? lastId;
  }
  expect([seed, received]).toEqual([seed, Array.from({ length: 120 }, (_, at) => at)]);
});

test("the id is stronger than the URL, and only for SSE", async () => {
  const stream = await newStream(server, "sse-resume/priority");
  await stream.post("1");
  const middle = await stream.tail();
  await stream.post("2");
  const sse = await openSse(`${stream.url}?live=sse&from=-1h`, { "last-event-id": middle });
  expect(await sse.records(1)).toEqual([2]);
  sse.close();
  const plain = await call("GET", `${stream.url}?offset=-1`, { headers: { "last-event-id": middle } });
  expect(await plain.json()).toEqual([1, 2]);
  const empty = await openSse(`${stream.url}?live=sse&offset=-1`, { "last-event-id": "" });
  expect(await empty.records(2)).toEqual([1, 2]);
  empty.close();
});

test.each(["junk", "-5", "now; drop", "9".repeat(500)])("a last id that we never gave is a 400: %s", async (id) => {
  const stream = streamAt(server, "sse-resume/bad");
  await stream.put();
  const response = await stream.get("live=sse&offset=-1", { headers: { "last-event-id": id } });
  expect([response.status, (await errorOf(response)).code]).toEqual([400, "offset-invalid"]);
});

test("headers keep proxies from holding events back", async () => {
  const stream = await newStream(server, "sse-resume/headers");
  const sse = await openSse(`${stream.url}?live=sse&offset=now`);
  expect(sse.response.headers.get("cache-control")).toContain("no-transform");
  expect(sse.response.headers.get("x-accel-buffering")).toBe("no");
  sse.close();
});

test("a quiet connection gets comments, no events, and a TTL goes on sliding while it is read", async () => {
  const stream = streamAt(server, "sse-resume/quiet");
  await stream.put({ headers: { "stream-ttl": "18" } });
  const response = await fetch(`${stream.url}?live=sse&offset=now`);
  const reader = response.body?.getReader() ?? expect.unreachable("a body");
  const decoder = new TextDecoder();
  let text = "";
  // Two heartbeats, each after 15 s.
  while ((text.match(/^:$/gm)?.length ?? 0) < 2) {
    const { value, done } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
  }
  await reader.cancel();
  expect(text.match(/^:$/gm)).toHaveLength(2);
  expect(text.match(/^event:/gm)).toHaveLength(1);
  expect((await stream.head()).status).toBe(200);
}, 60_000);
