/** Receivers that are slow, endless, broken or lying; callers that give up; an environment that means harm. Nothing stays behind. */

import { afterEach, describe, expect, test } from "bun:test";
import { getEventListeners } from "node:events";
import { type ClientRequest, request } from "node:http";
import type { Socket } from "node:net";
import { makeAuthority } from "../../../test/support/certificates.ts";
import { until, within } from "../../../test/support/wait.ts";
import { flood, OK, startReceiver, type ReceiverOptions } from "../../../test/support/webhook-receiver.ts";
import { systemClock } from "../../kit/clock.ts";
import { Deadlines } from "../../kit/deadlines.ts";
import { isWebhookFailure, MAX_ANSWER_BYTES, WebhookClient, type WebhookClientParts } from "./webhook-client.ts";

const TIMEOUT_MS = 100;
/** For what is over long before, on a busy machine too. */
const LONG_MS = 10_000;
const deadlines = new Deadlines(systemClock);
const local = { deadlines, allowLocal: true, timeoutMs: TIMEOUT_MS } satisfies WebhookClientParts;
const never = new AbortController().signal;
const body = Buffer.from("{}");

afterEach(() => {
  expect(deadlines.size).toBe(0);
  expect(getEventListeners(never, "abort")).toEqual([]);
});

/** What comes of a POST, once its socket is closed. */
async function postTo(answer: (socket: Socket) => void, options?: ReceiverOptions, timeoutMs = LONG_MS) {
  await using receiver = await startReceiver(answer, options);
  const scheme = options?.tls === undefined ? "http" : "https";
  const client = new WebhookClient({ ...local, timeoutMs, ca: authority.cert });
  const startMs = performance.now();
  const outcome = await within(
    "a webhook",
    client.post(new URL(`${scheme}://127.0.0.1:${receiver.port}/`), {}, body, never),
    4_000,
  );
  const tookMs = performance.now() - startMs;
  expect(receiver.connections).toBe(1);
  await until("the socket is closed", () => receiver.open === 0, 1_000);
  return { outcome, tookMs };
}

const authority = makeAuthority("the test's authority");
const tls = authority.issue(["127.0.0.1"]);
const head = "HTTP/1.1 200 OK\r\n";
const chunked = `${head}transfer-encoding: chunked\r\n\r\n`;
const write = (text: string) => (socket: Socket) => void socket.write(text);
const end = (text: string) => (socket: Socket) => void socket.end(text);
const keepWriting = (first: string, text: string, everyMs?: number) => (socket: Socket) => {
  socket.write(first);
  flood(socket, text, everyMs);
};

describe("answers that are taken", () => {
  test.each([
    ["whole", end(OK), 200, '{"done":true}'],
    ["whole, on a connection that its sender keeps", write(OK), 200, '{"done":true}'],
    ["of no length, until the connection ends", end(`${head}\r\nhi`), 200, "hi"],
    ["in chunks", end(`${chunked}2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n`), 200, "hi!"],
    ["empty", end("HTTP/1.1 204 No Content\r\n\r\n"), 204, ""],
    [
      "after interim ones",
      end(`HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n${OK}`),
      200,
      '{"done":true}',
    ],
    ["refusals", end("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"), 410, ""],
    ["errors", end("HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"), 503, "busy"],
    [
      "as large as may be",
      end(`${head}content-length: ${MAX_ANSWER_BYTES}\r\n\r\n${"a".repeat(MAX_ANSWER_BYTES)}`),
      200,
      "a".repeat(MAX_ANSWER_BYTES),
    ],
  ])("%s", async (_, answer, status, text) => {
    for (const options of [undefined, { tls }]) {
      const { outcome } = await postTo(answer, options);
      expect(outcome).toMatchObject({ status });
      expect("body" in outcome && new TextDecoder().decode(outcome.body)).toBe(text);
    }
  });

  test("compressed ones are not unpacked: a bomb stays small", async () => {
    const bomb = Bun.gzipSync(Buffer.alloc(10_000_000));
    const { outcome } = await postTo((socket) => {
      socket.write(`${head}content-encoding: gzip\r\ncontent-length: ${bomb.length}\r\n\r\n`);
      socket.end(bomb);
    });
    expect("body" in outcome && Buffer.compare(outcome.body, bomb)).toBe(0);
  });
});

describe("answers that are failures, in time", () => {
  test.each([
    ["none at all", () => {}, "timeout"],
    ["a head, byte by byte", keepWriting(head, "x"), "timeout"],
    ["a body, byte by byte", keepWriting(`${head}content-length: 1000000\r\n\r\n`, "x"), "timeout"],
    ["a body that lacks a byte", write(`${head}content-length: 3\r\n\r\nhi`), "timeout"],
    ["chunks without an end", write(`${chunked}2\r\nhi\r\n`), "timeout"],
    ["interim answers, now and then", keepWriting("", "HTTP/1.1 103 Early Hints\r\n\r\n", 100), "timeout"],
    ["interim answers without end", keepWriting("", "HTTP/1.1 100 Continue\r\n\r\n"), "too-large"],
    ["a header without end", keepWriting(`${head}x: `, "a".repeat(1_000)), "too-large"],
    ["headers without end", keepWriting(head, "a: b\r\n".repeat(200)), "too-large"],
    ["a header too large", end(`${head}x: ${"a".repeat(20_000)}\r\ncontent-length: 0\r\n\r\n`), "too-large"],
    ["trailers without end", keepWriting(`${chunked}0\r\n`, "a: b\r\n".repeat(200)), "too-large"],
    ["a chunk's extension without end", keepWriting(`${chunked}1;`, "a".repeat(1_000)), "too-large"],
    ["a body without end", keepWriting(`${head}\r\n`, "a".repeat(5_000)), "too-large"],
    ["chunks without end and fast", keepWriting(chunked, "1000\r\n" + "a".repeat(4_096) + "\r\n"), "too-large"],
    ["a byte too many", end(`${head}\r\n${"a".repeat(MAX_ANSWER_BYTES + 1)}`), "too-large"],
    [
      "a byte too many, announced",
      end(`${head}content-length: ${MAX_ANSWER_BYTES + 1}\r\n\r\n${"a".repeat(MAX_ANSWER_BYTES + 1)}`),
      "too-large",
    ],
    ["a redirect", write("HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n"), "redirect"],
    ["an end at once", end(""), "connection"],
    ["a reset at once", (socket: Socket) => void socket.resetAndDestroy(), "connection"],
    ["half a head", end(`${head}content-`), "connection"],
    ["less than announced", end(`${head}content-length: 10\r\n\r\nhi`), "connection"],
    ["more than announced", end(`${head}content-length: 2\r\n\r\nhi there`), "connection"],
    ["a cut chunk", end(`${chunked}5\r\nhi`), "connection"],
    ["no last chunk", end(`${chunked}2\r\nhi\r\n`), "connection"],
    ["a broken chunk", end(`${chunked}zz\r\nhi\r\n`), "connection"],
    ["a negative length", end(`${head}content-length: -2\r\n\r\nhi`), "connection"],
    ["an immense length", end(`${head}content-length: 99999999999999999999\r\n\r\nhi`), "connection"],
    ["two lengths", end(`${head}content-length: 2\r\ncontent-length: 3\r\n\r\nhi!`), "connection"],
    [
      "a length, and chunks",
      end(`${head}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n`),
      "connection",
    ],
    ["garbage", end("\x00\x01\x02\r\n\r\n"), "connection"],
    ["HTML and no head", end("<html>hi</html>"), "connection"],
    ["another protocol's greeting", end("220 mail.example.com ESMTP\r\n"), "connection"],
    ["another protocol's version", end("HTTP/2 200\r\n\r\n"), "connection"],
    [
      "a switch of protocols",
      write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhi"),
      "connection",
    ],
    ["a status that is none", end("HTTP/1.1 099 X\r\ncontent-length: 0\r\n\r\n"), "connection"],
    ["another one", end("HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n"), "connection"],
  ])("%s", async (_, answer, kind) => {
    for (const options of [undefined, { tls }]) {
      const { outcome, tookMs } = await postTo(answer, options, kind === "timeout" ? TIMEOUT_MS : LONG_MS);
      expect(outcome).toMatchObject({ kind });
      if (kind === "timeout") expect(tookMs).toBeGreaterThanOrEqual(TIMEOUT_MS - 5);
      expect(tookMs).toBeLessThan(kind === "timeout" ? TIMEOUT_MS + 1_500 : LONG_MS / 4);
    }
  });

  test("a handshake that does not begin, and one that is no TLS", async () => {
    expect(await postTo(() => {}, { tls, mute: true }, TIMEOUT_MS)).toMatchObject({ outcome: { kind: "timeout" } });
    await using receiver = await startReceiver();
    const client = new WebhookClient(local);
    // Its hello is no request to one who speaks plain HTTP.
    const unheard = await client.post(new URL(`https://127.0.0.1:${receiver.port}/`), {}, body, never);
    expect(unheard).toMatchObject({ kind: "timeout" });
    await using talker = await startReceiver(undefined, { greeting: "220 mail.example.com ESMTP\r\n" });
    const patient = new WebhookClient({ ...local, timeoutMs: LONG_MS });
    const answered = await patient.post(new URL(`https://127.0.0.1:${talker.port}/`), {}, body, never);
    expect(answered).toMatchObject({ kind: "tls" });
  });

  test("a body that nobody reads is held for so long and no longer", async () => {
    await using receiver = await startReceiver(undefined, { deaf: true });
    const requests: ClientRequest[] = [];
    const client = new WebhookClient({
      ...local,
      dial: (options) => {
        const made = request(options);
        requests.push(made);
        return made;
      },
    });
    const large = Buffer.alloc(16 * 1024 * 1024);
    const outcome = await client.post(new URL(`http://127.0.0.1:${receiver.port}/`), {}, large, never);
    expect(outcome).toMatchObject({ kind: "timeout" });
    expect(requests.map(({ socket }) => socket?.destroyed)).toEqual([true]);
  });

  test("a message is short, whatever a certificate says", async () => {
    const names = Array.from({ length: 400 }, (_, at) => `10.0.${at >> 8}.${at & 255}`);
    const { outcome } = await postTo(end(OK), { tls: authority.issue(names) });
    expect(isWebhookFailure(outcome) && [outcome.kind, outcome.message.length]).toEqual(["tls", 300]);
  });

  test("a name that does not resolve in time, and resolves or fails later", async () => {
    for (const late of [() => [{ address: "93.184.216.34" }], () => Promise.reject(new Error("late"))]) {
      const resolving = Promise.withResolvers<void>();
      let dialled = 0;
      const client = new WebhookClient({
        ...local,
        timeoutMs: 30,
        resolve: () => resolving.promise.then(late),
        dial: () => {
          dialled++;
          throw new Error("too late");
        },
      });
      expect(await client.post(new URL("https://hook.example.com/"), {}, body, never)).toMatchObject({
        kind: "timeout",
      });
      resolving.resolve();
      await new Promise((resolve) => setTimeout(resolve, 10));
      expect(dialled).toBe(0);
    }
  });
});

describe("a caller that gives up", () => {
  test("beforehand: nothing happens", async () => {
    await using receiver = await startReceiver();
    const outcome = await new WebhookClient(local).post(
      new URL(`http://127.0.0.1:${receiver.port}/`),
      {},
      body,
      AbortSignal.abort(),
    );
    expect(outcome).toMatchObject({ kind: "aborted" });
    expect(receiver.connections).toBe(0);
  });

  test("while the name is resolved", async () => {
    const caller = new AbortController();
    const client = new WebhookClient({ ...local, timeoutMs: LONG_MS, resolve: () => new Promise(() => {}) });
    const pending = client.post(new URL("https://hook.example.com/"), {}, body, caller.signal);
    caller.abort();
    expect(await within("giving up", pending, 1_000)).toMatchObject({ kind: "aborted" });
    expect([deadlines.size, getEventListeners(caller.signal, "abort").length]).toEqual([0, 0]);
  });

  test.each([
    ["in the handshake", () => {}, { tls, mute: true }],
    ["before the answer", () => {}, {}],
    ["in the head", write("HTTP/1.1 200 O"), {}],
    ["in the body", write(`${head}content-length: 10\r\n\r\nhi`), { tls }],
    ["in a body of no length", write(`${head}\r\nhi`), {}],
  ] as const)("%s: the socket is closed, and no timer is left", async (_, answer, options) => {
    const answered = Promise.withResolvers<void>();
    await using receiver = await startReceiver((socket) => {
      answer(socket);
      answered.resolve();
    }, options);
    const caller = new AbortController();
    const client = new WebhookClient({ ...local, timeoutMs: LONG_MS, ca: authority.cert });
    const scheme = "tls" in options ? "https" : "http";
    const pending = client.post(new URL(`${scheme}://127.0.0.1:${receiver.port}/`), {}, body, caller.signal);
    await until("it has come", () => receiver.open === 1);
    if (!("mute" in options)) await answered.promise;
    caller.abort();
    expect(await within("giving up", pending, 1_000)).toMatchObject({ kind: "aborted" });
    expect([deadlines.size, getEventListeners(caller.signal, "abort").length]).toEqual([0, 0]);
    await until("the socket is closed", () => receiver.open === 0);
  });
});

test("200 at a time leave nothing behind", async () => {
  let count = 0;
  await using receiver = await startReceiver((socket) => (count++ % 2 === 0 ? socket.end(OK) : socket.destroy()));
  const client = new WebhookClient({ ...local, timeoutMs: LONG_MS });
  const url = new URL(`http://127.0.0.1:${receiver.port}/`);
  const outcomes = await Promise.all(Array.from({ length: 200 }, () => client.post(url, {}, body, never)));
  expect(outcomes.filter(isWebhookFailure)).toHaveLength(100);
  expect(receiver.connections).toBe(200);
  await until("the sockets are closed", () => receiver.open === 0);
});

test("proxies and NODE_TLS_REJECT_UNAUTHORIZED of the environment change nothing; without this client they would", async () => {
  await using proxy = await startReceiver();
  await using right = await startReceiver(undefined, { tls: authority.issue(["hook.example.com"]) });
  await using wrong = await startReceiver(undefined, { tls: authority.issue(["other.example.com"]) });
  const script = `
    import { request } from "node:https";
    import { WebhookClient } from ${JSON.stringify(`${import.meta.dir}/webhook-client.ts`)};
    import { Deadlines } from ${JSON.stringify(`${import.meta.dir}/../../kit/deadlines.ts`)};
    import { systemClock } from ${JSON.stringify(`${import.meta.dir}/../../kit/clock.ts`)};
    const ca = ${JSON.stringify(authority.cert)};
    const { signal } = new AbortController();
    const outcomes = [];
    for (const port of [${right.port}, ${wrong.port}]) {
      const client = new WebhookClient({ ca, allowLocal: false, deadlines: new Deadlines(systemClock),
        resolve: async () => [{ address: "93.184.216.34" }],
        dial: (options) => request({ ...options, host: "127.0.0.1", port }) });
      const outcome = await client.post(new URL("https://hook.example.com/"), {}, new Uint8Array(2), signal);
      outcomes.push(outcome.kind ?? outcome.status);
    }
    const local = new WebhookClient({ allowLocal: true, deadlines: new Deadlines(systemClock) });
    outcomes.push((await local.post(new URL("http://localhost:1/"), {}, new Uint8Array(2), signal)).kind);
    for (const agent of [false, undefined])
      outcomes.push(await new Promise((resolve) =>
        request({ agent, host: "127.0.0.1", port: ${wrong.port}, servername: "hook.example.com", method: "POST" },
          (answer) => resolve(answer.statusCode)).on("error", () => resolve("proxied")).end()));
    outcomes.push((await fetch("http://hook.example.com/")).status);
    console.log(JSON.stringify(outcomes));`;
  const proxyUrl = `http://127.0.0.1:${proxy.port}`;
  const names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
  const child = Bun.spawn([process.execPath, "-e", script], {
    env: {
      ...Object.fromEntries(names.map((name) => [name, proxyUrl])),
      NODE_USE_ENV_PROXY: "1",
      NODE_TLS_REJECT_UNAUTHORIZED: "0",
    },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  expect([output.trim(), output === "" && errors]).toEqual(['[200,"tls","connection",200,"proxied",200]', false]);
  // That of the default agent, and that of `fetch`.
  expect(proxy.connections).toBe(2);
}, 60_000);
