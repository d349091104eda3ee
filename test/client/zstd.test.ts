/** The SDK unpacks sealed history by itself: the same records as without, from a real server, and damage on the way is an error. */

import { expect, test } from "bun:test";
import { connect } from "../../src/client/client.ts";
import { joinBytes } from "../../src/kit/bytes.ts";
import { sharedServer } from "../support/shared-server.ts";
import { newStream } from "../support/streams.ts";

const server = sharedServer();
const RECORDS = 30_000;
const PER_APPEND = 1_000;

async function filled(name: string): Promise<void> {
  const stream = await newStream(server, name);
  for (let n = 0; n < RECORDS; n += PER_APPEND) {
    const values = Array.from({ length: PER_APPEND }, (_, index) => ({
      n: n + index,
      text: "again and again ".repeat(20),
    }));
    expect((await stream.post(JSON.stringify(values))).status).toBe(204);
  }
}

test("reading and following give what they give without", async () => {
  await filled("zstd/sdk");
  const urls: string[] = [];
  const counting = (url: string, init: RequestInit): Promise<Response> => {
    urls.push(url);
    return fetch(url, init);
  };
  const plain = connect({ url: server.url, zstd: "native" }).stream("zstd/sdk");
  // Unpacked here by default: Bun does it in threads.
  const packed = connect({ url: server.url, fetch: counting }).stream("zstd/sdk");
  const wanted = (await plain.read()).unwrap();
  const got = (await packed.read()).unwrap();
  expect([got.contentType, got.json, got.nextOffset]).toEqual([wanted.contentType, wanted.json, wanted.nextOffset]);
  const bytes = joinBytes(await Array.fromAsync(got));
  expect(Bun.SHA256.hash(bytes)).toEqual(Bun.SHA256.hash(joinBytes(await Array.fromAsync(wanted))));
  expect((JSON.parse(new TextDecoder().decode(bytes)) as unknown[]).length).toBe(RECORDS);
  let followed = 0;
  for await (const { parts, upToDate } of packed.follow()) {
    followed += parts.length;
    if (upToDate) break;
  }
  expect(followed).toBe(RECORDS);
  expect(urls.every((url) => url.includes("encoding=zstd"))).toBe(true);
}, 60_000);

test("a body that is damaged on its way is an error that says so", async () => {
  await filled("zstd/damaged");
  const damaging = async (url: string, init: RequestInit): Promise<Response> => {
    const answer = await fetch(url, init);
    const body = await answer.bytes();
    const at = body.length >> 1;
    body[at] = (body[at] ?? 0) ^ 0x10;
    return new Response(body, { status: answer.status, headers: answer.headers });
  };
  const stream = connect({ url: server.url, zstd: "sdk", fetch: damaging }).stream("zstd/damaged");
  const read = (await stream.read()).unwrap();
  const failure = await Array.fromAsync(read).then(
    () => null,
    (cause: unknown) => cause,
  );
  expect(failure).toMatchObject({ _tag: "BrokenAnswer", message: expect.stringMatching(/is damaged: /) });
}, 60_000);
