/** `/metrics`, `/v1/server/_details`, the hidden stream, and how a request is named: over HTTP, on a real server. */

import { expect, test } from "bun:test";
import { type Family, parseExposition } from "../../src/cli/exposition-parser.ts";
import { temporaryServers, sharedServer } from "../support/shared-server.ts";
import { call, errorOf, newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";
import { touchStream } from "../touch/touch-client.ts";

const server = sharedServer();
const temporary = temporaryServers();
const TRACE = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT = `00-${TRACE}-00f067aa0ba902b7-01`;

async function exposition(): Promise<string> {
  const response = await call("GET", `${server.url}/metrics`);
  expect(response.status).toBe(200);
  expect(response.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  expect(response.headers.get("cache-control")).toBe("no-store");
  return response.text();
}

/** One value; `labels` as in the text, e.g. `outcome="appended"`. */
async function figure(name: string, labels = ""): Promise<number> {
  const line = (await exposition())
    .split("\n")
    .find((text) => text.startsWith(`${name}${labels === "" ? "" : `{${labels}}`} `));
  return Number(line?.split(" ").at(-1) ?? expect.unreachable(`no ${name}`));
}

test("the text parses strictly, and names and units follow the conventions", async () => {
  const families: ReadonlyMap<string, Family> = parseExposition(await exposition());
  expect(families.size).toBeGreaterThan(50);
  for (const [name, { type, help }] of families) {
    expect([name, (help ?? "").length > 10]).toEqual([name, true]);
    expect([name, name.endsWith("_total")]).toEqual([name, type === "counter"]);
    expect(name).toMatch(/^(streams|process)_[a-z0-9_]+$/);
    expect(name).not.toMatch(/_(ms|millis|milliseconds|kb|mb|percent)(_|$)/);
    if (type === "histogram") expect(name).toEndWith("_seconds");
  }
});

test.each([
  "streams_appends_total",
  "streams_append_seconds",
  "streams_commit_seconds",
  "streams_sync_seconds",
  "streams_commit_queue_intents",
  "streams_http_refusals_total",
  "streams_live_requests",
  "streams_touch_wakes_total",
  "streams_seal_seconds",
  "streams_retention_trims_total",
  "streams_checkpoint_seconds",
  "streams_wal_bytes",
  "streams_database_bytes",
  "streams_sqlite_cache_limit_bytes",
  "process_resident_memory_bytes",
  "streams_event_loop_lag_seconds",
  "streams_live_metrics_records_total",
])("%s is there from the start", async (name) => {
  expect(parseExposition(await exposition()).has(name)).toBe(true);
});

test.skipIf(Bun.which("promtool") === null)("promtool finds nothing to complain about", async () => {
  const child = Bun.spawn(["promtool", "check", "metrics"], { stdin: new Blob([await exposition()]), stdout: "pipe" });
  expect([await child.exited, await new Response(child.stdout).text()]).toEqual([0, ""]);
});

test("what clients do is counted, exactly; what the server does for itself is not", async () => {
  const before = {
    appended: await figure("streams_appends_total", 'outcome="appended"'),
    rejected: await figure("streams_appends_total", 'outcome="rejected"'),
    duplicate: await figure("streams_appends_total", 'outcome="duplicate"'),
    records: await figure("streams_appended_records_total"),
    bytes: await figure("streams_appended_bytes_total"),
    latencies: await figure("streams_append_seconds_count"),
  };
  const change = { type: "t", key: "1", value: {}, headers: { operation: "insert" } };
  const touch = await touchStream(server, "counted", []);
  for (let turn = 0; turn < 5; turn++) {
    await touch.append(change);
  }
  await touch.wait({ keys: ["0123456789abcdef"], cursor: "now", timeoutMs: 0 });
  const { url } = await newStream(server, "plain", "text/plain");
  const text = { "content-type": "text/plain" };
  const producer = { "producer-id": "p", "producer-epoch": "0", "producer-seq": "0" };
  for (let turn = 0; turn < 2; turn++) await call("POST", url, { body: "12345", headers: { ...text, ...producer } });
  await call("POST", url, { body: "x", headers: { "content-type": "application/json" } });
  const metrics = streamAt(server, "live.metrics");
  await until("a tick is told", async () => (await metrics.records("offset=-1")).length > 0);
  expect(await figure("streams_appends_total", 'outcome="appended"')).toBe(before.appended + 6);
  expect(await figure("streams_appends_total", 'outcome="duplicate"')).toBe(before.duplicate + 1);
  expect(await figure("streams_appends_total", 'outcome="rejected"')).toBe(before.rejected + 1);
  expect(await figure("streams_appended_records_total")).toBe(before.records + 6);
  expect(await figure("streams_appended_bytes_total")).toBe(before.bytes + 5 * JSON.stringify([change]).length + 5);
  expect(await figure("streams_append_seconds_count")).toBe(before.latencies + 8);
  expect(await figure("streams_live_metrics_records_total")).toBeGreaterThan(0);
});

test("refusals are counted by their code", async () => {
  const refuse = () => call("GET", `${server.url}/v1/stream/nobody-has-this`);
  await refuse();
  const before = await figure("streams_http_refusals_total", 'code="not-found"');
  await refuse();
  expect(await figure("streams_http_refusals_total", 'code="not-found"')).toBe(before + 1);
});

test("the metrics stream is hidden, readable, and not for clients to write", async () => {
  const names = async (query: string): Promise<string[]> => {
    const response = await call("GET", `${server.url}/v1/streams${query}`);
    return ((await response.json()) as { streams: { name: string }[] }).streams.map(({ name }) => name);
  };
  expect(await names("")).not.toContain("live.metrics");
  expect(await names("?internal=false")).not.toContain("live.metrics");
  expect(await names("?internal=true")).toContain("live.metrics");
  await errorOf(await call("GET", `${server.url}/v1/streams?internal=perhaps`));
  const metrics = streamAt(server, "live.metrics");
  expect((await metrics.get("offset=-1")).status).toBe(200);
  expect((await metrics.get("offset=now&live=sse")).status).toBe(200);
  for (const response of [
    await metrics.post("{}"),
    await metrics.close(),
    await call("PUT", `${metrics.url}/_retention`, { headers: { "stream-retention": "none" } }),
    await call("POST", `${metrics.url}/_profile`, { body: JSON.stringify({ profile: { kind: "generic" } }) }),
  ]) {
    expect(response.status).toBe(403);
    expect((await errorOf(response)).code).toBe("stream-internal");
  }
  const { url } = await newStream(server, "wants-to-be-internal");
  const asked = await call("POST", `${url}/_profile`, { body: JSON.stringify({ profile: { kind: "internal" } }) });
  expect([asked.status, (await errorOf(asked)).code]).toEqual([400, "profile-unknown"]);
});

test("details: settings, bounds, queues, memory by part, the busiest streams", async () => {
  await newStream(server, "busy", "text/plain");
  await call("POST", `${server.url}/v1/stream/busy`, {
    body: "x".repeat(50_000),
    headers: { "content-type": "text/plain" },
  });
  const details = (await (await call("GET", `${server.url}/v1/server/_details`)).json()) as Record<string, unknown>;
  expect(details).toMatchObject({
    server: { instanceId: expect.any(String), region: "local", pid: server.pid },
    config: {
      dataDir: server.dataDir,
      durability: "fsync",
      maxBodyBytes: 16 * 1024 * 1024,
      liveMetrics: { enabled: true, stream: "live.metrics", intervalMs: 1000, snapshotChunkSize: 200 },
    },
    limits: { memory: { shedding: false }, windowBytes: expect.any(Number) },
    ready: [],
    queues: { commitIntents: expect.any(Number), liveRequests: expect.any(Number) },
    memory: { process: { residentBytes: expect.any(Number) }, touch: { streams: expect.any(Number) } },
  });
  const { topStreams } = details as { topStreams: { unsealedBytes: object[] } };
  expect(topStreams.unsealedBytes[0]).toMatchObject({ stream: "busy", bytes: 50_000 });
});

test("a request keeps the id and the trace it came with; a refusal has an id in any case", async () => {
  const named = await call("GET", `${server.url}/health`, {
    headers: { "x-request-id": "req-7", traceparent: TRACEPARENT },
  });
  expect([named.headers.get("x-request-id"), named.headers.get("traceparent")]).toEqual(["req-7", TRACEPARENT]);
  const plain = await call("GET", `${server.url}/health`);
  expect([plain.headers.get("x-request-id"), plain.headers.get("traceparent")]).toEqual([null, null]);
  const [first, second] = await Promise.all([1, 2].map(() => call("GET", `${server.url}/nothing`)));
  expect(first?.headers.get("x-request-id")).toMatch(/^[0-9a-z]+-[0-9a-z]+$/);
  expect(first?.headers.get("x-request-id")).not.toBe(second?.headers.get("x-request-id") ?? "");
});

test.each([
  ["x-request-id", "a".repeat(129)],
  ["x-request-id", "<script>"],
  ["traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
  ["traceparent", `${TRACEPARENT}-more`],
  ["traceparent", "junk"],
])("a hostile %s is ignored: %s", async (name, value) => {
  const response = await call("GET", `${server.url}/health`, { headers: { [name]: value } });
  expect([response.status, response.headers.get(name)]).toEqual([200, null]);
});

test("debug logs every answer with its id and trace, as JSON", async () => {
  const logging = await temporary({ args: ["--log-level", "debug"] });
  const headers = { "x-request-id": "req-8", traceparent: TRACEPARENT };
  const answered = await call("GET", `${logging.url}/v1/stream/nobody?offset=-1`, { headers });
  expect(answered.status).toBe(404);
  await until("it is logged", () => logging.stderr().includes("req-8"));
  const line =
    logging
      .stderr()
      .split("\n")
      .find((text) => text.includes("req-8")) ?? expect.unreachable("a line");
  expect(JSON.parse(line)).toMatchObject({
    level: "DEBUG",
    logger: "streams.http",
    properties: { requestId: "req-8", traceId: TRACE, method: "GET", path: "/v1/stream/nobody", status: 404 },
  });
});
