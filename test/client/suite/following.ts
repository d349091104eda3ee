/** Following a stream in every live mode, in every runtime of the client: each record once, in order, and nothing left open. */

import type { FollowOptions, LiveMode, StreamHandle } from "../../../src/client/client.ts";
import { joinBytes } from "../../../src/kit/bytes.ts";
import { check, same, sameBytes, thrown } from "./asserts.ts";
import {
  BYTES_TYPE,
  eventually,
  fresh,
  nothingOpen,
  waitsAtServer,
  LONG_POLL_TIMEOUT_MS,
  noise,
  type SuiteContext,
  type SuiteTest,
  TEXT_TYPE,
} from "./suite-test.ts";

const EVERY_BYTE = Uint8Array.from({ length: 256 }, (_, byte) => byte);
const MODES: readonly LiveMode[] = ["auto", "long-poll", "sse", "websocket"];
const HAS_SOCKETS = "WebSocket" in globalThis;

/** Follows beside the test until it is stopped or the stream ends. */
function following({ over }: SuiteContext, stream: StreamHandle, options: FollowOptions) {
  const abort = new AbortController();
  const signal = AbortSignal.any([abort.signal, over]);
  const parts: Uint8Array[] = [];
  let offset: string | null = null;
  let caughtUp = false;
  const ended: Promise<unknown> = (async () => {
    for await (const delivery of stream.follow({ ...options, signal })) {
      parts.push(...delivery.parts);
      offset = delivery.nextOffset ?? offset;
      caughtUp ||= delivery.upToDate;
    }
    return "closed";
  })().catch((cause: unknown) => cause);
  const records = (): unknown[] => parts.map((part) => JSON.parse(new TextDecoder().decode(part)) as unknown);
  return {
    records,
    ended,
    bytes: () => joinBytes(parts),
    offset: () => offset ?? "",
    catchesUp: () => eventually("it has caught up", () => caughtUp),
    reaches: (count: number) => eventually(`${count} records came`, () => parts.length >= count),
    async stop(): Promise<void> {
      const reason = new Error("the test is over");
      abort.abort(reason);
      check("the reason of the abort", (await ended) === reason);
    },
  };
}

/** The same test in every mode, on a stream of its own. Where there are no WebSockets (Node 20) that mode has to say so. */
function inEveryMode(
  name: string,
  run: (context: SuiteContext, live: LiveMode, streamName: string) => Promise<void>,
): SuiteTest[] {
  return MODES.map((live) => ({
    name: `${live}: ${name}`,
    run: async (context) => {
      if (live === "websocket" && !HAS_SOCKETS) return saysThereAreNone(context);
      await run(context, live, `follow/${live}/${name}`);
      await nothingOpen(context);
    },
  }));
}

async function saysThereAreNone({ connect }: SuiteContext): Promise<void> {
  const cause = await thrown(connect().stream("follow/none").follow({ live: "websocket" }).next());
  check("a TypeError that names WebSocket", cause instanceof TypeError && cause.message.includes("WebSocket"));
}

const perMode: readonly SuiteTest[] = [
  ...inEveryMode("from the start, over the tail, and again from an offset", async (context, live, name) => {
    const stream = await fresh(context, name);
    (await stream.appendJson([0, 1, 2])).unwrap();
    const first = following(context, stream, { live });
    await first.reaches(3);
    for (let number = 3; number < 20; number++) (await stream.appendJson([number])).unwrap();
    await first.reaches(20);
    await first.stop();
    same(
      first.records(),
      Array.from({ length: 20 }, (_, number) => number),
    );
    (await stream.appendJson([20, [21]])).unwrap();
    const second = following(context, stream, { live, offset: first.offset() });
    await second.reaches(2);
    await second.stop();
    same(second.records(), [20, [21]]);
  }),

  ...inEveryMode("over a pause longer than a wait of the server", async (context, live, name) => {
    const stream = await fresh(context, name);
    const follower = following(context, stream, { live, offset: "now" });
    await follower.catchesUp();
    await waitsAtServer(context);
    await new Promise((resolve) => setTimeout(resolve, 1.5 * LONG_POLL_TIMEOUT_MS));
    (await stream.appendJson(["after the pause"])).unwrap();
    await follower.reaches(1);
    await follower.stop();
    same(follower.records(), ["after the pause"]);
  }),

  ...inEveryMode("ends when the stream is closed, while it waits and before it came", async (context, live, name) => {
    const stream = await fresh(context, name);
    const waiting = following(context, stream, { live });
    await waiting.catchesUp();
    (await stream.appendJson([1])).unwrap();
    (await stream.appendJson([2], { close: true })).unwrap();
    same(await waiting.ended, "closed");
    const late = following(context, stream, { live });
    same(await late.ended, "closed");
    same(
      [waiting.records(), late.records()],
      [
        [1, 2],
        [1, 2],
      ],
    );
  }),

  ...inEveryMode("the last records, one key, what a filter leaves", async (context, live, name) => {
    const stream = await fresh(context, name);
    for (let number = 0; number < 6; number++) {
      (await stream.appendJson([{ number }], { key: number % 2 === 0 ? "even" : "odd" })).unwrap();
    }
    const followers = [
      following(context, stream, { live, tail: 1 }),
      following(context, stream, { live, key: "odd" }),
      following(context, stream, { live, filter: "number >= 4" }),
    ];
    await Promise.all(followers.map((follower) => follower.catchesUp()));
    (await stream.appendJson([{ number: 7 }], { key: "odd" })).unwrap();
    (await stream.close()).unwrap();
    same(await Promise.all(followers.map(({ ended }) => ended)), ["closed", "closed", "closed"]);
    const numbers = followers.map((follower) =>
      follower.records().map((record) => (record as { number: number }).number),
    );
    same(numbers, [
      [5, 7],
      [1, 3, 5, 7],
      [4, 5, 7],
    ]);
  }),

  ...inEveryMode("two of one stream on one page hear the same, at once", async (context, live, name) => {
    const stream = await fresh(context, name);
    const followers = [following(context, stream, { live }), following(context, stream, { live })];
    await Promise.all(followers.map((follower) => follower.catchesUp()));
    for (let number = 0; number < 3; number++) {
      (await stream.appendJson([number])).unwrap();
      await Promise.all(followers.map((follower) => follower.reaches(number + 1)));
    }
    await Promise.all(followers.map((follower) => follower.stop()));
    same(
      followers.map((follower) => follower.records()),
      [
        [0, 1, 2],
        [0, 1, 2],
      ],
    );
  }),

  ...inEveryMode("every byte and every letter as it was appended", async (context, live, name) => {
    const bytes = await fresh(context, `${name}/bytes`, { contentType: BYTES_TYPE });
    const text = await fresh(context, `${name}/text`, { contentType: TEXT_TYPE });
    const json = await fresh(context, `${name}/json`);
    const followers = [bytes, text, json].map((stream) => following(context, stream, { live }));
    await Promise.all(followers.map((follower) => follower.catchesUp()));
    const letters = "naïve 日本語 🎉\n\ndata: no event\n: no comment\n";
    (await bytes.append(EVERY_BYTE, { contentType: BYTES_TYPE, close: true })).unwrap();
    (await text.append(letters, { contentType: TEXT_TYPE, close: true })).unwrap();
    (await json.appendJson([letters, { a: "\u2028" }], { close: true })).unwrap();
    same(await Promise.all(followers.map(({ ended }) => ended)), ["closed", "closed", "closed"]);
    const [asBytes, asText, asJson] = followers;
    sameBytes(asBytes?.bytes() ?? new Uint8Array(), EVERY_BYTE);
    same(new TextDecoder().decode(asText?.bytes()), letters);
    same(asJson?.records(), [letters, { a: "\u2028" }]);
  }),

  ...inEveryMode("megabytes that come while it waits", async (context, live, name) => {
    const stream = await fresh(context, name, { contentType: BYTES_TYPE });
    const follower = following(context, stream, { live });
    await follower.catchesUp();
    const bytes = noise(2 * 1024 * 1024 + 1);
    (await stream.append(bytes, { contentType: BYTES_TYPE })).unwrap();
    (await stream.append(bytes.slice(0, 1000), { contentType: BYTES_TYPE, close: true })).unwrap();
    same(await follower.ended, "closed");
    sameBytes(follower.bytes(), Uint8Array.from([...bytes, ...bytes.subarray(0, 1000)]));
  }),

  ...inEveryMode("leaving the loop ends the wait", async (context, live, name) => {
    const stream = await fresh(context, name);
    const loop = (async () => {
      for await (const { parts } of stream.follow({ live, offset: "now", signal: context.over })) {
        if (parts.length > 0) return parts.length;
      }
      return 0;
    })();
    await waitsAtServer(context);
    (await stream.appendJson([1])).unwrap();
    same(await loop, 1);
  }),

  ...inEveryMode("aborted before its first request, and while it waits", async (context, live, name) => {
    const stream = await fresh(context, name);
    const reason = new Error("never mind");
    check("the reason", (await thrown(stream.follow({ live, signal: AbortSignal.abort(reason) }).next())) === reason);
    const follower = following(context, stream, { live });
    await follower.catchesUp();
    await waitsAtServer(context);
    await follower.stop();
  }),

  ...inEveryMode("a stream that is deleted ends it with an error", async (context, live, name) => {
    const stream = await fresh(context, name);
    const follower = following(context, stream, { live });
    await follower.catchesUp();
    await waitsAtServer(context);
    (await stream.delete()).unwrap();
    const end = (await follower.ended) as { readonly _tag?: string; readonly status?: number };
    same([end._tag, end.status], ["Refused", 404]);
  }),
];

export const followingTests: readonly SuiteTest[] = [
  ...perMode,
  {
    name: "more followers at once than a browser has connections, by long-poll",
    run: async (context) => {
      const streams = await Promise.all([0, 1, 2, 3, 4, 5, 6].map((number) => fresh(context, `follow/many/${number}`)));
      const followers = streams.map((stream) => following(context, stream, { live: "long-poll" }));
      await Promise.all(followers.map((follower) => follower.catchesUp()));
      await Promise.all(streams.map(async (stream, number) => (await stream.appendJson([number])).unwrap()));
      await Promise.all(followers.map((follower) => follower.reaches(1)));
      await Promise.all(followers.map((follower) => follower.stop()));
      same(
        followers.flatMap((follower) => follower.records()),
        [0, 1, 2, 3, 4, 5, 6],
      );
      await nothingOpen(context);
    },
  },
];
