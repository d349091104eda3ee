/**
 * The oracle over HTTP: clients that really wait, at the same time, while a writer changes rows at random and the server is killed
 * and started again. Afterwards every change that concerned a client lies inside an answer that said *touched*, and every such
 * answer holds a change that concerned it or that its record left open. The seed is printed; `FC_SEED` runs it again.
 */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { formatKey, KeyWriter } from "../../src/protocol/touch-keys.ts";
import {
  type Change,
  concerns,
  isCoarse,
  keyOf,
  type Query,
  query,
  recordOf,
  templatesOf,
  wish,
  World,
} from "../property/touch-world.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { until } from "../support/wait.ts";
import { touchAt, touchStream } from "./touch-client.ts";

const CLIENTS = 40;
const ROUNDS = 4;
const APPENDS_PER_ROUND = 150;
const seed = Number(process.env["FC_SEED"] ?? Date.now() % 2 ** 31);
const server = temporaryServers();
const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));
const templates = templatesOf(writer);

/** One answer of a wait: what it covers, and whether it was a touch. */
interface Covered {
  readonly from: number;
  readonly to: number;
  readonly touched: boolean;
}

interface Client {
  readonly query: Query;
  readonly covered: Covered[];
  cursor: string;
}

const seqOf = (cursor: unknown): number => Number(String(cursor).split(":")[1]);

test(`${CLIENTS} clients over ${ROUNDS - 1} kills (seed ${seed})`, async () => {
  let running = await server();
  let touch = await touchStream(running, "s", templates);
  const queries = fc.sample(query, { seed, numRuns: CLIENTS });
  const start = String((await touch.meta())["cursor"]);
  const clients: Client[] = queries.map((asked) => ({ query: asked, covered: [], cursor: start }));
  const wishes = fc.sample(fc.array(wish, { minLength: 1, maxLength: 3 }), {
    seed,
    numRuns: ROUNDS * APPENDS_PER_ROUND,
  });
  const world = new World();
  const log: Change[] = [];
  const writing = { goesOn: true };

  const ask = async (client: Client, timeoutMs: number): Promise<void> => {
    const { query: asked, cursor } = client;
    const templateIds = [templates[asked.spec]?.id ?? ""];
    const keys = [formatKey(keyOf(asked, templates, writer))];
    const answer = await touch.wait({ keys, cursor, timeoutMs, templateIdsUsed: templateIds });
    expect(answer["stale"]).toBeUndefined();
    client.covered.push({ from: seqOf(cursor), to: seqOf(answer["cursor"]), touched: answer["touched"] === true });
    client.cursor = String(answer["cursor"]);
  };
  const loops = clients.map(async (client) => {
    // A server that is killed breaks the wait off: the client comes back with the cursor it had.
    while (writing.goesOn) await ask(client, 2_000).catch(() => Bun.sleep(20));
  });

  for (let round = 0; round < ROUNDS; round++) {
    for (const group of wishes.splice(0, APPENDS_PER_ROUND)) {
      const changes = group.flatMap((one) => world.apply(one) ?? []);
      if (changes.length === 0) continue;
      await touch.append(...changes.map(recordOf));
      log.push(...changes);
      if (log.length % 7 === 0) await Bun.sleep(2);
    }
    if (round === ROUNDS - 1) break;
    await running.kill("SIGKILL");
    running = await server({ dataDir: running.dataDir });
    touch = touchAt(`${running.url}/v1/stream/s`);
  }
  writing.goesOn = false;
  await Promise.all(loops);
  for (const client of clients) {
    await until("a client has seen everything", async () => {
      if (seqOf(client.cursor) >= log.length) return true;
      await ask(client, 0);
      return false;
    });
  }

  let touches = 0;
  for (const { query: asked, covered } of clients) {
    let next = 0;
    for (const { from, to, touched } of covered) {
      // Answers follow each other without a gap.
      expect(from).toBe(next);
      next = to;
      const within = log.slice(from, to);
      if (touched) {
        touches++;
        expect(within.some((change) => concerns(asked, change) || isCoarse(asked, change))).toBe(true);
      } else {
        expect(within.filter((change) => concerns(asked, change))).toEqual([]);
      }
    }
    expect(next).toBe(log.length);
  }
  console.log(`touch over HTTP: seed ${seed}, ${log.length} changes, ${touches} touches`);
  expect(touches).toBeGreaterThan(CLIENTS);
}, 90_000);
