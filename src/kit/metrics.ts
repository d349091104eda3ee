/**
 * The registry of the server's figures: every subsystem owns its counters, gauges and histograms and registers them here once,
 * at its construction; `/metrics` and whoever else shows them read them from here. Counting is one addition.
 * Names follow Prometheus: base units (seconds, bytes), counters end in `_total`, a label has few values.
 * Our own because a library's counter costs a hash of its labels: 0.3 µs against 2 ns, on a path of 16 µs.
 */

import { assert } from "./assert.ts";
import { Histogram } from "./histogram.ts";

export class Counter {
  value = 0;

  add(amount = 1): void {
    this.value += amount;
  }
}

/** One value of a family; `label` only when the family has one. */
export interface Sample {
  readonly label: string | null;
  readonly value: number | Histogram;
}

export interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "histogram";
  /** Name of its one label, or null. */
  readonly labelName: string | null;
  samples(): Iterable<Sample>;
}

/** Values of one label: past it a new one counts as `other`. */
const MAX_LABEL_VALUES = 64;

const NAME = /^[a-z][a-z0-9_]*$/;

/** Counters of one family by the value of its label. */
export class LabelledCounter {
  readonly #counters = new Map<string, Counter>();

  of(label: string): Counter {
    let counter = this.#counters.get(label);
    if (counter !== undefined) return counter;
    const name = this.#counters.size < MAX_LABEL_VALUES ? label : "other";
    counter = this.#counters.get(name) ?? new Counter();
    this.#counters.set(name, counter);
    return counter;
  }

  *samples(): Generator<Sample> {
    for (const [label, { value }] of this.#counters) yield { label, value };
  }
}

export class Metrics {
  readonly #families = new Map<string, Family>();

  families(): Iterable<Family> {
    return this.#families.values();
  }

  counter(name: string, help: string): Counter {
    const counter = new Counter();
    this.#add({ name, help, type: "counter", labelName: null, samples: () => [{ label: null, value: counter.value }] });
    return counter;
  }

  /** Label values that matter are named at once, so that they are there at 0. */
  labelled(name: string, help: string, labelName: string, values: readonly string[]): LabelledCounter {
    const counters = new LabelledCounter();
    for (const value of values) counters.of(value);
    this.#add({ name, help, type: "counter", labelName, samples: () => counters.samples() });
    return counters;
  }

  /** A counter that somebody else keeps. */
  counted(name: string, help: string, read: () => number): void {
    this.#add({ name, help, type: "counter", labelName: null, samples: () => [{ label: null, value: read() }] });
  }

  /** Read when somebody looks; must be cheap. NaN = not known, left out. */
  gauge(name: string, help: string, read: () => number): void {
    this.#add({ name, help, type: "gauge", labelName: null, samples: () => [{ label: null, value: read() }] });
  }

  /** One value per label, of at most 64 that matter most. */
  gauges(
    name: string,
    help: string,
    labelName: string,
    read: () => Iterable<readonly [label: string, value: number]>,
  ): void {
    const samples = function* (): Generator<Sample> {
      let told = 0;
      for (const [label, value] of read()) if (told++ < MAX_LABEL_VALUES) yield { label, value };
    };
    this.#add({ name, help, type: "gauge", labelName, samples });
  }

  histogram(name: string, help: string, bounds: readonly number[]): Histogram {
    const histogram = new Histogram(bounds);
    this.#add({ name, help, type: "histogram", labelName: null, samples: () => [{ label: null, value: histogram }] });
    return histogram;
  }

  #add(family: Family): void {
    const { name, type } = family;
    assert(NAME.test(name) && name.endsWith("_total") === (type === "counter"), `${name} is no name of a ${type}`);
    assert(!this.#families.has(name), `${name} is registered twice`);
    this.#families.set(name, family);
  }
}

/** Buckets of latencies in seconds, 50 µs to 10 s. */
export const LATENCY_SECONDS: readonly number[] = [
  0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
];
