/**
 * Runs the client's suite, one test after the other, and says what came of each. It is the entry of the bundle that every
 * runtime loads. The controls must fail: a runtime where they pass has not looked at anything.
 */

import { connect } from "../../../src/client/client.ts";
import { within } from "../../support/wait.ts";
import { same } from "./asserts.ts";
import { failing } from "./failing.ts";
import { followingTests } from "./following.ts";
import { living } from "./living.ts";
import { reading } from "./reading.ts";
import { sending } from "./sending.ts";
import type { SuiteContext, SuiteTest } from "./suite-test.ts";
import { writing } from "./writing.ts";

export const suite: readonly SuiteTest[] = [
  ...writing,
  ...reading,
  ...followingTests,
  ...sending,
  ...failing,
  ...living,
];

export const controls: readonly SuiteTest[] = [
  {
    name: "control: what is not the same is noticed",
    run: async (context) => {
      const stream = context.connect().stream("control");
      (await stream.create({ contentType: "application/json", body: "[1]" })).unwrap();
      same((await stream.details()).unwrap()?.value["records"], 2);
    },
  },
  { name: "control: a wait without end is ended", run: () => new Promise(() => {}) },
];

const TEST_DEADLINE_MS = 20_000;
const CONTROL_DEADLINE_MS = 200;

export interface Ran {
  readonly name: string;
  /** Why it failed; null when it passed. */
  readonly error: string | null;
  readonly tookMs: number;
}

export interface SuiteReport {
  readonly tests: readonly Ran[];
  readonly controls: readonly Ran[];
}

/** Everything against the server at `url`, which must be there for this run alone. */
export async function runSuite(url: string): Promise<SuiteReport> {
  const tests = await runAll(suite, url, TEST_DEADLINE_MS);
  return { tests, controls: await runAll(controls, url, CONTROL_DEADLINE_MS) };
}

async function runAll(tests: readonly SuiteTest[], url: string, deadlineMs: number): Promise<Ran[]> {
  const ran: Ran[] = [];
  for (const { name, run } of tests) {
    const startedMs = performance.now();
    const end = new AbortController();
    const context: SuiteContext = {
      url,
      connect: (options = {}) => connect({ url, ...options }),
      over: end.signal,
    };
    const error = await within("the test", run(context), deadlineMs).then(
      () => null,
      (cause: unknown) => (cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)),
    );
    end.abort();
    ran.push({ name, error, tookMs: Math.round(performance.now() - startedMs) });
  }
  return ran;
}
