/**
 * Ways around a grant: what a caller may do to one stream must not give it another. Forks, subscriptions, signed tokens, names that are
 * spelled in other ways, cursors. Every refusal has a control beside it: who does have the grant gets through.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { callAs, keyedDirectory, secretToken, SECRET_ENV, SECRET_FLAGS, signedBy } from "../support/auth-world.ts";
import { exchangeRaw } from "../support/raw-socket.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, type CallOptions, errorOf } from "../support/streams.ts";
import { type Claim, verdict } from "../support/subscription-client.ts";
import { clockPast } from "../support/wait.ts";

const start = temporaryServers();
const PLAIN = ["--auth", "api-key", "--durability", "os", "--no-live-metrics"] as const;
const SECRET_TEXT = "TOP-SECRET";
const keys = keyedDirectory({
  admin: ["all"],
  tenant: ["all:mine/*"],
  reader: ["read:mine/*"],
  starred: ["read:mine/a*", "manage:mine/*"],
  // All of its own, and subscriptions of its own.
  subscriber: ["all:mine/*", "all:__ds/subscriptions/mine-*"],
  deep: ["read:mine", "read:mine/*", "manage:mine/wake", "manage:__ds/subscriptions/mine-*"],
  // Subscriptions, but nothing of any stream.
  clerk: ["all:__ds/*"],
  manager: ["manage:mine/*", "manage:__ds/subscriptions/*"],
});
const { tokens } = keys;
let server: TestServer;

const JSON_TYPE = { "content-type": "application/json" };
const at = (name: string): string => `${server.url}/v1/stream/${name}`;
type Name = keyof typeof tokens;
const as = (who: Name, method: string, path: string, options: CallOptions = {}): Promise<Response> =>
  callAs(tokens[who], method, path.startsWith("http") ? path : server.url + path, {
    ...options,
    headers: { ...JSON_TYPE, ...options.headers },
  });
const secretBody = JSON.stringify([SECRET_TEXT]);

beforeAll(async () => {
  server = await startServer({ args: PLAIN, dataDir: keys.dataDir });
  for (const name of ["secret", "secret/1", "minecraft", "mine", "mine/1", "mine/wake", "other/wake"])
    expect((await as("admin", "PUT", at(name), { body: secretBody })).status).toBe(201);
}, 60_000);
afterAll(async () => {
  await server.stop();
  await server.remove();
}, 60_000);

describe("a fork", () => {
  const fork = (who: Name, name: string, source: string): Promise<Response> =>
    as(who, "PUT", at(name), { headers: { "stream-forked-from": source } });

  test.each([
    "/v1/stream/secret",
    "/v1/stream/secret/1",
    "/v1/stream/secret%2F1",
    "/v1/stream/%73ecret",
    "/v1/stream/nothing",
    "/v1/stream/mine",
    "/v1/stream/minecraft",
  ])("of %s needs read of it", async (source) => {
    const refused = await fork("tenant", "mine/fork", source);
    expect([refused.status, (await errorOf(refused)).code]).toEqual([403, "forbidden"]);
    expect((await as("admin", "HEAD", at("mine/fork"))).status).toBe(404);
  });

  test.each(["/v1/stream/mine/../secret", "/v1/stream/mine/%2e%2e/secret", "/v1/stream/__ds/subscriptions", "secret"])(
    "of %s gives nothing",
    async (source) => {
      const answer = await fork("tenant", "mine/odd", source);
      expect([400, 403, 404]).toContain(answer.status);
      expect((await as("admin", "HEAD", at("mine/odd"))).status).toBe(404);
    },
  );

  test("needs manage of the new one, and read of the source, not manage", async () => {
    expect((await fork("reader", "mine/fork", "/v1/stream/mine/1")).status).toBe(403);
    expect((await fork("manager", "mine/fork", "/v1/stream/mine/1")).status).toBe(403);
    expect((await fork("tenant", "mine/fork", "/v1/stream/mine/1")).status).toBe(201);
    expect(await (await as("tenant", "GET", at("mine/fork"))).text()).toBe(secretBody);
  });
});

describe("a subscription", () => {
  const put = (who: Name, id: string, config: object): Promise<Response> =>
    as(who, "PUT", at(`__ds/subscriptions/${id}`), { body: JSON.stringify({ type: "pull-wake", ...config }) });
  const wake = { wake_stream: "mine/wake" };

  test.each([
    ["everything", { ...wake, pattern: "**" }, "read:*"],
    ["one segment of everything", { ...wake, pattern: "*/1" }, "read:*"],
    ["a literal", { ...wake, pattern: "secret" }, "read:secret*"],
    ["a star in a name", { ...wake, pattern: "%2A/1" }, "read:*/1*"],
    ["below a sibling", { ...wake, pattern: "minecraft/*" }, "read:minecraft/*"],
    ["a slash in front", { ...wake, pattern: "/secret/*" }, "read:secret/*"],
    ["a name", { ...wake, streams: ["mine/1", "secret"] }, "read:secret"],
    ["a name with a slash in front", { ...wake, streams: ["/secret"] }, "read:secret"],
    ["a name that is not there", { ...wake, streams: ["nothing"] }, "read:nothing"],
    ["a wake stream of others", { pattern: "mine/*", wake_stream: "other/wake" }, "manage:other/wake"],
    ["a wake stream with a slash in front", { pattern: "mine/*", wake_stream: "/other/wake" }, "manage:other/wake"],
  ])("to %s needs the grants for it", async (_, config, grant) => {
    const refused = await put("subscriber", "mine-x", config);
    expect([refused.status, (await errorOf(refused)).message]).toEqual([403, `this needs the grant ${grant}`]);
    expect((await as("admin", "GET", at("__ds/subscriptions/mine-x"))).status).toBe(404);
    expect((await put("clerk", "mine-x", config)).status).toBe(403);
  });

  test("of what one may read is made, and taken by its maker alone", async () => {
    expect((await put("subscriber", "mine-1", { ...wake, pattern: "mine/*" })).status).toBe(201);
    expect((await put("subscriber", "theirs-1", { ...wake, pattern: "mine/*" })).status).toBe(403);
    expect((await put("tenant", "mine-1", { ...wake, pattern: "mine/*" })).status).toBe(403);
    expect((await as("tenant", "GET", at("__ds/subscriptions/mine-1"))).status).toBe(403);
    // Percent-encoded: the same subscription, the same grants.
    expect((await as("subscriber", "GET", at("__ds/subscriptions/mine%2D1"))).status).toBe(200);
    expect((await as("subscriber", "GET", at("__ds/subscriptions/%6Dine-1"))).status).toBe(200);
    expect((await as("tenant", "GET", at("__ds/subscriptions/%6Dine-1"))).status).toBe(403);
  });

  test("to a deep pattern needs all that it may match: the name before the slash, too", async () => {
    const config = { ...wake, pattern: "mine/**" };
    expect((await put("subscriber", "mine-deep", config)).status).toBe(403);
    expect((await put("deep", "mine-deep", config)).status).toBe(201);
  });

  test("gets no stream later that its changer may not read", async () => {
    expect((await put("subscriber", "mine-2", { ...wake, streams: ["mine/1"] })).status).toBe(201);
    const add = (who: Name, names: readonly string[]): Promise<Response> =>
      as(who, "POST", at("__ds/subscriptions/mine-2/streams"), { body: JSON.stringify({ streams: names }) });
    for (const names of [["secret"], ["/secret"], ["mine/2", "secret"], ["nothing"]]) {
      expect((await add("subscriber", names)).status).toBe(403);
      expect((await add("clerk", names)).status).toBe(403);
    }
    expect((await add("subscriber", ["mine/2"])).status).toBe(204);
    const shown = await (await as("admin", "GET", at("__ds/subscriptions/mine-2"))).text();
    expect(shown).toContain("mine/2");
    expect(shown).not.toContain("secret");
  });

  test("is answered for with the token of its wake, and with no other", async () => {
    expect((await put("subscriber", "mine-3", { ...wake, streams: ["mine/woken"] })).status).toBe(201);
    await as("tenant", "PUT", at("mine/woken"), { body: "[1]" });
    await as("tenant", "POST", at("mine/woken"), { body: "[2]" });
    const claimed = await as("subscriber", "POST", at("__ds/subscriptions/mine-3/claim"), { body: '{"worker":"w"}' });
    expect(claimed.status).toBe(200);
    const { wake_id, generation, token } = (await claimed.json()) as Claim;
    const ack = (id: string, bearer: string): Promise<Response> =>
      callAs(bearer, "POST", at(`__ds/subscriptions/${id}/ack`), {
        headers: JSON_TYPE,
        body: JSON.stringify({ wake_id, generation }),
      });
    expect(await verdict(ack("mine-3", tokens.subscriber))).toEqual([401, "TOKEN_INVALID"]);
    expect(await verdict(ack("mine-3", `${token}x`))).toEqual([401, "TOKEN_INVALID"]);
    expect(await verdict(ack("mine-1", token))).toEqual([401, "TOKEN_INVALID"]);
    expect(await verdict(ack("mine-3", token))).toEqual([200, ""]);
  });

  test("is told from none by nobody who has no credential", async () => {
    expect((await put("subscriber", "mine-4", { ...wake, streams: ["mine/1"] })).status).toBe(201);
    // BUG if this fails: who has no credential at all learns which subscriptions there are.
    const body = JSON.stringify({ wake_id: "w", generation: 1 });
    for (const action of ["ack", "callback", "release"]) {
      for (const headers of [{}, { authorization: "Bearer junk" }]) {
        const said = await Promise.all(
          ["mine-4", "mine-nothing"].map(async (id) => {
            const answer = await call("POST", at(`__ds/subscriptions/${id}/${action}`), { headers, body });
            return [action, answer.status, await answer.text()];
          }),
        );
        expect(said[1]).toEqual(said[0]);
      }
    }
  });
});

describe("a signed token", () => {
  const sign = (who: Name, streams: readonly string[], more: object = {}): Promise<Response> =>
    as(who, "POST", "/v1/signed-urls", { body: JSON.stringify({ streams, ...more }) });

  test.each(["secret", "*", "m*", "mine*", "mine", "mine/1 secret/1", "**"])(
    "gives no more than its signer has: %s",
    async (names) => {
      const streams = names.split(" ");
      expect((await sign("tenant", streams)).status).toBe(403);
      expect((await sign("manager", streams)).status).toBe(403);
      expect((await sign("admin", streams)).status).toBe(201);
    },
  );

  test("does not sign another, however it is brought", async () => {
    const { access } = await signedBy(tokens.tenant, server, ["mine/*"]);
    const body = JSON.stringify({ streams: ["mine/1"] });
    expect((await call("POST", `${server.url}/v1/signed-urls?access=${access}`, { body })).status).toBe(403);
    expect((await callAs(access, "POST", `${server.url}/v1/signed-urls`, { body })).status).toBe(401);
  });

  test("reads, and does nothing else, and reaches what it names and nothing else", async () => {
    const { access, urls, socket } = await signedBy(tokens.tenant, server, ["mine/1", "mine/a*"]);
    expect(Object.keys(urls)).toEqual(["mine/1"]);
    expect(socket).toBe(`/v1/ws?access=${access}`);
    const read = await call("GET", server.url + (urls["mine/1"] ?? ""));
    expect([read.status, read.headers.get("referrer-policy"), await read.text()]).toEqual([
      200,
      "no-referrer",
      secretBody,
    ]);
    const url = (name: string): string => `${at(name)}?access=${access}`;
    expect((await call("GET", url("mine/abc"))).status).toBe(404);
    for (const name of ["mine/2", "mine", "secret", "mine/1/2"])
      expect((await call("GET", url(name))).status).toBe(403);
    const put = { headers: JSON_TYPE, body: "[3]" };
    for (const method of ["POST", "PUT", "DELETE"]) expect((await call(method, url("mine/1"), put)).status).toBe(403);
    const events = await openSse(`${url("mine/1")}&offset=-1&live=sse`);
    expect(await events.records(1)).toEqual([SECRET_TEXT]);
    events.close();
    expect(await (await as("admin", "GET", at("mine/1"))).text()).toBe(secretBody);
  });

  test("does not count beside a header, nor twice, nor in another spelling", async () => {
    const { access } = await signedBy(tokens.tenant, server, ["mine/*"]);
    const get = (query: string, authorization?: string): Promise<Response> =>
      call("GET", `${at("mine/1")}?${query}`, authorization === undefined ? {} : { headers: { authorization } });
    expect((await get(`access=${access}`)).status).toBe(200);
    for (const header of ["Bearer junk", "Basic dTpw", "Bearer", `Bearer ${access}`, "Bearer sk_aaaaaaaaaa_x"])
      expect((await get(`access=${access}`, header)).status).toBe(401);
    expect((await get(`access=${access}&access=${access}`)).status).toBe(401);
    expect((await get(`access=&access=${access}`)).status).toBe(401);
    for (const query of [
      `Access=${access}`,
      `access[]=${access}`,
      `access=%20${access}`,
      `access=${access}%00`,
      "access",
    ])
      expect((await get(query)).status).toBe(401);
  });

  test.each([["0s"], ["61m"], ["2h"], ["-5m"], ["1e9h"], ["Infinity"], [""], ["9".repeat(30) + "d"]])(
    "lives an hour at most: %s is refused",
    async (expiresIn) => {
      expect((await sign("admin", ["mine/1"], { expiresIn })).status).toBe(400);
    },
  );

  test("that is given can be used, however long the names in it are", async () => {
    const names = Array.from({ length: 16 }, (_, index) => `mine/${index}/${"long".repeat(150)}`);
    const answer = await sign("tenant", names);
    // BUG if this fails: it is longer than what the server takes as a token, so every use of it is answered 401.
    if (answer.status !== 201) return expect(answer.status).toBe(400);
    const { access } = (await answer.json()) as { readonly access: string };
    expect((await call("GET", `${at(names[0] ?? "")}?access=${access}`)).status).toBe(404);
  });

  test("names sixteen at most, and says nothing else", async () => {
    const many = Array.from({ length: 17 }, (_, index) => `mine/${index}`);
    expect((await sign("admin", many)).status).toBe(400);
    expect((await sign("admin", many.slice(1))).status).toBe(201);
    const halves = [{ streams: ["\ud800"] }, { streams: ["mine/\udc00*"] }];
    for (const body of [...halves, { streams: [] }, { streams: "mine/1" }, { streams: [""] }, { streams: [1] }, {}])
      expect((await as("admin", "POST", "/v1/signed-urls", { body: JSON.stringify(body) })).status).toBe(400);
    expect((await sign("admin", ["mine/1"], { scope: "manage" })).status).toBe(400);
  });

  test("ends with the token that signed it", async () => {
    const at2 = await start({ args: [...SECRET_FLAGS, "--durability", "os"], env: SECRET_ENV });
    const seconds = Math.floor(Date.now() / 1000);
    const short = await secretToken({ scope: "all", exp: seconds - 3 });
    const { access } = await signedBy(short, at2, ["*"], "1h");
    const read = (): Promise<Response> => call("GET", `${at2.url}/v1/streams?access=${access}`);
    expect((await read()).status).toBe(200);
    await clockPast((seconds + 2) * 1000, 100);
    expect((await callAs(short, "GET", `${at2.url}/v1/streams`)).status).toBe(401);
    // BUG if this fails: a token of minutes makes one of an hour.
    expect((await read()).status).toBe(401);
  }, 60_000);
});

describe("a name in another spelling is the same name", () => {
  /** What the path means when it means a stream at all, and whether `all:mine/*` covers it. */
  test.each([
    ["mine%2F1", 200],
    ["%6Dine/1", 200],
    ["mine/%31", 200],
    ["%73ecret", 403],
    ["secret%2f1", 403],
    ["mine%252F1", 403],
    ["MINE/1", 403],
    ["mine", 403],
    ["minecraft", 403],
  ])("%s: %d", async (path, status) => {
    const answer = await as("tenant", "GET", at(path));
    expect(answer.status).toBe(status);
    if (status === 403) expect(await answer.text()).not.toContain(SECRET_TEXT);
  });

  test.each([
    "/v1/stream/mine/../secret",
    "/v1/stream/mine/%2e%2e/secret",
    "/v1/stream/mine/..%2fsecret",
    "/v1/stream/mine//..//secret",
    "/v1/stream/mine/.%2e/secret",
    "/v1/stream/mine/1/../../secret/1",
    "/v1/stream/mine%2f..%2fsecret",
    "/v1/stream/mine\\..\\secret",
    "/v1/stream/mine/1/../../secret/_details",
    "/v1/streams/../stream/secret",
    "//v1/stream/secret",
    "/v1/stream/secret#mine/1",
    "/v1/stream/secret;/mine/1",
    "/v1/stream/secret%00mine/1",
    "/v1/stream/mine/1?x=/../../secret",
  ])("%s on the wire never gives what is not covered", async (target) => {
    const { host } = new URL(server.url);
    for (const method of ["GET", "DELETE"]) {
      // It would be right to delete its own.
      if (method === "DELETE" && target.includes("?")) continue;
      const request = `${method} ${target} HTTP/1.1\r\nhost: ${host}\r\nauthorization: Bearer ${tokens.tenant}\r\n\r\n`;
      const { status, text } = await exchangeRaw(server, request);
      if (status === 200) expect(target).toContain("?");
      else expect([400, 403, 404, 405]).toContain(status ?? 400);
      if (status !== 200) expect(text).not.toContain(SECRET_TEXT);
    }
    expect((await as("admin", "GET", at("secret"))).status).toBe(200);
  });

  test("an absolute target with another host names the stream that is checked", async () => {
    const request = `GET http://elsewhere/v1/stream/secret HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\nauthorization: Bearer ${tokens.tenant}\r\n\r\n`;
    const { status, text } = await exchangeRaw(server, request);
    expect([400, 403, 404]).toContain(status ?? 400);
    expect(text).not.toContain(SECRET_TEXT);
  });

  test("a star in a name is a star, not every name", async () => {
    expect((await as("admin", "PUT", at("mine/a%2A"), { body: "[1]" })).status).toBe(201);
    expect((await as("starred", "GET", at("mine/a%2A"))).status).toBe(200);
    expect((await as("starred", "GET", at("mine/%2A"))).status).toBe(403);
    expect((await as("starred", "GET", at("mine/1"))).status).toBe(403);
    expect((await as("starred", "GET", at("%2A"))).status).toBe(403);
  });

  test("names of sub-resources do not smuggle a stream past its grant", async () => {
    for (const path of ["secret/_details", "secret/touch/meta", "secret%2F_details", "mine/_details/../../secret"])
      expect([400, 403, 404]).toContain((await as("tenant", "GET", at(path))).status);
    // The last sub-resource counts: what stands before it is the stream.
    expect((await as("tenant", "GET", at("secret/mine/_details"))).status).toBe(403);
    expect((await as("tenant", "PUT", at("mine/x%2F_details"), { body: "[1]" })).status).toBe(400);
    expect((await as("clerk", "GET", at("__ds"))).status).toBe(404);
    expect((await as("clerk", "PUT", at("%5F%5Fds/mine"), { body: "[1]" })).status).toBe(404);
  });
});

describe("the list", () => {
  interface Page {
    readonly streams: readonly { readonly name: string }[];
    readonly cursor: string | null;
  }
  const list = (who: Name, query: string): Promise<Response> => as(who, "GET", `/v1/streams?${query}`);

  test("shows what one may read, and nothing beyond", async () => {
    for (const query of ["", "prefix=", "prefix=m", "prefix=mine", "prefix=secret", "prefix=%2A", "internal=true"])
      expect([query, (await list("reader", query)).status]).toEqual([query, 403]);
    expect((await list("reader", "prefix=mine/")).status).toBe(200);
    expect((await list("reader", "prefix=mine/1")).status).toBe(200);
    // The first is checked, so a second must not count.
    expect((await list("reader", "prefix=mine/&prefix=")).status).toBe(400);
    expect((await list("reader", "prefix=&prefix=mine/")).status).toBe(403);
    expect((await list("manager", "prefix=mine/")).status).toBe(403);
  });

  test("has no cursor that leads out of its prefix", async () => {
    const first = (await (await list("reader", "prefix=mine/&limit=1")).json()) as Page;
    expect(first.cursor).not.toBeNull();
    const names: string[] = [];
    for (let cursor = first.cursor; cursor !== null;) {
      const page = (await (await list("reader", `prefix=mine/&limit=1&cursor=${cursor}`)).json()) as Page;
      names.push(...page.streams.map(({ name }) => name));
      cursor = page.cursor;
    }
    expect(names.length).toBeGreaterThan(0);
    expect(names.every((name) => name.startsWith("mine/"))).toBe(true);
    for (const name of ["", "a", "mine", "minz", "secret", "\u{10ffff}"]) {
      const cursor = Buffer.from(name).toString("base64url");
      const answer = await list("reader", `prefix=mine/&cursor=${cursor}`);
      expect(answer.status).toBe(400);
    }
    // Within the prefix, but past all names.
    const last = await list("reader", `prefix=mine/&cursor=${Buffer.from("mine/~~~").toString("base64url")}`);
    expect(((await last.json()) as Page).streams).toEqual([]);
  });
});
