/**
 * The attacks of `attacks-on-*.ts` on the real server, one connection each: the outcome is one that is allowed, no request inside another
 * is ever carried out, none is carried out twice, nothing of an attacker's comes back as a header, and the server serves on.
 */

import { afterAll, describe, expect, test } from "bun:test";
import { connectRaw, type RawConnection } from "../support/raw-socket.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream, type StreamUnderTest } from "../support/streams.ts";
import type { Attack, Group, Outcome } from "./attack-words.ts";
import { bodies, headers, numbers, sockets } from "./attacks-on-content.ts";
import { chunks, grammar, hosts, lengthsAndCodings, targets } from "./attacks-on-framing.ts";

const ATTACKS: Readonly<Record<string, Group>> = {
  "lengths and codings": lengthsAndCodings,
  chunks,
  grammar,
  hosts,
  targets,
  headers,
  bodies,
  numbers,
  sockets,
};

const server = sharedServer();
const SMUGGLED = "attacks/smuggled";
const open: RawConnection[] = [];
/** Those that may still be answering something: looked at again at the end. */
const attacked: { readonly attack: Attack; readonly stream: StreamUnderTest }[] = [];
let count = 0;

afterAll(() => {
  for (const connection of open) connection.destroy();
});

function filled(text: string, stream: StreamUnderTest): Uint8Array {
  const { host } = new URL(server.url);
  const bytes = text.replaceAll("{host}", host).replaceAll("{stream}", stream.path);
  return Buffer.from(bytes.replaceAll("{smuggled}", `/v1/stream/${SMUGGLED}`), "latin1");
}

/** The first status, or `close`. */
function outcomeOf(connection: RawConnection): Outcome | undefined {
  const status = /^HTTP\/1\.1 (\d{3})[^]*?\r\n\r\n/.exec(connection.received());
  if (status !== null) return Number(status[1]);
  return connection.isClosed() ? "close" : undefined;
}

async function attackOnce(attack: Attack, stream: StreamUnderTest): Promise<Outcome> {
  const connection = await connectRaw(server);
  open.push(connection);
  connection.send(filled(attack.bytes, stream));
  if (attack.after === "FIN") {
    connection.destroy();
    return "close";
  }
  const first = (): Promise<Outcome> => connection.wait(`an outcome of ${attack.name}`, () => outcomeOf(connection));
  if (attack.after === undefined) return first();
  // An upgrade is answered before frames are sent; whoever waits for 100 need not get it.
  if (attack.allowed.includes(101)) {
    const outcome = await first();
    connection.send(filled(attack.after, stream));
    await connection.wait(`the end of ${attack.name}`, () => connection.isClosed() || undefined);
    return outcome;
  }
  connection.send(filled(attack.after, stream));
  return first();
}

async function recordsOf(stream: StreamUnderTest): Promise<number> {
  return (await stream.records()).length;
}

for (const [group, attacks] of Object.entries(ATTACKS)) {
  describe(group, () => {
    test.each(attacks.map((attack) => [attack.name, attack] as const))("%s", async (_name, attack) => {
      const stream = await newStream(server, `attacks/${++count}`);
      attacked.push({ attack, stream });
      const outcome = await attackOnce(attack, stream);
      expect(attack.allowed).toContain(outcome);
      const records = await recordsOf(stream);
      if (typeof attack.records === "number") expect(records).toBe(attack.records);
      if (attack.records === "at most one") expect(records).toBeLessThanOrEqual(1);
      if (attack.records === "if answered") expect(records).toBeLessThanOrEqual(outcome === 204 ? 1 : 0);
      expect((await call("GET", `${server.url}/health`)).status).toBe(200);
    });
  });
}

test("control: what is compared would show a request that was carried out, and one that was carried out twice", async () => {
  const stream = await newStream(server, "attacks/control");
  const { host } = new URL(server.url);
  const put = `PUT /v1/stream/attacks/seen HTTP/1.1\r\nhost: ${host}\r\ncontent-length: 0\r\n\r\n`;
  const post = `POST ${stream.path} HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n7`;
  for (const bytes of [put, post, post]) {
    const connection = await connectRaw(server);
    connection.send(bytes);
    await connection.receive(/^HTTP\/1\.1 20[14]/);
    connection.destroy();
  }
  expect(await streamNames("attacks/seen")).toEqual(["attacks/seen"]);
  expect(await recordsOf(stream)).toBe(2);
});

test("afterwards: nothing was smuggled, nothing done twice, no header injected, no fault logged", async () => {
  expect(Object.values(ATTACKS).flat().length).toBeGreaterThanOrEqual(144);
  expect(await streamNames(SMUGGLED)).toEqual([]);
  for (const { attack, stream } of attacked) {
    const records = await recordsOf(stream);
    if (records > 1) throw new Error(`${attack.name}: ${records} records`);
  }
  for (const connection of open) {
    const received = connection.received();
    expect(received).not.toMatch(/^X-Evil:/im);
    expect(received).not.toMatch(/^location:.*evil/im);
    const statuses = [...received.matchAll(/^HTTP\/1\.1 (\d{3})/gm)].map(([, status]) => Number(status));
    expect(statuses.filter((status) => status >= 500 && ![501, 503, 505, 507].includes(status))).toEqual([]);
  }
  expect(() => process.kill(server.pid, 0)).not.toThrow();
  expect(server.stderr()).toBe("");
});

async function streamNames(prefix: string): Promise<unknown[]> {
  const listed = (await (await call("GET", `${server.url}/v1/streams?prefix=${prefix}`)).json()) as {
    readonly streams: readonly { readonly name: unknown }[];
  };
  return listed.streams.map(({ name }) => name);
}
