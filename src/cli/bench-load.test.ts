/** The closed loop against a small server: only 2xx inside the window count, refusals are counted, and final ones end it. */

import { afterEach, expect, test } from "bun:test";
import { isStreamError } from "../client/stream-error.ts";
import { requestBytes } from "./bench-connection.ts";
import { type LoadFigures, Refusals, runLoad } from "./bench-load.ts";

const servers: ReturnType<typeof Bun.serve>[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop(true);
});

function serve(answer: (turn: number) => Response | Promise<Response>): string {
  let turn = 0;
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => answer(turn++) });
  servers.push(server);
  return server.url.href.replace(/\/$/, "");
}

interface Run {
  readonly figures: LoadFigures | null;
  readonly refusals: Refusals;
  readonly failure: unknown;
  readonly told: { answers: number; bytes: number };
}

async function load(url: string, connections = 2, signal = new AbortController().signal): Promise<Run> {
  const refusals = new Refusals();
  const told = { answers: 0, bytes: 0 };
  const target = { url, auth: "Bearer x" };
  const body = Buffer.from("{}");
  const request = requestBytes(target, {
    method: "POST",
    url: `${url}/v1/stream/a`,
    contentType: "application/json",
    body,
  });
  const onAnswers = (answers: number, bytes: number): void => {
    told.answers += answers;
    told.bytes += bytes;
  };
  const requests = Array.from({ length: connections }, () => [request]);
  try {
    const figures = await runLoad({ target, requests, warmUpMs: 20, measureMs: 200, refusals, signal, onAnswers });
    return { figures, refusals, failure: null, told };
  } catch (failure) {
    return { figures: null, refusals, failure, told };
  }
}

const error = (code: string, status: number): Response =>
  Response.json({ error: { code, message: `no: ${code}` } }, { status });

test("answers are counted and timed, their bodies too", async () => {
  const { figures, refusals, told } = await load(
    serve(async () => {
      await Bun.sleep(5);
      return new Response("12345");
    }),
  );
  if (figures === null) throw new Error("no figures");
  expect(figures.answers).toBeGreaterThan(0);
  // Two connections, 5 ms an answer: no more than that can be true.
  expect(figures.answers).toBeLessThan((2 * figures.seconds * 1000) / 4);
  expect(figures.p50Ms).toBeGreaterThan(4);
  expect(figures.p99Ms).toBeGreaterThanOrEqual(figures.p50Ms);
  expect(figures.bodyBytes).toBeGreaterThanOrEqual(5 * (figures.answers - 2));
  expect(told).toEqual({ answers: figures.answers, bytes: figures.bodyBytes });
  expect(refusals.total).toBe(0);
});

test("one answer is waited for, longer than the window", async () => {
  const slow = async (): Promise<Response> => {
    await Bun.sleep(400);
    return new Response("12345");
  };
  const { figures } = await load(serve(slow), 1);
  if (figures === null) throw new Error("no figures");
  // One, or two where nothing ran while both came.
  expect(figures.answers).toBeGreaterThan(0);
  expect(figures.bodyBytes).toBe(5 * figures.answers);
  expect(figures.seconds).toBeGreaterThan(0.3);
});

test("refusals are not answers, and are counted by status with what was said first", async () => {
  const { figures, refusals } = await load(
    serve((turn) => (turn % 2 === 0 ? new Response(null, { status: 204 }) : error("rate-limited", 429))),
  );
  expect(figures?.answers).toBeGreaterThan(0);
  expect(refusals.counts["429"]).toBeGreaterThan(0);
  expect(refusals.total).toBe(refusals.counts["429"] ?? 0);
  expect(refusals.errors.map(({ message }) => message)).toEqual(["no: rate-limited"]);
});

test.each([401, 403, 507])("%d ends the load at once", async (status) => {
  let asked = 0;
  const { figures, failure, refusals } = await load(
    serve(() => {
      asked++;
      return error("final", status);
    }),
  );
  expect(figures).toBeNull();
  expect(isStreamError(failure)).toBe(true);
  expect(failure).toMatchObject({ status, code: "final", message: "no: final" });
  expect(refusals.counts).toHaveProperty(String(status));
  // One request on each connection, at most.
  expect(asked).toBeLessThanOrEqual(2);
});

test("a server that is not there is unreachable", async () => {
  expect((await load("http://127.0.0.1:1")).failure).toMatchObject({ _tag: "Unreachable" });
});

test("a connection that breaks is counted, and replaced", async () => {
  const sockets = Bun.listen({
    port: 0,
    hostname: "127.0.0.1",
    socket: {
      // One answer, then none.
      data: (socket) => void (socket.write("HTTP/1.1 204 No Content\r\n\r\n"), setTimeout(() => socket.terminate(), 5)),
    },
  });
  const { figures, refusals } = await load(`http://127.0.0.1:${sockets.port}`, 1);
  sockets.stop(true);
  expect(figures?.answers).toBeGreaterThan(0);
  expect(refusals.counts["lost"]).toBeGreaterThan(0);
  expect(refusals.errors).toMatchObject([{ _tag: "Unreachable" }]);
});

test("an abort ends it at once, with its reason", async () => {
  const reason = new Error("enough");
  const stop = new AbortController();
  setTimeout(() => stop.abort(reason), 50);
  const url = serve(() => new Promise<never>(() => undefined));
  const startMs = performance.now();
  expect((await load(url, 2, stop.signal)).failure).toBe(reason);
  expect(performance.now() - startMs).toBeLessThan(2_000);
});
