/** The exposition parser: what it makes of the format, and that it refuses everything that only looks like it. */

import { expect, test } from "bun:test";
import { type Family, parseExposition, type Sample } from "./exposition-parser.ts";

const plain = ({ name, labels, value, timestampMs }: Sample) => [name, Object.fromEntries(labels), value, timestampMs];
const family = (text: string, name: string): Family =>
  parseExposition(text).get(name) ?? expect.unreachable(`no family ${name}`);

/** A whole histogram, or one in which a line is replaced. */
function histogram(replace = "", by = ""): string {
  const lines = [
    "# TYPE h histogram",
    'h_bucket{le="0.1"} 1',
    'h_bucket{le="1"} 3',
    'h_bucket{le="+Inf"} 4',
    "h_sum 5.5",
    "h_count 4",
  ];
  const at = replace === "" ? 0 : lines.indexOf(replace);
  if (at === -1) throw new Error(`no line ${replace}`);
  return `${(replace === "" ? lines : lines.with(at, by)).filter((line) => line !== "").join("\n")}\n`;
}

test("families come with type, help and samples, in order", () => {
  const text = [
    "# HELP a_total  How \\\\ often\\nit\u2028was. ",
    "# TYPE a_total counter",
    'a_total{code="x"} 1',
    'a_total{code="y\\"\\\\\\n}, z",other="",} 2e3 1700000000000',
    "",
    "# a comment of somebody, TYPE of nothing",
    "#HELPLESS too",
    "  # TYPE\tb:c  gauge ",
    "\tb:c { } -.5 -1",
    "# TYPE empty gauge",
    "# TYPE s summary",
    's{quantile="0.5"} NaN',
    's{quantile="1"} 3.',
    "s_sum +Inf",
    "s_count 1",
    "",
  ].join("\n");
  const families = parseExposition(text);
  expect([...families.values()].map(({ name, type, help }) => [name, type, help])).toEqual([
    ["a_total", "counter", "How \\ often\nit\u2028was. "],
    ["b:c", "gauge", null],
    ["empty", "gauge", null],
    ["s", "summary", null],
  ]);
  expect([...families.values()].map(({ samples }) => samples.map(plain))).toEqual([
    [
      ["a_total", { code: "x" }, 1, null],
      ["a_total", { code: 'y"\\\n}, z', other: "" }, 2000, 1_700_000_000_000],
    ],
    [["b:c", {}, -0.5, -1]],
    [],
    [
      ["s", { quantile: "0.5" }, NaN, null],
      ["s", { quantile: "1" }, 3, null],
      ["s_sum", {}, Infinity, null],
      ["s_count", {}, 1, null],
    ],
  ]);
});

test("histograms: each set of labels is one of its own", () => {
  expect(family(histogram(), "h").samples).toHaveLength(5);
  const two = ["a", "b"].flatMap((who) => [
    `h_bucket{who="${who}",le="1"} 1`,
    `h_bucket{le="+Inf",who="${who}"} 2`,
    `h_sum{who="${who}"} 3`,
    `h_count{who="${who}"} 2`,
  ]);
  expect(family(`# TYPE h histogram\n${two.join("\n")}\n`, "h").samples).toHaveLength(8);
});

test("no text, and text without a metric, hold no family", () => {
  expect(parseExposition("").size).toBe(0);
  expect(parseExposition("\n  \t\n# nothing\n").size).toBe(0);
});

test.each([
  // Lines.
  ["# TYPE a gauge\na 1", 2, "no end"],
  ["<html>\n", 1, "not a sample"],
  ["# TYPE a gauge\na\n", 2, "not a sample"],
  ["# TYPE a1 gauge\na1\n", 2, "not a sample"],
  ["# TYPE a gauge\na 1 2 3\n", 2, "not a sample"],
  ["# TYPE a gauge\na 1 2.5\n", 2, "not a sample"],
  ["# TYPE a gauge\n1a 1\n", 2, "not a sample"],
  ["# TYPE a gauge\r\na 1\r\n", 1, "no type"],
  ["# TYPE a gauge\na 1\r\n", 2, "no number"],
  ["\r\n", 1, "not a sample"],
  // Names and types.
  ["# TYPE 1a gauge\n", 1, "no name"],
  ["# TYPE\n", 1, "no name"],
  ["# HELP\n", 1, "no name"],
  ["# TYPE a\n", 1, "no type"],
  ["# TYPE a meter\n", 1, "no type"],
  ["# TYPE a gauge counter\n", 1, "no type"],
  ["# TYPE a constructor\n", 1, "no type"],
  ["a 1\n", 1, "no TYPE"],
  ["# HELP a is not enough\na 1\n", 2, "no TYPE"],
  ["# HELP a is not enough\n", 1, "no TYPE"],
  ["# HELP a x\n# TYPE b gauge\n", 2, "no TYPE"],
  ["# TYPE a gauge\n# TYPE a gauge\n", 2, "second TYPE"],
  ["# HELP a x\n# HELP a x\n", 2, "second HELP"],
  ["# TYPE a gauge\na 1\n# HELP a x\n", 3, "after its samples"],
  ["# TYPE a gauge\na 1\n# TYPE a gauge\n", 3, "after its samples"],
  ["# TYPE a gauge\n# TYPE b gauge\n# TYPE a gauge\n", 3, "twice"],
  ["# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\na 2\n", 5, "no sample of the gauge b"],
  ["# TYPE a gauge\na_sum 1\n", 2, "no sample of"],
  ["# TYPE a histogram\na 1\n", 2, "no sample of"],
  ["# HELP a \\t\n# TYPE a gauge\n", 1, "no escape"],
  ["# HELP a \\\n# TYPE a gauge\n", 1, "no escape"],
  // Labels.
  ['# TYPE a gauge\na{b="1" 1\n', 2, "not a sample"],
  ['# TYPE a gauge\na{b="1"c="2"} 1\n', 2, "no label"],
  ['# TYPE a gauge\na{b="1",,} 1\n', 2, "no label"],
  ["# TYPE a gauge\na{,} 1\n", 2, "no label"],
  ["# TYPE a gauge\na{b=1} 1\n", 2, "no label"],
  ["# TYPE a gauge\na{b='1'} 1\n", 2, "no label"],
  ['# TYPE a gauge\na{b:c="1"} 1\n', 2, "no label"],
  ['# TYPE a gauge\na{="1"} 1\n', 2, "no label"],
  ['# TYPE a gauge\na{b="\\t"} 1\n', 2, "no escape"],
  ['# TYPE a gauge\na{b="1\\"} 1\n', 2, "not a sample"],
  ['# TYPE a gauge\na{b="1",b="2"} 1\n', 2, "there twice"],
  ['# TYPE a gauge\na{__name__="b"} 1\n', 2, "reserved"],
  // Values.
  ...["", "one", "0x10", "1_000", "1,5", "inf", "Infinity", "nan", "1e", "1e999", "--1", "."].map((value) => {
    return [`# TYPE a gauge\na{} ${value}\n`, 2, value === "" ? "not a sample" : "no number"] as const;
  }),
  ["# TYPE a counter\na -1\n", 2, "the counter a is -1"],
  ["# TYPE a counter\na NaN\n", 2, "the counter a is NaN"],
  ["# TYPE a counter\na +Inf\n", 2, "the counter a is Infinity"],
  // Series.
  ["# TYPE a gauge\na 1\na{} 2\n", 3, "twice"],
  ['# TYPE a gauge\na{b="1",c="2"} 1\na{c="2",b="1"} 1\n', 3, "twice"],
  [`${histogram()}# TYPE h_count gauge\nh_count 4\n`, 8, "twice"],
  // Histograms.
  [histogram('h_bucket{le="1"} 3', 'h_bucket{le="1"} 0'), 6, "not cumulative, at le=1"],
  [histogram('h_bucket{le="1"} 3', 'h_bucket{le="1"} 1.5'), 6, "not cumulative"],
  [histogram('h_bucket{le="1"} 3', 'h_bucket{le="1"} NaN'), 6, "not cumulative"],
  [histogram('h_bucket{le="0.1"} 1', 'h_bucket{le="0.1"} -1'), 6, "not cumulative"],
  [histogram('h_bucket{le="1"} 3', 'h_bucket{le="0.01"} 3'), 6, "out of order"],
  [histogram('h_bucket{le="1"} 3', 'h_bucket{le="0.10"} 3'), 6, "out of order"],
  [histogram('h_bucket{le="1"} 3', "h_bucket 3"), 6, "out of order"],
  [histogram('h_bucket{le="1"} 3', 'h_bucket{le="one"} 3'), 6, "out of order"],
  [histogram('h_bucket{le="+Inf"} 4'), 5, "no bucket +Inf"],
  [histogram('h_bucket{le="+Inf"} 4', 'h_bucket{le="+Inf"} 5'), 6, "+Inf holds 5, the count is 4"],
  [histogram("h_count 4", "h_count 5"), 6, "+Inf holds 4, the count is 5"],
  [histogram("h_count 4"), 5, "no _count"],
  [histogram("h_sum 5.5"), 5, "no _sum"],
  [histogram("h_sum 5.5", 'h_sum{who="a"} 5.5'), 6, "no _sum"],
  [histogram("h_sum 5.5", 'h_sum{le="1"} 5.5'), 6, "no bucket's"],
  // Summaries.
  ["# TYPE s summary\ns_sum 1\n", 2, "no _count"],
  ["# TYPE s summary\ns_sum 1\ns_count -1\n", 3, "a count of -1"],
  ['# TYPE s summary\ns{quantile="2"} 1\ns_sum 1\ns_count 1\n', 4, "quantiles"],
  ["# TYPE s summary\ns 1\ns_sum 1\ns_count 1\n", 4, "quantiles"],
  ['# TYPE s summary\ns{quantile="1"} 1\ns{quantile="0.5"} 1\ns_sum 1\ns_count 1\n', 5, "quantiles"],
])("%j is refused at line %d: %s", (text, line, reason) => {
  expect(() => parseExposition(text)).toThrow(expect.objectContaining({ name: "ExpositionError", line }));
  expect(() => parseExposition(text)).toThrow(reason);
});

test("a text that is cut off anywhere inside a line is refused", () => {
  const text = histogram();
  for (let end = 1; end < text.length; end++) {
    if (text[end - 1] !== "\n") expect(() => parseExposition(text.slice(0, end))).toThrow("line");
  }
});
