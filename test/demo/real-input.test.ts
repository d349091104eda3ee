/**
 * Real input, as in the README: earthquakes and flights go in through the command line, come back byte for byte, and are
 * followed live by two readers from before the load to the end.
 */

import { expect, test } from "bun:test";
import { readFile } from "node:fs/promises";
import { runCommand } from "../support/command.ts";
import { rawArrayValues } from "../support/json-values.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, streamAt } from "../support/streams.ts";
import { within } from "../support/wait.ts";
import { follow } from "./followers.ts";

const server = sharedServer();

async function dataset(name: string): Promise<string> {
  return readFile(new URL(`../../node_modules/vega-datasets/data/${name}`, import.meta.url), "utf8");
}

/** The raw records of a data set: its top-level array, or the `features` of a GeoJSON collection. */
function recordsOf(text: string): string[] {
  return rawArrayValues(text.startsWith("[") ? text : text.slice(text.indexOf('"features":')));
}

/** One number for many megabytes: a mismatch must not print them. */
function digest(records: readonly string[]): string {
  return `${records.length} records, xxh64 ${Bun.hash.xxHash64(records.join("\n")).toString(16)}`;
}

async function command(args: readonly string[], stdin = ""): Promise<string> {
  const { code, stdout, stderr } = await runCommand(args, {
    stdin,
    env: { STREAM_URL: server.url },
    deadlineMs: 40_000,
  });
  expect(`${args[0]}: exit ${code} ${stderr}`).toStartWith(`${args[0]}: exit 0`);
  return stdout;
}

test.each([
  ["earthquakes", "earthquakes.json", 1707],
  ["flights", "flights-200k.json", 200_000],
])(
  "%s: in through the command line, followed by two readers, back byte for byte",
  async (name, file, count) => {
    const source = recordsOf(await dataset(file));
    expect(source).toHaveLength(count);
    const stream = streamAt(server, `demo/${name}`);
    await command(["create", stream.name, "--content-type", "application/json"]);
    const followers = [
      follow("sse", () => server.url, stream.path),
      follow("long-poll", () => server.url, stream.path),
    ];
    try {
      await command(["append", stream.name, "--json-array"], `[${source.join(",\n")}]`);
      expect((await stream.close()).status).toBe(204);
      await within("the followers", Promise.all(followers.map(({ ended }) => ended)), 20_000);
    } finally {
      for (const follower of followers) follower.stop();
    }
    for (const { seen, reconnects } of followers) {
      expect(digest(seen)).toBe(digest(source));
      expect(reconnects()).toBe(0);
    }
    for (const text of [await stream.text(), await command(["read", stream.name])]) {
      expect(digest(rawArrayValues(text))).toBe(digest(source));
      expect(text === `[${source.join(",")}]`).toBe(true);
    }
    const listed = await call("GET", `${server.url}/v1/streams?prefix=demo/${name}`);
    expect(await listed.json()).toMatchObject({ streams: [{ name: stream.name, closed: true }] });
  },
  60_000,
);
