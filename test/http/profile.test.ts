/** Profiles over HTTP: what a stream holds, and that its records are checked by it from then on. */

import { expect, test } from "bun:test";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { call, errorOf, newStream, streamAt, type StreamUnderTest } from "../support/streams.ts";

const server = sharedServer();
const temporary = temporaryServers();
const VERSION = "durable.streams/profile/v1";

function setProfile(stream: StreamUnderTest, body: unknown): Promise<Response> {
  return call("POST", `${stream.url}/_profile`, { body: typeof body === "string" ? body : JSON.stringify(body) });
}

async function profileOf(stream: StreamUnderTest): Promise<unknown> {
  const response = await call("GET", `${stream.url}/_profile`);
  expect(response.status).toBe(200);
  return ((await response.json()) as { profile: unknown }).profile;
}

const state = { profile: { kind: "state-protocol", touch: { enabled: true } } };
const insert = (key: string) => ({ type: "t", key, value: { a: 1 }, headers: { operation: "insert" } });

test("a stream is generic until told otherwise, and can be so again", async () => {
  const stream = await newStream(server, "plain");
  const first = await call("GET", `${stream.url}/_profile`);
  expect(await first.json()).toEqual({ apiVersion: VERSION, profile: { kind: "generic" } });
  const set = await setProfile(stream, { apiVersion: VERSION, ...state });
  expect(set.status).toBe(200);
  const resource = (await set.json()) as { profile: object };
  expect(resource.profile).toMatchObject({
    kind: "state-protocol",
    touch: { enabled: true, onMissingBefore: "coarse", templates: { maxActiveTemplatesPerEntity: 256 } },
  });
  expect(await profileOf(stream)).toEqual(resource.profile);
  expect((await stream.post('{"anything":1}')).status).toBe(400);
  expect((await setProfile(stream, { profile: { kind: "generic" } })).status).toBe(200);
  expect(await profileOf(stream)).toEqual({ kind: "generic" });
  expect((await stream.post('{"anything":1}')).status).toBe(204);
});

test("an append of another content type is refused for that, and its bytes are not looked at", async () => {
  const stream = await newStream(server, "other-type");
  expect((await setProfile(stream, state)).status).toBe(200);
  for (const body of ["[1", '"a', "no JSON", JSON.stringify(insert("1"))]) {
    const refused = await stream.post(body, { "content-type": "text/plain" });
    expect([refused.status, (await errorOf(refused)).code]).toEqual([409, "content-type-mismatch"]);
  }
  expect((await stream.post(JSON.stringify(insert("1")))).status).toBe(204);
});

test("switched off, touch drops its other settings", async () => {
  const stream = await newStream(server, "switched-off");
  await setProfile(stream, {
    profile: { kind: "state-protocol", touch: { enabled: false, onMissingBefore: "error" } },
  });
  expect(await profileOf(stream)).toEqual({ kind: "state-protocol", touch: { enabled: false } });
  await setProfile(stream, { profile: { kind: "state-protocol" } });
  expect(await profileOf(stream)).toEqual({ kind: "state-protocol", touch: { enabled: false } });
  expect((await stream.post(JSON.stringify({ no: "change" }))).status).toBe(400);
});

test.each([
  ["no JSON", "{", "not valid JSON"],
  ["no profile", {}, "profile"],
  ["no kind", { profile: {} }, "profile.kind"],
  ["an unknown kind", { profile: { kind: "magic" } }, "generic, state-protocol"],
  ["an unknown key outside", { ...state, extra: 1 }, "extra"],
  ["an unknown key of generic", { profile: { kind: "generic", touch: {} } }, "touch"],
  ["an unknown key inside", { profile: { kind: "state-protocol", extra: 1 } }, "extra"],
  ["an unknown touch setting", { profile: { kind: "state-protocol", touch: { enabled: true, fast: 1 } } }, "fast"],
  [
    "an unknown template setting",
    { profile: { kind: "state-protocol", touch: { enabled: true, templates: { no: 1 } } } },
    "no",
  ],
  ["touch without enabled", { profile: { kind: "state-protocol", touch: {} } }, "touch.enabled"],
  ["a wrong type", { profile: { kind: "state-protocol", touch: { enabled: true, coarseIntervalMs: "1" } } }, "coarse"],
  [
    "a wrong policy",
    { profile: { kind: "state-protocol", touch: { enabled: true, onMissingBefore: "no" } } },
    "onMiss",
  ],
  ["another version", { apiVersion: "v2", ...state }, "apiVersion"],
] as const)("%s is refused with a reason, and changes nothing", async (name, body, reason) => {
  const stream = await newStream(server, `refused/${name.replaceAll(" ", "-")}`);
  const response = await setProfile(stream, body);
  expect(response.status).toBe(400);
  expect((await errorOf(response)).message).toContain(reason);
  expect(await profileOf(stream)).toEqual({ kind: "generic" });
});

test("only JSON streams can hold the State Protocol; a stream that is missing has no profile", async () => {
  const bytes = await newStream(server, "bytes", "application/octet-stream");
  const refused = await setProfile(bytes, state);
  expect(refused.status).toBe(409);
  expect((await errorOf(refused)).code).toBe("profile-conflict");
  const missing = streamAt(server, "missing");
  expect((await setProfile(missing, state)).status).toBe(404);
  expect((await call("GET", `${missing.url}/_profile`)).status).toBe(404);
  expect((await call("DELETE", `${bytes.url}/_profile`)).status).toBe(405);
});

test("one bad record refuses the whole append, naming it; nothing is stored and a producer may try again", async () => {
  const stream = await newStream(server, "checked");
  await setProfile(stream, state);
  const producer = { "producer-id": "p", "producer-epoch": "0", "producer-seq": "0" };
  const bad = await stream.post(JSON.stringify([insert("1"), insert("2"), { type: "t", key: "3" }]), producer);
  expect(bad.status).toBe(400);
  const error = await errorOf(bad);
  expect(error.code).toBe("record-invalid");
  expect(error.message).toContain("record 2");
  expect(error.message).toContain("headers");
  expect(await stream.records()).toEqual([]);
  const good = [insert("1"), { headers: { control: "snapshot-start" } }, { headers: { control: "reset" } }];
  expect((await stream.post(JSON.stringify(good), producer)).status).toBe(200);
  expect(await stream.records()).toEqual(good);
});

test("onMissingBefore error: what says nothing of the old row is refused at append", async () => {
  const stream = await newStream(server, "strict");
  await setProfile(stream, { profile: { kind: "state-protocol", touch: { enabled: true, onMissingBefore: "error" } } });
  expect((await stream.post(JSON.stringify(insert("1")))).status).toBe(204);
  for (const operation of ["update", "delete", "upsert"]) {
    const record = { type: "t", key: "1", value: {}, headers: { operation } };
    const refused = await stream.post(JSON.stringify([insert("2"), record]));
    expect(refused.status).toBe(400);
    expect((await errorOf(refused)).message).toContain("old_value");
    expect((await stream.post(JSON.stringify({ ...record, old_value: {} }))).status).toBe(204);
  }
});

test("a profile survives a kill, for streams in memory and for streams read from their table", async () => {
  const one = await temporary();
  const stream = await newStream(one, "kept");
  await setProfile(stream, state);
  await one.kill("SIGKILL");
  const two = await temporary({ dataDir: one.dataDir });
  const again = streamAt(two, "kept");
  expect(await profileOf(again)).toMatchObject({ kind: "state-protocol" });
  // The list folds every head into its table; another start then reads it from there.
  expect((await call("GET", `${two.url}/v1/streams`)).status).toBe(200);
  await two.kill("SIGKILL");
  const three = await temporary({ dataDir: one.dataDir });
  // The first append after a start meets a head that is not in memory: it is checked all the same.
  expect((await streamAt(three, "kept").post('{"no":"change"}')).status).toBe(400);
  expect((await streamAt(three, "kept").post(JSON.stringify(insert("1")))).status).toBe(204);
});

test("sub-resources of features are no stream names", async () => {
  for (const name of ["a/touch/wait", "a/touch/meta", "a/touch/templates/activate", "a/_profile"]) {
    expect((await streamAt(server, name).put()).status).toBe(405);
    expect((await streamAt(server, name.replace(/\/([^/]+)$/, "%2F$1")).put()).status).toBe(400);
  }
  expect((await streamAt(server, "touch/wait-not").put()).status).toBe(201);
  expect((await streamAt(server, "touch/wait").put()).status).toBe(201);
});
