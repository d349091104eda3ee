/** Patterns over stream names, against a matcher that is slow and plain. */

import { describe, expect, test } from "bun:test";
import { array, assert as check, constantFrom, property } from "fast-check";
import { parsePattern, type Pattern, PatternTree } from "./glob.ts";

function pattern(text: string): Pattern {
  const parsed = parsePattern(text);
  if (typeof parsed === "string") throw new Error(parsed);
  return parsed;
}

function naive(segments: readonly string[], parts: readonly string[]): boolean {
  const [segment, ...rest] = segments;
  if (segment === undefined) return parts.length === 0;
  if (segment === "**") return parts.some((_, at) => naive(rest, parts.slice(at))) || naive(rest, []);
  return parts.length > 0 && (segment === "*" || segment === parts[0]) && naive(rest, parts.slice(1));
}

describe("a pattern", () => {
  test.each([
    ["events/*", "events/a", true],
    ["events/*", "events", false],
    ["events/*", "events/a/b", false],
    ["events/**", "events", true],
    ["events/**", "events/a/b", true],
    ["**", "a", true],
    ["**/log", "log", true],
    ["**/log", "a/b/log", true],
    ["a/**/z", "a/z", true],
    ["a/**/z", "a/b/c/z", true],
    ["a/**/z", "a/b/c", false],
    ["a/%2A", "a/*", true],
    ["a/%2A", "a/b", false],
  ])("%s on %s: %p", (text, name, matches) => {
    const tree = new PatternTree<string>();
    tree.add(pattern(text), text);
    expect([...tree.match(name)]).toEqual(matches ? [text] : []);
    expect(!matches || name.startsWith(pattern(text).prefix)).toBe(true);
  });

  test.each(["a*", "a//b", "", "/a", "**/**/**", "***"])("%p is none", (text) => {
    expect(typeof parsePattern(text)).toBe("string");
  });
});

test("many patterns in one tree match what each would alone, also after some are removed", () => {
  const segment = constantFrom("a", "b", "*", "**");
  const name = array(constantFrom("a", "b", "c"), { minLength: 1, maxLength: 5 });
  check(
    property(array(array(segment, { minLength: 1, maxLength: 4 }), { maxLength: 12 }), name, (patterns, parts) => {
      const valid = patterns
        .map((segments) => segments.join("/"))
        .filter((text) => typeof parsePattern(text) !== "string");
      const tree = new PatternTree<number>();
      for (const [at, text] of valid.entries()) tree.add(pattern(text), at);
      for (const [at, text] of valid.entries()) if (at % 3 === 0) tree.remove(pattern(text), at);
      const expected = valid.flatMap((text, at) => (at % 3 > 0 && naive(text.split("/"), parts) ? [at] : []));
      expect([...tree.match(parts.join("/"))].sort((left, right) => left - right)).toEqual(expected);
    }),
    { numRuns: 2_000 },
  );
});

test("a hostile pattern costs little", () => {
  const tree = new PatternTree<number>();
  for (let at = 0; at < 1_000; at++)
    tree.add(pattern(`**/${Array.from({ length: 20 }, () => "*").join("/")}/x${at}`), at);
  const startMs = performance.now();
  tree.match(Array.from({ length: 500 }, () => "a").join("/"));
  expect(performance.now() - startMs).toBeLessThan(20);
});
