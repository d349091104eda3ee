/**
 * The command line against a real server, as a shell would use it: what it prints, what it sends, how it fails and with
 * which exit code, and that pipes on either side behave.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CommandResult, runCommand } from "../support/command.ts";
import { LAUNCHER } from "../support/server.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer({ args: ["--long-poll-timeout", "500ms"] });
const start = temporaryServers();

function run(args: readonly string[], stdin: string | Uint8Array = ""): Promise<CommandResult> {
  return runCommand(args, { stdin, env: { STREAM_URL: server.url } });
}

/** The output of a command that must succeed. */
async function output(args: readonly string[], stdin: string | Uint8Array = ""): Promise<string> {
  const { code, stdout, stderr } = await run(args, stdin);
  expect(`${args.join(" ")}: ${code} ${stderr}`).toBe(`${args.join(" ")}: 0 `);
  return stdout;
}

async function json(args: readonly string[], stdin: string | Uint8Array = ""): Promise<Record<string, unknown>> {
  return JSON.parse(await output([...args, "--json"], stdin)) as Record<string, unknown>;
}

let fresh = 0;
/** A JSON stream made by the command line. */
async function jsonStream(): Promise<string> {
  const name = `cli/json-${fresh++}`;
  await output(["create", name, "--content-type", "application/json"]);
  return name;
}

test("create, append, read, info, ls, rm: the whole life of a stream", async () => {
  expect(await output(["create", "cli/life", "-t", "application/json"])).toStartWith("created cli/life");
  expect(await output(["create", "cli/life", "-t", "application/json"])).toStartWith("already there: cli/life");
  expect(await output(["append", "cli/life", '{"n": 1.50}', "[2]"])).toStartWith("appended 2 records; next offset ");
  expect(await output(["read", "cli/life"])).toBe('[{"n": 1.50},[2]]');
  expect(await json(["info", "cli/life"])).toMatchObject({ name: "cli/life", closed: false });
  expect(await output(["info", "cli/life"])).toMatch(/^name +cli\/life$/m);
  expect((await output(["ls"])).split("\n")).toContain("cli/life");
  expect(await output(["rm", "cli/life"])).toBe("deleted cli/life\n");
  expect((await run(["info", "cli/life"])).code).toBe(1);
});

test("a stream can be given by its URL", async () => {
  const name = await jsonStream();
  await output(["append", name, "1"]);
  const { code, stdout } = await runCommand(["read", streamAt(server, name).url], {
    env: { STREAM_URL: "http://[::]:1" },
  });
  expect([code, stdout]).toEqual([0, "[1]"]);
});

test("create carries lifetime, retention, closure and fork", async () => {
  const options = ["--ttl", "1h", "--retention", "max-age=7d, max-bytes=1GiB", "--closed"];
  expect(await json(["create", "cli/all", ...options])).toMatchObject({ created: true, closed: true });
  expect(await json(["info", "cli/all"])).toMatchObject({ ttlSeconds: 3600, closed: true });
  const source = await jsonStream();
  await output(["append", source, "1", "2"]);
  await output(["create", "cli/fork", "--fork-from", source]);
  expect(await output(["read", "cli/fork"])).toBe("[1,2]");
});

test("ls: prefix, limit, columns, JSON lines", async () => {
  for (const name of ["ls/b", "ls/a", "lsx"]) await output(["create", name, "-t", "text/plain"]);
  expect(await output(["ls", "--prefix", "ls/"])).toBe("ls/a\nls/b\n");
  expect(await output(["ls", "--prefix", "ls", "--limit", "2"])).toBe("ls/a\nls/b\n");
  expect(await output(["ls", "--prefix", "lsx", "-l"])).toMatch(/^lsx\ttext\/plain\t\d{16}_\d{16}\topen\n$/);
  const lines = (await output(["ls", "--prefix", "ls/", "--json"])).trimEnd().split("\n");
  expect(lines.map((line) => (JSON.parse(line) as { name: string }).name)).toEqual(["ls/a", "ls/b"]);
});

test("append reads stdin: one value, an array, lines", async () => {
  const name = await jsonStream();
  await output(["append", name], ' {"one":\n"value"}\n');
  await output(["append", name], "[2, [3]]");
  await output(["append", name, "--lines"], '4\n\n{"five": 5}');
  expect(await output(["read", name, "--ndjson"])).toBe('{"one": "value"}\n2\n[3]\n4\n{"five": 5}\n');
});

test("append cuts large input into bounded requests, values whole and in order", async () => {
  const values = Array.from({ length: 2500 }, (_, index) => JSON.stringify({ index, pad: "é".repeat(index % 700) }));
  for (const [flag, input] of [
    ["--json-array", `[${values.join(" ,\n")}]`],
    ["--lines", values.join("\n")],
  ] as const) {
    const name = await jsonStream();
    const { records, requests } = await json(["append", name, flag], input);
    expect(records).toBe(values.length);
    expect(requests).toBeGreaterThan(2);
    expect(await streamAt(server, name).text()).toBe(`[${values.join(",")}]`);
  }
});

test("bytes go in and come out unchanged, however many", async () => {
  const bytes = new Uint8Array(3_000_001).map((_, index) => (index * 31) ^ (index >> 8));
  await output(["create", "cli/bytes"]);
  expect(await json(["append", "cli/bytes"], bytes)).toMatchObject({ bytes: bytes.length });
  const read = Bun.spawn([LAUNCHER, "read", "cli/bytes", "--url", server.url], { stdout: "pipe", timeout: 20_000 });
  expect(Buffer.compare(Buffer.from(await read.stdout.bytes()), bytes)).toBe(0);
}, 60_000);

test("text lines stay whole; arguments are records of their own", async () => {
  await output(["create", "cli/text", "-t", "text/plain"]);
  await output(["append", "cli/text", "--lines"], "one\r\ntwo\n");
  expect(await json(["append", "cli/text", "three", "four"])).toMatchObject({ requests: 2 });
  expect(await output(["read", "cli/text"])).toBe("one\r\ntwo\nthreefour");
  expect(await output(["read", "cli/text", "--tail", "1"])).toBe("four");
});

test("with a producer the same input is stored once, and an interrupted run can be repeated", async () => {
  const name = await jsonStream();
  const values = Array.from({ length: 2500 }, (_, index) => String(index));
  const args = ["append", name, "--lines", "--producer-id", "import"];
  // The first run only gets half of the input: two whole requests of 1000 lines.
  await output(args, values.slice(0, 2000).join("\n"));
  expect(await json([...args, "--close"], values.join("\n"))).toMatchObject({
    requests: 3,
    duplicates: 2,
    closed: true,
  });
  expect(await json([...args, "--close"], values.join("\n"))).toMatchObject({ requests: 3, duplicates: 3 });
  expect(await output(["read", name])).toBe(`[${values.join(",")}]`);
});

test("a slow producer is not held back", async () => {
  const name = await jsonStream();
  const child = Bun.spawn([LAUNCHER, "append", name, "--lines", "--url", server.url], {
    stdin: "pipe",
    stdout: "pipe",
    timeout: 20_000,
  });
  for (const line of ["1\n", "2\n"]) {
    await child.stdin.write(line);
    await child.stdin.flush();
    await until("the line is there", async () => (await streamAt(server, name).text()).endsWith(`${line.trim()}]`));
  }
  await child.stdin.end();
  expect(await child.exited).toBe(0);
});

test("--if-match is checked against the tail, and follows it from request to request", async () => {
  const name = await jsonStream();
  const stream = streamAt(server, name);
  const tail = await stream.tail();
  const values = Array.from({ length: 1500 }, (_, index) => String(index));
  expect(await json(["append", name, "--lines", "--if-match", tail], values.join("\n"))).toMatchObject({ requests: 2 });
  const { code, stderr } = await run(["append", name, "1", "--if-match", tail, "--json"]);
  expect(code).toBe(1);
  expect(JSON.parse(stderr)).toMatchObject({ error: { code: "tail-moved", status: 412 } });
  expect(await stream.records()).toHaveLength(1500);
});

test("read starts by offset, time, count and key, and says where it ended", async () => {
  const name = await jsonStream();
  const { nextOffset } = await json(["append", name, "1", "2"]);
  await output(["append", name, "3", "--key", "k"]);
  expect(await output(["read", name, "--offset", String(nextOffset)])).toBe("[3]");
  expect(await output(["read", name, "--tail", "2"])).toBe("[2,3]");
  expect(await output(["read", name, "--from", "-15m"])).toBe("[1,2,3]");
  expect(await output(["read", name, "--key", "k"])).toBe("[3]");
  const { stdout, stderr } = await run(["read", name, "--json"]);
  expect(stdout).toBe("[1,2,3]");
  expect(JSON.parse(stderr)).toEqual({
    contentType: "application/json",
    nextOffset: await streamAt(server, name).tail(),
    upToDate: true,
    closed: false,
  });
});

test.each([[], ["--sse"]])("tail %j follows until the stream is closed", async (...flags) => {
  const name = await jsonStream();
  await output(["append", name, '{\n"old": 1}', "2"]);
  const tail = Bun.spawn([LAUNCHER, "tail", name, "--tail", "1", "--url", server.url, ...flags], {
    stdout: "pipe",
    timeout: 20_000,
  });
  const reader = tail.stdout.getReader();
  // Once it shows the last record it follows: nothing appended from now on may be missed.
  let lines = new TextDecoder().decode((await reader.read()).value);
  await output(["append", name, '{"a":\n3}', "4"]);
  await output(["append", name, "5", "--close"]);
  for (let step = await reader.read(); !step.done; step = await reader.read())
    lines += new TextDecoder().decode(step.value);
  expect(lines).toBe('2\n{"a": 3}\n4\n5\n');
  expect(await tail.exited).toBe(0);
});

async function liveRequests(url: string): Promise<number> {
  return ((await (await call("GET", `${url}/health`)).json()) as { liveRequests: number }).liveRequests;
}

test.each([[], ["--sse"]])(
  "tail %j of bytes survives kill -9 and a restart of the server",
  async (...flags) => {
    const first = await start({ args: ["--long-poll-timeout", "500ms"] });
    await newStream(first, "bytes", "application/octet-stream");
    const tail = Bun.spawn([LAUNCHER, "tail", "bytes", "--offset", "-1", "--url", first.url, ...flags], {
      stdout: "pipe",
      timeout: 25_000,
    });
    const received = tail.stdout.bytes();
    await streamAt(first, "bytes", "application/octet-stream").post(new Uint8Array([0, 255, 13]));
    // It gives up where it never met a server.
    await until("it waits for more", async () => (await liveRequests(first.url)) > 0);
    await first.kill("SIGKILL");
    const second = await start({ dataDir: first.dataDir, args: ["--port", new URL(first.url).port] });
    const stream = streamAt(second, "bytes", "application/octet-stream");
    await stream.post(new Uint8Array([10, 13, 10]));
    await stream.close();
    expect([...(await received)]).toEqual([0, 255, 13, 10, 13, 10]);
    expect(await tail.exited).toBe(0);
  },
  60_000,
);

test("a reader that leaves the pipe ends the command quietly", async () => {
  const name = await jsonStream();
  await output(
    ["append", name, "--lines"],
    Array.from({ length: 50_000 }, (_, index) => `"${index} ${"x".repeat(40)}"`).join("\n"),
  );
  const shell = Bun.spawn(["sh", "-c", '"$0" read "$1" --ndjson | head -n 1', LAUNCHER, name], {
    env: { ...process.env, STREAM_URL: server.url },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 20_000,
  });
  expect(await shell.stdout.text()).toBe(`"0 ${"x".repeat(40)}"\n`);
  expect(await shell.stderr.text()).toBe("");
  expect(await shell.exited).toBe(0);
});

test.each([
  [["nope"], 2, /unknown command 'nope'/],
  [["append"], 2, /missing required argument 'stream'/],
  [["read", "a", "--tial", "1"], 2, /unknown option '--tial' .*--tail/],
  [["read", "a", "--tail", "1", "--from", "-1m"], 2, /cannot be used with/],
  [["read", "a", "--tail", "x"], 2, /expected a whole number/],
  [["read", "a//b"], 2, /empty, '\.' or '\.\.' segment/],
  [["create", "a", "--ttl", "soon"], 2, /--ttl: expected whole seconds/],
  [["create", "a", "--fork-offset", "x"], 2, /--fork-from/],
  [["append", "a", "x", "--lines"], 2, /not both/],
  [["read", "cli/never"], 1, /no such stream/],
  [["append", "cli/never", "1"], 1, /no such stream/],
  [["tail", "cli/never"], 1, /no such stream/],
  [["read", "a", "--url", "http://127.0.0.1:1"], 3, /cannot reach http:\/\/127\.0\.0\.1:1/],
  [["tail", "a", "--url", "http://127.0.0.1:1"], 3, /cannot reach/],
  [["ls", "--url", "ftp://x"], 2, /ftp:\/\/x/],
])("%j fails with %d, in one line", async (args, code, message) => {
  const plain = await run(args);
  expect({ code: plain.code, stdout: plain.stdout }).toEqual({ code, stdout: "" });
  expect(plain.stderr).toMatch(message);
  expect(plain.stderr.trimEnd().split("\n")).toHaveLength(1);
  const machine = await run([...args, "--json"]);
  expect(machine.code).toBe(code);
  expect(JSON.parse(machine.stderr)).toMatchObject({ error: { message: expect.stringMatching(message) } });
});

test("input that is not JSON is refused before it is sent, by line or record", async () => {
  const name = await jsonStream();
  for (const [args, stdin, message] of [
    [["append", name, "1", "nope"], "", "record 2 is not JSON"],
    [["append", name, "--lines"], "1\n2],[3\n", "line 2 is not JSON"],
    [["append", name], "{}\n{}\n", "--lines"],
    [["append", name, "--json-array"], "{}", "expected a JSON array"],
  ] as const) {
    const { code, stderr } = await run(args, stdin);
    expect([code, stderr]).toEqual([2, expect.stringContaining(message)]);
  }
  expect(await streamAt(server, name).records()).toEqual([]);
});

test("a failure in the middle says how far it came", async () => {
  const name = await jsonStream();
  const deep = `${"[".repeat(300)}${"]".repeat(300)}`;
  const lines = [...Array.from({ length: 1000 }, (_, index) => String(index)), deep];
  const { code, stderr } = await run(["append", name, "--lines"], lines.join("\n"));
  expect(code).toBe(1);
  expect(stderr).toContain("1000 records were stored before, up to ");
});

test("STREAM_AUTH is sent as authorization: a bare token as a bearer token", async () => {
  const seen: (string | null)[] = [];
  const spy = Bun.serve({
    port: 0,
    fetch: (request) => {
      seen.push(request.headers.get("authorization"));
      return Response.json({ streams: [], cursor: null });
    },
  });
  for (const auth of ["secret", "Basic abc", " "]) {
    expect((await runCommand(["ls"], { env: { STREAM_URL: spy.url.origin, STREAM_AUTH: auth } })).code).toBe(0);
  }
  await spy.stop(true);
  expect(seen).toEqual(["Bearer secret", "Basic abc", null]);
});

test("help: every command has an example, and nothing has to run for it", async () => {
  for (const command of ["serve", "create", "append", "read", "tail", "ls", "info", "rm", "top"]) {
    const help = await output([command, "--help"]);
    expect(help).toContain(`Usage: streams-server ${command}`);
    expect(help).toContain(`$ streams-server ${command}`);
  }
  expect(await output(["--version"])).toMatch(/^\d+\.\d+\.\d+\n$/);
});

let directory = "";
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "streams-test-"));
});
afterAll(async () => rm(directory, { recursive: true }));

test("serve refuses settings it does not know or cannot use, all at once", async () => {
  const config = join(directory, "streams.json");
  await writeFile(config, '{"prot": 1}');
  const { code, stderr } = await runCommand(["serve", "--port", "x", "--config", config], {
    env: { STREAMS_HOTS: "x" },
  });
  expect(code).toBe(2);
  expect(stderr).toContain("prot in ");
  expect(stderr).toContain("did you mean STREAMS_HOST?");
  expect(stderr).toContain("--port: expected a whole number");
});

test("serve takes settings from file, environment and flags, and none from a .env", async () => {
  const config = join(directory, "serve.json");
  await writeFile(config, '{"durability": "os", "longPollTimeout": "100ms"}');
  await writeFile(join(directory, ".env"), "STREAMS_MEMORY=true\n");
  const child = Bun.spawn([LAUNCHER, "serve", "--port", "0", "--data-dir", join(directory, "data")], {
    cwd: directory,
    env: { ...process.env, STREAMS_CONFIG: config },
    stdout: "pipe",
    stderr: "ignore",
    timeout: 20_000,
  });
  const reader = child.stdout.getReader();
  const banner = JSON.parse(new TextDecoder().decode((await reader.read()).value)) as Record<string, unknown>;
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
  expect(banner).toMatchObject({
    event: "listening",
    dataDir: join(directory, "data"),
    durability: "os",
    auth: "none (loopback only)",
  });
});

test("--memory keeps nothing and says so", async () => {
  const memory = await start({ args: ["--memory"] });
  expect(memory.banner).toMatchObject({ dataDir: null, durability: "none" });
  expect((await runCommand(["create", "m", "--url", memory.url])).code).toBe(0);
});
