/** What the server says once it listens. */

import { expect, test } from "bun:test";
import { banner } from "./banner.ts";
import { resolveConfig } from "./config.ts";

async function said(flags: Record<string, unknown>, dataDir: string | null, forPerson: boolean): Promise<string> {
  const config = await resolveConfig({ flags, env: {}, readFile: () => Promise.reject(new Error("no files")) });
  return banner(config.unwrap(), { url: "http://127.0.0.1:1", dataDir, pid: 7 }, forPerson);
}

test("one JSON line for programs", async () => {
  const line = await said({}, "/data", false);
  expect(line).toEndWith("}\n");
  expect(JSON.parse(line)).toMatchObject({
    event: "listening",
    url: "http://127.0.0.1:1",
    dataDir: "/data",
    durability: "fsync",
    auth: "none (loopback only)",
    pid: 7,
  });
  expect(JSON.parse(await said({ noAuth: true, memory: true, host: "0.0.0.0" }, null, false))).toMatchObject({
    dataDir: null,
    durability: "none",
    auth: "none (open to whoever reaches the port)",
  });
});

test("a person is told what the durability means", async () => {
  expect(await said({}, "/data", true)).toContain("survives a power cut");
  expect(await said({ durability: "os" }, "/data", true)).toContain("not a power cut");
  expect(await said({ memory: true }, null, true)).toContain("gone when this process ends");
});
