/**
 * Settings of authentication and TLS as an operator meets them: what contradicts is refused before anything is served, in words that
 * name the flag and never repeat a secret; HTTPS is served with certificates made on the spot.
 */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect as connectTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as connectTls, type SecureVersion } from "node:tls";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { bearer, keyedDirectory, SECRET, secretToken, SECRET_ENV, SECRET_FLAGS } from "../support/auth-world.ts";
import { makeAuthority } from "../support/certificates.ts";
import { runCommand } from "../support/command.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { call } from "../support/streams.ts";
import { rejection, within } from "../support/wait.ts";

const start = temporaryServers();
const PLANTED = "planted-secret-7f3a";
const JWKS = ["--jwt-jwks-url", "https://id.example/jwks.json"];

describe("settings that contradict are refused, and the flag is named", () => {
  const refused: readonly (readonly [string, readonly string[], Readonly<Record<string, string>>, RegExp])[] = [
    ["beyond loopback without authentication", ["--host", "0.0.0.0"], {}, /--host.*--no-auth/s],
    ["beyond loopback on IPv6", ["--host", "::"], {}, /--host.*--no-auth/s],
    ["--no-auth with a strategy", ["--auth", "api-key", "--no-auth"], {}, /--no-auth.*contradicts/],
    ["a strategy that is none", ["--auth", "basic"], {}, /--auth.*none or api-key or jwt/],
    ["jwt without a key", ["--auth", "jwt"], {}, /--jwt-secret and --jwt-jwks-url/],
    ["jwt with both", ["--auth", "jwt", ...JWKS, "--jwt-audience", "a"], SECRET_ENV, /--jwt-secret and --jwt-jwks-url/],
    ["a URL without an audience", ["--auth", "jwt", ...JWKS], {}, /--jwt-audience/],
    ["a secret for api-key", ["--auth", "api-key"], SECRET_ENV, /need --auth jwt/],
    ["a secret for none", [], SECRET_ENV, /need --auth jwt/],
    ["a URL for none", JWKS, {}, /need --auth jwt/],
    ["a short secret", ["--auth", "jwt"], { STREAMS_JWT_SECRET: PLANTED }, /--jwt-secret.*at least 32 bytes/],
    ["31 bytes", ["--auth", "jwt"], { STREAMS_JWT_SECRET: PLANTED.padEnd(31, "x") }, /--jwt-secret.*at least 32 bytes/],
    ["RS256 with a secret", [...SECRET_FLAGS, "--jwt-algorithms", "RS256"], SECRET_ENV, /--jwt-algorithms.*RS256/],
    ["one of two wrong", [...SECRET_FLAGS, "--jwt-algorithms", "HS256,ES256"], SECRET_ENV, /--jwt-algorithms.*ES256/],
    ["none as algorithm", [...SECRET_FLAGS, "--jwt-algorithms", "none"], SECRET_ENV, /--jwt-algorithms/],
    [
      "HS256 with a URL",
      ["--auth", "jwt", ...JWKS, "--jwt-audience", "a", "--jwt-algorithms", "HS256"],
      {},
      /--jwt-algorithms.*HS256/,
    ],
    [
      "keys over http",
      ["--auth", "jwt", "--jwt-audience", "a", "--jwt-jwks-url", "http://id.example/j"],
      {},
      /--jwt-jwks-url.*https/,
    ],
    [
      "keys from a file",
      ["--auth", "jwt", "--jwt-audience", "a", "--jwt-jwks-url", "file:///etc/passwd"],
      {},
      /--jwt-jwks-url.*https/,
    ],
    [
      "what looks like loopback",
      ["--auth", "jwt", "--jwt-audience", "a", "--jwt-jwks-url", "http://127.0.0.1.evil.example/j"],
      {},
      /--jwt-jwks-url.*https/,
    ],
    [
      "a password in the URL",
      ["--auth", "jwt", "--jwt-audience", "a", "--jwt-jwks-url", `https://u:${PLANTED}@id.example/j`],
      {},
      /--jwt-jwks-url.*https/,
    ],
    ["keys in memory", ["--auth", "api-key", "--memory"], {}, /--auth.*--keys-file/],
    ["a certificate without its key", ["--tls-cert", "c.pem"], {}, /--tls-cert and --tls-key/],
    ["a key without its certificate", ["--tls-key", "k.pem"], {}, /--tls-cert and --tls-key/],
    ["no requests at all", ["--limit-requests", "0"], {}, /--limit-requests.*whole number.*none/],
    ["a negative limit", ["--limit-live=-1"], {}, /--limit-live.*whole number.*none/],
    ["bytes that are none", ["--limit-bytes", "many"], {}, /--limit-bytes.*size.*none/],
    [
      "a misspelled secret",
      ["--auth", "jwt"],
      { STREAMS_JWT_SECRETS: PLANTED },
      /STREAMS_JWT_SECRETS.*STREAMS_JWT_SECRET/,
    ],
  ];

  test.each(refused)("%s", async (_, args, env, message) => {
    const { code, stdout, stderr } = await runCommand(["serve", "--port", "0", "--memory", ...args], { env });
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(message);
    for (const secret of [PLANTED, SECRET]) expect(stderr).not.toContain(secret);
    expect(stderr).not.toMatch(/\n\s+at .+:\d+/);
  });

  test("what a file says of a secret is not repeated either", async () => {
    const directory = await mkdtemp(join(tmpdir(), "streams-config-test-"));
    const config = join(directory, "streams.json");
    for (const jwtSecret of [[PLANTED], { secret: PLANTED }, PLANTED, 7]) {
      await writeFile(config, JSON.stringify({ auth: "jwt", jwtSecret }));
      const { code, stderr } = await runCommand(["serve", "--port", "0", "--memory", "--config", config]);
      expect([code, stderr.includes(PLANTED)]).toEqual([2, false]);
      expect(stderr).toMatch(/jwt-?secret/i);
    }
    await rm(directory, { recursive: true });
  });
});

test("a secret stands in no answer, no banner and no log", async () => {
  const server = await start({ args: [...SECRET_FLAGS, "--log-level", "debug"], env: SECRET_ENV });
  const token = await secretToken({ scope: "all" });
  for (const path of ["/v1/server/_details", "/metrics", "/health", "/v1/streams", "/nowhere"]) {
    const answer = await call("GET", server.url + path, { headers: bearer(token) });
    expect(await answer.text()).not.toContain(SECRET);
  }
  expect(JSON.stringify(server.banner) + server.stderr()).not.toContain(SECRET);
  expect(server.stderr()).toContain("/nowhere");
  expect(server.stderr()).not.toContain(token.slice(-20));
});

test("with a strategy the server may listen beyond loopback, and answers to any name", async () => {
  const keys = keyedDirectory({ one: ["all"] });
  const server = await start({ args: ["--auth", "api-key", "--host", "0.0.0.0"], dataDir: keys.dataDir });
  const url = `http://127.0.0.1:${new URL(server.url).port}/v1/streams`;
  const headers = { ...bearer(keys.tokens.one), host: "streams.example" };
  expect((await call("GET", url, { headers })).status).toBe(200);
  expect((await call("GET", url)).status).toBe(401);
});

test("keys over http from this machine are fine", async () => {
  const args = ["--auth", "jwt", "--jwt-audience", "a", "--jwt-jwks-url", "http://127.0.0.1:1/jwks.json"];
  const server = await start({ args });
  expect((await call("GET", `${server.url}/v1/streams`)).status).toBe(401);
  expect((await call("GET", `${server.url}/ready`)).status).toBe(200);
});

describe("TLS", () => {
  const authority = makeAuthority("the authority of this test");
  const pair = authority.issue(["127.0.0.1", "localhost"]);
  const other = authority.issue(["127.0.0.1"]);
  let directory: string;
  let server: TestServer;
  const file = (name: string): string => join(directory, name);

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "streams-tls-test-"));
    await writeFile(file("cert.pem"), pair.cert);
    await writeFile(file("key.pem"), pair.key);
    await writeFile(file("other.pem"), other.key);
    await writeFile(file("junk.pem"), "junk");
    const keys = keyedDirectory({ one: ["all"] });
    token = keys.tokens.one;
    const args = ["--auth", "api-key", "--tls-cert", file("cert.pem"), "--tls-key", file("key.pem")];
    server = await startServer({ args, dataDir: keys.dataDir });
  }, 60_000);
  afterAll(async () => {
    await server.stop();
    await server.remove();
    await rm(directory, { recursive: true });
  }, 60_000);
  let token = "";
  const tls = { ca: authority.cert };
  const fetched = (path: string, init: BunFetchRequestInit = {}): Promise<Response> =>
    fetch(server.url + path, { tls, ...init, headers: { ...bearer(token), "content-type": "application/json" } });

  test("the banner says https, and clients that know the authority get in", async () => {
    expect(server.url).toStartWith("https://127.0.0.1:");
    const created = await fetched("/v1/stream/a", { method: "PUT", body: "[1]" });
    expect([created.status, created.headers.get("location")]).toEqual([201, `${server.url}/v1/stream/a`]);
    expect(await (await fetched("/v1/stream/a")).json()).toEqual([1]);
    expect((await fetch(`${server.url}/v1/stream/a`, { tls })).status).toBe(401);
    expect((await rejection(fetch(`${server.url}/health`))).message).toMatch(/certificate/i);
  });

  test("a WebSocket works over it", async () => {
    const url = `${server.url.replace("https", "wss")}/v1/ws`;
    const socket = new WebSocket(url, { protocols: ["streams.v1"], headers: bearer(token), tls });
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    socket.onmessage = ({ data }: MessageEvent<string>) => resolve(data);
    socket.onclose = ({ code, reason }) => reject(new Error(`closed: ${code} ${reason}`));
    expect(JSON.parse(await within("a first message", promise))).toMatchObject({ type: "connected" });
    socket.close();
  });

  function handshake(minVersion: SecureVersion, maxVersion: SecureVersion): Promise<string | null> {
    const { promise, resolve, reject } = Promise.withResolvers<string | null>();
    const { port } = new URL(server.url);
    const socket = connectTls({ host: "127.0.0.1", port: Number(port), ca: authority.cert, minVersion, maxVersion });
    socket.once("secureConnect", () => resolve(socket.getProtocol()));
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("closed before the handshake was over")));
    return within("the handshake", promise).finally(() => socket.destroy());
  }

  test.each(["TLSv1.2", "TLSv1.3"] as const)("%s is spoken", async (version) => {
    expect(await handshake(version, version)).toBe(version);
  });

  const openssl = Bun.which("openssl");
  /** The version that openssl says it got; null when there was none. */
  async function opensslGets(version: string): Promise<string | null> {
    const address = new URL(server.url).host;
    // Level 0: this side offers what is old, too.
    const args = ["s_client", "-connect", address, `-${version}`, "-cipher", "ALL:@SECLEVEL=0"];
    const child = Bun.spawn([openssl ?? "", ...args], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      timeout: 5000,
    });
    const text = (await child.stdout.text()) + (await child.stderr.text());
    await child.exited;
    return /Cipher is \(NONE\)|Cipher\s*: 0000/.test(text) ? null : (/New, (\S+),/.exec(text)?.[1] ?? null);
  }

  test.skipIf(openssl === null)(
    "TLS 1.0 and 1.1 are refused, 1.2 is not",
    async () => {
      expect(await opensslGets("tls1_2")).not.toBeNull();
      expect(await opensslGets("tls1")).toBeNull();
      expect(await opensslGets("tls1_1")).toBeNull();
    },
    60_000,
  );

  test("plain HTTP at its port ends, and holds up nobody", async () => {
    const { port } = new URL(server.url);
    const ended = new Promise<string>((resolve) => {
      let text = "";
      const socket = connectTcp({ host: "127.0.0.1", port: Number(port) });
      socket.setEncoding("latin1").on("data", (more: string) => (text += more));
      // A reset is a refusal, too.
      socket.on("error", () => resolve(text));
      socket.on("close", () => resolve(text));
      socket.write("GET /v1/stream/a HTTP/1.1\r\nhost: localhost\r\n\r\n");
    });
    expect(await within("the end of plain HTTP", ended, 15_000)).not.toMatch(/^HTTP\/1.1 2/);
    expect((await fetched("/health")).status).toBe(200);
  }, 60_000);

  test.each([
    ["a certificate that is not there", "nothing.pem", "key.pem", /nothing\.pem/],
    ["a key that is not there", "cert.pem", "nothing.pem", /nothing\.pem/],
    ["a certificate that is none", "junk.pem", "key.pem", /junk\.pem|certificate|PEM/i],
    ["a key of another certificate", "cert.pem", "other.pem", /key|match/i],
    ["a directory", ".", "key.pem", /--tls-cert|directory|certificate|cannot/i],
  ])("%s keeps it from starting, in words", async (_, cert, key, message) => {
    const refusal = await rejection(start({ args: ["--tls-cert", file(cert), "--tls-key", file(key)] }));
    expect(refusal.message).toMatch(message);
    expect(refusal.message).not.toMatch(/\n\s+at .+:\d+/);
    expect(refusal.message).not.toContain("PRIVATE KEY");
  });
});
