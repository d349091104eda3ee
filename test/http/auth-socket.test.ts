/**
 * Who may say what on a WebSocket (docs/auth.md): every message needs what the same request over HTTP needs, and a credential that has
 * ended ends the socket. `AUTH_SLOW=1` also waits for heartbeats and for the end of server-sent events.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { EXTENTS, GHOST, OWN } from "../support/auth-table.ts";
import {
  bearer,
  callAs,
  dropKeys,
  keyedDirectory,
  SECRET_ENV,
  SECRET_FLAGS,
  secretToken,
  signedBy,
} from "../support/auth-world.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { type Saying, type SocketClient, temporarySockets } from "../support/socket-client.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const SCOPES = ["read", "append", "manage", "all"] as const;
const isSlow = process.env["AUTH_SLOW"] === "1";
const start = temporaryServers();
const connect = temporarySockets();
const args = ["--auth", "api-key", "--durability", "os", "--no-live-metrics"];

const keys = keyedDirectory({
  admin: ["all"],
  reader: ["read"],
  ...Object.fromEntries(
    SCOPES.flatMap((scope) =>
      Object.entries(EXTENTS).map(([extent, { names }]) => [`${scope} ${extent}`, names.map((name) => scope + name)]),
    ),
  ),
});
const tokens: Readonly<Record<string, string>> = keys.tokens;
let server: TestServer;

beforeAll(async () => {
  server = await startServer({ args, dataDir: keys.dataDir });
  const options = { headers: { "content-type": "application/json" }, body: "[1]" };
  expect((await callAs(keys.tokens.admin, "PUT", `${server.url}/v1/stream/${OWN}`, options)).status).toBe(201);
}, 60_000);
afterAll(async () => {
  await server.stop();
  await server.remove();
}, 60_000);

/** A socket that brings a signed token: what the client adds to the URL becomes another parameter. */
function connectSigned(at: TestServer, access: string): Promise<SocketClient> {
  return connect({ url: `${at.url}/v1/ws?access=${access}&rest=` });
}

const sayings = (stream: string): readonly (readonly ["read" | "append", Saying])[] => [
  ["read", { type: "subscribe", stream, id: `s ${stream}` }],
  ["read", { type: "view", stream, id: `v ${stream}`, view: { stage: "nothing" } }],
  ["append", { type: "append", stream, ref: `a ${stream}`, body: "[2]", ifMatch: "nonsense" }],
];

const nameless = (text: string): string => text.replaceAll(OWN, GHOST);

interface Tally {
  decisions: number;
  readonly wrong: string[];
}

/** Says everything on a socket; a refusal must be the same for what exists and what does not. */
async function sayEverything(
  client: SocketClient,
  may: { readonly scope: string; readonly covers: readonly string[] },
  name: string,
  tally: Tally,
): Promise<void> {
  for (const [at, [scope, saying]] of sayings(OWN).entries()) {
    const isAllowed = (may.scope === scope || may.scope === "all") && may.covers.includes("stream");
    const [, ghostly = saying] = sayings(GHOST)[at] ?? [];
    const absent = (await client.refusal(ghostly)).error;
    tally.decisions++;
    if ((absent.code === "forbidden") === isAllowed)
      tally.wrong.push(`${name}: ${saying.type} of a ghost: ${absent.code}`);
    if (isAllowed) continue;
    const present = (await client.refusal(saying)).error;
    tally.decisions++;
    if (nameless(JSON.stringify(present)) !== JSON.stringify(absent))
      tally.wrong.push(`${name}: ${saying.type} tells what exists: ${JSON.stringify(present)}`);
  }
  await client.settled();
}

test("every message needs what the request needs, whoever sends it", async () => {
  const tally: Tally = { decisions: 0, wrong: [] };
  for (const scope of SCOPES) {
    for (const [extent, { covers }] of Object.entries(EXTENTS)) {
      const name = `${scope} ${extent}`;
      const client = await connect(server, { headers: bearer(tokens[name] ?? "") });
      await sayEverything(client, { scope, covers }, name, tally);
      client.close();
    }
  }
  for (const [extent, { names, covers }] of Object.entries(EXTENTS)) {
    const streams = names.map((name) => name.replace(":", "") || "*");
    const { access } = await signedBy(keys.tokens.admin, server, streams);
    await sayEverything(await connectSigned(server, access), { scope: "read", covers }, `signed ${extent}`, tally);
  }
  console.log(`${tally.decisions} messages, ${tally.wrong.length} wrong decisions`);
  expect(tally.wrong).toEqual([]);
  const kept = await callAs(keys.tokens.admin, "GET", `${server.url}/v1/stream/${OWN}`);
  expect(await kept.json()).toEqual([1]);
}, 60_000);

test("who may, gets: records, and the answer to an append", async () => {
  const headers = { "content-type": "application/json" };
  await callAs(keys.tokens.admin, "PUT", `${server.url}/v1/stream/m/shared`, { headers, body: "[1]" });
  const writer = await connect(server, { headers: bearer(tokens["append prefix"] ?? "") });
  const { access } = await signedBy(keys.tokens.reader, server, ["m/shared"]);
  const reader = await connectSigned(server, access);
  await reader.subscribe({ stream: "m/shared", offset: "-1" });
  expect((await writer.append({ stream: "m/shared", body: "2" })).type).toBe("appended");
  expect(await reader.records("m/shared", 2)).toEqual([1, 2]);
});

describe("a socket is not opened", () => {
  const handshake = (query: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> =>
    call("GET", `${server.url}/v1/ws${query}`, {
      headers: { upgrade: "websocket", connection: "upgrade", "sec-websocket-protocol": "streams.v1", ...headers },
    });

  test("without a valid credential", async () => {
    const { access } = await signedBy(keys.tokens.admin, server, [OWN]);
    const flawed = [
      ["", {}],
      ["?access=su_junk", {}],
      [`?access=${keys.tokens.admin}`, {}],
      [`?access=${access}`, bearer("sk_junk")],
      [`?access=${access}&access=${access}`, {}],
      ["", bearer(access)],
      // Some clients hide tokens there: it is none.
      ["", { "sec-websocket-protocol": `streams.v1, ${keys.tokens.admin}` }],
    ] as const;
    for (const [query, headers] of flawed) {
      const answer = await handshake(query, headers);
      expect([query, answer.status, (await errorOf(answer)).code]).toEqual([query, 401, "unauthenticated"]);
    }
  });

  test("from pages of other origins, whatever they bring", async () => {
    const { access } = await signedBy(keys.tokens.admin, server, [OWN]);
    for (const origin of ["https://evil.example", "null"]) {
      const answer = await handshake(`?access=${access}`, { origin });
      expect([answer.status, (await errorOf(answer)).code]).toEqual([403, "origin-refused"]);
    }
  });
});

/** Runs until a token is refused: a running server follows its key file within two seconds. */
async function revoke(at: TestServer, keysFile: string, ids: readonly string[], token: string): Promise<number> {
  const startedMs = performance.now();
  dropKeys(keysFile, ids);
  await until("the key is refused", async () => (await callAs(token, "GET", `${at.url}/v1/ws`)).status === 401);
  return performance.now() - startedMs;
}

describe("a credential that has ended", () => {
  const LAST_WORDS: readonly Saying[] = [
    { type: "subscribe", stream: OWN, id: "late" },
    { type: "append", stream: OWN, ref: "late", body: "[3]" },
    { type: "view", stream: OWN, id: "late", view: {} },
    { type: "ping", ref: "late" },
    { type: "unsubscribe", id: OWN },
  ];

  test("by revocation closes the socket with 4003 at its next message, whatever that says", async () => {
    const own = keyedDirectory({
      staying: ["all"],
      ...Object.fromEntries(LAST_WORDS.map(({ type }) => [type, ["all"]])),
    });
    const at = await start({ args, dataDir: own.dataDir });
    const leaving: Readonly<Record<string, string>> = own.tokens;
    const body = { headers: { "content-type": "application/json" }, body: "[1]" };
    await callAs(own.tokens.staying, "PUT", `${at.url}/v1/stream/${OWN}`, body);
    const clients: [string, Saying, SocketClient][] = [];
    for (const saying of LAST_WORDS) {
      const token = leaving[saying.type] ?? "";
      const { access } = await signedBy(token, at, [OWN]);
      clients.push([`${saying.type} by a key`, saying, await connect(at, { headers: bearer(token) })]);
      clients.push([`${saying.type} by a signed token`, saying, await connectSigned(at, access)]);
    }
    const staying = await connect(at, { headers: bearer(own.tokens.staying) });
    for (const client of [staying, ...clients.map(([, , one]) => one)])
      await client.subscribe({ stream: OWN, offset: "-1" });
    const { staying: _, ...gone } = own.ids;
    expect(await revoke(at, own.keysFile, Object.values(gone), leaving["ping"] ?? "")).toBeLessThan(2500);
    const ends = clients.map(async ([name, saying, client]) => {
      client.send(saying);
      const [end] = await Promise.allSettled([client.closed(2000)]);
      return [name, end.status === "fulfilled" ? end.value.code : "open"];
    });
    expect(await Promise.all(ends)).toEqual(clients.map(([name]) => [name, 4003]));
    await staying.settled();
    expect(await (await callAs(own.tokens.staying, "GET", `${at.url}/v1/stream/${OWN}`)).json()).toEqual([1]);
  }, 60_000);

  test("by its time closes the socket with 4003 at the next message: tokens and signed tokens", async () => {
    const at = await start({ args: [...SECRET_FLAGS, "--durability", "os"], env: SECRET_ENV });
    const seconds = Math.floor(Date.now() / 1000);
    // Five seconds of tolerance.
    const leaving = await connect(at, { headers: bearer(await secretToken({ scope: "all", exp: seconds - 2 })) });
    const admin = await secretToken({ scope: "all" });
    const { access, expiresAt } = await signedBy(admin, at, ["*"], "1s");
    const signed = await connectSigned(at, access);
    await leaving.settled();
    await until("both have expired", () => Date.now() > Math.max(Date.parse(expiresAt), (seconds + 3) * 1000), 8000);
    for (const client of [leaving, signed]) {
      client.send({ type: "subscribe", stream: OWN });
      expect((await client.closed()).code).toBe(4003);
    }
  }, 60_000);

  test.skipIf(!isSlow)(
    "closes a silent socket with 4003 at a heartbeat, and ends server-sent events within a minute",
    async () => {
      const own = keyedDirectory({ leaving: ["all"], staying: ["all"] });
      const at = await start({ args, dataDir: own.dataDir });
      const body = { headers: { "content-type": "application/json" }, body: "[1]" };
      await callAs(own.tokens.staying, "PUT", `${at.url}/v1/stream/${OWN}`, body);
      const silent = await connect(at, { headers: bearer(own.tokens.leaving) });
      await silent.subscribe({ stream: OWN, offset: "now" });
      const url = `${at.url}/v1/stream/${OWN}?offset=now&live=sse`;
      const events = await openSse(url, bearer(own.tokens.leaving));
      await revoke(at, own.keysFile, [own.ids.leaving], own.tokens.leaving);
      expect((await silent.closed(35_000)).code).toBe(4003);
      const isOver = async (): Promise<boolean> => (await events.next(70_000)) === null;
      await until("the events end", isOver, 70_000);
      expect((await callAs(own.tokens.leaving, "GET", url)).status).toBe(401);
    },
    120_000,
  );
});
