/** `top` against a real server, as a child process: its figures are those of what the test did, and it ends as it should. */

import { expect, test } from "bun:test";
import { parseExposition } from "../../src/cli/exposition-parser.ts";
import type { Frame, Outage } from "../../src/cli/top-frame.ts";
import { runCommand } from "../support/command.ts";
import { LAUNCHER } from "../support/server.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { call, newStream } from "../support/streams.ts";
import { until, within } from "../support/wait.ts";
import { touchAt, touchStream, type TouchUnderTest } from "../touch/touch-client.ts";

const server = sharedServer();
const temporary = temporaryServers();
/** A key that nothing touches. */
const NEVER = "0123456789abcdef";

interface Top {
  /** What was printed so far. */
  readonly frames: readonly (Frame | Outage)[];
  readonly figures: () => readonly Frame[];
  /** Ctrl-C, and what came of it. */
  readonly interrupt: () => Promise<{ readonly code: number; readonly stderr: string }>;
}

/** `top --json` with frames as they come; it is interrupted when the test's time is up at the latest. */
function runTop(url: string, ...args: readonly string[]): Top {
  const child = Bun.spawn([LAUNCHER, "top", "--json", "--interval", "200ms", "--url", url, ...args], {
    stdout: "pipe",
    stderr: "pipe",
    timeout: 30_000,
  });
  const frames: (Frame | Outage)[] = [];
  const read = (async () => {
    let text = "";
    const decoder = new TextDecoder();
    for await (const piece of child.stdout) {
      const lines = (text + decoder.decode(piece, { stream: true })).split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) frames.push(JSON.parse(line) as Frame | Outage);
    }
  })();
  return {
    frames,
    figures: () => frames.filter((frame) => !frame.unreachable),
    interrupt: async () => {
      child.kill("SIGINT");
      const [stderr, code] = await within("top ends", Promise.all([child.stderr.text(), child.exited, read]));
      return { stderr, code };
    },
  };
}

/** What rates add up to: each frame's rate, times the time it is of. */
function total(frames: readonly Frame[], rate: "appendedPerSecond" | "recordsPerSecond" | "touchesPerSecond"): number {
  return Math.round(frames.reduce((sum, frame) => sum + (frame[rate] ?? 0) * frame.intervalSeconds, 0) * 1000) / 1000;
}

/** Touches that rows of the stream tell of: rows of one time are one row, shown again. */
function touchesOf(frames: readonly Frame[], stream: string): number {
  const rows = frames.flatMap(({ streams }) => streams).filter((row) => row.stream === stream);
  const byTime = new Map(rows.map((row) => [row.tickAt, row.touchesEmitted ?? 0]));
  return [...byTime.values()].reduce((sum, touches) => sum + touches, 0);
}

const change = (id: number) => ({
  type: "todo",
  key: String(id),
  value: { id },
  headers: { operation: "insert" },
});

/** Waits that nothing ends, again and again, until `top` tells of the stream: they touch nothing. */
async function untilShown(top: Top, touch: TouchUnderTest, name: string): Promise<void> {
  await until(
    `${name} is shown`,
    async () => {
      await touch.wait({ keys: [NEVER], cursor: "now", timeoutMs: 50 });
      return top.figures().some(({ streams }) => streams.some(({ stream }) => stream === name));
    },
    60_000,
  );
}

test("its figures add up to what was done, and the touch stream has its row", async () => {
  const touch = await touchStream(server, "top/rows", []);
  const top = runTop(server.url);
  await untilShown(top, touch, "top/rows");
  const before = total(top.figures(), "appendedPerSecond");
  for (let append = 0; append < 40; append++)
    await touch.append(change(append), change(append + 100), change(append + 200));
  await touch.settled();
  await until("all appends are told", () => total(top.figures(), "appendedPerSecond") >= before + 40);
  await until("all touches are told", () => total(top.figures(), "touchesPerSecond") >= 120);
  await until("the ticks tell of them, too", () => touchesOf(top.figures(), "top/rows") >= 120);
  expect(await top.interrupt()).toEqual({ code: 0, stderr: "" });

  const frames = top.figures();
  expect(frames).toHaveLength(top.frames.length);
  // The ticks of the server itself are nobody's appends.
  expect([total(frames, "appendedPerSecond") - before, total(frames, "recordsPerSecond")]).toEqual([40, 120]);
  expect([total(frames, "touchesPerSecond"), touchesOf(frames, "top/rows")]).toEqual([120, 120]);
  for (const name of ["appendP50Seconds", "appendP99Seconds", "commitP99Seconds", "syncP99Seconds"] as const) {
    expect(frames.some((frame) => (frame[name] ?? 0) > 0)).toBe(true);
  }
  const last = frames.at(-1) ?? expect.unreachable("a frame");
  expect(last.metricsStreamError).toBeNull();
  expect(last.uptimeSeconds).toBeGreaterThan(0);
  expect(last.residentBytes).toBeGreaterThan(10_000_000);
  expect(last.walBytes).toBeGreaterThan(0);
  expect(last.cpuSecondsPerSecond).toBeNumber();
}, 60_000);

test("every frame has the same fields, told or not", async () => {
  const { code, stdout } = await runCommand(["top", "--json", "--count", "2", "--interval", "200ms"], {
    env: { STREAM_URL: server.url },
  });
  const frames = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Frame);
  expect([code, frames.length]).toEqual([0, 2]);
  expect(Object.keys(frames[0] ?? {})).toEqual(Object.keys(frames[1] ?? {}));
  // All of them but the latencies of an idle server, and a memory limit that it does not have.
  const untold = Object.entries(frames[1] ?? {}).flatMap(([name, value]) => (value === null ? [name] : []));
  const mayMiss = /^(?:append|commit|sync)P\d\dSeconds$|^eventLoopLagP99Seconds$|^memoryLimitBytes$|^shedding$|Error$/;
  expect(untold.filter((name) => !mayMiss.test(name))).toEqual([]);
});

test("what the server says of itself is in the format to the letter", async () => {
  const response = await call("GET", `${server.url}/metrics`);
  const families = parseExposition(await response.text());
  expect(families.get("streams_appends_total")?.type).toBe("counter");
  expect([...families.values()].filter(({ help }) => help === null)).toEqual([]);
});

test("in a pipe frames are plain text, with a blank line between them", async () => {
  const { code, stdout } = await runCommand(["top", "--count", "2", "--interval", "200ms", "--url", server.url]);
  expect(code).toBe(0);
  // oxlint-disable-next-line no-control-regex -- control characters are what it looks for
  expect(stdout).not.toMatch(/[\u0000-\u0009\u000b-\u001f]/);
  const heads = stdout.split("\n").flatMap((line, index) => (line.startsWith(server.url) ? [index] : []));
  expect(heads).toHaveLength(2);
  expect(stdout.split("\n")[(heads[1] ?? 0) - 1]).toBe("");
  expect(stdout.match(/^appends\/s +appended \d/gm)).toHaveLength(2);
});

test("without the metrics stream frames go on, and say so", async () => {
  const args = ["top", "--count", "3", "--interval", "300ms", "--url", server.url, "--metrics-stream", "top/none"];
  const { code, stdout } = await runCommand([...args, "--json"]);
  const frames = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Frame);
  expect([code, frames.length]).toEqual([0, 3]);
  expect(frames[2]).toMatchObject({
    metricsStreamError: expect.stringContaining("cannot follow top/none"),
    streams: [],
  });
  expect((await runCommand(args)).stdout).toContain("no touch streams: cannot follow top/none: no such stream");
});

test("a stream that holds no JSON is no metrics stream", async () => {
  const stream = await newStream(server, "top/text", "text/plain");
  const top = runTop(server.url, "--metrics-stream", "top/text");
  await until("frames come", () => top.figures().length > 1);
  expect(top.figures().at(-1)?.metricsStreamError).toBeNull();
  const told = async () => {
    await stream.post("not a tick");
    return top.figures().find(({ metricsStreamError }) => metricsStreamError !== null)?.metricsStreamError;
  };
  expect(await until("it is told", told)).toBe("cannot follow top/text: its records are not JSON");
  expect((await top.interrupt()).code).toBe(0);
});

test("a server that goes away and comes back: unreachable since then, then figures again, never negative", async () => {
  const first = await temporary();
  const { port } = new URL(first.url);
  const stream = await newStream(first, "top/restart");
  for (let append = 0; append < 20; append++) await stream.post("[1]");
  const touch = await touchStream(first, "top/again", []);
  const top = runTop(first.url);
  await untilShown(top, touch, "top/again");
  await first.kill("SIGKILL");
  await until("it is missed", () => top.frames.filter(({ unreachable }) => unreachable).length > 1, 10_000);
  const [outage, later] = top.frames.filter((frame) => frame.unreachable);
  expect(outage).toEqual({
    at: expect.any(String),
    unreachable: true,
    unreachableSince: outage?.at ?? "",
    reason: expect.stringContaining("cannot reach"),
  });
  expect(later?.unreachableSince).toBe(String(outage?.at));

  const seen = top.frames.length;
  const second = await temporary({ dataDir: first.dataDir, args: ["--port", port] });
  const since = (): Frame[] => top.frames.slice(seen).filter((frame) => !frame.unreachable);
  await until("figures come again", () => since().length > 0, 10_000);
  const again = touchAt(`${second.url}/v1/stream/top/again`);
  await again.append(change(1));
  await until("the append is told", () => total(since(), "appendedPerSecond") >= 1);
  await until(
    "its stream is told",
    async () => {
      // The follower may be in a pause, and comes back to where it was; the wait makes a tick, should it have come back late.
      await again.wait({ keys: [NEVER], cursor: "now", timeoutMs: 50 });
      return since().some(({ streams }) => streams.length > 0);
    },
    60_000,
  );
  expect(await top.interrupt()).toEqual({ code: 0, stderr: "" });
  expect(total(since(), "appendedPerSecond")).toBe(1);
  const numbers = top.figures().flatMap((frame) => Object.values(frame).filter((value) => typeof value === "number"));
  expect(Math.min(...numbers)).toBeGreaterThanOrEqual(0);
}, 60_000);

test.each([
  [["--tail"], 2, /unknown option '--tail'/],
  [["--interval", "soon"], 2, /expected a duration from 200ms to 60s/],
  [["--interval", "199ms"], 2, /expected a duration/],
  [["--interval", "61s"], 2, /expected a duration/],
  [["--count", "-1"], 2, /expected a whole number/],
  [["--metrics-stream", "a//b"], 2, /empty, '\.' or '\.\.' segment/],
  [["--url", "ftp://x"], 2, /ftp:\/\/x/],
  [["--url", "http://127.0.0.1:1"], 3, /cannot reach http:\/\/127\.0\.0\.1:1/],
])("%j fails with %d, in one line", async (args, code, message) => {
  const plain = await runCommand(["top", ...args]);
  expect({ code: plain.code, stdout: plain.stdout }).toEqual({ code, stdout: "" });
  expect(plain.stderr).toMatch(message);
  expect(plain.stderr.trimEnd().split("\n")).toHaveLength(1);
  const machine = await runCommand(["top", ...args, "--json"]);
  expect(machine.code).toBe(code);
  expect(JSON.parse(machine.stderr)).toMatchObject({ error: { message: expect.stringMatching(message) } });
});

test.each([
  [404, "", 1, "no such"],
  [200, "<html></html>\n", 1, "is not in the Prometheus text format: line 1: not a sample"],
  [200, "# TYPE a gauge\na 1", 1, "is not in the Prometheus text format: line 2"],
])("a server that answers %d %j is another kind of server", async (status, body, code, message) => {
  const other = Bun.serve({ port: 0, fetch: () => new Response(body, { status }) });
  const result = await runCommand(["top", "--url", other.url.origin]);
  await other.stop(true);
  expect([result.code, result.stderr]).toEqual([code, expect.stringContaining(message)]);
});

test("with metrics that it does not know it shows what it can", async () => {
  const other = Bun.serve({
    port: 0,
    fetch: ({ url }) =>
      url.endsWith("/metrics")
        ? new Response("# TYPE streams_wal_bytes gauge\nstreams_wal_bytes 1024\n")
        : new Response("", { status: 404 }),
  });
  const result = await runCommand(["top", "--url", other.url.origin, "--count", "1", "--interval", "200ms"]);
  await other.stop(true);
  expect([result.code, result.stderr]).toEqual([0, ""]);
  expect(result.stdout).toContain("up -");
  expect(result.stdout).toMatch(/^log +window - +WAL 1 KiB$/m);
});
