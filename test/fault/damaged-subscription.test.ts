/**
 * A start finds what features keep with streams. One damaged subscription is told and passed over, and the others work; without the keys
 * that tokens are signed with there is no start, and the refusal says what to do. Control: undamaged, both subscriptions are there.
 */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { join } from "node:path";
import { runCommand } from "../support/command.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { appendTo, newPullWake, subscriptionAt, wakesIn } from "../support/subscription-client.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const start = temporaryServers();

/** Changes attributes without their checksum; returns how many. */
function damage(dataDir: string, where: string): number {
  const db = new Database(join(dataDir, "log.db"), { readwrite: true, strict: true });
  try {
    return db.query(`UPDATE attributes SET value = value || ' ' WHERE ${where}`).run().changes;
  } finally {
    db.close();
  }
}

test("one damaged subscription is passed over, and told; damaged keys end the start", async () => {
  const first = await start();
  await newStream(first, "s/a");
  for (const id of ["bad", "good"]) await newPullWake(first, id, { pattern: "s/*" });
  // A list folds everything into the tables.
  expect((await call("GET", `${first.url}/v1/streams`)).status).toBe(200);
  await first.stop();
  const { dataDir } = first;

  const control = await start({ dataDir });
  for (const id of ["bad", "good"]) expect((await subscriptionAt(control, id).shown()).id).toBe(id);
  await control.stop();

  expect(damage(dataDir, "stream = (SELECT id FROM streams WHERE name = '__ds/subscriptions/bad')")).toBeGreaterThan(0);
  const server = await start({ dataDir });
  expect(server.stderr()).toContain("taking up the subscription");
  expect((await call("GET", subscriptionAt(server, "bad").url)).status).toBe(404);
  await appendTo(server, "s/a");
  const { events } = wakesIn(streamAt(server, "wake/good"));
  await until("the other one wakes", async () => (await events()).length > 0);
  await server.stop();

  expect(damage(dataDir, "key = 'secret'")).toBe(1);
  const refused = await runCommand(["serve", "--port", "0", "--data-dir", dataDir], { deadlineMs: 8_000 });
  expect(refused.code).toBeGreaterThan(0);
  expect(refused.stderr).toMatch(
    /keys that tokens and webhooks are signed with cannot be read.*restore the data directory/,
  );
}, 60_000);
