/**
 * The public suite of the Durable Streams protocol, unmodified, against the real server on a real port. Not named
 * `*.test.ts`: it imports vitest and runs under it (`vitest.config.ts`), not under `bun test`.
 */

import { runConformanceTests } from "@durable-streams/server-conformance-tests";
import { afterAll, beforeAll } from "vitest";
import { START_DEADLINE_MS, startServer, type TestServer } from "../support/server.ts";

/** Short, so that tests which wait for an empty long-poll end within vitest's limit. */
const LONG_POLL_TIMEOUT_MS = 500;

let server: TestServer | undefined;
// The suite reads `baseUrl` anew for each request, so it can be filled in once the port is known.
const options = { baseUrl: "", longPollTimeoutMs: LONG_POLL_TIMEOUT_MS, subscriptions: true };

beforeAll(async () => {
  server = await startServer({ args: ["--long-poll-timeout", `${LONG_POLL_TIMEOUT_MS}ms`, "--allow-local-webhooks"] });
  options.baseUrl = server.url;
}, START_DEADLINE_MS + 1000);

afterAll(async () => {
  await server?.stop();
  await server?.remove();
}, 30_000);

runConformanceTests(options);
