/** A server in a control group of 256 MB under more load than that holds: it answers 429, lives, and keeps what it acknowledged. */

import { expect, test } from "bun:test";
import { memoryGroup } from "../support/memory-group.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { call, newStream } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const LIMIT_BYTES = 256 * 1024 * 1024;
const STREAMS = 32;
const WRITERS = 64;
const READERS = 200;
const BODY_BYTES = 1_000_000;
const LOAD_MS = 6_000;

const temporary = temporaryServers();
const canLimit = ((): boolean => {
  const probe = memoryGroup(LIMIT_BYTES);
  probe?.remove();
  return probe !== null;
})();

test.skipIf(!canLimit)(
  "in 256 MB under overload the server answers 429 and lives",
  async () => {
    const group = memoryGroup(LIMIT_BYTES) ?? expect.unreachable("a control group");
    const server = await temporary({ groupFile: group.procsFile });
    const details = (await (await call("GET", `${server.url}/v1/server/_details`)).json()) as {
      limits: { memory: unknown; bodyBytes: number };
    };
    expect(details.limits.memory).toMatchObject({ bytes: LIMIT_BYTES, source: "cgroup" });
    const streams = await Promise.all(
      Array.from({ length: STREAMS }, (_, at) => newStream(server, `load/${at}`, "application/octet-stream")),
    );
    const acked = streams.map(() => 0);
    const statuses = new Map<string, number>();
    const note = (kind: string, status: number): void => {
      statuses.set(`${kind} ${status}`, (statuses.get(`${kind} ${status}`) ?? 0) + 1);
    };
    let notReady = 0;
    const load = { isOn: true };
    const body = new Uint8Array(BODY_BYTES).fill(7);
    const writer = async (at: number): Promise<void> => {
      const stream = streams[at % STREAMS] ?? expect.unreachable("a stream");
      while (load.isOn) {
        const response = await stream.post(body);
        await response.arrayBuffer();
        note("append", response.status);
        if (response.status === 204) acked[at % STREAMS] = (acked[at % STREAMS] ?? 0) + 1;
        else expect(response.headers.get("retry-after")).not.toBeNull();
        if (response.status === 429) await Bun.sleep(20);
      }
    };
    // Each takes a piece of the answer and then stalls, holding what the server has for it.
    const reader = async (at: number): Promise<void> => {
      while (load.isOn) {
        const response = await (streams[at % STREAMS] ?? expect.unreachable("a stream")).get("offset=-1");
        note("read", response.status);
        const body = response.body?.getReader();
        await body?.read();
        if (response.status === 200) await Bun.sleep(500);
        await body?.cancel();
        if (response.status === 429) await Bun.sleep(50);
      }
    };
    const watcher = async (): Promise<void> => {
      while (load.isOn) {
        const ready = await call("GET", `${server.url}/ready`);
        const { reasons } = (await ready.json()) as { reasons?: { code: string }[] };
        if (ready.status === 503) {
          notReady++;
          expect(reasons?.map(({ code }) => code)).toContain("overloaded");
        }
        // Watching goes on whatever the load.
        expect((await call("GET", `${server.url}/metrics`)).status).toBe(200);
        await Bun.sleep(20);
      }
    };
    const workers = [
      ...Array.from({ length: WRITERS }, (_, at) => writer(at)),
      ...Array.from({ length: READERS }, (_, at) => reader(at)),
      watcher(),
    ];
    await Bun.sleep(LOAD_MS);
    load.isOn = false;
    await Promise.all(workers);
    expect([...statuses.keys()].toSorted()).toEqual(["append 204", "append 429", "read 200", "read 429"]);
    expect(notReady).toBeGreaterThan(0);

    // The load is over: it recovers by itself, and everything acknowledged is there.
    await until("it is ready again", async () => (await call("GET", `${server.url}/ready`)).status === 200);
    await until("an append is taken", async () => (await streams[0]?.post(body))?.status === 204);
    acked[0] = (acked[0] ?? 0) + 1;
    for (const [at, stream] of streams.entries()) {
      const { records } = (await (await call("GET", `${stream.url}/_details`)).json()) as { records: number };
      expect([stream.name, records]).toEqual([stream.name, acked[at] ?? 0]);
    }
    await server.stop();
    group.remove();
  },
  60_000,
);
