/** Settings: precedence, the spelling of values, and that nothing unknown or dangerous passes silently. */

import { expect, test } from "bun:test";
import {
  type ConfigSources,
  isLoopbackHost,
  resolveConfig,
  type ServerConfig,
  SETTINGS,
  settingsTable,
} from "./config.ts";

interface Given {
  readonly flags?: Record<string, unknown>;
  readonly env?: Record<string, string>;
  /** Content of `streams.json`; the only file there is. */
  readonly file?: string;
}

function sources({ flags = {}, env = {}, file }: Given): ConfigSources {
  const readFile = (path: string): Promise<string> =>
    path === "streams.json" && file !== undefined ? Promise.resolve(file) : Promise.reject(new Error(`no ${path}`));
  return { flags: { ...(file === undefined ? {} : { config: "streams.json" }), ...flags }, env, readFile };
}

async function configured(given: Given): Promise<ServerConfig> {
  return (await resolveConfig(sources(given))).unwrap();
}

async function problems(given: Given): Promise<string[]> {
  const result = await resolveConfig(sources(given));
  return result.isErr() ? result.error.map(({ source, message }) => `${source}: ${message}`) : [];
}

test("the defaults", async () => {
  expect(await configured({})).toEqual({
    host: "127.0.0.1",
    port: 4437,
    dataDir: "./streams-data",
    durability: "fsync",
    longPollTimeoutMs: 20_000,
    maxBodyBytes: 16 * 1024 * 1024,
    maxStoredBytes: null,
    corsOrigins: [],
    publicUrl: null,
    loopbackOnly: true,
    auth: null,
    keysFile: null,
    tls: null,
    clientRates: null,
    allowLocalWebhooks: false,
    acceptLoss: false,
    identity: { instanceId: "local", region: "local" },
    memoryLimitBytes: null,
    liveMetrics: { enabled: true, stream: "live.metrics", intervalMs: 1000, retentionMs: 7 * 86_400_000 },
    logLevel: "info",
  });
});

test("flag beats environment beats file beats default", async () => {
  const file = '{"port": 1, "host": "localhost", "logLevel": "debug"}';
  const env = { STREAMS_PORT: "2", STREAMS_HOST: "::1" };
  expect(await configured({ file, env, flags: { port: "3" } })).toMatchObject({
    port: 3,
    host: "::1",
    logLevel: "debug",
  });
  expect(await configured({ file, env: { STREAMS_PORT: " " } })).toMatchObject({ port: 1 });
});

test("the config file may be named by the environment", async () => {
  const { readFile } = sources({ file: '{"port": 7}' });
  const result = await resolveConfig({ flags: {}, env: { STREAMS_CONFIG: "streams.json" }, readFile });
  expect(result.unwrap().port).toBe(7);
});

test.each([
  ["longPollTimeout", "500ms", { longPollTimeoutMs: 500 }],
  ["longPollTimeout", "2m", { longPollTimeoutMs: 120_000 }],
  ["longPollTimeout", "1", { longPollTimeoutMs: 1000 }],
  ["maxBodyBytes", "64KiB", { maxBodyBytes: 65_536 }],
  ["maxBodyBytes", 2048, { maxBodyBytes: 2048 }],
  ["corsOrigin", "*", { corsOrigins: "*" }],
  [
    "corsOrigin",
    ["https://a.example", "https://b.example:8443,http://localhost:3000"],
    {
      corsOrigins: ["https://a.example", "https://b.example:8443", "http://localhost:3000"],
    },
  ],
  ["publicUrl", "https://streams.example/base/", { publicUrl: "https://streams.example/base" }],
  ["memory", true, { dataDir: null }],
  ["durability", "os", { durability: "os" }],
  ["noAuth", true, { loopbackOnly: true, clientRates: { streams: 100_000 } }],
])("%s = %j", async (name, value, expected) => {
  expect(await configured({ flags: { [name]: value } })).toMatchObject(expected);
});

test.each([
  ["port", "70000"],
  ["port", "-1"],
  ["port", "4437x"],
  ["port", true],
  ["host", ""],
  ["longPollTimeout", "20 seconds"],
  ["longPollTimeout", "0s"],
  ["longPollTimeout", "11m"],
  ["maxBodyBytes", "1"],
  ["maxBodyBytes", "1GiB"],
  ["corsOrigin", "*,https://a.example"],
  ["corsOrigin", "a.example"],
  ["corsOrigin", "https://a.example/"],
  ["publicUrl", "streams.example"],
  ["publicUrl", "https://streams.example/?a"],
  ["durability", "maybe"],
  ["acceptLoss", "yes"],
  ["logLevel", "loud"],
])("%s = %j is refused", async (name, value) => {
  const found = await problems({ flags: { [name]: value } });
  expect(found).toHaveLength(1);
  expect(found[0]).toMatch(/^--[a-z-]+: expected /);
});

test("unknown names are problems, with the nearest known one; all problems are told at once", async () => {
  const found = await problems({
    file: '{"prot": 1, "config": "x"}',
    env: { STREAMS_DATADIR: "x", STREAMS_PORT: "x", HOME: "/home" },
  });
  expect(found).toEqual([
    "STREAMS_DATADIR: unknown environment variable; did you mean STREAMS_DATA_DIR?",
    "prot in streams.json: unknown setting; did you mean port?",
    "config in streams.json: unknown setting",
    'STREAMS_PORT: expected a whole number from 0 to 65535, not "x"',
  ]);
});

test.each([
  ["{", "streams.json: is not JSON: "],
  ["[]", "streams.json: expected a JSON object with settings"],
])("a config file that holds %j is a problem", async (file, message) => {
  const found = await problems({ file });
  expect(found).toHaveLength(1);
  expect(found[0]).toStartWith(message);
});

test("a config file that is not there is a problem", async () => {
  expect(await problems({ flags: { config: "other.json" } })).toEqual(["other.json: cannot be read: no other.json"]);
});

test("identity: aliases in order, blank ones count as unset", async () => {
  const identity = async (env: Record<string, string>): Promise<unknown> => (await configured({ env })).identity;
  expect(await identity({ HOSTNAME: "h" })).toEqual({ instanceId: "h", region: "local" });
  expect(await identity({ HOSTNAME: "h", DS_INSTANCE_ID: "d", DS_REGION: "eu" })).toEqual({
    instanceId: "d",
    region: "eu",
  });
  expect(await identity({ HOSTNAME: "h", DS_INSTANCE_ID: " ", DS_REGION: "" })).toEqual({
    instanceId: "h",
    region: "local",
  });
  expect(await identity({ DS_INSTANCE_ID: "d", STREAMS_INSTANCE_ID: "s" })).toMatchObject({ instanceId: "s" });
});

test("beyond loopback only with --no-auth, in words", async () => {
  const [problem] = await problems({ flags: { host: "0.0.0.0" } });
  expect(problem).toStartWith("--host: 0.0.0.0 can be reached from other machines");
  expect(problem).toContain("--no-auth");
  expect(await configured({ flags: { host: "0.0.0.0", noAuth: true } })).toMatchObject({ loopbackOnly: false });
});

test.each([
  ["127.0.0.1", true],
  ["127.9.9.9", true],
  ["localhost", true],
  ["::1", true],
  ["0.0.0.0", false],
  ["127.0.0.1.example.com", false],
  ["::", false],
  ["192.168.0.1", false],
])("%s is loopback: %p", (host, expected) => {
  expect(isLoopbackHost(host)).toBe(expected);
});

test("flags, variables and the table of the docs come from the schema", () => {
  expect(SETTINGS.find(({ name }) => name === "longPollTimeout")).toMatchObject({
    flag: "--long-poll-timeout",
    variable: "STREAMS_LONG_POLL_TIMEOUT",
    defaultText: "20s",
  });
  const table = settingsTable().split("\n");
  expect(table).toHaveLength(SETTINGS.length + 2);
  expect(table.find((row) => row.includes("--region"))).toContain("| `STREAMS_REGION`, `DS_REGION` | `local` |");
});
