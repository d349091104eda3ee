/**
 * What a person may get wrong at the command line: input that cannot be read or is not UTF-8, values that no header carries, empty
 * paths, flags that mean nothing without another. Each ends with exit code 2 and one line that says what to mend, never with a stack.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCommand } from "../support/command.ts";
import { LAUNCHER } from "../support/server.ts";
import { sharedServer } from "../support/shared-server.ts";
import { newStream, streamAt } from "../support/streams.ts";

const server = sharedServer();

let directory = "";
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "streams-test-"));
  await newStream(server, "input/json", "application/json");
});
afterAll(async () => rm(directory, { recursive: true }));

const notUtf8 = new Uint8Array([0x22, 0xff, 0xfe, 0x22, 0x0a]);
const withMark = new TextEncoder().encode('\uFEFF{"a": 1}\n');

test.each([
  ["lines that are not UTF-8", ["--lines"], notUtf8, "line 1 is not UTF-8"],
  ["a value that is not UTF-8", [], notUtf8, "stdin is not UTF-8"],
  ["a line after a byte order mark", ["--lines"], withMark, "line 1 is not JSON"],
  ["a value after a byte order mark", [], withMark, "stdin is not JSON"],
])("append: %s", async (_, flags, stdin, message) => {
  const { code, stdout, stderr } = await runCommand(["append", "input/json", ...flags], {
    stdin,
    env: { STREAM_URL: server.url },
  });
  expect([code, stdout, stderr]).toEqual([
    2,
    "",
    expect.stringMatching(new RegExp(`^streams-server: ${message}.*\n$`)),
  ]);
  expect(await streamAt(server, "input/json").records()).toEqual([]);
});

test.each([[[]], [["--lines"]], [["--json-array"]]])("append %j: stdin that cannot be read", async (flags) => {
  const shell = Bun.spawn(["sh", "-c", '"$0" append "$@" < /', LAUNCHER, "input/json", ...flags], {
    env: { ...process.env, STREAM_URL: server.url },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 20_000,
  });
  expect(await shell.stderr.text()).toMatch(/^streams-server: stdin cannot be read: EISDIR.*\n$/);
  expect(await shell.exited).toBe(2);
});

const proof = ["--wake", "w", "--generation", "1"];

test.each([
  [["append", "input/json", "1", "--key", "a\nb"], /--key .*that a header carries/],
  [["append", "input/json", "1", "--key", ""], /--key .*that a header carries/],
  [["append", "input/json", "1", "-t", "a\nb"], /--content-type .*that a header carries/],
  [["append", "input/json", "1", "--if-match", "a\nb"], /--if-match .*that a header carries/],
  [["append", "input/json", "1", "--producer-id", "日"], /--producer-id .*that a header carries/],
  [["append", "input/json", "1", "--producer-epoch", "1"], /need --producer-id/],
  [["append", "input/json", "1", "--producer-seq", "1"], /need --producer-id/],
  [["create", "a", "-t", "a\nb"], /--content-type .*that a header carries/],
  [["create", "a", "--expires-at", "a\nb"], /--expires-at .*that a header carries/],
  [["create", "a", "--retention", "日"], /--retention .*that a header carries/],
  [["create", "a", "--fork-from", "b", "--fork-offset", "日"], /--fork-offset .*that a header carries/],
  [["create", "a", "--fork-from", "b", "--fork-sub-offset", ""], /--fork-sub-offset .*whole number/],
  [["create", "a", "--fork-from", "b", "--fork-sub-offset", "0x1"], /--fork-sub-offset .*whole number/],
  [["sub", "ack", "s", "--token", "a\nb", ...proof], /--token: .*that a header carries/],
  [["sub", "release", "s", "--token", "日", ...proof], /--token: .*that a header carries/],
  [["read", "a", "--tail", "99999999999"], /whole number up to 999999999/],
  [["ls", "--limit", "-1"], /whole number up to 999999999/],
  [["ls", "--url", "http://127.0.0.1:1/?x=1"], /is not the URL of a server/],
  [["ls", "--url", "http://127.0.0.1:1/#x"], /is not the URL of a server/],
  [["keys", "ls", "--keys-file", ""], /--keys-file .*expected a path/],
  [["keys", "create", "--grant", "all", "--data-dir", " "], /--data-dir .*expected a path/],
  [["doctor", "--data-dir", ""], /--data-dir .*expected a path/],
  [["backup", "--to", ""], /--to .*expected a path/],
  [["restore", "--from", "", "--to", "x"], /--from .*expected a path/],
  [["restore", "--from", "x", "--to", ""], /--to .*expected a path/],
  [["bench", "--dir", ""], /--dir .*expected a path/],
])("%j is a mistake of the command line", async (args, message) => {
  const { code, stdout, stderr } = await runCommand(args, {
    env: { STREAM_URL: server.url, STREAMS_DATA_DIR: directory },
  });
  expect([code, stdout]).toEqual([2, ""]);
  expect(stderr).toMatch(message);
  expect(stderr).not.toMatch(/^ +at /m);
  expect(await readdir(directory)).toEqual([]);
});

test.each(["a\nb", "日"])("STREAM_AUTH=%j is a mistake of the environment", async (auth) => {
  const { code, stderr } = await runCommand(["ls"], { env: { STREAM_URL: server.url, STREAM_AUTH: auth } });
  expect([code, stderr]).toEqual([
    2,
    expect.stringMatching(/^streams-server: STREAM_AUTH .*that a header carries.*\n$/),
  ]);
});

test("rm and sub rm of several say which one was not deleted", async () => {
  await newStream(server, "input/first");
  const { code, stdout, stderr } = await runCommand(["rm", "input/first", "input/never", "input/json"], {
    env: { STREAM_URL: server.url },
  });
  expect([code, stdout]).toEqual([1, "deleted input/first\n"]);
  expect(stderr).toMatch(/no such stream.*input\/never was not deleted.*\n$/);
  const subscriptions = await runCommand(["sub", "rm", "never", "not/an/id"], { env: { STREAM_URL: server.url } });
  expect([subscriptions.code, subscriptions.stdout]).toEqual([1, "deleted never\n"]);
  expect(subscriptions.stderr).toMatch(/not\/an\/id was not deleted.*\n$/);
});

test.each([[["--help"]], [["--version"]], [["serve", "--help"]], [["ls"]]])(
  "%j on a full disk says so",
  async (args) => {
    const shell = Bun.spawn(["sh", "-c", '"$0" "$@" > /dev/full', LAUNCHER, ...args], {
      env: { ...process.env, STREAM_URL: server.url },
      stderr: "pipe",
      timeout: 20_000,
    });
    expect(await shell.stderr.text()).toMatch(/^streams-server: cannot write to stdout: ENOSPC.*\n$/);
    expect(await shell.exited).toBe(1);
  },
);

test.each(["ls", "--help"])("%s with a closed stdout says so", async (argument) => {
  const shell = Bun.spawn(["sh", "-c", '"$0" "$1" >&-', LAUNCHER, argument], {
    env: { ...process.env, STREAM_URL: server.url },
    stderr: "pipe",
    timeout: 20_000,
  });
  expect(await shell.stderr.text()).toBe("streams-server: cannot write to stdout: it is closed\n");
  expect(await shell.exited).toBe(1);
});
