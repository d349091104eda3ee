/** What `serve` cannot use, it refuses in words, without a stack trace. (A directory in use: `test/fault`.) */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "bun:test";
import { temporaryServers } from "../support/shared-server.ts";
import { rejection } from "../support/wait.ts";

const start = temporaryServers();

test("a data directory that is a file is refused, in words", async () => {
  const directory = await mkdtemp(join(tmpdir(), "streams-test-"));
  const file = join(directory, "file");
  await writeFile(file, "not a directory");
  const refusal = await rejection(start({ dataDir: file }));
  expect(refusal.message).toContain(file);
  expect(refusal.message).not.toMatch(/\n\s+at .+:\d+/);
  await rm(directory, { recursive: true });
}, 60_000);

test("a port that is taken is refused, in words", async () => {
  const first = await start();
  const { port } = new URL(first.url);
  const refusal = await rejection(start({ args: ["--port", port] }));
  expect(refusal.message).toContain(port);
  expect(refusal.message).toMatch(/in use|taken|EADDRINUSE/i);
}, 60_000);
