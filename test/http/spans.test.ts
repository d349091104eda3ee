/** Spans of append, commit, read and wait, to whatever tracer was registered before the server opened; none without one. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { temporaryServers } from "../support/shared-server.ts";
import { call, newStream } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const temporary = temporaryServers();
const PRELOAD = join(import.meta.dir, "..", "support", "span-printer.ts");
const TRACE = "4bf92f3577b34da6a3ce929d0e0e4736";

interface PrintedSpan {
  readonly span: string;
  readonly trace: string | null;
  readonly attributes: Readonly<Record<string, unknown>>;
}

test("append, commit, read and wait are spans, children of the client's traceparent", async () => {
  const server = await temporary({ env: { BUN_OPTIONS: `--preload ${PRELOAD}` } });
  const spans = (): PrintedSpan[] =>
    server
      .stderr()
      .split("\n")
      .filter((line) => line.startsWith('{"span"'))
      .map((line) => JSON.parse(line) as PrintedSpan);
  const stream = await newStream(server, "traced", "text/plain");
  const headers = { "content-type": "text/plain", traceparent: `00-${TRACE}-00f067aa0ba902b7-01` };
  expect((await call("POST", stream.url, { body: "hello", headers })).status).toBe(204);
  expect((await call("GET", `${stream.url}?offset=-1`, { headers })).status).toBe(200);
  const waiting = call("GET", `${stream.url}?offset=now&live=long-poll`, { headers });
  await Bun.sleep(50);
  await stream.post("more");
  expect((await waiting).status).toBe(200);
  await until("the spans are told", () => spans().some(({ span }) => span === "wait"));
  const traced = (name: string): PrintedSpan | undefined =>
    spans().find(({ span, trace }) => span === name && trace === TRACE);
  const about = { "http.request.method": "POST", "url.path": "/v1/stream/traced", "http.response.status_code": 204 };
  expect(traced("append")?.attributes).toEqual(about);
  expect(traced("read")?.attributes).toMatchObject({ "http.response.status_code": 200 });
  expect(traced("wait")?.attributes).toMatchObject({ "http.response.status_code": 200 });
  const commits = spans().filter(({ span }) => span === "commit");
  expect(commits.length).toBeGreaterThanOrEqual(3);
  for (const { attributes } of commits) expect(attributes["streams.intents"]).toBeGreaterThan(0);
});
