/** The lag and the pending streams of a subscription are right after any changes, counted again from scratch. */

import { expect, test } from "bun:test";
import { array, assert as check, constantFrom, nat, property, record } from "fast-check";
import { Links } from "./links.ts";

test("what is pending, and by how much, after any changes", () => {
  const change = record({
    kind: constantFrom("add", "tail", "ack", "remove"),
    stream: nat(4),
    seq: nat(20),
  });
  check(
    property(array(change, { maxLength: 60 }), (changes) => {
      const links = new Links();
      for (const { kind, stream, seq } of changes) {
        const link = links.get(stream);
        if (kind === "remove") links.remove(stream);
        else if (link === undefined) {
          const tail = Math.max(seq, 10);
          links.add({ streamId: stream, name: `s${stream}`, acked: seq, tail, isExplicit: true, isGlob: false });
        } else if (kind === "tail") links.moveTail(link, seq);
        else if (kind === "ack") links.ack(link, Math.min(seq, link.tail));
        const all = links.ids().map((id) => links.get(id));
        const pending = all.filter((one) => one !== undefined && one.tail > one.acked);
        expect(links.pendingStreams).toBe(pending.length);
        expect(links.hasPending).toBe(pending.length > 0);
        expect(links.lag).toBe(pending.reduce((sum, one) => sum + (one?.tail ?? 0) - (one?.acked ?? 0), 0));
        const first = links.first(links.size).map(({ acked, tail }) => tail > acked);
        expect(first).toEqual([...first].sort((left, right) => Number(right) - Number(left)));
      }
    }),
  );
});
