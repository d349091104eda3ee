/**
 * Requests that no client would send, from a seed: every route, verb, header and parameter of the server, with values that are right,
 * nearly right or absurd; a part of them broken again as bytes. The same seed gives the same requests.
 */

import type { SeededRandom } from "../support/random.ts";

export interface HostileRequest {
  readonly bytes: Buffer;
  /** Broken as bytes: the server may go on waiting for the rest of it. */
  readonly isBroken: boolean;
  /** It may rightly wait for a touch. */
  readonly mayWait: boolean;
}

/** Streams that exist at the start, by what they hold. */
export const FUZZ_STREAMS = ["json", "text", "bytes", "touch", "events", "closed", "short"] as const;

const NAMES = [
  ...FUZZ_STREAMS.map((name) => `fuzz/${name}`),
  ...Array.from({ length: 20 }, (_, at) => `fuzz/new-${at}`),
  "fuzz/%C3%BC",
  "fuzz/a%20b",
];
const BAD_NAMES = [
  "",
  "%",
  "%ff",
  "%00",
  "..%2f..",
  "a//b",
  "__ds",
  "__ds/x",
  "_profile",
  "__proto__",
  "n".repeat(1_100),
  "fuzz/json/touch",
  "live.metrics",
  "%ed%a0%80",
  "*",
  "fuzz/json/_details/_details",
];
/** Below a stream: the verbs that it answers, and the stream where it has most to do. */
const SUB_RESOURCES: readonly (readonly [string, readonly string[], string])[] = [
  ["_profile", ["GET", "POST"], "json"],
  ["_details", ["GET", "HEAD"], "text"],
  ["_retention", ["PUT"], "bytes"],
  ["touch/templates/activate", ["POST"], "touch"],
  ["touch/wait", ["POST"], "touch"],
  ["touch/meta", ["GET"], "touch"],
  ["aggregate", ["GET"], "events"],
  ["_analytics", ["GET"], "events"],
  ["_view", ["GET", "GET", "POST"], "touch"],
];
const SERVER_PATHS = [
  "/health",
  "/ready",
  "/health/clients",
  "/metrics",
  "/v1/streams",
  "/v1/ws",
  "/v1/server/_details",
  "/v1/stream/__ds/jwks.json",
  "/v1/stream/__ds/subscriptions",
  "/",
  "/v1",
  "/favicon.ico",
  "/.env",
  "/v1/stream",
];
const SUBSCRIPTION_TAILS: readonly (readonly [string, readonly string[]])[] = [
  ["", ["PUT", "PUT", "PUT", "GET", "DELETE"]],
  ["/claim", ["POST"]],
  ["/ack", ["POST"]],
  ["/release", ["POST"]],
  ["/callback", ["POST"]],
  ["/streams", ["POST"]],
  ["/streams/fuzz%2Fjson", ["DELETE"]],
  ["/streams/%ff", ["DELETE"]],
  ["/nothing", ["POST"]],
];
const METHODS = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO"];
const STREAM_METHODS = ["GET", "GET", "GET", "POST", "POST", "POST", "PUT", "PUT", "HEAD"];
/** Those whose streams the others work on are left alone. */
const DELETE_SOMETIMES = [...STREAM_METHODS, "DELETE"];

const NUMBERS = [
  "0",
  "1",
  "-1",
  "7",
  "10",
  "1000",
  "65536",
  "2147483648",
  "9007199254740992",
  "9007199254740993",
  "99999999999999999999",
  "1e9",
  "0x10",
  "1.5",
  "NaN",
  "",
  "٣",
  "-0",
  "+1",
  " 1",
];
const TEXTS = [
  "",
  "a",
  "fuzz",
  "null",
  "true",
  "%00",
  "%0d%0aX:%20y",
  "..%2f",
  "%ff",
  "%f0%9f%98%80",
  "x".repeat(300),
  "x".repeat(5_000),
  "'%20or%201=1--",
  "{}",
  "[]",
  "(",
  "a%3D1",
  "__proto__",
  "constructor",
  "$where",
];
const OFFSETS = [
  "-1",
  "now",
  "0000000000000000_0000000000000000",
  "0000000000000001_0000000000000000",
  "9999999999999999_9999999999999999",
  "1_1",
  "-2",
  "_",
  "0000000000000003_0000000000000002",
];
const TIMES = [
  "2020-01-01T00:00:00Z",
  "2999-01-01T00:00:00Z",
  "-15m",
  "-1s",
  "-99999999999d",
  "0",
  "2026-13-45T99:99:99Z",
  "+275760-09-13T00:00:00.001Z",
  "1e3",
];
const FILTERS = [
  "a%3D1",
  "a%20%3D%201%20and%20b%20%3D%20%22x%22",
  "not%20(a%3D1)",
  "a%3E",
  "(".repeat(300),
  `a%3D1${"%20and%20a%3D1".repeat(100)}`,
  "a.b.c%3Dnull",
  "%22",
  "a%3D%22%5Cud800%22",
  "a%20in%20(1,2)",
];

type Values = readonly string[];
const PARAMS: readonly (readonly [string, Values])[] = [
  ["offset", OFFSETS],
  ["from", TIMES],
  ["to", TIMES],
  ["tail", NUMBERS],
  ["live", ["sse", "long-poll", "yes", ""]],
  ["key", TEXTS],
  ["filter", FILTERS],
  ["cursor", [...NUMBERS, ...TEXTS]],
  ["overflow", ["resume", "drop-oldest", "disconnect", "x"]],
  ["limit", NUMBERS],
  ["prefix", TEXTS],
  ["after", TEXTS],
  ["type", TEXTS],
  ["order", ["a", "-a,b", ",", "a".repeat(2_000), "-"]],
  ["viewport", ["value.x,value.y,0,0,1,1", "0,0,1,1", "{}", "1e999", "a.b:NaN:1"]],
  ["metric", ["ms", "performance.ms", "custom.a", "a".repeat(300), "."]],
  ["p", ["0.5", "50,99", "101", "-1", "NaN", "1,".repeat(100)]],
  ["group", TEXTS],
  ["id", TEXTS],
  ["access", TEXTS],
];

const HEADERS: readonly (readonly [string, Values])[] = [
  [
    "content-type",
    [
      "application/json",
      "text/plain",
      "application/octet-stream",
      "Application/JSON; charset=utf-8",
      "text/html",
      "x",
      "a/b;".repeat(80),
      "",
      "image/svg+xml",
    ],
  ],
  ["stream-ttl", NUMBERS],
  ["stream-expires-at", TIMES],
  ["stream-closed", ["true", "TRUE", "false", ""]],
  ["stream-seq", [...NUMBERS, ...TEXTS]],
  ["stream-key", TEXTS],
  [
    "stream-retention",
    ["max-age=7d", "max-bytes=1KiB", "max-age=1ms, max-bytes=1", "none", "max-age=99999999999999999d", ",", ""],
  ],
  [
    "stream-forked-from",
    ["/v1/stream/fuzz/json", "/v1/stream/fuzz/nothing", "/v1/stream/%ff", "fuzz/json", "/v1/stream/fuzz/new-1"],
  ],
  ["stream-fork-offset", OFFSETS],
  ["stream-fork-sub-offset", NUMBERS],
  ["producer-id", TEXTS],
  ["producer-epoch", NUMBERS],
  ["producer-seq", NUMBERS],
  ["if-match", [...OFFSETS, '"a"', "*"]],
  ["if-none-match", ['"a"', "*", 'W/"a"', '"a",'.repeat(200)]],
  ["last-event-id", OFFSETS],
  [
    "authorization",
    ["Bearer a.b.c", "Bearer ", "Basic eDp5", "Bearer eyJhbGciOiJub25lIn0.e30.", `Bearer ${"a".repeat(4_000)}`],
  ],
  ["origin", ["null", "http://evil.example", "http://127.0.0.1", "file://"]],
  ["range", ["bytes=0-1", "bytes=-1"]],
  ["accept-encoding", ["gzip", "zstd", "*;q=0"]],
  ["content-encoding", ["gzip", "zstd", "x"]],
  ["expect", ["100-continue", "x"]],
  ["traceparent", ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0-0-0", "\xff"]],
  ["x-request-id", ["a", "a b", "\xe9", "x".repeat(200)]],
  ["upgrade", ["websocket", "h2c"]],
  ["connection", ["upgrade", "close", "keep-alive"]],
  ["sec-websocket-key", ["dGhlIHNhbXBsZSBub25jZQ==", "x"]],
  ["sec-websocket-version", ["13", "8"]],
  ["sec-websocket-protocol", ["streams.v1", "x"]],
];

/** What bodies of the routes look like when they are right; any part of them may be changed. No URL in them can be reached. */
const DOCUMENTS: readonly unknown[] = [
  1,
  [1, "two", { three: null }],
  {
    type: "user",
    key: "1",
    value: { id: 1, name: "a", x: 1.5 },
    old_value: { id: 1, name: "b" },
    headers: { operation: "update" },
  },
  { apiVersion: "durable.streams/profile/v1", profile: { kind: "state-protocol", touch: { enabled: true } } },
  { profile: { kind: "analytics", ack: "memory", samplingRates: { performance: 0.5 }, maxBatchSize: 10 } },
  { profile: { kind: "generic" } },
  { templates: [{ entity: "user", fields: [{ name: "id", encoding: "int64" }] }], inactivityTtlMs: 1000 },
  {
    keys: ["0123456789abcdef"],
    keyIds: [1, 2],
    cursor: "now",
    timeoutMs: 20,
    interestMode: "fine",
    exact: false,
    templateIdsUsed: [],
    declareTemplates: [],
  },
  { type: "performance", name: "ms", value: 12.5, timestamp: 1_760_000_000_000, properties: { page: "/", user: "u" } },
  { events: [{ type: "custom", name: "a", value: 1 }] },
  { type: "pull-wake", pattern: "fuzz/**", wake_stream: "fuzz/json", lease_ttl_ms: 1000 },
  { type: "webhook", pattern: "fuzz/*", webhook: { url: "https://127.0.0.1/" }, streams: ["fuzz/json"] },
  { worker: "w1" },
  { acks: [{ path: "fuzz/json", offset: "-1" }], done: true, generation: 1 },
  { streams: ["fuzz/json", "fuzz/text"] },
  {
    type: "user",
    filter: "value.id = 1",
    order: "-id",
    limit: 5,
    viewport: { x: { path: "x", min: 0, max: 1 }, y: { path: "y", min: 0, max: 1 } },
  },
];

const ODD_VALUES: readonly unknown[] = [
  null,
  true,
  -1,
  0,
  1e308,
  2 ** 53,
  1.5,
  "",
  "\0",
  "\u{1F600}",
  "x".repeat(3_000),
  "\ud800",
  [],
  {},
  [[[]]],
  { __proto__: null },
  { constructor: { prototype: 1 } },
  "-1",
  "now",
];
const RAW_BODIES: readonly string[] = [
  "",
  " ",
  "[",
  "{",
  "[]",
  "{}",
  "1 2",
  "nul",
  '"\\ud800"',
  '"\xff\xfe"',
  "[".repeat(300),
  "[".repeat(50_000),
  `[${"1,".repeat(5_000)}1]`,
  "1e99999",
  `"${"x".repeat(100_000)}"`,
  '{"a":1,"a":2}',
  "\xef\xbb\xbf1",
  "\0",
  '{"__proto__":{"a":1}}',
];

export function hostileRequest(random: SeededRandom, host: string): HostileRequest {
  const one = <T>(values: readonly T[], fallback: T): T => values[random.below(values.length)] ?? fallback;
  const chance = (percent: number): boolean => random.below(100) < percent;
  const { target, methods } = targetOf(random, one, chance);
  const method = one(chance(85) ? methods : METHODS, "GET");
  const body = method === "GET" || method === "HEAD" ? (chance(3) ? "1" : "") : bodyOf(random, one, chance);
  const lines = [chance(98) ? `host: ${host}` : `host: ${one(["evil.example", "", "a b", "127.0.0.1:x"], "")}`];
  if (body !== "" && chance(80)) lines.push("content-type: application/json");
  for (let count = random.below(5); count > 0; count--) {
    const [name, values] = one(HEADERS, ["x", [""]]);
    lines.push(`${name}: ${one(values, "")}`);
  }
  const isChunked = body !== "" && chance(15);
  const length = chance(99) ? Buffer.byteLength(body, "latin1") : 10 ** 12;
  lines.push(isChunked ? "transfer-encoding: chunked" : `content-length: ${length}`);
  const framed = isChunked ? `${Buffer.byteLength(body, "latin1").toString(16)}\r\n${body}\r\n0\r\n\r\n` : body;
  const bytes = Buffer.from(`${method} ${target} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n${framed}`, "latin1");
  const isBroken = chance(25);
  return { bytes: isBroken ? broken(random, bytes) : bytes, isBroken, mayWait: target.includes("touch/wait") };
}

type One = <T>(values: readonly T[], fallback: T) => T;
type Chance = (percent: number) => boolean;

interface Target {
  readonly target: string;
  /** What it would answer. */
  readonly methods: readonly string[];
}

function targetOf(random: SeededRandom, one: One, chance: Chance): Target {
  const { path, methods } = placeOf(random, one, chance);
  const params = Array.from({ length: Math.max(0, random.below(5) - 1) }, () => {
    const [param, values] = one(PARAMS, ["x", [""]]);
    return `${param}=${one(values, "")}`;
  });
  return { target: params.length === 0 ? path : `${path}?${params.join("&")}`, methods };
}

function placeOf(
  random: SeededRandom,
  one: One,
  chance: Chance,
): { readonly path: string; readonly methods: readonly string[] } {
  const name = chance(93) ? one(NAMES, "") : one(BAD_NAMES, "");
  const kind = random.below(100);
  if (kind < 45)
    return { path: `/v1/stream/${name}`, methods: name.includes("new") ? DELETE_SOMETIMES : STREAM_METHODS };
  if (kind < 75) {
    const [suffix, methods, best] = one(SUB_RESOURCES, ["", ["GET"], ""]);
    return { path: `/v1/stream/${chance(60) ? `fuzz/${best}` : name}/${suffix}`, methods };
  }
  if (kind < 85) return { path: one(SERVER_PATHS, "/"), methods: ["GET"] };
  const id = one(["s1", "s2", "s3", "a%20b", "%ff", "x".repeat(300)], "");
  const [tail, methods] = one(SUBSCRIPTION_TAILS, ["", ["GET"]]);
  return { path: `/v1/stream/__ds/subscriptions/${id}${tail}`, methods };
}

function bodyOf(random: SeededRandom, one: One, chance: Chance): string {
  if (chance(20)) return one(RAW_BODIES, "");
  const document: unknown = structuredClone(one(DOCUMENTS, null));
  for (let count = random.below(3); count > 0; count--) change(random, document, one, chance);
  return Buffer.from(JSON.stringify(chance(10) ? Array.from({ length: 50 }, () => document) : document)).toString(
    "latin1",
  );
}

/** Puts an odd value somewhere into a document, or takes something out. */
function change(random: SeededRandom, document: unknown, one: One, chance: Chance): void {
  // A copy: what is put in may be changed in its turn.
  const odd = (): unknown => structuredClone(one(ODD_VALUES, random.below(100)));
  let place = document;
  for (;;) {
    if (typeof place !== "object" || place === null) return;
    const fields = place as Record<string, unknown>;
    const key = one(Object.keys(fields), "extra");
    const inner = fields[key];
    if (typeof inner === "object" && inner !== null && chance(60)) {
      place = inner;
      continue;
    }
    if (chance(20)) delete fields[key];
    else if (chance(10)) fields[one(["extra", "__proto__x", "toString"], "extra")] = odd();
    else fields[key] = odd();
    return;
  }
}

const INSERTED: readonly string[] = [
  "\r\n",
  "\n",
  "\r",
  "\0",
  ":",
  " ",
  "\t",
  "\xff",
  "\r\n\r\n",
  "HTTP/1.1",
  "%",
  "0\r\n\r\n",
  "Transfer-Encoding: chunked\r\n",
  "Content-Length: 3\r\n",
  "GET / HTTP/1.1\r\n",
  "x".repeat(20_000),
];

/** One to three wounds: a byte changed, a piece lost, said twice, or put in between. */
function broken(random: SeededRandom, bytes: Buffer): Buffer {
  let wounded = bytes;
  for (let wounds = 1 + random.below(3); wounds > 0; wounds--) {
    // The head is where it hurts.
    const reach = random.below(2) === 0 ? Math.min(wounded.length, 200) : wounded.length;
    const at = random.below(Math.max(1, reach));
    const end = Math.min(wounded.length, at + 1 + random.below(20));
    const before = wounded.subarray(0, at);
    const piece = wounded.subarray(at, end);
    switch (random.below(4)) {
      case 0:
        wounded = Buffer.concat([before, Buffer.from([random.below(256)]), wounded.subarray(at + 1)]);
        break;
      case 1:
        wounded = Buffer.concat([before, wounded.subarray(end)]);
        break;
      case 2:
        wounded = Buffer.concat([before, piece, piece, wounded.subarray(end)]);
        break;
      default:
        wounded = Buffer.concat([
          before,
          Buffer.from(INSERTED[random.below(INSERTED.length)] ?? "", "latin1"),
          wounded.subarray(at),
        ]);
    }
  }
  return wounded;
}
