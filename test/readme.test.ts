/**
 * Runs the README: its first five minutes block by block against a real server, kill and restart included, and its serve line.
 * Only the address is replaced: a free port instead of 4437.
 */

import { afterAll, expect, test } from "bun:test";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startServer, type TestServer } from "./support/server.ts";
import { until } from "./support/wait.ts";

const root = new URL("..", import.meta.url).pathname;
const servers: TestServer[] = [];

afterAll(async () => {
  for (const server of servers) await server.kill("SIGKILL");
  await servers[0]?.remove();
});

async function readme(): Promise<string> {
  return readFile(join(root, "README.md"), "utf8");
}

/** The shell blocks of one section, in order. */
async function blocksOf(heading: string): Promise<string[]> {
  const section = (await readme()).split(/^## /m).find((text) => text.startsWith(heading)) ?? "";
  return [...section.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map((match) => match[1] ?? "");
}

async function shell(script: string, server: TestServer): Promise<string> {
  const child = Bun.spawn(["bash", "-euo", "pipefail", "-c", script.replaceAll("http://127.0.0.1:4437", server.url)], {
    cwd: root,
    env: { ...process.env, STREAM_URL: server.url },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [text, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect(`${code} ${code === 0 ? "" : errors}`).toBe("0 ");
  return text;
}

test("the first five minutes work as written, with the kill in them", async () => {
  const blocks = await blocksOf("The first five minutes");
  expect(blocks.length).toBe(7);
  const [append = "", read = "", tail = "", commands = "", kill = "", readAgain = "", clean = ""] = blocks;
  let server = await startServer();
  servers.push(server);
  await shell(append, server);
  expect(await shell(read, server)).toBe('[{"id":1,"item":"tea"},{"id":2},{"id":3}][{"id":2},{"id":3}]');

  const following = Bun.spawn(["bash", "-c", `exec ${tail.trim()}`], {
    cwd: root,
    env: { ...process.env, STREAM_URL: server.url },
    stdout: "pipe",
  });
  let followed = "";
  const reading = (async () => {
    for await (const chunk of following.stdout) followed += new TextDecoder().decode(chunk);
  })();
  const waiting = async (): Promise<boolean> => {
    const health = (await (await fetch(`${server.url}/health`)).json()) as { waiters: number };
    return health.waiters > 0;
  };
  await until("the tail waits", waiting, 10_000);
  expect(await shell(commands, server)).toContain("orders");
  await until("the tail shows the record", async () => followed.includes('{"id":4}'), 10_000);
  following.kill();
  await reading;

  await shell(kill, server);
  const isThere = (): Promise<boolean> =>
    fetch(`${server.url}/health`).then(
      () => true,
      () => false,
    );
  await until("it is gone", async () => !(await isThere()), 10_000);
  server = await startServer({ dataDir: server.dataDir });
  servers.push(server);
  expect(await shell(readAgain, server)).toBe('[{"id":1,"item":"tea"},{"id":2},{"id":3},{"id":4}]');
  await shell(clean, server);
  expect((await fetch(`${server.url}/v1/stream/orders`)).status).toBe(404);
}, 60_000);

// A machine with Bun alone has no npm.
test.each(["npm", "bun"].filter((runner) => runner === "bun" || Bun.which(runner) !== null))(
  "%s start serves",
  async (runner) => {
    expect(await readme()).toContain(`${runner} start`);
    const dataDir = await mkdtemp(join(tmpdir(), "streams-readme-"));
    const separator = runner === "npm" ? ["--"] : [];
    const child = Bun.spawn([runner, "run", "start", ...separator, "--port", "0", "--data-dir", dataDir], {
      cwd: root,
      stdout: "pipe",
      stderr: "ignore",
      env: { ...process.env, PATH: `${join(root, "node_modules/.bin")}:${process.env["PATH"] ?? ""}` },
    });
    let text = "";
    const reading = (async () => {
      for await (const chunk of child.stdout) text += new TextDecoder().decode(chunk);
    })();
    await until("the banner", async () => text.includes('"event":"listening"'), 20_000);
    const banner = JSON.parse(text.split("\n").find((line) => line.includes('"listening"')) ?? "{}") as {
      url: string;
      pid: number;
    };
    expect((await fetch(`${banner.url}/ready`)).status).toBe(200);
    process.kill(banner.pid, "SIGTERM");
    await child.exited;
    await reading;
    await rm(dataDir, { recursive: true, force: true });
  },
  60_000,
);
