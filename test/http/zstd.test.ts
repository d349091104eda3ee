/** zstd on the wire: the stored frames of sealed history, for those who unpack them, byte for byte what everybody else gets. */

import { beforeAll, describe, expect, test } from "bun:test";
import { zstdDecompressSync } from "node:zlib";
import { sharedServer } from "../support/shared-server.ts";
import { call, errorOf, newStream, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";
import { FrameSplitter } from "../../src/client/zstd-frames.ts";
import { readFrameHeader } from "../../src/protocol/zstd-frame.ts";

const server = sharedServer();
/** Sealed are all but the newest few MB of the log. */
const RECORDS = 60_000;
const PER_APPEND = 2_000;
const FILLER_BYTES = 16 * 1024 * 1024;

let json: StreamUnderTest;
let bytes: StreamUnderTest;

const record = (n: number): string =>
  JSON.stringify({ n, name: `record ${n}`, text: "the same words again ".repeat(4) });

beforeAll(async () => {
  json = await newStream(server, "zstd/json");
  for (let n = 0; n < RECORDS; n += PER_APPEND) {
    const values = Array.from({ length: PER_APPEND }, (_, index) => record(n + index));
    const headers = n === PER_APPEND ? { "stream-key": "k" } : {};
    expect((await json.post(`[${values.join(",")}]`, headers)).status).toBe(204);
  }
  bytes = await newStream(server, "zstd/bytes", "text/plain");
  for (let n = 0; n < 400; n++) await bytes.post(`${n} ${"plain text ".repeat(100)}\n`);
  const filler = await newStream(server, "zstd/filler", "application/octet-stream");
  const noise = crypto.getRandomValues(new Uint8Array(32 * 1024));
  for (let sent = 0; sent < FILLER_BYTES; sent += noise.length) await filler.post(noise);
  await until(
    "history is sealed",
    async () => (await encodedBytes(json.url)) < 0.5 * (await plainBytes(json.url)),
    60_000,
  );
}, 60_000);

/** Without the client's own unpacking. */
function raw(url: string, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(url, { headers, decompress: false });
}

const zstd = (url: string, headers: Record<string, string> = {}): Promise<Response> =>
  raw(url, { "accept-encoding": "zstd", ...headers });

async function encodedBytes(url: string): Promise<number> {
  return (await (await zstd(url)).bytes()).length;
}

async function plainBytes(url: string): Promise<number> {
  return (await (await raw(url, { "accept-encoding": "identity" })).bytes()).length;
}

describe("Content-Encoding: zstd", () => {
  test("from any offset, and to the tail, what is unpacked is what others get", async () => {
    for (const stream of [json, bytes]) {
      const offsets = ["-1"];
      for (const skip of [1, 17, 1_999, 2_000, 2_001, 20_000, RECORDS - 1_000])
        offsets.push(await offsetAfter(stream, skip));
      for (const offset of offsets) {
        const url = `${stream.url}?offset=${offset}`;
        const plain = await (await raw(url, { "accept-encoding": "identity" })).bytes();
        const answer = await zstd(url);
        const body = await answer.bytes();
        const isEncoded = answer.headers.get("content-encoding") === "zstd";
        expect(isEncoded).toBe(plain.length >= 65_536);
        const got = isEncoded ? zstdDecompressSync(body) : Buffer.from(body);
        expect(got.equals(Buffer.from(plain))).toBe(true);
        expect(answer.headers.get("vary")).toMatch(/accept-encoding/i);
      }
    }
  });

  test("a client that unpacks by itself sees nothing of it, and much less travels", async () => {
    const answer = await call("GET", `${json.url}?offset=-1`, { headers: { "accept-encoding": "gzip, zstd" } });
    expect(answer.headers.get("content-encoding")).toBe("zstd");
    expect(((await answer.json()) as unknown[]).length).toBe(RECORDS);
    const ratio = (await plainBytes(json.url)) / (await encodedBytes(json.url));
    console.log(`${ratio.toFixed(1)} times fewer bytes travel`);
    expect(ratio).toBeGreaterThan(3);
  });

  test("only those who say so get it, and only of reads of the log", async () => {
    for (const [accept, isEncoded] of [
      ["zstd", true],
      ["ZSTD;q=0.5", true],
      ["gzip, zstd;q=1.0, br", true],
      ["zstd;q=0", false],
      ["gzip", false],
      ["*", false],
      ["zstdx", false],
      ["", false],
    ] as const) {
      const answer = await raw(json.url, { "accept-encoding": accept });
      await answer.body?.cancel();
      expect([accept, answer.headers.get("content-encoding")]).toEqual([accept, isEncoded ? "zstd" : null]);
    }
    for (const query of ["key=k", `filter=${encodeURIComponent("n < 5000")}`, "tail=3", "offset=now"]) {
      const answer = await zstd(`${json.url}?${query}`);
      await answer.body?.cancel();
      expect([query, answer.headers.get("content-encoding")]).toEqual([query, null]);
    }
  });

  test("has a tag of its own", async () => {
    const plain = await raw(json.url, { "accept-encoding": "identity" });
    const encoded = await zstd(json.url);
    await Promise.all([plain.body?.cancel(), encoded.body?.cancel()]);
    const [one, other] = [plain.headers.get("etag") ?? "", encoded.headers.get("etag") ?? ""];
    expect(one).not.toBe(other);
    expect((await zstd(json.url, { "if-none-match": other })).status).toBe(304);
    expect((await zstd(json.url, { "if-none-match": one })).status).toBe(200);
    const unchanged = await raw(json.url, { "accept-encoding": "identity", "if-none-match": one });
    expect([unchanged.status, unchanged.headers.get("vary")]).toEqual([304, "Accept-Encoding"]);
  });

  test("a fork, a trimmed start and what came meanwhile read the same", async () => {
    const fork = await newStream(server, "zstd/fork", "application/json", {
      headers: { "stream-forked-from": json.path, "stream-fork-offset": await offsetAfter(json, 30_001) },
    });
    await fork.post('{"n":"own"}');
    const plain = await (await raw(fork.url, { "accept-encoding": "identity" })).text();
    const answer = await zstd(fork.url);
    expect(answer.headers.get("content-encoding")).toBe("zstd");
    expect(zstdDecompressSync(await answer.bytes()).toString()).toBe(plain);
    expect((JSON.parse(plain) as unknown[]).length).toBe(30_002);
  });
});

describe("?encoding=zstd", () => {
  test("gives the frames themselves, each with its size and a checksum, and says what is in them", async () => {
    for (const [url, type] of [
      [json.url, "application/json"],
      [bytes.url, "text/plain"],
      [`${json.url}?key=k`, "application/json"],
      [`${json.url}?tail=2`, "application/json"],
      [`${json.url}?offset=now`, "application/json"],
    ] as const) {
      const answer = await raw(`${url}${url.includes("?") ? "&" : "?"}encoding=zstd`, {
        "accept-encoding": "identity",
      });
      expect(answer.headers.get("content-type")).toBe("application/zstd");
      expect(answer.headers.get("stream-content-type")).toBe(type);
      expect(answer.headers.get("content-encoding")).toBeNull();
      const body = await answer.bytes();
      const plain = await (await raw(url, { "accept-encoding": "identity" })).bytes();
      expect(Buffer.from(zstdDecompressSync(body)).equals(Buffer.from(plain))).toBe(true);
      expect(readFrameHeader(body)).toMatchObject({ hasChecksum: true });
    }
  });

  test("of an empty stream of bytes is empty, of an empty JSON stream an empty array", async () => {
    const nothing = await newStream(server, "zstd/empty-bytes", "text/plain");
    expect((await (await raw(`${nothing.url}?encoding=zstd`)).bytes()).length).toBe(0);
    const none = await newStream(server, "zstd/empty-json");
    expect(zstdDecompressSync(await (await raw(`${none.url}?encoding=zstd`)).bytes()).toString()).toBe("[]");
  });

  test("of a tail of small appends is one frame, not one for each", async () => {
    for (const [name, type] of [
      ["zstd/tail-json", "application/json"],
      ["zstd/tail-bytes", "text/plain"],
    ] as const) {
      const stream = await newStream(server, name, type);
      for (let n = 0; n < 20; n++) await stream.post(String(n));
      const body = await (await raw(`${stream.url}?encoding=zstd`)).bytes();
      const plain = await (await raw(stream.url)).text();
      expect(zstdDecompressSync(body).toString()).toBe(plain);
      expect(new FrameSplitter(1_000_000).push(body).map(({ contentBytes }) => contentBytes)).toEqual([plain.length]);
    }
  });

  test("another name, or a live read, is refused", async () => {
    for (const query of [
      "encoding=gzip",
      "encoding=",
      "encoding=zstd&live=sse&offset=-1",
      "encoding=zstd&live=long-poll&offset=now",
    ]) {
      const answer = await json.get(query);
      expect([query, answer.status, (await errorOf(answer)).code]).toEqual([query, 400, "encoding-invalid"]);
    }
  });
});

/** The offset behind the first `records`: `tail` counts from the other end. */
async function offsetAfter(stream: StreamUnderTest, records: number): Promise<string> {
  const tail = await stream.tail();
  const [epoch = "", seq = ""] = tail.split("_");
  return `${epoch}_${String(Math.min(records, Number(seq))).padStart(16, "0")}`;
}
