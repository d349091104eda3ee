/** `/health`, `/ready`, and what answers where nothing is. */

import { expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { call, errorOf } from "../support/streams.ts";

const server = sharedServer();

test.each(["/health", "/ready"])("%s answers 200, is JSON and never cached", async (path) => {
  const response = await call("GET", server.url + path);
  expect(response.status).toBe(200);
  expect(response.headers.get("content-type")).toContain("application/json");
  expect(response.headers.get("cache-control")).toContain("no-store");
  expect(typeof (await response.json())).toBe("object");
  expect((await call("HEAD", server.url + path)).status).toBe(200);
});

test("the banner says where, with what durability and whom it lets in", () => {
  expect(server.banner).toMatchObject({ event: "listening", dataDir: server.dataDir, durability: "fsync" });
  expect(String(server.banner["auth"])).toContain("none");
});

test.each([
  "/",
  "/v1",
  "/v1/",
  "/v1/stream",
  "/v1/streams/extra",
  "/v2/stream/x",
  "/favicon.ico",
  "/HEALTH",
  "/health/x",
])("%s is not found, in words", async (path) => {
  const response = await call("GET", server.url + path);
  expect(response.status).toBeGreaterThanOrEqual(400);
  expect(response.status).toBeLessThan(405);
  await errorOf(response);
  expect(response.headers.get("x-content-type-options")).toBe("nosniff");
});

test.each(["POST", "PUT", "DELETE", "PATCH"])("%s /health is not allowed", async (method) => {
  const response = await call(method, `${server.url}/health`);
  expect(response.status).toBe(405);
  expect(response.headers.get("allow")).toContain("GET");
});
