/** Tokens: good for their subscription and generation, for a day, and only as they were made. */

import { expect, test } from "bun:test";
import { assert as check, nat, property, string } from "fast-check";
import { TOKEN_TTL_MS } from "./limits.ts";
import { WakeTokens } from "./wake-tokens.ts";

const NOW_MS = 1_900_000_000_000;
const tokens = new WakeTokens(new Uint8Array(32).fill(7));

test("a token is good for its subscription, until it expires", () => {
  const token = tokens.mint({ subscription: "a 1", generation: 3 }, NOW_MS);
  expect(tokens.verify(token, "a 1", NOW_MS)).toEqual({ generation: 3 });
  expect(tokens.verify(token, "a 2", NOW_MS)).toBe("TOKEN_INVALID");
  expect(tokens.verify(token, "a 1", NOW_MS + TOKEN_TTL_MS)).toEqual({ generation: 3 });
  expect(tokens.verify(token, "a 1", NOW_MS + TOKEN_TTL_MS + 1)).toBe("TOKEN_EXPIRED");
});

test("one of another secret is none", () => {
  const others = new WakeTokens(new Uint8Array(32).fill(8));
  expect(tokens.verify(others.mint({ subscription: "a", generation: 1 }, NOW_MS), "a", NOW_MS)).toBe("TOKEN_INVALID");
});

test("whatever is changed of it, it is none", () => {
  const token = tokens.mint({ subscription: "a", generation: 1 }, NOW_MS);
  check(
    property(nat(token.length - 1), nat(63), (at, letter) => {
      const changed = `${token.slice(0, at)}${ALPHABET[letter] ?? ""}${token.slice(at + 1)}`;
      const verdict = tokens.verify(changed, "a", NOW_MS);
      if (changed !== token) expect(verdict).toBe("TOKEN_INVALID");
    }),
  );
  check(property(string(), (text) => tokens.verify(text, "a", NOW_MS) === "TOKEN_INVALID"));
});

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

test.each(["=", "==", "!!", " ", "."])("followed by %j it is another text, and none", (more) => {
  const token = tokens.mint({ subscription: "a", generation: 1 }, NOW_MS);
  expect(tokens.verify(token + more, "a", NOW_MS)).toBe("TOKEN_INVALID");
});
