/** The example `workers` as it stands, against a real server: one worker dies in the middle of its orders, the other goes on. */

import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import { temporaryServers } from "./support/shared-server.ts";
import { newStream, streamAt } from "./support/streams.ts";
import { until, within } from "./support/wait.ts";

interface Worker {
  readonly name: string;
  output(): string;
  /** Sends the signal, waits for the end, gives the exit code. */
  end(signal: NodeJS.Signals): Promise<number>;
}

interface Shipped {
  readonly order: string;
  readonly worker: string;
}

const root = join(import.meta.dir, "..");
const start = temporaryServers();
const workers: Worker[] = [];
afterEach(async () => {
  for (const worker of workers.splice(0)) await worker.end("SIGKILL");
});

/** A worker that is ready. */
async function startWorker(url: string, name: string): Promise<Worker> {
  const args = ["--url", url, "--name", name, "--lease", "1", "--slow", "0.1"];
  const child = Bun.spawn([process.execPath, "examples/workers/main.ts", ...args], {
    cwd: root,
    stdout: "pipe",
    stderr: "inherit",
  });
  let text = "";
  const decoder = new TextDecoder();
  const reading = (async () => {
    for await (const chunk of child.stdout) text += decoder.decode(chunk, { stream: true });
  })();
  const worker = {
    name,
    output: () => text,
    end: async (signal: NodeJS.Signals) => {
      child.kill(signal);
      await reading;
      return child.exited;
    },
  };
  workers.push(worker);
  await until(`${name} is ready`, () => text.includes(`${name} is ready`), 10_000);
  return worker;
}

test("a worker is killed: the other ships the rest after the lease, everything once, and ends when told", async () => {
  const server = await start();
  const ann = await startWorker(server.url, "ann");
  const bob = await startWorker(server.url, "bob");
  const shipped = streamAt(server, "shipped");
  const shippedBy = async (): Promise<Shipped[]> => (await shipped.records()) as Shipped[];
  const ids = Array.from({ length: 25 }, (_, at) => `${at + 1}`);
  const orders = await newStream(server, "orders/eu");
  await orders.post(JSON.stringify(ids.map((id) => ({ id }))));

  await until("a few orders are shipped", async () => (await shippedBy()).length >= 3);
  const [victim, heir] = ann.output().includes("ships") ? [ann, bob] : [bob, ann];
  await victim.end("SIGKILL");
  const all = await until(
    "all are shipped",
    async () => {
      const found = await shippedBy();
      return found.length >= ids.length && found;
    },
    60_000,
  );
  expect(all.map(({ order }) => order)).toEqual(ids.map((id) => `orders/eu/${id}`));
  // First the one, then the other, and never the one again.
  const turns = all.map(({ worker }) => worker).filter((worker, at, every) => worker !== every[at - 1]);
  expect(turns).toEqual([victim.name, heir.name]);

  // A stream that comes later is followed from its start.
  await (await newStream(server, "orders/us")).post('{"id":"26"}');
  await until("the new stream's order is shipped", async () =>
    (await shippedBy()).some(({ order }) => order === "orders/us/26"),
  );
  expect(await within("the end", heir.end("SIGTERM"))).toBe(0);
  expect(heir.output()).toEndWith(`${heir.name} has ended\n`);
}, 60_000);
