/** Where webhooks go and where they never go: listeners count who comes, and a recorder notes every address that is dialled. */

import { afterAll, describe, expect, test } from "bun:test";
import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { type Certificate, makeAuthority } from "../../../test/support/certificates.ts";
import { hostileUrls, PRIVATE_ADDRESSES } from "../../../test/support/hostile-urls.ts";
import { startReceiver } from "../../../test/support/webhook-receiver.ts";
import { systemClock } from "../../kit/clock.ts";
import { Deadlines } from "../../kit/deadlines.ts";
import { WebhookClient, type WebhookAnswer, type WebhookClientParts, type WebhookFailure } from "./webhook-client.ts";

const PUBLIC = "93.184.216.34";
const PUBLIC_IPV6 = "2606:2800:220:1::1";
const authority = makeAuthority("the test's authority");
const deadlines = new Deadlines(systemClock);

afterAll(() => expect(deadlines.size).toBe(0));

interface Rig {
  readonly dialled: string[];
  readonly resolved: string[];
  readonly post: (url: string, headers?: Record<string, string>) => Promise<WebhookAnswer | WebhookFailure>;
}

/** `landAt`: the port on this machine that stands in for every address out there. */
function rig(parts: Partial<WebhookClientParts> & { answers?: Record<string, string[]>; landAt?: number } = {}): Rig {
  const { answers = {}, landAt, ...rest } = parts;
  const dialled: string[] = [];
  const resolved: string[] = [];
  const client = new WebhookClient({
    deadlines,
    allowLocal: false,
    timeoutMs: 3_000,
    ca: authority.cert,
    resolve: async (host) => {
      resolved.push(host);
      return (answers[host] ?? []).map((address) => ({ address }));
    },
    dial: (options) => {
      dialled.push(`${options.host}:${options.port}`);
      const landing = landAt === undefined ? options : { ...options, host: "127.0.0.1", port: landAt };
      return options.protocol === "https:" ? httpsRequest(landing) : httpRequest(landing);
    },
    ...rest,
  });
  return {
    dialled,
    resolved,
    post: (url, headers = {}) => client.post(new URL(url), headers, Buffer.from("{}"), new AbortController().signal),
  };
}

const outcomeOf = (outcome: WebhookAnswer | WebhookFailure): string | number =>
  "kind" in outcome ? outcome.kind : outcome.status;

/** On every loopback address there is, at one port. */
async function startEverywhere(): Promise<{ port: number; connections: () => number } & AsyncDisposable> {
  const first = await startReceiver();
  // Where there is no IPv6, nothing can arrive over it.
  const second = await startReceiver(undefined, { host: "::1", port: first.port }).catch(() => null);
  return {
    port: first.port,
    connections: () => first.connections + (second?.connections ?? 0),
    [Symbol.asyncDispose]: async () => {
      await first[Symbol.asyncDispose]();
      await second?.[Symbol.asyncDispose]();
    },
  };
}

describe("a webhook goes nowhere", () => {
  test("for any hostile URL; and the listeners would have noticed", async () => {
    await using target = await startEverywhere();
    const { dialled, resolved, post } = rig({
      answers: { "hook.example.com": ["127.0.0.1"] },
    });
    const urls = hostileUrls(target.port).filter((text) => URL.canParse(text));
    expect(urls.length).toBeGreaterThan(200);
    const reached: string[] = [];
    for (const url of urls) {
      // The URL class has dropped some of what makes these hostile; the name still leads home.
      const outcome = outcomeOf(await post(url));
      if (outcome !== "refused-address") reached.push(`${url} ${outcome}`);
    }
    expect(reached).toEqual([]);
    expect(new Set(resolved)).toEqual(new Set(["hook.example.com"]));
    expect([dialled, target.connections()]).toEqual([[], 0]);

    expect(outcomeOf(await rig({ allowLocal: true }).post(`http://127.0.0.1:${target.port}/`))).toBe(200);
    expect(target.connections()).toBe(1);
  });

  test.each(PRIVATE_ADDRESSES)("when one address of its name is %p", async (address) => {
    for (const addresses of [[address], [PUBLIC, address], [address, PUBLIC], [PUBLIC_IPV6, PUBLIC, address, PUBLIC]]) {
      const { dialled, post } = rig({ answers: { "hook.example.com": addresses } });
      const outcome = await post("https://hook.example.com/");
      // Nor is it told what the name resolved to: that would map the network.
      expect(outcome).toEqual({
        kind: "refused-address",
        message: "hook.example.com has an address that is not reachable from everywhere",
      });
      expect(dialled).toEqual([]);
    }
  });

  test("when its name does not resolve, or to nothing", async () => {
    const resolve = () => Promise.reject(Object.assign(new Error("no"), { code: "ENOTFOUND" }));
    expect(await rig({ resolve }).post("https://hook.example.com/")).toEqual({
      kind: "dns",
      message: "hook.example.com does not resolve (ENOTFOUND)",
    });
    expect(outcomeOf(await rig().post("https://hook.example.com/"))).toBe("dns");
    // The machine's own resolver, on a name that no resolver asks for: its label is too long.
    const own = new WebhookClient({ deadlines, allowLocal: false });
    const { signal } = new AbortController();
    expect(
      outcomeOf(await own.post(new URL(`https://${"a".repeat(64)}.example.com/`), {}, Buffer.from("{}"), signal)),
    ).toBe("dns");
  });

  test("where a redirect points to; fetch would have gone there", async () => {
    await using target = await startEverywhere();
    for (const host of ["127.0.0.1", "[::1]", "localhost"]) {
      for (const status of [300, 301, 302, 303, 304, 305, 307, 308, 399]) {
        await using receiver = await startReceiver((socket) =>
          socket.end(
            `HTTP/1.1 ${status} Moved\r\nlocation: http://${host}:${target.port}/\r\ncontent-length: 0\r\n\r\n`,
          ),
        );
        const { dialled, post } = rig({ allowLocal: true });
        expect(outcomeOf(await post(`http://127.0.0.1:${receiver.port}/`))).toBe("redirect");
        expect([dialled.length, receiver.connections]).toEqual([1, 1]);
        if (host === "127.0.0.1" && status === 307) {
          expect(target.connections()).toBe(0);
          await fetch(`http://127.0.0.1:${receiver.port}/`, { method: "POST" });
          expect(target.connections()).toBe(1);
        }
      }
    }
    expect(target.connections()).toBe(1);
  });
});

describe("a name that changes its mind", () => {
  test("is resolved once per webhook, and judged each time", async () => {
    await using receiver = await startReceiver(undefined, { tls: authority.issue(["hook.example.com"]) });
    const answers = { "hook.example.com": [PUBLIC] };
    const { dialled, resolved, post } = rig({ answers, landAt: receiver.port });
    const pending = post("https://hook.example.com/");
    answers["hook.example.com"] = ["127.0.0.1"];
    expect(outcomeOf(await pending)).toBe(200);
    expect([dialled, resolved]).toEqual([[`${PUBLIC}:443`], ["hook.example.com"]]);

    expect(outcomeOf(await post("https://hook.example.com/"))).toBe("refused-address");
    expect([dialled.length, resolved.length, receiver.connections]).toEqual([1, 2, 1]);
  });

  test("and a URL object that changes while its name is resolved: it was read before", async () => {
    await using receiver = await startReceiver(undefined, { tls: authority.issue(["hook.example.com"]) });
    const resolving = Promise.withResolvers<{ address: string }[]>();
    const url = new URL("https://hook.example.com/x");
    const dialled: string[] = [];
    const client = new WebhookClient({
      deadlines,
      allowLocal: false,
      ca: authority.cert,
      resolve: () => resolving.promise,
      dial: (options) => {
        dialled.push(`${options.host}:${options.port}${options.path}`);
        return httpsRequest({ ...options, host: "127.0.0.1", port: receiver.port });
      },
    });
    const pending = client.post(url, {}, Buffer.from("{}"), new AbortController().signal);
    url.href = "https://10.0.0.1:22/y";
    resolving.resolve([{ address: PUBLIC }]);
    expect(outcomeOf(await pending)).toBe(200);
    expect(dialled).toEqual([`${PUBLIC}:443/x`]);
  });

  // Only Linux has all of 127.0.0.0/8.
  test.skipIf(process.platform !== "linux")(
    "goes to the address that was judged, not to what the system says",
    async () => {
      await using judged = await startReceiver(undefined, { host: "127.0.0.2" });
      await using systems = await startReceiver(undefined, { port: judged.port });
      const { post } = rig({ allowLocal: true, answers: { localhost: ["127.0.0.2"] } });
      expect(outcomeOf(await post(`http://localhost:${judged.port}/`))).toBe(200);
      expect([judged.connections, systems.connections]).toEqual([1, 0]);
    },
  );
});

describe("local ones", () => {
  test("are reached by the system's resolver, where they are allowed", async () => {
    await using receiver = await startReceiver();
    const { signal } = new AbortController();
    for (const allowLocal of [false, true]) {
      const client = new WebhookClient({ deadlines, allowLocal });
      const outcome = await client.post(new URL(`http://localhost:${receiver.port}/`), {}, Buffer.from("{}"), signal);
      expect(outcomeOf(outcome)).toBe(allowLocal ? 200 : "refused-address");
      expect(receiver.connections).toBe(allowLocal ? 1 : 0);
    }
  });

  test("are 127.0.0.0/8 and ::1 and nothing else, and no other name may lead there", async () => {
    await using target = await startEverywhere();
    const home = `http://localhost:${target.port}/`;
    const fine = ["127.0.0.1", "127.255.255.254", "::1"];
    for (const address of [...PRIVATE_ADDRESSES, ...fine, PUBLIC]) {
      const { dialled, post } = rig({ allowLocal: true, answers: { localhost: [address] }, landAt: target.port });
      const isFine = fine.includes(address) || address === "127.0.0.2";
      expect([address, outcomeOf(await post(home)), dialled.length]).toEqual([
        address,
        isFine ? 200 : "refused-address",
        isFine ? 1 : 0,
      ]);
    }
    const before = target.connections();
    const other = rig({ allowLocal: true, answers: { "hook.example.com": ["127.0.0.1"] } });
    expect(outcomeOf(await other.post(`https://hook.example.com:${target.port}/`))).toBe("refused-address");
    expect(outcomeOf(await other.post(`http://[::1]:${target.port}/`))).toBe("refused-address");
    expect([other.dialled, target.connections()]).toEqual([[], before]);
  });
});

describe("more than one address", () => {
  test("the next is tried when one does not take the connection, four at most", async () => {
    await using receiver = await startReceiver();
    const url = `http://localhost:${receiver.port}/`;
    const closed = ["127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6", "127.0.0.7"];
    const lucky = rig({ allowLocal: true, answers: { localhost: [...closed.slice(0, 3), "127.0.0.1"] } });
    expect(outcomeOf(await lucky.post(url))).toBe(200);
    const unlucky = rig({ allowLocal: true, answers: { localhost: [...closed, "127.0.0.1"] } });
    expect(await unlucky.post(url)).toMatchObject({
      kind: "connection",
      message: expect.stringContaining("ECONNREFUSED"),
    });
    expect([lucky.dialled.length, unlucky.dialled.length, receiver.connections]).toEqual([4, 4, 1]);
  });

  test("nothing is sent twice: once there was a connection, that was it", async () => {
    await using receiver = await startReceiver((socket) => socket.destroy());
    const { dialled, post } = rig({ allowLocal: true, answers: { localhost: ["127.0.0.1", "127.0.0.1"] } });
    expect(outcomeOf(await post(`http://localhost:${receiver.port}/`))).toBe("connection");
    expect([dialled.length, receiver.connections]).toEqual([1, 1]);
  });
});

describe("TLS goes by the name, not by the address", () => {
  const named = authority.issue(["hook.example.com"]);
  const stranger = makeAuthority("somebody else's authority");

  async function outcomeWith(tls: Certificate, url = "https://hook.example.com/", ca = authority.cert) {
    await using receiver = await startReceiver(undefined, { tls });
    const { post, dialled } = rig({ ca, answers: { "hook.example.com": [PUBLIC] }, landAt: receiver.port });
    const outcome = outcomeOf(await post(url));
    // Without a good certificate not a byte of the request is sent.
    expect(receiver.requests.join("").startsWith("POST / HTTP/1.1\r\n")).toBe(outcome === 200);
    expect(dialled).toHaveLength(1);
    return { outcome, serverNames: receiver.serverNames };
  }

  test("its name is asked for, and a certificate for it is fine", async () => {
    expect(await outcomeWith(named)).toEqual({ outcome: 200, serverNames: ["hook.example.com"] });
    expect((await outcomeWith(authority.issue(["*.example.com"]))).outcome).toBe(200);
  });

  test.each([
    ["another name", authority.issue(["other.example.com"])],
    ["a name below", authority.issue(["x.hook.example.com"])],
    ["the address that it stands on", authority.issue(["127.0.0.1", PUBLIC])],
    ["the right name, by an authority that is not trusted", stranger.issue(["hook.example.com"])],
    ["the right name, until yesterday", authority.issue(["hook.example.com"], true)],
  ])("a certificate for %s is not", async (_, tls) => {
    expect((await outcomeWith(tls)).outcome).toBe("tls");
  });

  test("without an authority of its own, the public ones are trusted and no others", async () => {
    await using receiver = await startReceiver(undefined, { tls: named });
    const client = new WebhookClient({
      deadlines,
      allowLocal: false,
      resolve: async () => [{ address: PUBLIC }],
      dial: (options) => httpsRequest({ ...options, host: "127.0.0.1", port: receiver.port }),
    });
    const { signal } = new AbortController();
    expect(outcomeOf(await client.post(new URL("https://hook.example.com/"), {}, Buffer.from("{}"), signal))).toBe(
      "tls",
    );
    expect([receiver.connections, receiver.requests.join("")]).toEqual([1, ""]);
  });

  test("an address goes by the address, and names no server", async () => {
    await using right = await startReceiver(undefined, { tls: authority.issue(["127.0.0.1"]) });
    await using wrong = await startReceiver(undefined, { tls: authority.issue(["hook.example.com", "localhost"]) });
    const { post } = rig({ allowLocal: true });
    expect(outcomeOf(await post(`https://127.0.0.1:${right.port}/`))).toBe(200);
    expect(right.serverNames).toEqual([false]);
    expect(outcomeOf(await post(`https://127.0.0.1:${wrong.port}/`))).toBe("tls");
  });
});

describe("the request", () => {
  test.each([
    ["https://hook.example.com/a%20b?c=d", "/a%20b?c=d", "hook.example.com", `${PUBLIC}:443`],
    ["https://hook.example.com:8443", "/", "hook.example.com:8443", `${PUBLIC}:8443`],
    ["https://hook.example.com:443/", "/", "hook.example.com", `${PUBLIC}:443`],
  ])("to %s", async (url, path, host, address) => {
    await using receiver = await startReceiver(undefined, { tls: authority.issue(["hook.example.com"]) });
    const { dialled, post } = rig({ answers: { "hook.example.com": [PUBLIC] }, landAt: receiver.port });
    const answer = await post(url, { "content-type": "application/json", Host: "evil.example", "Content-Length": "9" });
    expect(answer).toMatchObject({ status: 200 });
    expect(new TextDecoder().decode("body" in answer ? answer.body : undefined)).toBe('{"done":true}');
    expect(dialled).toEqual([address]);
    const [head = "", body] = (receiver.requests[0] ?? "").split("\r\n\r\n");
    const [line, ...headers] = head.toLowerCase().split("\r\n");
    expect([line, body]).toEqual([`post ${path} http/1.1`, "{}"]);
    expect(headers.sort()).toEqual([
      "accept-encoding: identity",
      "connection: close",
      "content-length: 2",
      "content-type: application/json",
      `host: ${host}`,
    ]);
  });

  test("an IPv6 address keeps its brackets in Host only", async () => {
    const { dialled, post } = rig({ landAt: 1 });
    expect(outcomeOf(await post("https://[2606:2800:220:1::1]:8443/"))).toBe("connection");
    expect(dialled).toEqual(["2606:2800:220:1::1:8443"]);
  });
});
