/** The life of an SSE connection, on a clock of this test's own: what a reader that never reads costs, and for how long. */

import { expect, test } from "bun:test";
import { Engine } from "../../engine/engine.ts";
import { nextTurn } from "../../kit/turn.ts";
import { LIVE_END_SECONDS, SSE_GRACE_MS, SSE_LIFETIME_MS } from "../../protocol/limits.ts";
import { MemoryStore } from "../../storage/memory/memory-store.ts";
import { Followers } from "./follower.ts";
import { createApp } from "../app.ts";
import { renderExposition } from "../exposition.ts";

const HEADERS = { host: "localhost", "content-type": "text/plain" };

function server() {
  const time = { ms: 1_000_000 };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const faults: unknown[] = [];
  /** What Bun was told of how long connections may be idle. */
  const timeouts: number[] = [];
  const onFault = (operation: string, cause: unknown): void => void faults.push([operation, cause]);
  const engine = new Engine({ store: new MemoryStore(clock), clock, onFault, random: () => 0, profiles: [] });
  const app = createApp({
    engine,
    onFault,
    reserved: () => null,
    gatekeeper: null,
    limits: null,
    secure: false,
    subResources: {},
    serverResources: {},
    onAnswer: null,
    onClientEdge: null,
    followers: new Followers(engine, onFault),
    views: null,
    spans: null,
    longPollTimeoutMs: 1_000,
    maxBodyBytes: 1024 * 1024,
    corsOrigins: [],
    publicUrl: null,
    loopbackOnly: true,
  });
  const ask = (method: string, path: string, body?: string): Promise<Response> =>
    app(
      new Request(`http://localhost/v1/stream/${path}`, {
        method,
        headers: HEADERS,
        ...(body === undefined ? {} : { body }),
      }),
      { timeout: (_, seconds) => void timeouts.push(seconds), upgrade: () => false, requestIP: () => null },
    );
  const pass = async (ms: number): Promise<void> => {
    time.ms += ms;
    engine.deadlines.tick();
    for (let turn = 0; turn < 4; turn++) await nextTurn();
  };
  return { engine, ask, pass, faults, timeouts };
}

test("a reader that never reads is cut off after its lifetime and a grace, and leaves nothing", async () => {
  const { engine, ask, pass, faults } = server();
  await ask("PUT", "s");
  await ask("POST", "s", "hello");
  const timers = engine.deadlines.size;
  const response = await ask("GET", "s?live=sse&offset=-1");
  expect([response.status, engine.liveRequests.used]).toEqual([200, 1]);
  await pass(SSE_LIFETIME_MS + SSE_GRACE_MS - 1);
  expect(engine.liveRequests.used).toBe(1);
  await pass(1);
  expect([engine.liveRequests.used, engine.waiters.size]).toEqual([0, 0]);
  expect(engine.deadlines.size).toBeLessThanOrEqual(timers);
  expect(renderExposition(engine.metrics)).toContain("\nstreams_sse_stalled_total 1\n");
  const reading = response.body?.getReader().read();
  expect(await reading?.catch((cause: unknown) => String(cause))).toContain("stalled");
  expect(faults).toEqual([]);
  await engine.close();
});

test("one that stalls in the middle is cut off as well; it goes on from its offset", async () => {
  const { engine, ask, pass } = server();
  await ask("PUT", "s");
  await ask("POST", "s", "one");
  const reader = (await ask("GET", "s?live=sse&offset=-1")).body?.getReader() ?? expect.unreachable("a body");
  const text = new TextDecoder().decode((await reader.read()).value);
  const [, offset] = /"streamNextOffset":"([^"]+)"/.exec(text) ?? expect.unreachable("a control event");
  await ask("POST", "s", "two");
  await pass(SSE_LIFETIME_MS + SSE_GRACE_MS);
  expect(engine.liveRequests.used).toBe(0);
  const rest = await ask("GET", `s?offset=${offset ?? ""}`);
  expect(await rest.text()).toBe("two");
  await engine.close();
});

test("while it is live its connection may be quiet; cut off, what is not taken is not kept", async () => {
  const { engine, ask, pass, timeouts } = server();
  await ask("PUT", "s");
  await ask("POST", "s", "hello");
  await ask("GET", "s?live=sse&offset=-1");
  expect(timeouts).toEqual([0]);
  await pass(SSE_LIFETIME_MS + SSE_GRACE_MS);
  expect(timeouts).toEqual([0, LIVE_END_SECONDS]);
  await engine.close();
});

test("a reader that goes away gives its place back at once", async () => {
  const { engine, ask } = server();
  await ask("PUT", "s");
  const body = (await ask("GET", "s?live=sse&offset=now")).body ?? expect.unreachable("a body");
  await body.getReader().cancel();
  expect(engine.liveRequests.used).toBe(0);
  await engine.close();
});
