/**
 * The `keys` commands beside a running server: what they make holds within two seconds, what they end ends, nothing is lost when many
 * run at once, and a file that cannot be read neither opens the server nor closes it.
 */

import { chmod, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { callAs, dropKeys, keyedDirectory, signedBy } from "../support/auth-world.ts";
import { type CommandResult, runCommand } from "../support/command.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { call } from "../support/streams.ts";
import { rejection, until } from "../support/wait.ts";

const KEY = /^sk_([a-z2-7]{10})_[A-Za-z0-9_-]{43}\n$/;
const ARGS = ["--auth", "api-key", "--durability", "os", "--no-live-metrics"] as const;
const FOLLOW_MS = 2_000;

const start = temporaryServers();
const directories: string[] = [];
afterEach(async () => {
  for (const directory of directories.splice(0)) await rm(directory, { recursive: true, force: true });
});

async function emptyDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "streams-keys-test-"));
  directories.push(directory);
  return directory;
}

const statusOf = async (server: TestServer, token: string): Promise<number> =>
  (await callAs(token, "GET", `${server.url}/v1/streams`)).status;

/** Waits until a token is answered so; how long that took. */
async function becomes(server: TestServer, token: string, status: number): Promise<number> {
  const fromMs = performance.now();
  await until(`the key is answered ${status}`, async () => (await statusOf(server, token)) === status, 4000);
  return performance.now() - fromMs;
}

describe("beside a running server", () => {
  let server: TestServer;
  const keys = (...args: string[]): Promise<CommandResult> =>
    runCommand(["keys", ...args, "--data-dir", server.dataDir]);
  const create = async (...args: string[]): Promise<{ readonly token: string; readonly id: string }> => {
    const { code, stdout, stderr } = await keys("create", ...args);
    expect([code, stderr.includes("sk_")]).toEqual([0, false]);
    const [token, id = ""] = KEY.exec(stdout) ?? expect.unreachable(`not a key: ${stdout} ${stderr}`);
    return { token: token.trim(), id };
  };

  beforeAll(async () => {
    server = await startServer({ args: ARGS });
  }, 60_000);
  afterAll(async () => {
    await server.stop();
    await server.remove();
  }, 60_000);

  test("a new key opens within two seconds; the token stands on stdout alone, and in no file", async () => {
    expect((await call("GET", `${server.url}/v1/streams`)).status).toBe(401);
    const { code, stdout, stderr } = await keys(
      "create",
      "--name",
      "shop",
      "--grant",
      "append:orders/*",
      "--grant",
      "read",
    );
    expect(code).toBe(0);
    expect(stdout).toMatch(KEY);
    const token = stdout.trim();
    expect(stderr).toContain("shop\tappend:orders/*,read\tnever expires");
    expect(stderr).not.toContain(token.slice(14));
    expect(await becomes(server, token, 200)).toBeLessThan(FOLLOW_MS);
    const file = join(server.dataDir, "keys.json");
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    for (const name of await readdir(server.dataDir))
      expect((await readFile(join(server.dataDir, name))).includes(token.slice(14))).toBe(false);
    expect(server.stderr()).not.toContain(token.slice(14));
  }, 60_000);

  test("revoke ends a key within two seconds, and what it has signed", async () => {
    const { token, id } = await create("--grant", "all");
    const other = await create("--grant", "all");
    await becomes(server, token, 200);
    const { access } = await signedBy(token, server, ["*"]);
    const read = (): Promise<Response> => call("GET", `${server.url}/v1/streams?access=${access}`);
    expect((await read()).status).toBe(200);
    expect((await keys("revoke", id)).stdout).toContain(id);
    expect(await becomes(server, token, 401)).toBeLessThan(FOLLOW_MS);
    expect((await read()).status).toBe(401);
    expect(await statusOf(server, other.token)).toBe(200);
    expect((await keys("ls")).stdout).not.toContain(id);
  }, 60_000);

  test("--expires ends a key by itself", async () => {
    const { token } = await create("--grant", "all", "--expires", "4s");
    expect((await keys("ls")).stdout).toMatch(/\tall\t20\d\d-\d\d-\d\dT[\d:.]+Z\n/);
    await becomes(server, token, 200);
    await until("it has expired", async () => (await statusOf(server, token)) === 401, 6000);
  }, 60_000);

  test("rotate makes another with the same grants; both hold for the overlap, then one", async () => {
    const old = await create("--name", "both", "--grant", "read:a/*");
    await becomes(server, old.token, 403);
    const { code, stdout } = await keys("rotate", old.id, "--overlap", "4s");
    expect([code, KEY.test(stdout)]).toEqual([0, true]);
    const next = stdout.trim();
    await becomes(server, next, 403);
    expect(await statusOf(server, old.token)).toBe(403);
    expect((await callAs(next, "GET", `${server.url}/v1/stream/a/1`)).status).toBe(404);
    await until("the old one has ended", async () => (await statusOf(server, old.token)) === 401, 6000);
    expect(await statusOf(server, next)).toBe(403);
  }, 60_000);

  test("rotate without an overlap ends the old one at once; how long the new one lives is said when the old one ends", async () => {
    const old = await create("--grant", "all", "--expires", "1h");
    await becomes(server, old.token, 200);
    const unsaid = await keys("rotate", old.id, "--overlap", "0s");
    expect([unsaid.code, unsaid.stdout, unsaid.stderr]).toEqual([1, "", expect.stringContaining("--expires")]);
    const rotated = JSON.parse(
      (await keys("rotate", old.id, "--overlap", "0s", "--expires", "2h", "--json")).stdout,
    ) as MadeKey;
    expect(await becomes(server, old.token, 401)).toBeLessThan(FOLLOW_MS);
    expect(await statusOf(server, rotated.token)).toBe(200);
    expect(Math.abs(Date.parse(rotated.expiresAt ?? "") - Date.now() - 7_200_000)).toBeLessThan(60_000);
    // Nor does an overlap make the old one live longer.
    await keys("rotate", rotated.id, "--overlap", "24h", "--expires", "1h");
    const shown = (await keys("ls", "--json")).stdout.split("\n").filter((line) => line.includes(rotated.id));
    expect(Date.parse((JSON.parse(shown[0] ?? "{}") as MadeKey).expiresAt ?? "")).toBeLessThan(Date.now() + 7_300_000);
  }, 60_000);

  test("ten at once: nothing is lost, and who was refused is told to try again", async () => {
    const before = (await keys("ls")).stdout.trim().split("\n").length;
    const results = await Promise.all(
      Array.from({ length: 10 }, (_, at) => keys("create", "--name", `many${at}`, "--grant", "read")),
    );
    const made = results.filter(({ code }) => code === 0);
    for (const { code, stderr } of results) {
      if (code === 0) continue;
      expect([code, stderr]).toEqual([1, expect.stringMatching(/another command is changing the keys \(try again/)]);
    }
    expect(made.length).toBeGreaterThan(0);
    const listed = (await keys("ls")).stdout;
    expect(listed.trim().split("\n")).toHaveLength(before + made.length);
    for (const { stdout } of made) expect(listed).toContain(KEY.exec(stdout)?.[1] ?? "nothing");
    expect(await readdir(server.dataDir)).not.toContain("keys.json.new");
    await Promise.all(made.map(({ stdout }) => becomes(server, stdout.trim(), 200)));
  }, 60_000);

  test("a file that is damaged while the server runs changes nothing, and is told; one that is gone means no keys", async () => {
    const { token } = await create("--grant", "all");
    await becomes(server, token, 200);
    const file = join(server.dataDir, "keys.json");
    const text = await readFile(file, "utf8");
    const replaceBy = async (next: string): Promise<void> => {
      await writeFile(`${file}.draft`, next, { mode: 0o600 });
      await rename(`${file}.draft`, file);
    };
    await replaceBy(text.slice(0, text.length / 2));
    await until("the fault is logged", () => server.stderr().includes("reading the API keys"), 4000);
    expect(await statusOf(server, token)).toBe(200);
    const { code, stderr } = await keys("create", "--grant", "all");
    expect([code, stderr]).toEqual([1, expect.stringContaining("cannot be used")]);
    await replaceBy(text);
    await rm(file);
    expect(await becomes(server, token, 401)).toBeLessThan(FOLLOW_MS);
    await replaceBy(text);
    expect(await becomes(server, token, 200)).toBeLessThan(FOLLOW_MS);
  }, 60_000);
});

const prlimit = Bun.which("prlimit");

test.skipIf(prlimit === null)(
  "a revocation that could not be read for a moment is followed all the same",
  async () => {
    const keys = keyedDirectory({ one: ["all"], other: ["all"] });
    const server = await start({ args: ARGS, dataDir: keys.dataDir });
    expect(await statusOf(server, keys.tokens.one)).toBe(200);
    const limit = (count: string): number =>
      Bun.spawnSync([prlimit ?? "", "--pid", String(server.pid), `--nofile=${count}:`]).exitCode;
    // No file can be opened now, not even that of the keys.
    expect(limit("3")).toBe(0);
    dropKeys(keys.keysFile, [keys.ids.one]);
    await until("the fault is logged", () => server.stderr().includes("reading the API keys"), 5000);
    expect(limit("1024")).toBe(0);
    // BUG if this fails: what was seen once is not read again, although it never was.
    await until("the key has ended", async () => (await statusOf(server, keys.tokens.one)) === 401, 4000);
    expect(await statusOf(server, keys.tokens.other)).toBe(200);
  },
  60_000,
);

interface MadeKey {
  readonly id: string;
  readonly token: string;
  readonly grants: readonly string[];
  readonly expiresAt: string | null;
}

describe("a file that cannot be used keeps the server from starting", () => {
  const damages: readonly (readonly [string, (text: string) => string, RegExp])[] = [
    ["half of it", (text) => text.slice(0, text.length / 2), /not JSON/],
    ["nothing", () => "", /not JSON/],
    ["a grant that was edited", (text) => text.replace("read:a", "all"), /checksum/],
    ["an expiry that was edited", (text) => text.replace('"expiresMs": null', '"expiresMs": 1'), /checksum/],
    ["another version", (text) => text.replace('"version": 1', '"version": 2'), /version/],
    ["something unknown", (text) => text.replace('"version"', '"extra": 1, "version"'), /extra/i],
    ["no checksum", (text) => text.replace(/,\s*"checksum": "\w+"/, ""), /checksum/],
    ["a list", () => "[]", /expected/i],
  ];

  test.each(damages)("%s", async (_, damage, reason) => {
    const keys = keyedDirectory({ one: ["read:a"] });
    directories.push(keys.dataDir);
    const text = await readFile(keys.keysFile, "utf8");
    expect(damage(text)).not.toBe(text);
    await writeFile(keys.keysFile, damage(text));
    // The server and the commands read it alike; a start takes longer.
    const isServer = reason.source === "checksum";
    const said = isServer
      ? (await rejection(start({ args: ARGS, dataDir: keys.dataDir }))).message
      : (await runCommand(["keys", "ls", "--data-dir", keys.dataDir])).stderr;
    expect(said).toMatch(reason);
    expect(said).toContain(keys.keysFile);
    expect(said).toContain("restore the file");
    expect(said).not.toMatch(/\n\s+at .+:\d+/);
  });
});

test("--keys-file says where they are, for the server and the commands", async () => {
  const directory = await emptyDirectory();
  const file = join(directory, "elsewhere.json");
  const { stdout } = await runCommand(["keys", "create", "--grant", "all", "--keys-file", file]);
  expect(await statusOf(await start({ args: [...ARGS, "--keys-file", file] }), stdout.trim())).toBe(200);
  const inMemory = await start({ args: [...ARGS, "--memory", "--keys-file", file] });
  expect(await statusOf(inMemory, stdout.trim())).toBe(200);
  const byVariable = await runCommand(["keys", "ls"], { env: { STREAMS_KEYS_FILE: file } });
  expect(byVariable.stdout).toContain(KEY.exec(stdout)?.[1] ?? "nothing");
  const inDirectory = await runCommand(["keys", "ls"], { env: { STREAMS_DATA_DIR: directory } });
  expect([inDirectory.code, inDirectory.stdout]).toEqual([0, ""]);
}, 60_000);

test("a file that was readable for all is not after a change", async () => {
  const keys = keyedDirectory({ one: ["read"] });
  directories.push(keys.dataDir);
  await chmod(keys.keysFile, 0o644);
  await runCommand(["keys", "create", "--grant", "read", "--data-dir", keys.dataDir]);
  expect((await stat(keys.keysFile)).mode & 0o777).toBe(0o600);
});

test("--json: one object with the token for a key, one line per key, without its digest, in a list", async () => {
  const directory = await emptyDirectory();
  const run = (...args: string[]): Promise<CommandResult> =>
    runCommand(["keys", ...args, "--data-dir", directory, "--json"]);
  const made = await run("create", "--name", "a name", "--grant", "read:a,append:b/*", "--expires", "90d");
  expect(made.stderr).toBe("");
  const key = JSON.parse(made.stdout) as MadeKey;
  expect(Object.keys(key).sort()).toEqual(["createdAt", "expiresAt", "grants", "id", "name", "token"]);
  expect(key.grants).toEqual(["read:a", "append:b/*"]);
  const days = (Date.parse(key.expiresAt ?? "") - Date.now()) / 86_400_000;
  expect(days).toBeGreaterThan(89.9);
  expect(days).toBeLessThanOrEqual(90);
  const { token: _, ...shown } = key;
  expect(JSON.parse((await run("ls")).stdout)).toEqual(shown);
  expect(JSON.parse((await run("revoke", key.id)).stdout)).toMatchObject({ id: key.id, revoked: true });
  expect((await run("ls")).stdout).toBe("");
});

describe("what cannot be done is said, with the exit code", () => {
  test.each([
    ["no grant", ["create"], 2, /--grant/],
    ["a grant that is none", ["create", "--grant", "write:a"], 2, /write:a.*no grant/],
    ["a grant of nothing", ["create", "--grant", "read:"], 2, /no grant/],
    ["an empty grant", ["create", "--grant", ""], 2, /no grant/],
    ["one wrong grant of two", ["create", "--grant", "read,reed"], 2, /reed/],
    ["a grant in capitals", ["create", "--grant", "READ"], 2, /no grant/],
    ["a life that is no duration", ["create", "--grant", "all", "--expires", "soon"], 2, /duration/],
    ["a negative life", ["create", "--grant", "all", "--expires=-1h"], 2, /duration/],
    ["a life beyond all dates", ["create", "--grant", "all", "--expires", "100000000d"], 2, /36500d/],
    ["an overlap beyond all dates", ["rotate", "aaaaaaaaaa", "--overlap", "100000000d"], 2, /36500d/],
    ["an overlap that is no duration", ["rotate", "aaaaaaaaaa", "--overlap", "x"], 2, /duration/],
    ["no id", ["revoke"], 2, /id/],
    ["an id that is not there", ["revoke", "aaaaaaaaaa"], 1, /no key aaaaaaaaaa.*keys ls/],
    ["to rotate what is not there", ["rotate", "aaaaaaaaaa"], 1, /no key aaaaaaaaaa/],
    ["a command that is none", ["frobnicate"], 2, /frobnicate/],
  ] as const)("%s", async (_, args, code, message) => {
    const directory = await emptyDirectory();
    const result = await runCommand(["keys", ...args, "--data-dir", directory]);
    expect([result.code, result.stdout]).toEqual([code, ""]);
    expect(result.stderr).toMatch(message);
    expect(result.stderr).not.toMatch(/\n\s+at .+:\d+/);
    expect(await readdir(directory)).toEqual([]);
  });

  // BUG if one of these fails: what is written then, neither the server nor the next command can read.
  test.each([
    ["a name that is too long", ["--grant", "all", "--name", "x".repeat(201)], /name/],
    ["too many grants", ["--grant", Array.from({ length: 65 }, (__, at) => `read:${at}`).join(",")], /grant/],
    ["a grant that is too long", ["--grant", `read:${"x".repeat(1200)}`], /grant/],
    // It would print a key that has ended.
    ["no life at all", ["--grant", "all", "--expires", "0s"], /duration|expire/],
  ])("a key that cannot be kept: %s", async (_, args, message) => {
    const directory = await emptyDirectory();
    const result = await runCommand(["keys", "create", ...args, "--data-dir", directory]);
    expect([[1, 2].includes(result.code), result.stdout]).toEqual([true, ""]);
    expect(result.stderr).toMatch(message);
    expect(await readdir(directory)).toEqual([]);
  });

  test("a directory that is not there", async () => {
    const directory = join(await emptyDirectory(), "nothing");
    const result = await runCommand(["keys", "create", "--grant", "all", "--data-dir", directory]);
    expect([result.code, result.stdout]).toEqual([1, ""]);
    expect(result.stderr).toContain("start the server once");
  });

  test("a change that was interrupted: it names the draft to delete", async () => {
    const directory = await emptyDirectory();
    const draft = join(directory, "keys.json.new");
    await writeFile(draft, "");
    const result = await runCommand(["keys", "create", "--grant", "all", "--data-dir", directory]);
    expect([result.code, result.stdout]).toEqual([1, ""]);
    expect(result.stderr).toContain(draft);
  });
});

test("whatever the commands accept, the server can start with", async () => {
  const directory = await emptyDirectory();
  const odd = ["read:a b", "read:*", "all:\u00e9*", "read:a*b", `read:${"x".repeat(1000)}`];
  for (const [at, grant] of odd.entries()) {
    const args = ["keys", "create", "--grant", grant, "--name", `odd ${at} \u{1f511}\t"`, "--data-dir", directory];
    expect((await runCommand(args)).code).toBe(0);
  }
  expect((await runCommand(["keys", "ls", "--data-dir", directory])).stdout.trim().split("\n")).toHaveLength(
    odd.length,
  );
  const server = await start({ args: ARGS, dataDir: directory });
  expect((await call("GET", `${server.url}/health`)).status).toBe(200);
}, 60_000);
