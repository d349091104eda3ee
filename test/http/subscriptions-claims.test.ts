/** Pull-wake (PROTOCOL §7.2, §7.3): wake events, claims and their races, acks, releases, leases. */

import { describe, expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { newStream, type StreamUnderTest } from "../support/streams.ts";
import {
  acksOf,
  append,
  type Claim,
  jsonOf,
  newPullWake,
  type PullWake,
  quiet,
  type SubscriptionUnderTest,
  verdict,
} from "../support/subscription-client.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const FENCED: [number, string] = [409, "FENCED"];
const NO_WORK: [number, string] = [409, "NO_PENDING_WORK"];
const TOKEN_INVALID: [number, string] = [401, "TOKEN_INVALID"];
let started = 0;

interface Scene extends PullWake {
  readonly stream: StreamUnderTest;
  readonly name: string;
}

async function scene(more: object = {}): Promise<Scene> {
  const name = `pull-${++started}`;
  const stream = await newStream(server, `${name}/a`);
  return { stream, name, ...(await newPullWake(server, name, { pattern: `${name}/*`, ...more })) };
}

function release(subscription: SubscriptionUnderTest, { wake_id, generation, token }: Claim): Promise<Response> {
  return subscription.post("release", { wake_id, generation }, token);
}

interface Conflict {
  readonly error: { readonly code: string; readonly current_holder?: string; readonly generation?: number };
}

function claimAll(subscription: SubscriptionUnderTest, count: number): Promise<Response[]> {
  return Promise.all(Array.from({ length: count }, (_, at) => subscription.claim(`worker-${at}`)));
}

describe("wake events", () => {
  test("one, with what the protocol says, and no other while it is not claimed", async () => {
    const made = await scene();
    const before = Date.now();
    await append(made.stream);
    const [event] = await made.eventsOf(1);
    expect(event).toEqual({
      type: "wake",
      subscription_id: made.name,
      stream: made.stream.name,
      generation: 1,
      ts: expect.any(Number),
    });
    expect(Math.abs((event?.ts ?? 0) - before)).toBeLessThan(2_000);
    for (let at = 0; at < 20; at++) await append(made.stream);
    await newStream(server, `${made.name}/b`, "application/json", { body: "[1]" });
    await quiet(100);
    expect(await made.events()).toHaveLength(1);
    expect(await made.subscription.shown()).toMatchObject({ generation: 1, lag_records: 22, pending_streams: 2 });
  });

  test.each([
    ["one by one", 0],
    ["at once", 1],
  ])("a cycle of wake, claim and done: each generation once, in order (%s)", async (_, atOnce) => {
    const made = await scene();
    for (let round = 1; round <= 10; round++) {
      if (atOnce === 1) await Promise.all([append(made.stream), append(made.stream), append(made.stream)]);
      else await append(made.stream);
      const events = await made.eventsOf(round);
      expect(events.map(({ generation }) => generation)).toEqual(Array.from({ length: round }, (__, at) => at + 1));
      const claim = await made.subscription.claimed();
      expect(claim.generation).toBe(round);
      const done = made.subscription.ack(claim, { acks: acksOf(claim), done: true });
      expect(await jsonOf(done)).toEqual({ ok: true, next_wake: false });
    }
  });
});

describe("claims", () => {
  test("what a claim answers", async () => {
    const made = await scene({ lease_ttl_ms: 5_000 });
    const empty = await newStream(server, `${made.name}/empty`);
    await append(made.stream);
    await made.eventsOf(1);
    const answer = await jsonOf<Claim>(made.subscription.claim("me"));
    expect(Object.keys(answer).toSorted()).toEqual(["generation", "lease_ttl_ms", "streams", "token", "wake_id"]);
    expect(answer).toMatchObject({ generation: 1, lease_ttl_ms: 5_000, wake_id: expect.any(String) });
    expect(answer.streams.map(({ path, has_pending }) => `${path} ${has_pending}`).toSorted()).toEqual([
      `${made.stream.name} true`,
      `${empty.name} false`,
    ]);
    const refused = await made.subscription.claim("you");
    expect(refused.status).toBe(409);
    expect(((await refused.json()) as Conflict).error).toMatchObject({
      code: "ALREADY_CLAIMED",
      current_holder: "me",
      generation: 1,
    });
    expect(((await (await made.subscription.claim("me")).json()) as Conflict).error.code).toBe("ALREADY_CLAIMED");
  });

  test("without news there is nothing to claim", async () => {
    const made = await scene();
    expect(await verdict(made.subscription.claim())).toEqual(NO_WORK);
    await append(made.stream);
    const claim = await made.subscription.claimed();
    await made.subscription.ack(claim, { acks: acksOf(claim), done: true });
    expect(await verdict(made.subscription.claim())).toEqual(NO_WORK);
    expect((await made.subscription.shown()).generation).toBe(1);
  });

  test("of twenty workers exactly one wins, in every round; the others hear who", async () => {
    const made = await scene();
    for (let round = 1; round <= 10; round++) {
      await append(made.stream);
      // With and without waiting for the event.
      if (round % 2 === 0) await made.eventsOf(round);
      const answers = await claimAll(made.subscription, 20);
      const winners = answers.flatMap((answer, at) => (answer.status === 200 ? [at] : []));
      expect(winners).toHaveLength(1);
      const winner = winners[0] ?? 0;
      const claim = (await answers[winner]?.json()) as Claim;
      const losers = await Promise.all(answers.filter((_, at) => at !== winner).map((answer) => answer.json()));
      for (const loser of losers as Conflict[]) {
        expect(loser.error).toMatchObject({
          code: "ALREADY_CLAIMED",
          current_holder: `worker-${winner}`,
          generation: claim.generation,
        });
      }
      expect((await made.subscription.ack(claim, { acks: acksOf(claim), done: true })).status).toBe(200);
    }
    const generations = (await made.events()).map(({ generation }) => generation);
    expect(new Set(generations).size).toBe(generations.length);
  });

  test("twenty workers, thirty records: each is worked off by the holder of the lease, none twice", async () => {
    const made = await scene();
    const seen: string[] = [];
    const over = new AbortController();
    const workers = Array.from({ length: 20 }, async (_, at) => {
      while (!over.signal.aborted) {
        const answer = await made.subscription.claim(`worker-${at}`);
        if (answer.status !== 200) {
          await answer.text();
          await quiet(2);
          continue;
        }
        const claim = (await answer.json()) as Claim;
        seen.push(...acksOf(claim).map(({ offset }) => offset));
        expect((await made.subscription.ack(claim, { acks: acksOf(claim), done: true })).status).toBe(200);
      }
    });
    for (let at = 0; at < 30; at++) {
      await append(made.stream);
      await quiet(3);
    }
    await until("all is worked off", async () => (await made.subscription.shown()).lag_records === 0);
    over.abort();
    await Promise.all(workers);
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen).toEqual(seen.toSorted());
    expect(seen.at(-1)).toBe(await made.stream.tail());
  });
});

describe("acks and releases", () => {
  test("without done the claim is kept; with done the lease is over, and what is left wakes again", async () => {
    const made = await scene();
    const first = await append(made.stream);
    await append(made.stream);
    const claim = await made.subscription.claimed();
    const acks = [{ stream: made.stream.name, offset: first }];
    expect(await jsonOf(made.subscription.ack(claim, { acks }))).toMatchObject({ ok: true });
    expect(await made.subscription.shown()).toMatchObject({ lag_records: 1, generation: 1 });
    expect((await made.subscription.claim("other")).status).toBe(409);
    const told = (await made.events()).length;
    expect(await jsonOf(made.subscription.ack(claim, { done: true }))).toEqual({ ok: true, next_wake: true });
    const events = await made.eventsOf(told + 1);
    expect(events.at(-1)?.generation).toBe(2);
    const next = await made.subscription.claimed("other");
    expect(next.generation).toBe(2);
    expect(next.streams[0]).toMatchObject({ acked_offset: first, has_pending: true });
  });

  test("a release gives the wake back without moving anything, and wakes again", async () => {
    const made = await scene();
    await append(made.stream);
    let last: Claim | undefined;
    for (let round = 1; round <= 3; round++) {
      await made.eventsOf(round);
      const claim = await made.subscription.claimed(`worker-${round}`);
      expect(claim.wake_id).not.toBe(last?.wake_id ?? "");
      expect(claim.generation).toBe(round);
      expect(await verdict(release(made.subscription, claim))).toEqual([204, ""]);
      expect(await verdict(release(made.subscription, claim))).toEqual(FENCED);
      expect(await verdict(made.subscription.ack(claim, { done: true }))).toEqual(FENCED);
      last = claim;
    }
    await made.eventsOf(4);
    expect((await made.subscription.shown()).lag_records).toBe(1);
  });

  test("a release with nothing left wakes nobody", async () => {
    const made = await scene();
    await append(made.stream);
    await made.eventsOf(1);
    const claim = await made.subscription.claimed();
    await made.subscription.ack(claim, { acks: acksOf(claim) });
    expect((await release(made.subscription, claim)).status).toBe(204);
    await quiet(100);
    expect(await made.events()).toHaveLength(1);
    expect(await verdict(made.subscription.claim())).toEqual(NO_WORK);
  });

  test("of acks with done and releases at once one wins, and exactly one wake follows", async () => {
    const made = await scene();
    await append(made.stream);
    await made.eventsOf(1);
    const claim = await made.subscription.claimed();
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, at) =>
        verdict(at % 2 === 0 ? made.subscription.ack(claim, { done: true }) : release(made.subscription, claim)),
      ),
    );
    expect(answers.filter(([status]) => status < 300)).toHaveLength(1);
    for (const answer of answers.filter(([status]) => status >= 300)) expect(answer).toEqual(FENCED);
    await made.eventsOf(2);
    await quiet(100);
    expect(await made.events()).toHaveLength(2);
  });

  test("token, generation and wake id all have to be those of the present claim", async () => {
    const made = await scene();
    await append(made.stream);
    const old = await made.subscription.claimed("old");
    await release(made.subscription, old);
    const now = await made.subscription.claimed("now");
    const before = await made.subscription.shown();
    for (const token of [old.token, now.token]) {
      for (const generation of [old.generation, now.generation, now.generation + 1, 0]) {
        for (const wake_id of [old.wake_id, now.wake_id, "w"]) {
          if (token === now.token && generation === now.generation && wake_id === now.wake_id) continue;
          const stale = { ...now, token, generation, wake_id };
          expect(await verdict(made.subscription.ack(stale, { acks: acksOf(now), done: true }))).toEqual(FENCED);
          expect(await verdict(made.subscription.ack(stale))).toEqual(FENCED);
          expect(await verdict(release(made.subscription, stale))).toEqual(FENCED);
        }
      }
    }
    const foreign = await scene();
    await append(foreign.stream);
    const { token } = await foreign.subscription.claimed();
    expect(await verdict(made.subscription.ack({ ...now, token }, { done: true }))).toEqual(TOKEN_INVALID);
    expect(await verdict(release(made.subscription, { ...now, token }))).toEqual(TOKEN_INVALID);
    expect(await made.subscription.shown()).toEqual(before);
    expect((await made.subscription.ack(now, { acks: acksOf(now), done: true })).status).toBe(200);
  });

  test("an event that was told but not claimed can neither be acked nor released", async () => {
    const made = await scene();
    await append(made.stream);
    const claim = await made.subscription.claimed();
    await release(made.subscription, claim);
    await until("the next wake is told", async () => (await made.events()).at(-1)?.generation === 2);
    const guess = { ...claim, generation: 2 };
    expect(await verdict(made.subscription.ack(guess, { done: true }))).toEqual(FENCED);
    expect(await verdict(release(made.subscription, guess))).toEqual(FENCED);
  });

  test("deleted: acks and releases under way fail and move nothing", async () => {
    const made = await scene();
    await append(made.stream);
    const claim = await made.subscription.claimed();
    expect((await made.subscription.delete()).status).toBe(204);
    expect((await made.subscription.ack(claim, { acks: acksOf(claim), done: true })).status).toBe(404);
    expect((await release(made.subscription, claim)).status).toBe(404);
    const config = { type: "pull-wake", wake_stream: made.wakeStream.name, streams: [made.stream.name, "x"] };
    expect((await made.subscription.put(config)).status).toBe(201);
    await append(made.stream);
    await until("it is woken", async () => (await made.subscription.shown()).generation === 1);
    const before = await made.subscription.shown();
    expect((await made.subscription.ack(claim, { acks: acksOf(claim), done: true })).status).toBeOneOf([401, 409]);
    expect(await made.subscription.shown()).toEqual(before);
  });
});

describe("leases of claims", () => {
  test.concurrent("a wake that nobody claims is told again after its lease, then after twice that", async () => {
    const made = await scene({ lease_ttl_ms: 1_000 });
    await append(made.stream);
    const events = await made.eventsOf(3, 5_000);
    const [first = 0, second = 0, third = 0] = events.map(({ ts }) => ts);
    expect(second - first).toBeGreaterThanOrEqual(1_000);
    expect(second - first).toBeLessThan(1_400);
    expect(third - second).toBeGreaterThanOrEqual(2_000);
    expect(third - second).toBeLessThan(2_500);
    const generations = events.map(({ generation }) => generation);
    expect(generations).toEqual(generations.toSorted((left, right) => left - right));
    const claim = await made.subscription.claimed();
    expect(claim.generation).toBe(generations.at(-1) ?? 0);
    await made.subscription.ack(claim, { acks: acksOf(claim), done: true });
    // The next one begins at its lease again.
    await append(made.stream);
    const [, , , fourth, fifth] = await made.eventsOf(5, 3_000);
    expect((fifth?.ts ?? 0) - (fourth?.ts ?? 0)).toBeLessThan(1_500);
  }, 60_000);

  test.concurrent("an expired lease fences its holder, wakes again, and lets others claim", async () => {
    const made = await scene({ lease_ttl_ms: 1_000 });
    await append(made.stream);
    await made.eventsOf(1);
    const startedMs = Date.now();
    const old = await made.subscription.claimed("old");
    const events = await made.eventsOf(2, 3_000);
    const waited = (events[1]?.ts ?? 0) - startedMs;
    expect(waited).toBeGreaterThanOrEqual(990);
    expect(waited).toBeLessThan(1_500);
    expect(events[1]?.generation).toBe(2);
    expect(await verdict(made.subscription.ack(old, { acks: acksOf(old), done: true }))).toEqual(FENCED);
    expect(await verdict(release(made.subscription, old))).toEqual(FENCED);
    expect((await made.subscription.shown()).lag_records).toBe(1);
    const now = await made.subscription.claimed("now");
    expect(now.generation).toBe(2);
    expect(now.wake_id).not.toBe(old.wake_id);
    expect((await made.subscription.ack(now, { acks: acksOf(now), done: true })).status).toBe(200);
  });

  test.concurrent("a heartbeat keeps the claim beyond its lease; the last one counts", async () => {
    const made = await scene({ lease_ttl_ms: 1_000 });
    await append(made.stream);
    const claim = await made.subscription.claimed("me");
    const told = (await made.events()).length;
    for (let beat = 0; beat < 5; beat++) {
      await quiet(500);
      expect((await made.subscription.ack(claim)).status).toBe(200);
      expect((await made.subscription.claim("you")).status).toBe(409);
    }
    expect(await made.events()).toHaveLength(told);
    const lastMs = Date.now();
    const events = await made.eventsOf(told + 1, 3_000);
    expect((events.at(-1)?.ts ?? 0) - lastMs).toBeGreaterThan(900);
    expect(await verdict(made.subscription.ack(claim))).toEqual(FENCED);
  });

  test.concurrent("a refused ack is no heartbeat", async () => {
    const made = await scene({ lease_ttl_ms: 1_000 });
    await append(made.stream);
    const claim = await made.subscription.claimed("me");
    await quiet(600);
    const acks = [{ stream: made.stream.name, offset: "-1" }];
    expect(await verdict(made.subscription.ack(claim, { acks }))).toEqual([409, "INVALID_OFFSET"]);
    await quiet(600);
    expect(await verdict(made.subscription.ack(claim))).toEqual(FENCED);
  });

  test.concurrent("a lease that ends with all acked leaves nothing behind", async () => {
    const made = await scene({ lease_ttl_ms: 1_000 });
    await append(made.stream);
    await made.eventsOf(1);
    const claim = await made.subscription.claimed("me");
    await made.subscription.ack(claim, { acks: acksOf(claim) });
    await quiet(1_300);
    expect(await made.events()).toHaveLength(1);
    expect(await verdict(made.subscription.claim("you"))).toEqual(NO_WORK);
    await append(made.stream);
    await made.eventsOf(2);
    expect((await made.subscription.claimed("you")).generation).toBe(2);
  });

  test.concurrent("twenty workers race for what an expired lease left", async () => {
    const made = await scene({ lease_ttl_ms: 1_000 });
    await append(made.stream);
    await made.subscription.claimed("dead");
    const winners: Claim[] = [];
    const deadline = Date.now() + 1_600;
    await Promise.all(
      Array.from({ length: 20 }, async (_, at) => {
        while (Date.now() < deadline && winners.length === 0) {
          const answer = await made.subscription.claim(`worker-${at}`);
          if (answer.status === 200) winners.push((await answer.json()) as Claim);
          else await answer.text();
          await quiet(5);
        }
      }),
    );
    expect(winners).toHaveLength(1);
    expect(winners[0]?.generation).toBeGreaterThanOrEqual(2);
    const [winner] = winners;
    if (winner !== undefined) expect((await made.subscription.ack(winner, { done: true })).status).toBe(200);
  });
});
