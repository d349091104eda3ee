/**
 * Servers with the lifetime of tests: one for all tests of a file, or some that a test starts itself. Whatever happens
 * in a test, its servers are gone and their data removed before the next one.
 */

import { afterAll, afterEach, beforeAll } from "bun:test";
import { START_DEADLINE_MS, startServer, type StartOptions, type TestServer } from "./server.ts";

/** Starts servers that end with the test that started them. Call it once, at the top of a file. */
export function temporaryServers(): (options?: StartOptions) => Promise<TestServer> {
  const started: TestServer[] = [];
  afterEach(async () => {
    for (const server of started.splice(0)) {
      await server.kill("SIGKILL");
      await server.remove();
    }
  });
  return async (options = {}) => {
    const server = await startServer(options);
    started.push(server);
    return server;
  };
}

/** Starts one server before the first test and stops it after the last, which must exit 0. Usable inside tests only. */
export function sharedServer(options: StartOptions = {}): TestServer {
  let started: TestServer | undefined;
  const server = (): TestServer => {
    if (started === undefined) throw new Error("the shared server runs inside tests only");
    return started;
  };
  beforeAll(async () => {
    started = await startServer(options);
  }, START_DEADLINE_MS + 1000);
  afterAll(async () => {
    await started?.stop();
    await started?.remove();
  }, 30_000);
  return {
    get url() {
      return server().url;
    },
    get dataDir() {
      return server().dataDir;
    },
    get pid() {
      return server().pid;
    },
    get banner() {
      return server().banner;
    },
    stderr: () => server().stderr(),
    kill: (signal) => server().kill(signal),
    stop: () => server().stop(),
    remove: () => server().remove(),
  };
}
