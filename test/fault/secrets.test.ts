/**
 * What clients and operators entrust to the server turns up nowhere else: secrets in every place that a request or the environment has are
 * looked for in all that the server tells others, at its most talkative, while it answers, refuses, fails and finds damage.
 */

import { afterAll, expect, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { runCommand } from "../support/command.ts";
import { exchangeRaw } from "../support/raw-socket.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { call, type CallOptions, newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const PRELOAD = join(import.meta.dir, "..", "support", "span-printer.ts");
const SECRETS = {
  authorization: "s3cr3t-authorization-7f1c",
  query: "s3cr3t-query-2b9d",
  cookie: "s3cr3t-cookie-c04e",
  body: "s3cr3t-body-91aa",
  environment: "s3cr3t-environment-5d37",
} as const;
const ENV = { BUN_OPTIONS: `--preload ${PRELOAD}`, DATABASE_PASSWORD: SECRETS.environment };
const ARGS = ["--log-level", "debug", "--long-poll-timeout", "50ms"];
/** Sent as a request id, which is meant to stand in logs: what finds it would find the others. */
const MARKER = "marker-e6b2";

const RECORD_BYTES = 128 * 1024;
const RECORDS = 160;

const servers: TestServer[] = [];
afterAll(async () => {
  for (const server of servers) await server.kill("SIGKILL");
  await servers[0]?.remove();
});

/** Which of the secrets a text holds. */
function secretsIn(text: string): string[] {
  return Object.entries(SECRETS).flatMap(([place, secret]) => (text.includes(secret) ? [place] : []));
}

test("control: a secret is found wherever it stands in a text", () => {
  expect(secretsIn(`{"a":"${SECRETS.cookie}"}`)).toEqual(["cookie"]);
  expect(secretsIn(`${SECRETS.body} ${SECRETS.query}`)).toEqual(["query", "body"]);
  expect(secretsIn("nothing")).toEqual([]);
});

async function started(dataDir?: string): Promise<TestServer> {
  const server = await startServer({ args: ARGS, env: ENV, ...(dataDir !== undefined && { dataDir }) });
  servers.push(server);
  return server;
}

/** Asks with all secrets that a request can carry. */
function ask(server: TestServer, method: string, path: string, options: CallOptions = {}): Promise<Response> {
  const mark = path.includes("?") ? "&" : "?";
  return call(method, `${server.url}${path}${mark}access=${SECRETS.query}`, {
    ...options,
    headers: {
      authorization: `Bearer ${SECRETS.authorization}`,
      cookie: `session=${SECRETS.cookie}`,
      "x-request-id": MARKER,
      ...options.headers,
    },
  });
}

const SECRET_JSON = JSON.stringify({ password: SECRETS.body });
const json = (body: string): CallOptions => ({ headers: { "content-type": "application/json" }, body });

/** Every way to be answered, and the status of each. */
const REQUESTS: readonly (readonly [string, string, CallOptions, number])[] = [
  ["PUT", "/v1/stream/vault", json(`[${SECRET_JSON}]`), 201],
  ["POST", "/v1/stream/vault", json(SECRET_JSON), 204],
  ["HEAD", "/v1/stream/vault", {}, 200],
  ["GET", "/v1/stream/vault?offset=now&live=long-poll", {}, 204],
  ["GET", "/v1/stream/vault?offset=nonsense", {}, 400],
  ["GET", "/v1/stream/vault?filter=(", {}, 400],
  ["GET", "/v1/stream/nothing", {}, 404],
  ["GET", "/nothing", {}, 404],
  ["PATCH", "/v1/stream/vault", {}, 405],
  ["GET", "/v1/ws", {}, 426],
  ["POST", "/v1/stream/vault", json(`{"password":"${SECRETS.body}`), 400],
  ["POST", "/v1/stream/vault", json(SECRETS.body), 400],
  ["POST", "/v1/stream/vault", json(`{"password":${"[".repeat(300)}"${SECRETS.body}"${"]".repeat(300)}}`), 400],
  ["POST", "/v1/stream/vault", { headers: { "content-type": "text/plain" }, body: SECRETS.body }, 409],
  ["PUT", "/v1/stream/vault", { headers: { "content-type": "text/plain" }, body: SECRETS.body }, 409],
  ["POST", "/v1/stream/vault/_profile", json(SECRET_JSON), 400],
  ["POST", "/v1/stream/vault/_profile", json(`{"profile":{"kind":"${SECRETS.body}"}}`), 400],
  ["POST", "/v1/stream/vault/touch/wait", json(`{"keys":["${SECRETS.body}"],"cursor":"${SECRETS.body}"}`), 400],
  ["POST", "/v1/stream/vault/touch/templates/activate", json(`{"templates":[{"entity":"${SECRETS.body}"}]}`), 404],
  ["POST", "/v1/stream/vault/_view", json(SECRET_JSON), 404],
  ["PUT", "/v1/stream/__ds/subscriptions/s", json(`{"type":"${SECRETS.body}"}`), 400],
  [
    "PUT",
    "/v1/stream/__ds/subscriptions/s",
    json(`{"type":"webhook","pattern":"*","webhook":{"url":"https://u:${SECRETS.body}@127.0.0.1/${SECRETS.body}"}}`),
    400,
  ],
  ["POST", "/v1/stream/__ds/subscriptions/s/ack", json(SECRET_JSON), 404],
  ["DELETE", "/v1/stream/nothing", {}, 404],
];

/** All that tells of the server, except what was stored. */
const TOLD = [
  "/metrics",
  "/health",
  "/health/clients",
  "/ready",
  "/v1/server/_details",
  "/v1/streams",
  "/v1/stream/vault/_details",
  "/v1/stream/live.metrics?offset=-1",
];

async function expectNoneTold(server: TestServer): Promise<void> {
  for (const path of TOLD) {
    const answer = await call("GET", server.url + path);
    expect({ path, secrets: secretsIn(`${JSON.stringify([...answer.headers])}${await answer.text()}`) }).toEqual({
      path,
      secrets: [],
    });
  }
  expect(secretsIn(server.stderr())).toEqual([]);
  expect(secretsIn(JSON.stringify(server.banner))).toEqual([]);
}

test("answered, refused and told about: in no error, log, span or metric", async () => {
  const server = await started();
  for (const [method, path, options, status] of REQUESTS) {
    const answer = await ask(server, method, path, options);
    const told = `${JSON.stringify([...answer.headers])}${await answer.text()}`;
    expect({ method, path, status: answer.status, secrets: secretsIn(told) }).toEqual({
      method,
      path,
      status,
      secrets: [],
    });
  }
  // What the parser below us refuses, too.
  const { host } = new URL(server.url);
  for (const line of ["x: \0", `x: ${"y".repeat(70_000)}`, "transfer-encoding: x"]) {
    const raw = `GET /v1/stream/vault?access=${SECRETS.query} HTTP/1.1\r\nhost: ${host}\r\nauthorization: ${SECRETS.authorization}\r\n${line}\r\n\r\n`;
    expect(secretsIn((await exchangeRaw(server, raw)).text)).toEqual([]);
  }
  // Control: the log is there and tells of these requests, and so are the spans.
  await until("the log tells of the requests", () => server.stderr().includes(MARKER));
  expect(server.stderr()).toContain('{"span":"append"');
  expect(server.stderr()).toContain("/v1/stream/vault");
  await expectNoneTold(server);
  // Control: it was stored, and whoever may read it gets it.
  expect(secretsIn(await (await call("GET", `${server.url}/v1/stream/vault`)).text())).toEqual(["body"]);
  expect(await server.kill("SIGTERM")).toBe(0);
  expect(secretsIn(server.stderr())).toEqual([]);
}, 60_000);

test("in no fault: damaged records, and a damaged directory", async () => {
  const server = await started();
  const { dataDir } = server;
  const stream = await newStream(server, "vault/large", "application/octet-stream");
  // Noise is stored as it is sent, so that it is found again.
  const records = Array.from({ length: RECORDS }, () => crypto.getRandomValues(new Uint8Array(RECORD_BYTES / 2)));
  for (const record of records) {
    const body = Buffer.concat([Buffer.from(SECRETS.body), record, record]);
    await until("the append is taken", async () => (await stream.post(new Uint8Array(body))).status === 204);
  }
  await until(
    "the first records are sealed",
    async () => {
      const health = (await (await call("GET", `${server.url}/health`)).json()) as {
        storage: { unsealedBytes: number };
      };
      return health.storage.unsealedBytes < (RECORDS * RECORD_BYTES) / 2;
    },
    60_000,
  );
  await server.stop();
  expect(await flipWhere(dataDir, Buffer.from(records[5]?.subarray(1_000, 1_032) ?? []))).toBeGreaterThan(0);

  const damaged = await started(dataDir);
  const answer = await ask(damaged, "GET", "/v1/stream/vault/large");
  // What is refused at once is a 500; what had begun breaks off.
  const body = await answer.text().catch((cause: unknown) => String(cause));
  if (answer.status === 500) expect(secretsIn(body)).toEqual([]);
  await until("the fault is in the log", () => damaged.stderr().includes("failed"));
  expect(damaged.stderr()).toContain(MARKER);
  expect(secretsIn(damaged.stderr())).toEqual([]);
  await damaged.kill("SIGKILL");

  // A directory that cannot be opened at all.
  await Bun.write(join(dataDir, "log.db"), `SQLite format 3\0${SECRETS.body}`);
  const refused = await runCommand(["serve", "--port", "0", "--data-dir", dataDir, ...ARGS], {
    env: ENV,
    deadlineMs: 8_000,
  });
  expect(refused.code).not.toBe(0);
  expect(refused.stderr).not.toBe("");
  expect(secretsIn(refused.stdout + refused.stderr)).toEqual([]);
}, 60_000);

test("an environment variable that is not known is named, and its value is not", async () => {
  const env = { STREAMS_DATABASE_PASSWORD: SECRETS.environment };
  const refused = await runCommand(["serve", "--port", "0", "--data-dir", "/nonexistent"], { env, deadlineMs: 8_000 });
  expect(refused.code).not.toBe(0);
  expect(refused.stderr).toContain("STREAMS_DATABASE_PASSWORD");
  expect(secretsIn(refused.stdout + refused.stderr)).toEqual([]);
}, 60_000);

test("a stream that is only looked at tells no more than its head", async () => {
  const server = await started();
  const stream = streamAt(server, "vault/head", "text/plain");
  await stream.put({ body: SECRETS.body });
  expect(secretsIn(JSON.stringify([...(await stream.head()).headers]))).toEqual([]);
  await server.stop();
}, 60_000);

/** Flips a bit wherever these bytes are stored; how often. */
async function flipWhere(directory: string, marker: Buffer): Promise<number> {
  let flipped = 0;
  for (const entry of await readdir(directory, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    const file = join(entry.parentPath, entry.name);
    const bytes = Buffer.from(await Bun.file(file).arrayBuffer());
    for (let at = bytes.indexOf(marker); at !== -1; at = bytes.indexOf(marker, at + 1)) {
      bytes[at] = (bytes[at] ?? 0) ^ 0x10;
      flipped++;
    }
    if (flipped > 0) await Bun.write(file, bytes);
  }
  return flipped;
}
