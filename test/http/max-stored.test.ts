/** `--max-stored`: what the server keeps in all is bounded; reads and deletes go on, and appends come back with the room. */

import { expect, test } from "bun:test";
import { temporaryServers } from "../support/shared-server.ts";
import { errorOf, newStream } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const start = temporaryServers();
const MiB = 1024 * 1024;

test("past the limit appends get 507, reads and deletes go on, and room comes back", async () => {
  const server = await start({ args: ["--max-stored", "64MiB"] });
  const large = await newStream(server, "stored/large", "application/octet-stream");
  const small = await newStream(server, "stored/small", "text/plain");
  let refused: Response | null = null;
  let taken = 0;
  await until(
    "the server is full",
    async () => {
      const body = noise(4 * MiB);
      const answer = await large.post(body);
      if (answer.status === 204) taken += body.length;
      else if (answer.status === 507) refused = answer;
      return refused !== null;
    },
    60_000,
  );
  if (refused === null) throw new Error("never refused");
  const { headers } = refused as Response;
  expect((await errorOf(refused)).code).toBe("storage-full");
  expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
  // Looked at once a second, and what is being sealed is there twice.
  expect(taken).toBeLessThan(300 * MiB);
  expect((await small.post("x")).status).toBe(507);
  expect((await small.get()).status).toBe(200);
  expect((await fetch(`${server.url}/ready`)).status).toBe(503);

  expect((await large.delete()).status).toBe(204);
  await until("appends come back", async () => (await small.post("y")).status === 204, 90_000);
  expect(await small.text()).toBe("y");
}, 120_000);

/** What no compression makes smaller. */
function noise(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}
