/** Which streams a subscription follows, from where, and by which link (PROTOCOL §6.1, §6.2, §6.4). */

import { describe, expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream, nextOffset, streamAt, type StreamUnderTest } from "../support/streams.ts";
import {
  append,
  appendTo,
  jsonOf,
  newPullWake,
  type PullWake,
  type SubscriptionUnderTest,
  verdict,
} from "../support/subscription-client.ts";
import { until } from "../support/wait.ts";

const server = sharedServer({ args: ["--allow-local-webhooks"] });
const START = "-1";

async function pathsOf(subscription: SubscriptionUnderTest): Promise<string[]> {
  return (await subscription.shown()).streams.map(({ path }) => path).toSorted();
}

function deleteLink(subscription: SubscriptionUnderTest, escaped: string): Promise<Response> {
  return call("DELETE", `${subscription.url}/streams/${escaped}`);
}

async function idle({ subscription }: Pick<PullWake, "subscription">): Promise<void> {
  expect(await subscription.shown()).toMatchObject({ generation: 0, lag_records: 0, pending_streams: 0 });
}

describe("where a stream begins", () => {
  test("streams that are there begin at their tail, and wake nobody before they grow", async () => {
    const old = await newStream(server, "tail/a", "application/json", { body: "[1,2,3]" });
    const text = await newStream(server, "tail/b", "text/plain", { body: "hello" });
    await newStream(server, "tail/empty");
    await newStream(server, "tail/deep/c", "application/json", { body: "[1]" });
    await newStream(server, "tailor", "application/json", { body: "[1]" });
    const made = await newPullWake(server, "tail", { pattern: "tail/*" });
    const { subscription } = made;
    expect(await pathsOf(subscription)).toEqual(["tail/a", "tail/b", "tail/empty"]);
    expect(await subscription.link("tail/a")).toMatchObject({ link_type: "glob", acked_offset: await old.tail() });
    expect(await subscription.link("tail/b")).toMatchObject({ link_type: "glob", acked_offset: await text.tail() });
    await idle(made);
    expect(await verdict(subscription.claim())).toEqual([409, "NO_PENDING_WORK"]);
    const tail = await old.tail();
    await append(old, { n: 4 });
    const [event] = await made.eventsOf(1);
    expect(event).toMatchObject({ subscription_id: "tail", stream: "tail/a", generation: 1 });
    const claim = await subscription.claimed();
    expect(claim.streams.find(({ path }) => path === "tail/a")).toEqual({
      path: "tail/a",
      link_type: "glob",
      acked_offset: tail,
      tail_offset: await old.tail(),
      has_pending: true,
    });
    expect(claim.streams.filter(({ has_pending }) => has_pending)).toHaveLength(1);
  });

  test("streams by name that are there begin at their tail as well", async () => {
    const stream = await newStream(server, "byname/a", "application/json", { body: "[1,2]" });
    const made = await newPullWake(server, "byname", { streams: ["byname/a"] });
    expect(await made.subscription.link("byname/a")).toMatchObject({
      link_type: "explicit",
      acked_offset: await stream.tail(),
    });
    await idle(made);
    await newStream(server, "byname/b", "application/json", { body: "[1,2]" });
    expect((await made.subscription.addStreams("byname/b")).status).toBe(204);
    expect(await made.subscription.link("byname/b")).toMatchObject({
      link_type: "explicit",
      acked_offset: await streamAt(server, "byname/b").tail(),
    });
    await idle(made);
  });

  test("new streams begin at their start: empty, with a body, and of any type", async () => {
    const made = await newPullWake(server, "fresh", { pattern: "fresh/**" });
    await newStream(server, "fresh/empty");
    await until("it is linked", () => made.subscription.link("fresh/empty"));
    await idle(made);
    await newStream(server, "fresh/body/a", "application/json", { body: "[1,2,3]" });
    const [event] = await made.eventsOf(1);
    expect(event?.stream).toBe("fresh/body/a");
    await newStream(server, "fresh/text", "text/plain", { body: "hello" });
    await newStream(server, "fresh/closed", "application/json", { headers: { "stream-closed": "true" }, body: "[1]" });
    const claim = await made.subscription.claimed();
    const pending = claim.streams.filter(({ has_pending }) => has_pending);
    expect(pending.map(({ path, acked_offset }) => `${path} ${acked_offset}`).toSorted()).toEqual([
      `fresh/body/a ${START}`,
      `fresh/closed ${START}`,
      `fresh/text ${START}`,
    ]);
    for (const { path, tail_offset } of pending) expect(tail_offset).toBe(await streamAt(server, path).tail());
    expect((await made.subscription.shown()).pending_streams).toBe(3);
  });

  test("a new fork begins at its start, with what it inherits; the source's offsets are its own", async () => {
    const source = await newStream(server, "forks/source");
    const first = nextOffset(await source.post("[1,2]"));
    const middle = nextOffset(await source.post("[3]"));
    await source.post("[4]");
    const made = await newPullWake(server, "forks", { pattern: "forked/*" });
    const child = await newStream(server, "forked/child", "application/json", {
      headers: { "stream-forked-from": source.path, "stream-fork-offset": middle },
    });
    await made.eventsOf(1);
    const claim = await made.subscription.claimed();
    expect(claim.streams).toEqual([
      {
        path: "forked/child",
        link_type: "glob",
        acked_offset: START,
        tail_offset: await child.tail(),
        has_pending: true,
      },
    ]);
    expect((await made.subscription.shown()).lag_records).toBe(3);
    const ack = (offset: string): Promise<Response> =>
      made.subscription.ack(claim, { acks: [{ stream: "forked/child", offset }] });
    expect(await verdict(ack(await source.tail()))).toEqual([409, "INVALID_OFFSET"]);
    expect((await ack(middle)).status).toBe(200);
    expect(await made.subscription.link("forked/child")).toMatchObject({ acked_offset: await child.tail() });
    const own = await append(child, { n: 30 });
    expect((await made.subscription.shown()).lag_records).toBe(1);
    expect((await ack(own)).status).toBe(200);
    expect(await verdict(ack(first))).toEqual([409, "INVALID_OFFSET"]);
    expect((await made.subscription.shown()).lag_records).toBe(0);
  });

  test("appends while subscriptions are made are either behind their cursors or pending, never lost", async () => {
    const names = Array.from({ length: 60 }, (_, at) => `busy/${at}`);
    const streams = await Promise.all(names.map((name) => newStream(server, name)));
    const over = new AbortController();
    const writers = Array.from({ length: 4 }, async (_, writer) => {
      for (let at = writer; !over.signal.aborted; at += 4) {
        const stream = streams[at % streams.length];
        if (stream !== undefined) await append(stream);
      }
    });
    const made: PullWake[] = [];
    for (let at = 0; at < 25; at++) {
      made.push(await newPullWake(server, `busy-${at}`, at % 2 === 0 ? { pattern: "busy/*" } : { streams: names }));
    }
    const late = await newPullWake(server, "busy-late", { streams: ["busy/0"] });
    for (let at = 1; at < 60; at++) await late.subscription.addStreams(`busy/${at}`);
    over.abort();
    await Promise.all(writers);
    const tails = new Map<string, string>();
    for (const stream of streams) tails.set(stream.name, await stream.tail());
    const wrong: string[] = [];
    for (const { subscription } of [...made, late]) {
      const shown = await subscription.shown();
      const told = new Map(shown.streams.map((link) => [link.path, link as { tail_offset?: string }]));
      for (const [name, tail] of tails) {
        const seen = told.get(name)?.tail_offset;
        if (seen !== tail) wrong.push(`${subscription.id} sees ${name} end at ${seen}, not at ${tail}`);
      }
    }
    expect(wrong).toEqual([]);
  });
});

describe("patterns", () => {
  const yes = true;
  test.each<[string, string, boolean]>([
    ["p1/*", "p1/a", yes],
    ["p1/*", "p1/a/b", false],
    ["p1/*", "p1", false],
    ["p1/*/c", "p1/b/c", yes],
    ["p1/*/c", "p1/c", false],
    ["p1/*/c", "p1/a/b/c", false],
    ["p2/**", "p2", yes],
    ["p2/**", "p2/a", yes],
    ["p2/**", "p2/a/b/c", yes],
    ["p2/**", "p2x/a", false],
    ["**/p3", "p3", yes],
    ["**/p3", "a/b/p3", yes],
    ["**/p3", "p3/a", false],
    ["p4/**/z", "p4/z", yes],
    ["p4/**/z", "p4/a/b/z", yes],
    ["p4/**/z", "p4/a/b", false],
    ["**/p5/**", "p5", yes],
    ["**/p5/**", "a/p5/b/c", yes],
    ["p6/**/*", "p6/a", yes],
    ["p6/**/*", "p6", false],
    ["*", "p7", yes],
    ["*", "p7/a", false],
    ["p8", "p8", yes],
    ["p8", "p8/a", false],
    ["/p9/a", "p9/a", yes],
    ["p10/%2A", "p10/*", yes],
    ["p10/%2A", "p10/a", false],
    ["p10/x%2Ay", "p10/x*y", yes],
    ["p10/%2a%2A", "p10/**", yes],
    ["p11/a.b", "p11/aXb", false],
    ["p11/[a-z]", "p11/a", false],
    ["p11/[a-z]", "p11/[a-z]", yes],
    ["p11/ü", "p11/ü", yes],
    ["p11/{a,b}", "p11/a", false],
    ["P12/*", "p12/a", false],
  ])("%s and the stream %s: %p", async (pattern, name, matches) => {
    const id = `glob-${Bun.hash(pattern + name)}`;
    const before = await newStream(server, `before/${id}`);
    const { subscription } = await newPullWake(server, id, { pattern });
    const path = name.split("/").map(encodeURIComponent).join("/");
    const stream = streamAt(server, path);
    expect((await stream.put()).status).toBeOneOf([200, 201]);
    await append(before);
    expect((await pathsOf(subscription)).includes(name)).toBe(matches);
    const { subscription: later } = await newPullWake(server, `${id}-later`, { pattern });
    expect((await pathsOf(later)).includes(name)).toBe(matches);
    await subscription.delete();
    await later.delete();
  });

  test("** is every stream of the application, and none of the server's", async () => {
    const { subscription } = await newPullWake(server, "everything", { pattern: "**", streams: ["live.metrics"] });
    await newStream(server, "everything/after");
    const shown = await subscription.shown();
    const listed = await jsonOf<{ streams: { name: string }[] }>(call("GET", `${server.url}/v1/streams?limit=1000`));
    const globs = shown.streams.filter(({ link_type }) => link_type === "glob").map(({ path }) => path);
    expect(globs.toSorted()).toEqual(listed.streams.map(({ name }) => name).toSorted());
    expect(shown.streams.filter(({ path }) => path.startsWith("__ds"))).toEqual([]);
    const metrics = shown.streams.find(({ path }) => path === "live.metrics");
    expect(metrics?.acked_offset ?? START).toBe(START);
    await subscription.delete();
  });
});

describe("links by name", () => {
  test("a stream that does not exist yet is shown, and begins at its start", async () => {
    const made = await newPullWake(server, "future", { streams: ["future/a"] });
    expect((await made.subscription.shown()).streams).toEqual([
      expect.objectContaining({ path: "future/a", link_type: "explicit", acked_offset: START }),
    ]);
    expect((await made.subscription.addStreams("future/b", "/future/c")).status).toBe(204);
    expect(await pathsOf(made.subscription)).toEqual(["future/a", "future/b", "future/c"]);
    await idle(made);
    await newStream(server, "future/b", "application/json", { body: "[1,2]" });
    expect((await made.eventsOf(1))[0]?.stream).toBe("future/b");
    const claim = await made.subscription.claimed();
    expect(claim.streams.find(({ path }) => path === "future/b")).toMatchObject({
      link_type: "explicit",
      acked_offset: START,
      has_pending: true,
    });
  });

  test("explicit goes before glob; without it the glob is what is left, at the same cursor", async () => {
    const stream = await newStream(server, "both/a");
    const { subscription } = await newPullWake(server, "both", { pattern: "both/*" });
    await append(stream);
    const before = await until("it is linked", () => subscription.link("both/a"));
    expect(before.link_type).toBe("glob");
    for (let round = 0; round < 2; round++) {
      for (let twice = 0; twice < 2; twice++) expect((await subscription.addStreams("both/a")).status).toBe(204);
      expect(await subscription.link("both/a")).toEqual({ ...before, link_type: "explicit" });
      for (let twice = 0; twice < 2; twice++) expect((await subscription.removeStream("both/a")).status).toBe(204);
      expect(await subscription.link("both/a")).toEqual(before);
    }
    expect(await pathsOf(subscription)).toEqual(["both/a"]);
    expect((await subscription.shown()).lag_records).toBe(1);
  });

  test("named and matched from the beginning, before there is a stream", async () => {
    const { subscription } = await newPullWake(server, "both-first", {
      pattern: "both-first/*",
      streams: ["both-first/a"],
    });
    await newStream(server, "both-first/a");
    expect(await subscription.link("both-first/a")).toMatchObject({ link_type: "explicit" });
    expect(await pathsOf(subscription)).toEqual(["both-first/a"]);
    await subscription.removeStream("both-first/a");
    expect(await subscription.link("both-first/a")).toMatchObject({ link_type: "glob" });
  });

  test("without its link a stream is gone, and what was pending of it", async () => {
    const stream = await newStream(server, "leave/a/b");
    const { subscription } = await newPullWake(server, "leave", { streams: ["leave/a/b", "leave/c"] });
    await append(stream);
    expect((await subscription.shown()).lag_records).toBe(1);
    expect((await subscription.removeStream("leave/a/b")).status).toBe(204);
    expect(await subscription.shown()).toMatchObject({ lag_records: 0, pending_streams: 0 });
    expect(await pathsOf(subscription)).toEqual(["leave/c"]);
    await append(stream);
    expect((await subscription.shown()).lag_records).toBe(0);
    expect(await verdict(subscription.claim())).toEqual([409, "NO_PENDING_WORK"]);
    await subscription.addStreams("leave/a/b");
    expect(await subscription.link("leave/a/b")).toMatchObject({ acked_offset: await stream.tail() });
  });

  test("the path of a link to remove is URL-encoded, slashes or not", async () => {
    const names = ["esc/a b", "esc/ü/x", "esc/100%", "esc/a?b", "esc/a#b", "esc/plain/deep"];
    const { subscription } = await newPullWake(server, "escaped", { streams: names });
    const ways = [encodeURIComponent, (name: string) => name.split("/").map(encodeURIComponent).join("/")];
    for (const escaped of ways) {
      expect((await subscription.addStreams(...names)).status).toBe(204);
      expect(await pathsOf(subscription)).toEqual(names.toSorted());
      for (const name of names) expect((await deleteLink(subscription, escaped(name))).status).toBe(204);
      expect(await pathsOf(subscription)).toEqual([]);
    }
    for (const absent of ["esc/never", "claim", "a/b/c/d"])
      expect((await deleteLink(subscription, absent)).status).toBe(204);
  });

  test("twenty changes at once all count", async () => {
    const { subscription } = await newPullWake(server, "crowd", { streams: ["crowd/x"] });
    const names = Array.from({ length: 20 }, (_, at) => `crowd/${at}`);
    const added = await Promise.all(names.map(async (name) => (await subscription.addStreams(name)).status));
    expect(new Set(added)).toEqual(new Set([204]));
    expect(await pathsOf(subscription)).toEqual([...names, "crowd/x"].toSorted());
    await Promise.all(names.map((name) => subscription.removeStream(name)));
    expect(await pathsOf(subscription)).toEqual(["crowd/x"]);
  });
});

describe("streams that go", () => {
  async function deleted(stream: StreamUnderTest): Promise<void> {
    expect((await stream.delete()).status).toBe(204);
  }

  test("a deleted stream is unlinked; of the same name it is new", async () => {
    const stream = await newStream(server, "mortal/a", "application/json", { body: "[1,2,3]" });
    const { subscription } = await newPullWake(server, "mortal", { pattern: "mortal/*", streams: ["mortal-named"] });
    await append(stream);
    const claim = await subscription.claimed();
    const offset = await stream.tail();
    expect((await subscription.ack(claim, { acks: [{ stream: "mortal/a", offset }] })).status).toBe(200);
    await append(stream);
    await deleted(stream);
    expect(await subscription.shown()).toMatchObject({ lag_records: 0, pending_streams: 0 });
    expect(await pathsOf(subscription)).toEqual(["mortal-named"]);
    const acks = [{ stream: "mortal/a", offset }];
    expect(await verdict(subscription.ack(claim, { acks }))).toEqual([409, "INVALID_OFFSET"]);
    await newStream(server, "mortal/a", "application/json", { body: "[9]" });
    expect(await subscription.link("mortal/a")).toMatchObject({ link_type: "glob", acked_offset: START });
    expect((await subscription.shown()).lag_records).toBe(1);
    expect(await verdict(subscription.ack(claim, { acks }))).toEqual([409, "INVALID_OFFSET"]);
  });

  test("a stream by name stays named while it is gone", async () => {
    const stream = await newStream(server, "mortal-2/a", "application/json", { body: "[1]" });
    const made = await newPullWake(server, "mortal-2", { streams: ["mortal-2/a"] });
    expect(await made.subscription.link("mortal-2/a")).toMatchObject({ acked_offset: await stream.tail() });
    await deleted(stream);
    expect((await made.subscription.shown()).streams).toEqual([
      expect.objectContaining({ path: "mortal-2/a", link_type: "explicit", acked_offset: START }),
    ]);
    await newStream(server, "mortal-2/a", "application/json", { body: "[1,2]" });
    expect((await made.eventsOf(1))[0]?.stream).toBe("mortal-2/a");
    expect((await made.subscription.shown()).lag_records).toBe(2);
  });

  test("a deleted stream that lives on for its forks is unlinked", async () => {
    const source = await newStream(server, "soft/source", "application/json", { body: "[1]" });
    const { subscription } = await newPullWake(server, "soft", { pattern: "soft/*" });
    await newStream(server, "soft-child", "application/json", { headers: { "stream-forked-from": source.path } });
    await append(source);
    await deleted(source);
    expect(await subscription.shown()).toMatchObject({ lag_records: 0, streams: [] });
    const { subscription: later } = await newPullWake(server, "soft-later", { pattern: "soft/*" });
    expect((await later.shown()).streams).toEqual([]);
  });

  test("a stream that expires is unlinked", async () => {
    await newStream(server, "expiring/a", "application/json", { headers: { "stream-ttl": "1" }, body: "[1]" });
    const { subscription } = await newPullWake(server, "expiring", { pattern: "expiring/*" });
    expect(await pathsOf(subscription)).toEqual(["expiring/a"]);
    await appendTo(server, "expiring/a");
    await until("it is unlinked", async () => (await subscription.shown()).streams.length === 0);
    expect((await subscription.shown()).lag_records).toBe(0);
  });
});
