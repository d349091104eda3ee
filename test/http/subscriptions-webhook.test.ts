/** Webhooks (PROTOCOL §6.5, §7.1, §7.3): what is sent and how it is signed, what an answer means, and who may call back. */

import { afterAll, describe, expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream, type StreamUnderTest } from "../support/streams.ts";
import {
  acksOf,
  append,
  control,
  type Delivery,
  type Hook,
  isSigned,
  jsonOf,
  newPullWake,
  newSubscription,
  quiet,
  signatureOf,
  startHook,
  type SubscriptionUnderTest,
  verdict,
  type WebhookBody,
} from "../support/subscription-client.ts";
import { until } from "../support/wait.ts";

const server = sharedServer({ args: ["--allow-local-webhooks"] });
const hooks: Hook[] = [];
const FENCED: [number, string] = [409, "FENCED"];
const TOKEN_INVALID: [number, string] = [401, "TOKEN_INVALID"];
const INVALID_OFFSET: [number, string] = [409, "INVALID_OFFSET"];
let started = 0;

afterAll(async () => {
  for (const hook of hooks.splice(0)) await hook.stop();
});

interface Scene {
  readonly hook: Hook;
  readonly subscription: SubscriptionUnderTest;
  readonly stream: StreamUnderTest;
  readonly name: string;
}

/** A stream, a webhook subscription on it, and its receiver, which answers `taken`. */
async function scene(more: object = {}): Promise<Scene> {
  const name = `hook-${++started}`;
  const hook = startHook();
  hooks.push(hook);
  hook.answer("taken");
  const stream = await newStream(server, `${name}/a`);
  const config = { type: "webhook", webhook: { url: hook.url }, pattern: `${name}/*`, ...more };
  return { hook, stream, subscription: await newSubscription(server, name, config), name };
}

async function woken({ hook, stream }: Scene): Promise<WebhookBody> {
  const count = hook.deliveries.length + 1;
  await append(stream);
  return (await hook.delivery(count)).body;
}

function idle({ subscription }: Scene): Promise<unknown> {
  return until("all is worked off", async () => (await subscription.shown()).lag_records === 0);
}

describe("what is sent", () => {
  test("the wake, with its streams, and where to call back", async () => {
    const made = await scene();
    const before = await made.stream.tail();
    const body = await woken(made);
    const [{ headers, method, raw }] = made.hook.deliveries as [Delivery];
    expect(method).toBe("POST");
    expect(headers.get("content-type")).toMatch(/^application\/json\b/);
    expect(Object.keys(JSON.parse(raw) as object).toSorted()).toEqual([
      "callback_token",
      "callback_url",
      "generation",
      "streams",
      "subscription_id",
      "wake_id",
    ]);
    expect(body).toMatchObject({ subscription_id: made.name, generation: 1 });
    expect(body.callback_url).toBe(`${made.subscription.url}/callback`);
    expect(body.wake_id.length).toBeGreaterThan(8);
    expect(body.callback_token.length).toBeGreaterThan(20);
    const { acked_offset, ...link } = body.streams[0] ?? { acked_offset: "" };
    expect(link).toEqual({
      path: made.stream.name,
      link_type: "glob",
      tail_offset: await made.stream.tail(),
      has_pending: true,
    });
    expect(acked_offset).toBeOneOf([before, "-1"]);
    expect(await made.subscription.shown()).toMatchObject({ generation: 1, status: "active", lag_records: 1 });
  });

  test("every linked stream is told, also those without news", async () => {
    const made = await scene({ streams: ["hook-quiet"] });
    const other = await newStream(server, `${made.name}/b`);
    await newStream(server, "hook-quiet");
    const { streams } = await woken(made);
    expect(streams.map(({ path, link_type, has_pending }) => `${path} ${link_type} ${has_pending}`).toSorted()).toEqual(
      [`${made.stream.name} glob true`, `${other.name} glob false`, "hook-quiet explicit false"],
    );
  });

  test("it is signed with a key that the server publishes, over the time and the very bytes", async () => {
    const made = await scene();
    await woken(made);
    const [delivery] = made.hook.deliveries as [Delivery];
    expect(await isSigned(server, delivery)).toBe(true);
    expect(await isSigned(server, delivery, `${delivery.raw} `)).toBe(false);
    const { t, kid, signature } = signatureOf(delivery);
    expect(signature).toHaveLength(64);
    expect(Math.abs(t - delivery.atMs / 1000)).toBeLessThan(5);
    expect((await made.subscription.shown()).webhook?.signing.kid).toBe(kid);
    const later = { ...delivery, headers: new Headers(delivery.headers) };
    later.headers.set(
      "webhook-signature",
      (delivery.headers.get("webhook-signature") ?? "").replace(`t=${t}`, `t=${t + 1}`),
    );
    expect(await isSigned(server, later)).toBe(false);
  });

  test("the keys are published as a JWK set, without their private half", async () => {
    const answer = await call("GET", control(server, "jwks.json"));
    expect(answer.headers.get("content-type")).toBe("application/jwk-set+json");
    expect(answer.headers.get("cache-control")).toBe("public, max-age=300");
    const { keys } = await jsonOf<{ keys: Record<string, string>[] }>(answer);
    expect(keys).toEqual([
      {
        kty: "OKP",
        crv: "Ed25519",
        use: "sig",
        alg: "EdDSA",
        kid: expect.any(String),
        x: expect.stringMatching(/^[\w-]{43}$/),
      },
    ]);
  });

  test("an id with every character it may have comes back whole in its callback URL", async () => {
    const made = await scene();
    const id = "odd:@!$'()*+,;=~._-";
    const odd = await newSubscription(server, id, {
      type: "webhook",
      webhook: { url: made.hook.url },
      streams: [made.stream.name],
    });
    await made.subscription.delete();
    const body = await woken(made);
    expect(body.subscription_id).toBe(id);
    const answer = await call("POST", body.callback_url, {
      body: JSON.stringify({ wake_id: body.wake_id, generation: body.generation, acks: acksOf(body), done: true }),
      headers: { authorization: `Bearer ${body.callback_token}` },
    });
    expect(await jsonOf(answer)).toEqual({ ok: true, next_wake: false });
    await odd.delete();
  });
});

describe("what an answer means", () => {
  test("done acks what was told, and nothing that came meanwhile", async () => {
    const made = await scene();
    const { hook, stream, subscription } = made;
    hook.answer(async (_, count) => {
      if (count === 1) for (let at = 0; at < 3; at++) await append(stream);
      return "done";
    });
    const first = await woken(made);
    const { body: second } = await hook.delivery(2);
    expect(second.generation).toBe(first.generation + 1);
    expect(second.wake_id).not.toBe(first.wake_id);
    expect(second.streams[0]).toMatchObject({ acked_offset: String(first.streams[0]?.tail_offset), has_pending: true });
    await idle(made);
    expect((await subscription.link(stream.name))?.acked_offset).toBe(await stream.tail());
    await quiet(100);
    expect(hook.deliveries).toHaveLength(2);
    expect((await subscription.shown()).generation).toBe(2);
  });

  test("one wake at a time, however much comes", async () => {
    const made = await scene();
    await woken(made);
    await Promise.all(Array.from({ length: 50 }, () => append(made.stream)));
    const fresh = await newStream(server, `${made.name}/later`, "application/json", { body: "[1]" });
    await quiet(150);
    expect(made.hook.deliveries).toHaveLength(1);
    const [{ body }] = made.hook.deliveries as [Delivery];
    expect(await jsonOf(made.subscription.callback(body, { acks: acksOf(body), done: true }))).toEqual({
      ok: true,
      next_wake: true,
    });
    const { body: next } = await made.hook.delivery(2);
    expect(
      next.streams
        .filter(({ has_pending }) => has_pending)
        .map(({ path }) => path)
        .toSorted(),
    ).toEqual([made.stream.name, fresh.name].toSorted());
  });

  test.each<[string, Response]>([
    ["204", new Response(null, { status: 204 })],
    ["201 with text", new Response("thanks", { status: 201 })],
    ["an empty 200", new Response("")],
    ["done: false", Response.json({ done: false })],
    ['done: "true"', Response.json({ done: "true" })],
    ["done: 1", Response.json({ done: 1 })],
    ["a list", Response.json([{ done: true }])],
    ["null", Response.json(null)],
    ["half a document", new Response('{"done":true')],
  ])("%s takes the wake; the callback ends it", async (_, answer) => {
    const made = await scene();
    made.hook.answer(answer);
    const body = await woken(made);
    await quiet(50);
    expect(await made.subscription.shown()).toMatchObject({ status: "active", failures: 0, lag_records: 1 });
    expect((await made.subscription.callback(body, { acks: acksOf(body), done: true })).status).toBe(200);
    expect((await made.subscription.shown()).lag_records).toBe(0);
    expect(made.hook.deliveries).toHaveLength(1);
  });

  test.each<[string, Response]>([
    ["more besides", Response.json({ extra: [1], done: true })],
    ["202", Response.json({ done: true }, { status: 202 })],
    ["another type", new Response(' {"done": true}\n', { headers: { "content-type": "text/plain" } })],
  ])("done with %s", async (_, answer) => {
    const made = await scene();
    made.hook.answer(answer);
    await woken(made);
    await idle(made);
    expect((await made.subscription.link(made.stream.name))?.acked_offset).toBe(await made.stream.tail());
  });

  test("a callback may come before the answer, which then means nothing", async () => {
    const made = await scene();
    const { hook, stream, subscription } = made;
    const told = Promise.withResolvers<void>();
    hook.answer(async ({ body }, count) => {
      if (count > 1) return "taken";
      expect(await jsonOf(subscription.callback(body, { acks: acksOf(body), done: true }))).toEqual({
        ok: true,
        next_wake: false,
      });
      await append(stream);
      await hook.delivery(2);
      told.resolve();
      return "done";
    });
    await woken(made);
    await told.promise;
    await quiet(100);
    expect(await subscription.shown()).toMatchObject({ generation: 2, lag_records: 1, status: "active" });
  });
});

describe("callbacks", () => {
  test("acks move cursors, without done the wake goes on; done without acks moves nothing and wakes again", async () => {
    const made = await scene();
    const { stream, subscription, hook } = made;
    const first = await append(stream);
    const { body } = await hook.delivery(1);
    const second = await append(stream);
    const ack = (more: object): Promise<Response> => subscription.callback(body, more);
    const acks = (offset: string): object => ({ acks: [{ stream: stream.name, offset }] });
    expect(await jsonOf(ack({}))).toMatchObject({ ok: true });
    expect(await jsonOf(ack({ acks: [], done: false }))).toMatchObject({ ok: true });
    expect(await jsonOf(ack(acks(first)))).toMatchObject({ ok: true });
    expect(await subscription.shown()).toMatchObject({ generation: 1, lag_records: 1 });
    expect(await jsonOf(ack(acks(first)))).toMatchObject({ ok: true });
    // Past what was told, but not past the tail.
    expect(await jsonOf(ack(acks(second)))).toMatchObject({ ok: true });
    expect(await subscription.link(stream.name)).toMatchObject({ acked_offset: second });
    await append(stream);
    expect(hook.deliveries).toHaveLength(1);
    expect(await jsonOf(ack({ done: true }))).toEqual({ ok: true, next_wake: true });
    expect((await hook.delivery(2)).body).toMatchObject({ generation: 2 });
    expect(await subscription.link(stream.name)).toMatchObject({ acked_offset: second });
    expect(await verdict(ack({ done: true }))).toEqual(FENCED);
  });

  test("offsets that cannot be acked move nothing, nor do the others of the same request", async () => {
    const made = await scene({ streams: ["hook-absent"] });
    const { stream, subscription } = made;
    const early = await append(stream);
    const late = await append(stream);
    await newStream(server, `${made.name}/b`, "application/json", { body: "[1,2,3]" });
    const other = await newStream(server, `${made.name}-other/a`, "application/json", { body: "[1,2,3]" });
    const { body } = await made.hook.delivery(1);
    const at = (offset: string, name = stream.name): object => ({ stream: name, offset });
    const good = at(late);
    expect((await subscription.callback(body, { acks: [at(early)] })).status).toBe(200);
    const [epoch = "", seq = ""] = late.split("_");
    const before = await subscription.shown();
    for (const bad of [
      at("-1"),
      at("now"),
      at(""),
      at("nonsense"),
      at("0"),
      at(`${epoch}_${"0".repeat(16)}`),
      at(`${epoch}_${String(Number(seq) + 1).padStart(16, "0")}`),
      at(`${"9".repeat(16)}_${seq}`),
      at(`${"0".repeat(15)}1_${seq}x`),
      at("0000000000000000_0000000000000000"),
      at(await other.tail()),
      at(await other.tail(), other.name),
      at(late, "hook-absent"),
      at(late, "hook-nowhere"),
      at(late, `${made.name}/b`),
      at(late, "__proto__"),
    ]) {
      for (const acks of [[bad], [good, bad], [bad, good]]) {
        for (const done of [false, true])
          expect([acks, ...(await verdict(subscription.callback(body, { acks, done })))]).toEqual([
            acks,
            ...INVALID_OFFSET,
          ]);
      }
    }
    expect(await subscription.shown()).toEqual(before);
    expect((await subscription.callback(body, { acks: [good] })).status).toBe(200);
    expect(await verdict(subscription.callback(body, { acks: [at(early)] }))).toEqual(INVALID_OFFSET);
    expect(await subscription.link(stream.name)).toMatchObject({ acked_offset: late });
  });

  test("two acks of one stream in one request never take it back", async () => {
    const made = await scene();
    const early = await append(made.stream);
    const late = await append(made.stream);
    const { body } = await made.hook.delivery(1);
    const acks = [late, early].map((offset) => ({ stream: made.stream.name, offset }));
    const [status] = await verdict(made.subscription.callback(body, { acks }));
    const link = await made.subscription.link(made.stream.name);
    if (status === 200) expect(link?.acked_offset).toBe(late);
    else expect(status).toBe(409);
  });

  test("of many at once with done, one wins", async () => {
    const made = await scene();
    const body = await woken(made);
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => verdict(made.subscription.callback(body, { acks: acksOf(body), done: true }))),
    );
    expect(answers.filter(([status]) => status === 200)).toHaveLength(1);
    expect(answers.filter(([status]) => status !== 200)).toEqual(Array.from({ length: 19 }, () => FENCED));
    expect((await made.subscription.shown()).lag_records).toBe(0);
  });

  test("many heartbeats at once with acks: the cursor ends at the furthest", async () => {
    const made = await scene();
    const body = await woken(made);
    const offsets = [String(body.streams[0]?.tail_offset)];
    for (let at = 0; at < 20; at++) offsets.push(await append(made.stream));
    const answers = await Promise.all(
      offsets.map((offset) =>
        verdict(made.subscription.callback(body, { acks: [{ stream: made.stream.name, offset }] })),
      ),
    );
    for (const answer of answers) expect([[200, ""], INVALID_OFFSET]).toContainEqual(answer);
    expect((await made.subscription.link(made.stream.name))?.acked_offset).toBe(String(offsets.at(-1)));
  });

  test("token, generation and wake id all have to be those of the present wake", async () => {
    const made = await scene();
    const { subscription } = made;
    const old = await woken(made);
    await subscription.callback(old, { acks: acksOf(old), done: true });
    const now = await woken(made);
    expect(now.generation).toBe(old.generation + 1);
    const wakes = [old, now];
    const before = await subscription.shown();
    for (const { callback_token } of wakes) {
      for (const { generation } of [...wakes, { generation: now.generation + 1 }, { generation: 0 }]) {
        for (const { wake_id } of [...wakes, { wake_id: "w_other" }, { wake_id: "" }]) {
          const isNow =
            callback_token === now.callback_token && generation === now.generation && wake_id === now.wake_id;
          if (isNow) continue;
          const wake = { ...now, callback_token, generation, wake_id };
          for (const more of [{}, { acks: acksOf(now) }, { acks: acksOf(now), done: true }])
            expect(await verdict(subscription.callback(wake, more))).toEqual(FENCED);
          const released = subscription.post("release", { wake_id, generation }, callback_token);
          expect(await verdict(released)).toEqual(FENCED);
        }
      }
    }
    expect(await subscription.shown()).toEqual(before);
    expect((await subscription.callback(now, { done: true, acks: acksOf(now) })).status).toBe(200);
  });

  test("the tokens of another subscription are no tokens here", async () => {
    const [mine, other] = [await scene(), await scene()];
    const wake = await woken(mine);
    const foreign = await woken(other);
    expect(foreign.generation).toBe(wake.generation);
    const { subscription: pull } = await newPullWake(server, "hook-pull", { streams: [mine.stream.name] });
    await append(mine.stream);
    const claim = await pull.claimed();
    const signature = (token: string): string => token.split(".").at(-1) ?? "";
    const parts = wake.callback_token.split(".");
    for (const callback_token of [
      foreign.callback_token,
      claim.token,
      `${wake.callback_token}x`,
      wake.callback_token.slice(0, -4),
      [...parts.slice(0, -1), signature(foreign.callback_token)].join("."),
      [...foreign.callback_token.split(".").slice(0, -1), signature(wake.callback_token)].join("."),
      "x",
      ".",
      "..",
      "e30.e30.e30",
      "0".repeat(4_000),
    ])
      expect(await verdict(mine.subscription.callback({ ...wake, callback_token }, { done: true }))).toEqual(
        TOKEN_INVALID,
      );
    expect(await mine.subscription.shown()).toMatchObject({ generation: 1, lag_records: 2 });
    expect((await mine.subscription.callback(wake)).status).toBe(200);
  });

  test("authorization that is missing or malformed is 401", async () => {
    const made = await scene();
    const { wake_id, generation, callback_token: token } = await woken(made);
    const body = JSON.stringify({ wake_id, generation });
    const authorizations = [
      null,
      "",
      "Bearer",
      "Bearer ",
      token,
      `Basic ${token}`,
      `Token ${token}`,
      `Bearer ${token} x`,
    ];
    for (const authorization of [...authorizations, `Bearer ${token}, Bearer ${token}`, `Bearer "${token}"`]) {
      for (const action of ["callback", "ack", "release"]) {
        const headers = authorization === null ? {} : { authorization };
        const answer = call("POST", `${made.subscription.url}/${action}`, { body, headers });
        expect([authorization, ...(await verdict(answer))]).toEqual([authorization, ...TOKEN_INVALID]);
      }
    }
    const inQuery = call("POST", `${made.subscription.url}/callback?token=${token}&callback_token=${token}`, { body });
    expect((await inQuery).status).toBeOneOf([400, 401]);
    const lower = call("POST", `${made.subscription.url}/callback`, {
      body,
      headers: { authorization: `bearer ${token}` },
    });
    expect((await lower).status).toBe(200);
  });
});

describe("leases of webhooks", () => {
  test.concurrent("a wake that was taken and not ended is over with its lease; its callback is fenced, the next one is new", async () => {
    const made = await scene({ lease_ttl_ms: 1_000 });
    const first = await woken(made);
    const [{ atMs }] = made.hook.deliveries as [Delivery];
    const { body: second, atMs: secondMs } = await made.hook.delivery(2, 3_000);
    expect(secondMs - atMs).toBeGreaterThan(900);
    expect(secondMs - atMs).toBeLessThan(1_800);
    expect(second.generation).toBe(first.generation + 1);
    expect(second.wake_id).not.toBe(first.wake_id);
    expect(await verdict(made.subscription.callback(first, { acks: acksOf(first), done: true }))).toEqual(FENCED);
    expect((await made.subscription.shown()).lag_records).toBe(1);
    expect((await made.subscription.callback(second, { acks: acksOf(second), done: true })).status).toBe(200);
  });

  test.concurrent("a callback without done keeps the wake beyond its lease", async () => {
    const made = await scene({ lease_ttl_ms: 1_000 });
    const body = await woken(made);
    for (let beat = 0; beat < 4; beat++) {
      await quiet(500);
      expect((await made.subscription.callback(body)).status).toBe(200);
    }
    expect(made.hook.deliveries).toHaveLength(1);
    expect((await made.subscription.callback(body, { acks: acksOf(body), done: true })).status).toBe(200);
  });

  test.concurrent("a wake that is all acked ends with its lease and wakes nobody", async () => {
    const made = await scene({ lease_ttl_ms: 1_000 });
    const body = await woken(made);
    expect((await made.subscription.callback(body, { acks: acksOf(body) })).status).toBe(200);
    await quiet(1_300);
    expect(made.hook.deliveries).toHaveLength(1);
    expect(await verdict(made.subscription.callback(body, { done: true }))).toEqual(FENCED);
    expect((await woken(made)).generation).toBe(2);
  });
});

describe("deleted meanwhile", () => {
  test("what is answered and called back moves nothing, not even of a subscription of the same name", async () => {
    const made = await scene();
    const { hook, stream, subscription } = made;
    const gone = Promise.withResolvers<void>();
    hook.answer(async (_, count) => {
      if (count === 1) await gone.promise;
      return count === 1 ? "done" : "taken";
    });
    const old = await woken(made);
    expect((await subscription.delete()).status).toBe(204);
    expect((await subscription.callback(old, { acks: acksOf(old), done: true })).status).toBe(404);
    const config = { type: "webhook", webhook: { url: hook.url }, streams: [`${made.name}/new`, stream.name] };
    const anew = await newSubscription(server, made.name, config);
    const tail = await stream.tail();
    const now = await woken(made);
    gone.resolve();
    await quiet(100);
    expect(await verdict(anew.callback(old, { acks: acksOf(now), done: true }))).toBeOneOf([FENCED, TOKEN_INVALID]);
    expect(await anew.link(stream.name)).toMatchObject({ acked_offset: tail });
    expect(await anew.shown()).toMatchObject({ generation: now.generation, lag_records: 1, status: "active" });
    expect(now.wake_id).not.toBe(old.wake_id);
  });

  test("a token of the one that was deleted is none of its successor", async () => {
    const made = await scene();
    const old = await woken(made);
    expect((await made.subscription.delete()).status).toBe(204);
    const config = { type: "webhook", webhook: { url: made.hook.url }, streams: [made.stream.name] };
    const anew = await newSubscription(server, made.name, config);
    const now = await woken(made);
    expect(now.generation).toBe(old.generation);
    const mixed = { ...now, callback_token: old.callback_token };
    expect((await anew.callback(mixed, { acks: acksOf(now), done: true })).status).toBeOneOf([401, 409]);
  });
});
