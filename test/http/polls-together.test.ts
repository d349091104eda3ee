/** Long-polls that wait at one place of a stream share a read, its encoding and mostly a head: each still gets what is its own. */

import { expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer({ args: ["--cors-origin", "https://a.example"] });

const liveRequests = async (): Promise<number> => {
  const health = (await (await call("GET", `${server.url}/health`)).json()) as { liveRequests: number };
  return health.liveRequests;
};

/** Polls that are parked at the tail, one for each set of headers. */
async function parked(
  stream: StreamUnderTest,
  polls: readonly { query?: string; headers?: Record<string, string> }[],
): Promise<Promise<Response>[]> {
  const answers = polls.map(({ query = "offset=now", headers = {} }) =>
    call("GET", `${stream.url}?${query}&live=long-poll`, { headers }),
  );
  await until("they are parked", async () => (await liveRequests()) >= polls.length);
  return answers;
}

test("each is told its own request id, trace, page and cursor, and all the same records", async () => {
  const stream = await newStream(server, "together/own");
  const tail = await stream.tail();
  const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const polls = [
    {},
    {},
    { headers: { "x-request-id": "one" } },
    { headers: { "x-request-id": "two" } },
    { headers: { traceparent: trace } },
    { headers: { origin: "https://a.example" } },
    { headers: { origin: "https://b.example" } },
    { query: `offset=${tail}` },
    { query: `offset=${tail}&cursor=1` },
    { query: `offset=${tail}&cursor=999999999` },
  ];
  const waiting = await parked(stream, polls);
  await stream.post('[{"n":1},{"n":2}]');
  const answers = await Promise.all(waiting);
  for (const answer of answers) {
    expect(answer.status).toBe(200);
    expect(await answer.json()).toEqual([{ n: 1 }, { n: 2 }]);
    expect(answer.headers.get("stream-up-to-date")).toBe("true");
    expect(answer.headers.get("content-type")).toBe("application/json");
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
  }
  const of = (name: string): (string | null)[] => answers.map(({ headers }) => headers.get(name));
  expect(new Set(of("stream-next-offset"))).toEqual(new Set([await stream.tail()]));
  const none = null;
  expect(of("x-request-id")).toEqual([none, none, "one", "two", none, none, none, none, none, none]);
  expect(of("traceparent")).toEqual([none, none, none, none, trace, none, none, none, none, none]);
  const page = "https://a.example";
  expect(of("access-control-allow-origin")).toEqual([none, none, none, none, none, page, none, none, none, none]);
  // Only a read that names its place has a tag: `now` moves.
  expect(of("etag").map((etag) => etag !== null)).toEqual([...polls.slice(0, 7).map(() => false), true, true, true]);
  const cursors = of("stream-cursor").map(Number);
  expect(cursors[8]).toBe(cursors[0] ?? NaN);
  expect(cursors[9]).toBeGreaterThan(999_999_999);
});

test("what one selects and another does not wakes only the one", async () => {
  const stream = await newStream(server, "together/selected");
  const [all, mine, none] = await parked(stream, [
    {},
    { query: "offset=now&key=mine" },
    { query: `offset=now&filter=${encodeURIComponent("n > 100")}` },
  ]);
  await stream.post('{"n":1}', { "stream-key": "other" });
  expect(await (await all)?.json()).toEqual([{ n: 1 }]);
  await stream.post('{"n":2}', { "stream-key": "mine" });
  expect(await (await mine)?.json()).toEqual([{ n: 2 }]);
  expect(await liveRequests()).toBe(1);
  await stream.post('{"n":101}');
  const last = await none;
  expect(await last?.json()).toEqual([{ n: 101 }]);
  expect(last?.headers.get("stream-next-offset")).toBe(await stream.tail());
});

test("those who leave take nobody along, and those who come while the others are told lose nothing", async () => {
  const stream = await newStream(server, "together/coming");
  let next = 0;
  const readers = Array.from({ length: 40 }, async (_, index) => {
    const seen: number[] = [];
    let offset = "-1";
    while (seen.length < 200) {
      const abort = index % 4 === 0 ? AbortSignal.timeout(20) : null;
      try {
        const answer = await call("GET", `${stream.url}?offset=${offset}&live=long-poll`, {
          ...(abort !== null && { signal: abort }),
        });
        if (answer.status === 200) seen.push(...((await answer.json()) as number[]));
        offset = answer.headers.get("stream-next-offset") ?? offset;
      } catch (cause) {
        if (abort?.aborted !== true) throw cause;
      }
    }
    return seen;
  });
  for (; next < 200; next++) {
    await stream.post(String(next));
    if (next % 20 === 0) await Bun.sleep(5);
  }
  const wanted = Array.from({ length: 200 }, (_, number) => number);
  for (const seen of await Promise.all(readers)) expect(seen).toEqual(wanted);
  await until("nobody is left", async () => (await liveRequests()) === 0);
}, 60_000);

test("a stream that goes, and one that closes, answers all of them", async () => {
  const gone = await newStream(server, "together/gone");
  const waiting = await parked(gone, [{}, {}, { query: "offset=now&key=k" }]);
  await call("DELETE", gone.url);
  expect((await Promise.all(waiting)).map(({ status }) => status)).toEqual([404, 404, 404]);
  const closing = await newStream(server, "together/closing");
  const others = await parked(closing, [{}, {}, { query: "offset=now&key=k" }]);
  await closing.close();
  for (const answer of await Promise.all(others)) {
    expect([answer.status, answer.headers.get("stream-closed")]).toEqual([204, "true"]);
  }
});

test("more than one chunk at once reaches each whole", async () => {
  const stream = await newStream(server, "together/large", "application/octet-stream");
  const body = crypto.getRandomValues(new Uint8Array(65_536));
  const large = new Uint8Array(3 * 1024 * 1024);
  for (let at = 0; at < large.length; at += body.length) large.set(body, at);
  const waiting = await parked(stream, [{}, {}, {}]);
  await stream.post(large);
  for (const answer of await Promise.all(waiting)) {
    expect(Bun.SHA256.hash(await answer.bytes())).toEqual(Bun.SHA256.hash(large));
    expect(answer.headers.get("stream-next-offset")).toBe(await stream.tail());
  }
});
