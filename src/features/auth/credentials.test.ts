/** What counts as a credential of a request, and what does not. */

import { expect, test } from "bun:test";
import { credentialOf } from "./credentials.ts";
import { MAX_TOKEN_CHARS } from "./limits.ts";

const inHeader = (authorization: string): ReturnType<typeof credentialOf> =>
  credentialOf(new Headers({ authorization }), new URLSearchParams());
const inQuery = (query: string): ReturnType<typeof credentialOf> =>
  credentialOf(new Headers(), new URLSearchParams(query));

test("a bearer token, whatever the case of its scheme", () => {
  for (const scheme of ["Bearer", "bearer", "BEARER"])
    expect(inHeader(`${scheme} abc.def-_~+/=`)).toEqual({ token: "abc.def-_~+/=", isSigned: false });
});

test("a signed token in the query", () => {
  expect(inQuery("offset=-1&access=su_x")).toEqual({ token: "su_x", isSigned: true });
});

test("nothing is missing, and only nothing", () => {
  expect(inQuery("")).toBe("missing");
  expect(inQuery("Access=su_x")).toBe("missing");
  expect(inHeader("")).toBe("malformed");
});

test.each([
  "Bearer",
  "Bearer ",
  "Bearer  a",
  "Bearer a b",
  "Bearer\ta",
  "Basic YTpi",
  "a",
  "Bearer a, Bearer b",
  "Bearer ä",
])("%p is malformed", (authorization) => {
  expect(inHeader(authorization)).toBe("malformed");
});

test("two headers, two parameters, and what is too long are malformed", () => {
  const twice = new Headers({ authorization: "Bearer a" });
  twice.append("authorization", "Bearer b");
  expect(credentialOf(twice, new URLSearchParams())).toBe("malformed");
  expect(inQuery("access=a&access=a")).toBe("malformed");
  expect(inHeader(`Bearer ${"x".repeat(MAX_TOKEN_CHARS)}`)).toBe("malformed");
  expect(inQuery(`access=${"x".repeat(MAX_TOKEN_CHARS + 1)}`)).toBe("malformed");
  expect(inQuery(`access=${"x".repeat(MAX_TOKEN_CHARS)}`)).toMatchObject({ isSigned: true });
});

test("the header counts, also when it is none", () => {
  const query = new URLSearchParams("access=su_x");
  expect(credentialOf(new Headers({ authorization: "Bearer a" }), query)).toEqual({ token: "a", isSigned: false });
  expect(credentialOf(new Headers({ authorization: "Basic a" }), query)).toBe("malformed");
});
