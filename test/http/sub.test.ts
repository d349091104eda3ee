/**
 * `sub` against a real server, as a shell would use it: subscriptions made, listed, shown, deleted and worked on by hand, and
 * how each no of a lease ends.
 */

import { expect, test } from "bun:test";
import type { Claim } from "../../src/client/subscriptions.ts";
import { type CommandResult, runCommand } from "../support/command.ts";
import { sharedServer } from "../support/shared-server.ts";
import { newStream } from "../support/streams.ts";

/** Some twenty processes, one after the other, on a busy machine. */
const MANY_COMMANDS_MS = 60_000;

const server = sharedServer();

function run(...args: readonly string[]): Promise<CommandResult> {
  return runCommand(["sub", ...args], { env: { STREAM_URL: server.url } });
}

/** The output of a command that must succeed. */
async function output(...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await run(...args);
  expect(`${args.join(" ")}: ${code} ${stderr}`).toBe(`${args.join(" ")}: 0 `);
  return stdout;
}

async function json(...args: readonly string[]): Promise<Record<string, unknown>> {
  return JSON.parse(await output(...args, "--json")) as Record<string, unknown>;
}

/** Exit code and error code of a command that must fail. */
async function failure(...args: readonly string[]): Promise<[number, string]> {
  const { code, stdout, stderr } = await run(...args, "--json");
  expect(stdout).toBe("");
  return [code, (JSON.parse(stderr) as { error: { code: string } }).error.code];
}

async function claimed(id: string, worker = "ann"): Promise<Claim> {
  return JSON.parse(await output("claim", id, "--worker", worker)) as Claim;
}

function proof({ token, wakeId, generation }: Claim): string[] {
  return ["--token", token, "--wake", wakeId, "--generation", String(generation)];
}

test(
  "create, show, ls, rm: the whole life of a subscription",
  async () => {
    await newStream(server, "life/wakes");
    await (await newStream(server, "life/orders/eu")).post("1");
    const create = ["create", "life-1", "--wake-stream", "life/wakes", "--pattern", "life/orders/*"];
    const more = ["--stream", "life/x=1", "--stream", "life/y", "--lease", "90s", "--description", "ships"];
    expect(await output(...create, ...more)).toBe("created life-1 (pull-wake to life/wakes)\n");
    expect(await output(...create, ...more)).toBe("already there: life-1 (pull-wake to life/wakes)\n");
    expect(await json(...create, ...more)).toMatchObject({ created: false, id: "life-1", leaseTtlMs: 90_000 });
    expect(await failure(...create)).toEqual([1, "SUBSCRIPTION_ALREADY_EXISTS"]);
    const webhook = ["create", "life-2", "--webhook", "https://example.com/hook", "--stream", "life/x"];
    expect(await output(...webhook)).toBe("created life-2 (webhook to https://example.com/hook)\n");

    const shown = await json("show", "life-1");
    expect(shown).toMatchObject({ type: "pull-wake", pattern: "life/orders/*", description: "ships" });
    expect(shown["streams"]).toBeArrayOfSize(3);
    const text = await output("show", "life-1");
    expect(text).toMatch(/^leaseTtlMs +90000$/m);
    expect(text).toMatch(/^stream +life\/orders\/eu glob \d{16}_\d{16}$/m);
    expect(text).toMatch(/^stream +life\/x=1 explicit \S+$/m);
    expect(await output("show", "life-2")).toMatch(/^webhook +https:\/\/example\.com\/hook$/m);

    expect(await output("ls")).toBe("life-1\nlife-2\n");
    expect(await output("ls", "--limit", "1")).toBe("life-1\n");
    expect(await output("ls", "-l")).toBe(
      "life-1\tpull-wake\tactive\tlife/wakes\tlife/orders/*\nlife-2\twebhook\tactive\thttps://example.com/hook\t-\n",
    );
    const lines = (await output("ls", "--json")).trimEnd().split("\n");
    expect(lines.map((line) => (JSON.parse(line) as { id: string }).id)).toEqual(["life-1", "life-2"]);

    expect(await output("rm", "life-1", "life-2")).toBe("deleted life-1\ndeleted life-2\n");
    expect(await failure("show", "life-1")).toEqual([1, "SUBSCRIPTION_NOT_FOUND"]);
    expect(await output("ls")).toBe("");
  },
  MANY_COMMANDS_MS,
);

test(
  "claim, ack, release: a worker by hand",
  async () => {
    await newStream(server, "work/wakes");
    await output("create", "work", "--wake-stream", "work/wakes", "--pattern", "work/in/**");
    expect(await failure("claim", "work", "--worker", "ann")).toEqual([1, "NO_PENDING_WORK"]);
    // The sign in the name is not the one before the offset.
    const orders = await newStream(server, "work/in/a=b");
    await orders.post("[1,2]");

    const first = await claimed("work");
    expect(first.streams).toMatchObject([{ path: "work/in/a=b", linkType: "glob", hasPending: true }]);
    expect(await failure("claim", "work", "--worker", "bob")).toEqual([1, "ALREADY_CLAIMED"]);
    expect((await run("claim", "work", "--worker", "bob")).stderr).toContain("ann");
    expect(await output("release", "work", ...proof(first))).toBe("released work\n");
    expect(await failure("release", "work", ...proof(first))).toEqual([1, "FENCED"]);
    expect(await failure("ack", "work", ...proof(first))).toEqual([1, "FENCED"]);

    const second = await claimed("work", "bob");
    expect(second.generation).toBeGreaterThan(first.generation);
    const offset = `work/in/a=b=${await orders.tail()}`;
    expect(await output("ack", "work", ...proof(second), "--offset", offset)).toBe("kept work\n");
    await orders.post("3");
    expect(await json("ack", "work", ...proof(second), "--done")).toEqual({ id: "work", done: true, nextWake: true });
    const third = await claimed("work");
    const done = ["--offset", `work/in/a=b=${await orders.tail()}`, "--done"];
    expect(await failure("ack", "work", ...proof(third), "--offset", "work/in/a=b=nonsense")).toEqual([
      1,
      "INVALID_OFFSET",
    ]);
    expect(await failure("ack", "work", ...proof({ ...third, token: "x" }), ...done)).toEqual([1, "TOKEN_INVALID"]);
    expect(await output("ack", "work", ...proof(third), ...done)).toBe("done with work\n");
    expect(await failure("claim", "work", "--worker", "ann")).toEqual([1, "NO_PENDING_WORK"]);
  },
  MANY_COMMANDS_MS,
);

test.each([
  [["create", "x", "--pattern", "a"], "--webhook"],
  [["create", "x", "--webhook", "u", "--wake-stream", "w", "--pattern", "a"], "--wake-stream"],
  [["create", "x", "--webhook", "u"], "--pattern"],
  [["create", "x", "--webhook", "u", "--pattern", "a", "--lease", "soon"], "--lease"],
  [["show", ".."], "id of a subscription"],
  [["claim", "x"], "--worker"],
  [["ack", "x", "--token", "t", "--wake", "w"], "--generation"],
  [["ack", "x", "--token", "t", "--wake", "w", "--generation", "-1"], "--generation"],
  [["ack", "x", "--token", "t", "--wake", "w", "--generation", "1", "--offset", "a"], "stream=offset"],
  [["ls", "--url", "nonsense"], "nonsense"],
])("%j is a wrong command line", async (args, names) => {
  const { code, stdout, stderr } = await run(...args);
  expect([code, stdout]).toEqual([2, ""]);
  expect(stderr).toContain(names);
});

test("a server that is not there is exit code 3; sub alone shows what there is", async () => {
  expect((await run("ls", "--url", "http://127.0.0.1:1")).code).toBe(3);
  const { code, stderr } = await run();
  expect(code).toBe(2);
  expect(stderr).toContain("release [options] <id>");
});
