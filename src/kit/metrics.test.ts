/** The registry: names, labels and their bound. */

import { expect, test } from "bun:test";
import { Metrics } from "./metrics.ts";

function values(metrics: Metrics, name: string): [string | null, unknown][] {
  const family = [...metrics.families()].find((candidate) => candidate.name === name);
  return [...(family?.samples() ?? [])].map(({ label, value }) => [label, value]);
}

test("counters count, gauges are read when asked, labels stand at 0 from the start", () => {
  const metrics = new Metrics();
  const counter = metrics.counter("a_total", "a");
  const gauge = { now: 1 };
  metrics.gauge("b", "b", () => gauge.now);
  const labelled = metrics.labelled("c_total", "c", "kind", ["x", "y"]);
  counter.add();
  counter.add(4);
  gauge.now = 7;
  labelled.of("y").add();
  expect([values(metrics, "a_total"), values(metrics, "b")]).toEqual([[[null, 5]], [[null, 7]]]);
  expect(values(metrics, "c_total")).toEqual([
    ["x", 0],
    ["y", 1],
  ]);
});

test("labels are bounded: what comes later counts as other", () => {
  const metrics = new Metrics();
  const labelled = metrics.labelled("c_total", "c", "kind", []);
  for (let label = 0; label < 1_000; label++) labelled.of(`l${label}`).add();
  const counted = values(metrics, "c_total");
  expect(counted).toHaveLength(65);
  expect(counted.at(-1)).toEqual(["other", 936]);
});

test.each(["a", "A_total", "a-b_total"])("%s is no name of a counter", (name) => {
  expect(() => new Metrics().counter(name, "")).toThrow();
});

test("a name is registered once, and only counters end in _total", () => {
  const metrics = new Metrics();
  metrics.gauge("a", "", () => 0);
  expect(() => metrics.gauge("a", "", () => 0)).toThrow();
  expect(() => metrics.gauge("b_total", "", () => 0)).toThrow();
});
