/**
 * A vitest reporter that fails the run unless the whole core suite ran: a renamed group or a silent skip must not look
 * like success. Prints one line for the runner, `conformance: 332 of 332 passed, 0 skipped`.
 */

import type { Reporter, TestCase, TestModule } from "vitest/node";

/** Core tests of suite 0.3.6. Its 6 tests of reserved subscriptions are registered as skipped and not counted. */
const CORE_TESTS = 332;
const OPTIONAL_GROUP = "Reserved subscription APIs";

export function completeRunReporter(): Reporter {
  return {
    onTestRunEnd(modules: readonly TestModule[]) {
      const cases = modules.flatMap((module) => [...module.children.allTests()]).filter((test) => !isOptional(test));
      const inState = (state: string): number => cases.filter((test) => test.result().state === state).length;
      const passed = inState("passed");
      const skipped = inState("skipped") + inState("pending");
      process.stdout.write(`conformance: ${passed} of ${CORE_TESTS} passed, ${skipped} skipped\n`);
      if (cases.length === CORE_TESTS && skipped === 0) return;
      process.stderr.write(
        `conformance: ${cases.length} core tests were registered, expected ${CORE_TESTS} and no skips\n`,
      );
      process.exitCode = 1;
    },
  };
}

function isOptional(test: TestCase): boolean {
  return test.fullName.startsWith(OPTIONAL_GROUP);
}
