/** The rules of an append as a table: what a stream looks like, what a request asks, what the rules say. */

import { describe, expect, test } from "bun:test";
import { type AppendRequest, type AppendView, decideAppend } from "./append-rules.ts";
import { MAX_PRODUCERS_PER_STREAM } from "./limits.ts";
import type { ProducerClaim, ProducerState } from "./stream.ts";

const body = { payload: new Uint8Array([49]), lengths: [1] };
const badBody = { problem: { kind: "json-invalid", reason: "no" } } as const;

function view(over: Partial<AppendView> = {}, producers: Record<string, ProducerState> = {}): AppendView {
  return {
    id: 7,
    next: 5,
    closed: false,
    closedBy: null,
    contentType: "application/json",
    streamSeq: "b",
    producerCount: Object.keys(producers).length,
    producer: (id) => producers[id],
    ...over,
  };
}

function request(over: Partial<AppendRequest> = {}): AppendRequest {
  const base = { body, contentType: "application/json", producer: null, streamSeq: null, ifMatch: null, close: false };
  return { ...base, ...over };
}

const claim = (epoch: number, seq: number): { producer: ProducerClaim } => ({ producer: { id: "p", epoch, seq } });
const known = { p: { epoch: 2, lastSeq: 4 } };
const closed = view({ closed: true, closedBy: { id: "p", epoch: 2, seq: 4 } }, known);

/** `accept`, `duplicate`, `already-closed`, or the kind of the refusal. */
function verdict(seen: AppendView, asked: AppendRequest): string {
  const decision = decideAppend(seen, asked);
  return decision.kind === "reject" ? decision.why.kind : decision.kind;
}

describe("one rule at a time", () => {
  const cases: readonly (readonly [string, AppendView, AppendRequest, string])[] = [
    ["plain append", view(), request(), "accept"],
    [
      "parameters of the type do not matter",
      view(),
      request({ contentType: "Application/JSON; charset=utf-8" }),
      "accept",
    ],
    ["another type", view(), request({ contentType: "text/plain" }), "content-type-mismatch"],
    ["a close without data has no type", view(), request({ body: null, contentType: null, close: true }), "accept"],
    ["new producer at 0", view(), request(claim(9, 0)), "accept"],
    ["new producer past 0", view(), request(claim(0, 1)), "producer-gap"],
    ["next seq", view({}, known), request(claim(2, 5)), "accept"],
    ["last seq again", view({}, known), request(claim(2, 4)), "duplicate"],
    ["an old seq", view({}, known), request(claim(2, 0)), "duplicate"],
    ["a gap", view({}, known), request(claim(2, 6)), "producer-gap"],
    ["an old epoch", view({}, known), request(claim(1, 5)), "producer-stale-epoch"],
    ["a new epoch at 0", view({}, known), request(claim(3, 0)), "accept"],
    ["a new epoch past 0", view({}, known), request(claim(3, 1)), "producer-epoch-start"],
    [
      "one producer too many",
      view({ producerCount: MAX_PRODUCERS_PER_STREAM }),
      request(claim(0, 0)),
      "too-many-producers",
    ],
    ["If-Match at the tail", view(), request({ ifMatch: { streamId: 7, seq: 5 } }), "accept"],
    ["If-Match elsewhere", view(), request({ ifMatch: { streamId: 7, seq: 4 } }), "tail-moved"],
    ["If-Match of a former stream", view(), request({ ifMatch: { streamId: 6, seq: 5 } }), "tail-moved"],
    ["Stream-Seq above", view(), request({ streamSeq: "c" }), "accept"],
    ["Stream-Seq equal", view(), request({ streamSeq: "b" }), "stream-seq-regressed"],
    [
      "Stream-Seq compares bytes, not numbers",
      view({ streamSeq: "9" }),
      request({ streamSeq: "10" }),
      "stream-seq-regressed",
    ],
    ["a body that is no JSON", view(), request({ body: badBody }), "json-invalid"],
    ["an empty array", view(), request({ body: { payload: new Uint8Array(), lengths: [] } }), "empty-array"],
    ["closed: append", closed, request(), "stream-closed"],
    ["closed: close again", closed, request({ body: null, close: true }), "already-closed"],
    ["closed: append and close", closed, request({ close: true }), "stream-closed"],
    ["closed: the closer's own retry", closed, request(claim(2, 4)), "duplicate"],
    ["closed: another claim", closed, request(claim(2, 5)), "stream-closed"],
  ];
  test.each(cases)("%s", (_name, seen, asked, expected) => expect(verdict(seen, asked)).toBe(expected));
});

test("the first rule that refuses speaks: closed, type, producer, If-Match, Stream-Seq, body", () => {
  const everythingWrong = request({
    contentType: "text/plain",
    ...claim(1, 9),
    ifMatch: { streamId: 7, seq: 0 },
    streamSeq: "a",
    body: badBody,
  });
  const order: string[] = [verdict(closed, everythingWrong)];
  let asked = everythingWrong;
  const mend: readonly Partial<AppendRequest>[] = [
    { contentType: "application/json" },
    { producer: null },
    { ifMatch: null },
    { streamSeq: null },
  ];
  order.push(verdict(view({}, known), asked));
  for (const step of mend) order.push(verdict(view({}, known), (asked = { ...asked, ...step })));
  expect(order).toEqual([
    "stream-closed",
    "content-type-mismatch",
    "producer-stale-epoch",
    "tail-moved",
    "stream-seq-regressed",
    "json-invalid",
  ]);
});

test("a retry is a duplicate although everything that its success changed now stands against it", () => {
  const after = view({ next: 6, streamSeq: "c" }, { p: { epoch: 2, lastSeq: 5 } });
  const retried = request({ ...claim(2, 5), streamSeq: "c", ifMatch: { streamId: 7, seq: 5 } });
  expect(decideAppend(after, retried)).toEqual({ kind: "duplicate", producer: { epoch: 2, lastSeq: 5 } });
});
