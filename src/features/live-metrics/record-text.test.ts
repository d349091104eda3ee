/** Records as one payload: the same bytes as joining them, whatever their length and script. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { splitJsonRecords } from "../../protocol/json-records.ts";
import { RecordText } from "./record-text.ts";

test("the payload splits into the records that were added, time after time", () => {
  const text = new RecordText();
  const records = fc.array(fc.string({ unit: "binary", maxLength: 40_000 }), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(records, (values) => {
      for (const value of values) text.add(JSON.stringify({ value }));
      const { payload, lengths } = text.take();
      expect(text.bytes).toBe(0);
      const split = splitJsonRecords(new TextEncoder().encode(`[${new TextDecoder().decode(payload)}]`));
      expect(split.ok && [...split.lengths]).toEqual([...lengths]);
      expect(JSON.parse(`[${new TextDecoder().decode(payload)}]`)).toEqual(values.map((value) => ({ value })));
    }),
    { numRuns: 50 },
  );
});
