/** Heads as rows: what the sweeps look for is in the columns as long as there is something to do, and no longer. */

import { expect, test } from "bun:test";
import { type Deletion, newHead } from "../../protocol/stream.ts";
import { decodeHead, encodeHead } from "./stored-head.ts";

const expiry = { kind: "ttl", seconds: 10 } as const;
const config = { name: "s", contentType: "text/plain", expiry, createdMs: 1_000, from: 0, fork: null };

test.each([
  ["none", 11_000, 1],
  // Its forks still read it: it is trimmed, and does not expire.
  ["soft", null, 1],
  ["hard", null, 0],
] as const)("deletion %s: the deadline is %p and the mark of retention %p", (deletion, deadlineMs, retained) => {
  const head = newHead(7, config);
  head.retention = { maxAgeMs: null, maxBytes: 5 };
  head.deletion = deletion satisfies Deletion;
  const row = encodeHead(head);
  expect([row.deadline_ms, row.retained]).toEqual([deadlineMs, retained]);
  expect(decodeHead(row)).toEqual(head);
});
