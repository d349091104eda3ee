/**
 * A vitest reporter that fails the run unless the whole suite ran: a renamed group or a silent skip must not look
 * like success. Prints one line for the runner, `conformance: 338 of 338 passed, 0 skipped`.
 */

import type { Reporter, TestModule } from "vitest/node";

/** Tests of suite 0.3.6, with its 6 of reserved subscriptions. */
const TESTS = 338;

export function completeRunReporter(): Reporter {
  return {
    onTestRunEnd(modules: readonly TestModule[]) {
      const cases = modules.flatMap((module) => [...module.children.allTests()]);
      const inState = (state: string): number => cases.filter((test) => test.result().state === state).length;
      const passed = inState("passed");
      const skipped = inState("skipped") + inState("pending");
      process.stdout.write(`conformance: ${passed} of ${TESTS} passed, ${skipped} skipped\n`);
      if (cases.length === TESTS && skipped === 0) return;
      process.stderr.write(`conformance: ${cases.length} tests were registered, expected ${TESTS} and no skips\n`);
      process.exitCode = 1;
    },
  };
}
