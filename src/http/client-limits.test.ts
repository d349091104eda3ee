/** What one client may ask, by a clock of its own: requests, bytes that are owed, live connections. */

import { expect, test } from "bun:test";
import { ClientLimits, type ClientRates } from "./client-limits.ts";

const RATES: ClientRates = { requestsPerSecond: 10, bytesPerSecond: 1000, live: 2, streams: Infinity };

const STILL = { nowMs: () => 0, monotonicMs: () => 0 };

function limitsWith(more: Partial<ClientRates> = {}) {
  let atMs = 0;
  const clock = { nowMs: () => atMs, monotonicMs: () => atMs };
  const limits = new ClientLimits({ ...RATES, ...more }, clock);
  return { limits, pass: (ms: number): void => void (atMs += ms) };
}

const passed = (limits: ClientLimits, client: string, tries: number): number =>
  Array.from({ length: tries }, () => limits.admit(client)).filter((problem) => problem === null).length;

test("two seconds' worth of requests at once, then what the rate gives", () => {
  const { limits, pass } = limitsWith();
  expect(passed(limits, "a", 100)).toBe(20);
  expect(limits.admit("a")).toMatchObject({ status: 429, code: "rate-limited", headers: { "Retry-After": "1" } });
  expect(passed(limits, "b", 1)).toBe(1);
  pass(500);
  expect(passed(limits, "a", 100)).toBe(5);
  pass(3_600_000);
  expect(passed(limits, "a", 100)).toBe(20);
});

test("bytes are owed once they came, and nothing is admitted until they are paid", () => {
  const { limits, pass } = limitsWith();
  limits.spend("a", 2000);
  expect(limits.admit("a")).toBeNull();
  limits.spend("a", 2500);
  expect(limits.admit("a")).toMatchObject({ status: 429, headers: { "Retry-After": "3" } });
  expect(limits.admit("b")).toBeNull();
  pass(2499);
  expect(limits.admit("a")).toMatchObject({ headers: { "Retry-After": "1" } });
  pass(1);
  expect(limits.admit("a")).toBeNull();
});

test("who is refused for its debt does not use up requests", () => {
  const { limits, pass } = limitsWith();
  limits.spend("a", 3000);
  expect(passed(limits, "a", 100)).toBe(0);
  pass(1000);
  expect(passed(limits, "a", 100)).toBe(20);
});

test("a message is a request and its bytes, or nothing", () => {
  const { limits } = limitsWith();
  expect(limits.of("a").charge(5000)).toBeNull();
  expect(limits.of("a").charge(1)).toMatchObject({ status: 429, headers: { "Retry-After": "3" } });
});

test("live connections are held and given back, by client", () => {
  const { limits } = limitsWith();
  expect([limits.takeLive("a"), limits.takeLive("a"), limits.takeLive("a")]).toEqual([true, true, false]);
  expect(limits.takeLive("b")).toBe(true);
  limits.giveLive("a");
  expect([limits.takeLive("a"), limits.takeLive("a")]).toEqual([true, false]);
  limits.giveLive("a");
  limits.giveLive("a");
  limits.giveLive("b");
  expect([limits.takeLive("a"), limits.takeLive("a"), limits.takeLive("a")]).toEqual([true, true, false]);
});

test("of what the server has for all, one client holds a quarter: of live requests, and of body bytes unless one body needs more", () => {
  const limits = new ClientLimits({ ...RATES, live: 3 }, STILL, null, { liveRequests: 20, bodyBytes: 4_000 });
  const one = limits.of("a");
  expect(Array.from({ length: 3 }, () => one.takeLive())).toEqual([null, null, null]);
  expect(Array.from({ length: 3 }, () => one.takePlace()?.code)).toEqual([undefined, undefined, "too-many-live"]);
  one.giveLive();
  // There is room for it among the connections, and none among the places.
  expect([one.takePlace(), one.takeLive()?.code]).toEqual([null, "too-many-live"]);
  one.givePlace();
  expect([one.takeLive(), limits.of("b").takePlace()]).toEqual([null, null]);
  expect([one.takeBytes(600, 0), one.takeBytes(600, 0), one.takeBytes(400, 0)]).toEqual([true, false, true]);
  expect([one.takeBytes(600, 1_500), one.takeBytes(0, 1_600), one.takeBytes(600, 1_600)]).toEqual([false, true, true]);
  expect(limits.of("b").takeBytes(1_000, 0)).toBe(true);
  one.giveBytes(1_600);
  expect(one.takeBytes(1_000, 0)).toBe(true);
});

test("who lifts a limit lifts the share that goes with it", () => {
  const budget = { liveRequests: 20, bodyBytes: 4_000 };
  const limits = new ClientLimits({ ...RATES, live: Infinity, bytesPerSecond: Infinity }, STILL, null, budget);
  expect(Array.from({ length: 20 }, () => limits.of("a").takePlace())).not.toContain(expect.anything());
  expect(limits.of("a").takeBytes(4_000, 0)).toBe(true);
});

test("Infinity is no limit", () => {
  const { limits } = limitsWith({ requestsPerSecond: Infinity, bytesPerSecond: Infinity, live: Infinity });
  limits.spend("a", Number.MAX_SAFE_INTEGER);
  expect(passed(limits, "a", 10_000)).toBe(10_000);
  expect(Array.from({ length: 5000 }, () => limits.takeLive("a"))).not.toContain(false);
});

test("a client that comes back after many others holds what it held", () => {
  const { limits } = limitsWith();
  expect([limits.takeLive("a"), limits.takeLive("a")]).toEqual([true, true]);
  for (let at = 0; at < 200_000; at++) limits.admit(`other ${at}`);
  expect(limits.takeLive("a")).toBe(false);
});
