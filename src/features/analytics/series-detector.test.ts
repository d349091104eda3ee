/** The documented rules on obvious series, and what the detector promises about its silence. */

import { describe, expect, test } from "bun:test";
import { array, assert, constantFrom, double, oneof, property } from "fast-check";
import { seededRandom } from "../../../test/support/random.ts";
import { SeriesDetector, type Detection, type DetectorConfig } from "./series-detector.ts";

const CONFIG: DetectorConfig = { threshold: 0.8, history: 10, minimum: 3 };
/** About 100, within 2. */
const USUAL = [99.2, 101.1, 100.4, 98.3, 100.9, 99.7, 101.8, 98.8, 100.1, 99.5];

function watch(values: readonly number[], config: Partial<DetectorConfig> = {}): (Detection & { window: number })[] {
  const detector = new SeriesDetector({ ...CONFIG, ...config });
  return values.flatMap((value, window) => detector.observe(value).map((detection) => ({ window, ...detection })));
}

const told = (values: readonly number[], config: Partial<DetectorConfig> = {}): string[] =>
  watch(values, config).map(({ window, type }) => `${window} ${type}`);

const times = (count: number, value: (at: number) => number): number[] =>
  Array.from({ length: count }, (_, at) => value(at));
const usual = (count: number): number[] =>
  times(count, (at) => (USUAL[(at * 7) % 10] ?? 0) + (((at * 13) % 11) - 5) / 10);

describe("the documented rules", () => {
  test("more than twice the mean of the last windows is a spike, less than half of it a drop", () => {
    const [spike, drop, ...more] = watch([...USUAL, 250, 40]);
    expect(spike).toEqual({
      window: 10,
      type: "spike",
      confidence: 1,
      description: "250 after a mean of 99.98 in 10 windows",
    });
    expect(drop).toMatchObject({ window: 11, type: "drop", description: "40 after a mean of 115.1 in 10 windows" });
    expect(drop?.confidence).toBeGreaterThan(0.8);
    expect(more).toEqual([]);
  });

  test("nothing before the minimum of windows, and the rules as they are after it", () => {
    expect(told([1, 1, 50])).toEqual([]);
    expect(told([1, 1, 1, 50])).toEqual(["3 spike"]);
    expect(told([1, 1, 1, 50], { minimum: 4 })).toEqual([]);
    expect(told([10, 30, 14, 55])).toEqual(["3 spike"]);
    expect(told([10, 30, 14, 3])).toEqual(["3 drop"]);
  });

  test("far from the level without being twice of it is an anomaly", () => {
    expect(told([...USUAL, 125])).toEqual(["10 anomaly"]);
    expect(told([...usual(60), 115])).toEqual(["60 anomaly"]);
  });

  test.each([1, -1])("a steady rise or fall (%p) is a trend, told once while it goes on", (sign) => {
    expect(told(times(40, (at) => sign * (100 + at * 5 + ((at * 7) % 3))))).toEqual(["5 trend"]);
    const [trend, ...more] = watch([...usual(60), ...times(12, (at) => 100 + sign * (at + 1) * 0.8)]);
    expect(trend?.type).toBe("trend");
    expect(trend?.description).toMatch(
      sign > 0 ? /^rising by 0\.\d+ a window for 10 windows, to 1/ : /^falling by 0\./,
    );
    expect(more).toEqual([]);
  });

  test("the threshold decides what is told", () => {
    expect(told([...usual(100), 104.5])).toEqual([]);
    expect(told([...usual(100), 104.5], { threshold: 0.6 })).toContain("100 anomaly");
    expect(told([...usual(100), 112], { threshold: 0.99 })).toEqual([]);
    expect(told([...usual(100), 210], { threshold: 1 })).toEqual(["100 spike"]);
  });
});

describe("silence", () => {
  test("a series that doubles all the time does not alarm when its noise is known", () => {
    const random = seededRandom(1);
    const values = times(2000, () => 10 + random.below(31));
    expect(values.filter((value, at) => value > 2 * (values[at - 1] ?? value)).length).toBeGreaterThan(200);
    expect(watch(values).filter(({ window }) => window >= 20)).toEqual([]);
  });

  test("a new level is told once and is the new normal then", () => {
    const values = [...usual(100), ...usual(100).map((value) => value + 30), ...usual(100)];
    expect(told(values)).toEqual(["100 anomaly", "200 anomaly"]);
    expect(told([...values.slice(0, 150), 275, ...values.slice(150)])).toEqual([
      "100 anomaly",
      "150 spike",
      "201 anomaly",
    ]);
  });

  test("after an alarm its direction is quiet, the other is not", () => {
    expect(told([...usual(50), 150, 150, 150, 50, ...usual(30)])).toEqual(["50 anomaly", "53 drop"]);
  });

  test("a wider noise is told and gets used to", () => {
    const wide = usual(300).map((value) => 100 + (value - 100) * 3);
    const windows = watch([...usual(200), ...wide]).map(({ window }) => window);
    expect(windows.length).toBeGreaterThan(0);
    expect(windows.filter((window) => window > 250)).toEqual([]);
  });

  test("what happens every few windows is a habit", () => {
    expect(watch(times(2000, (at) => (at % 50 === 49 ? 5 : 0))).length).toBeLessThanOrEqual(5);
  });

  test.each([0, 100, -7])("a constant series (%p) tells of its first other value, not of a thousandth", (level) => {
    const rest = times(100, () => level);
    expect(told(rest)).toEqual([]);
    expect(watch([...rest, level + Math.max(1, level / 20), ...rest])).toHaveLength(1);
    expect(told([...rest, level * 1.001, ...rest])).toEqual([]);
  });

  test("nothing costs nothing: the same empty list every time", () => {
    const detector = new SeriesDetector(CONFIG);
    const lists = new Set(usual(100).map((value) => detector.observe(value)));
    expect(lists.size).toBe(1);
    expect(Object.isFrozen([...lists][0])).toBe(true);
  });
});

describe("any values", () => {
  const finite = double({ noNaN: true, noDefaultInfinity: true });
  const value = oneof(
    finite,
    double({ min: -100, max: 100, noNaN: true }),
    constantFrom(0, 1, 1, 1, -1, 1e308, 5e-324),
  );

  test("have detections with a type, a confidence of 0 to 1 and a description without NaN", () => {
    assert(
      property(array(value, { maxLength: 120, size: "max" }), (values) => {
        for (const { confidence, description } of watch(values, { threshold: 0.5 })) {
          expect(confidence).toBeGreaterThanOrEqual(0.5);
          expect(confidence).toBeLessThanOrEqual(1);
          expect(description).not.toMatch(/NaN|Infinity|undefined/);
        }
      }),
      { numRuns: 300 },
    );
  });

  test("leave nothing behind that would silence it: NaN compares with nothing", () => {
    const most = oneof(
      double({ min: -1e9, max: 1e9, noNaN: true }),
      double({ min: -1, max: 1, noNaN: true }),
      constantFrom(0, 1),
    );
    assert(
      property(array(most, { maxLength: 60, size: "max" }), (values) => {
        // Twice: the first may fall into a quiet time.
        const alarms = watch([...values, ...usual(100), 1e200, ...usual(12), 1e300]);
        expect(alarms.at(-1)?.window).toBeGreaterThanOrEqual(values.length + 100);
      }),
      { numRuns: 300 },
    );
  });

  test("that are not finite are passed over", () => {
    expect(told([...USUAL, Number.NaN, Infinity, -Infinity, 250])).toEqual(["13 spike"]);
  });
});
