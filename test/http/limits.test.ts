/** Bounds: what is too large is refused early, with a clear error, and costs the server nothing. */

import { expect, test } from "bun:test";
import { connectRaw, exchangeRaw, type RawConnection } from "../support/raw-socket.ts";
import { sharedServer } from "../support/shared-server.ts";
import { errorOf, newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const MiB = 1024 * 1024;
/** Defaults of the server. */
const MAX_BODY_BYTES = 16 * MiB;
const MAX_BYTES_IN_FLIGHT = 128 * MiB;
const MAX_JSON_DEPTH = 256;
const MAX_NAME_BYTES = 1024;
const MAX_RECORDS_PER_APPEND = 100_000;

function head(method: string, path: string, headers: Readonly<Record<string, string>>): string {
  const lines = Object.entries({ host: new URL(server.url).host, ...headers }).map(
    ([name, value]) => `${name}: ${value}`,
  );
  return `${method} ${path} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`;
}

test.each([
  ["POST", MAX_BODY_BYTES + 1],
  ["POST", 10 ** 15],
  ["PUT", MAX_BODY_BYTES + 1],
])("%s with Content-Length %d gets 413 before any body byte", async (method, length) => {
  const stream = await newStream(server, `limits/declared-${method}-${length}`, "text/plain");
  const answer = await exchangeRaw(
    server,
    head(method, stream.path, { "content-type": "text/plain", "content-length": String(length) }),
  );
  expect(answer.status).toBe(413);
  expect(await stream.text()).toBe("");
});

test("a chunked body that grows past the limit gets 413 and leaves nothing", async () => {
  const stream = await newStream(server, "limits/chunked", "text/plain");
  const connection = await connectRaw(server);
  connection.send(head("POST", stream.path, { "content-type": "text/plain", "transfer-encoding": "chunked" }));
  const piece = "x".repeat(MiB);
  for (let sent = 0; sent <= MAX_BODY_BYTES + MiB && !connection.isClosed(); sent += MiB) {
    connection.send(`${piece.length.toString(16)}\r\n${piece}\r\n`);
  }
  await until("the upload was refused", () => connection.isClosed() || connection.received() !== "");
  if (connection.received() !== "") expect(connection.received()).toStartWith("HTTP/1.1 413");
  connection.destroy();
  expect(await stream.text()).toBe("");
});

test("a body of exactly the limit is taken", async () => {
  const stream = await newStream(server, "limits/largest", "application/octet-stream");
  const body = new Uint8Array(MAX_BODY_BYTES).fill(7);
  expect((await stream.post(body)).status).toBe(204);
  expect(new Uint8Array(await (await stream.get()).arrayBuffer())).toHaveLength(MAX_BODY_BYTES);
}, 60_000);

test("past the bytes in flight uploads get 429 with Retry-After, and room comes back", async () => {
  const stream = await newStream(server, "limits/in-flight", "application/octet-stream");
  // Each announces the largest body and holds back its last byte.
  const uploads: RawConnection[] = [];
  const body = new Uint8Array(MAX_BODY_BYTES - 1);
  for (let held = 0; held <= MAX_BYTES_IN_FLIGHT + MAX_BODY_BYTES; held += MAX_BODY_BYTES) {
    const upload = await connectRaw(server);
    upload.send(
      head("POST", stream.path, {
        "content-type": "application/octet-stream",
        "content-length": String(MAX_BODY_BYTES),
      }),
    );
    upload.send(body);
    uploads.push(upload);
  }
  const answer = await until("an upload was refused", () => uploads.find((upload) => upload.received() !== ""), 15_000);
  expect(answer.received()).toMatch(/^HTTP\/1\.1 429 [^]*\r\nretry-after: \d+\r\n/i);
  for (const upload of uploads) upload.destroy();
  await until("there is room again", async () => (await stream.post(new Uint8Array(MiB))).status === 204, 10_000);
  expect((await (await stream.get()).arrayBuffer()).byteLength).toBe(MiB);
}, 60_000);

test("JSON may nest to the limit and no deeper", async () => {
  const stream = await newStream(server, "limits/depth");
  const nested = (depth: number): string => "[".repeat(depth) + "]".repeat(depth);
  const withinLimit = `{"a":${nested(MAX_JSON_DEPTH - 2)}}`;
  expect((await stream.post(withinLimit)).status).toBe(204);
  for (const depth of [MAX_JSON_DEPTH + 2, 10_000, 1_000_000]) {
    for (const body of [nested(depth), '{"a":'.repeat(depth) + "1" + "}".repeat(depth)]) {
      const refused = await stream.post(body);
      expect(refused.status).toBe(400);
      await errorOf(refused);
    }
  }
  expect(await stream.text()).toBe(`[${withinLimit}]`);
}, 60_000);

test("one append holds a bounded number of records", async () => {
  const stream = await newStream(server, "limits/records");
  const values = (count: number): string => `[${Array.from({ length: count }, () => 1).join(",")}]`;
  expect((await stream.post(values(MAX_RECORDS_PER_APPEND))).status).toBe(204);
  const refused = await stream.post(values(MAX_RECORDS_PER_APPEND + 1));
  expect([400, 413]).toContain(refused.status);
  await errorOf(refused);
  expect(await stream.records()).toHaveLength(MAX_RECORDS_PER_APPEND);
}, 60_000);

test("names have a longest length, in bytes", async () => {
  expect((await streamAt(server, "n".repeat(MAX_NAME_BYTES)).put()).status).toBe(201);
  expect((await streamAt(server, encodeURIComponent("é".repeat(MAX_NAME_BYTES / 2))).put()).status).toBe(201);
  for (const name of [
    "n".repeat(MAX_NAME_BYTES + 1),
    encodeURIComponent("é".repeat(MAX_NAME_BYTES / 2 + 1)),
    "n".repeat(9000),
  ]) {
    for (const response of [await streamAt(server, name).put(), await streamAt(server, name).get()]) {
      expect(response.status).toBe(400);
      await errorOf(response);
    }
  }
});

test.each([
  ["producer-id", { "producer-id": "p".repeat(257), "producer-epoch": "0", "producer-seq": "0" }],
  ["stream-seq", { "stream-seq": "s".repeat(257) }],
  ["stream-key", { "stream-key": "k".repeat(257) }],
])("a %s that is too long is refused", async (name, headers) => {
  const stream = await newStream(server, `limits/header-${name}`);
  const refused = await stream.post("1", headers);
  expect(refused.status).toBe(400);
  await errorOf(refused);
  expect(await stream.records()).toEqual([]);
});

test("a content type that is too long is refused or replaced, never stored whole", async () => {
  const created = await streamAt(server, "limits/type", `text/${"x".repeat(5000)}`).put();
  expect([201, 400]).toContain(created.status);
  expect((created.headers.get("content-type") ?? "").length).toBeLessThan(300);
});
