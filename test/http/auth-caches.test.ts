/**
 * A shared cache in front of two tenants: a small one that keeps all that RFC 9111 lets it keep, and not less. What one tenant got must
 * never be given to the other, to nobody, or to anyone once the stream is another one. The control shows that the cache does keep.
 */

import { describe, expect, test } from "bun:test";
import { bearer, callAs, keyedDirectory, signedBy } from "../support/auth-world.ts";
import { runSeed, seededRandom } from "../support/random.ts";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { call } from "../support/streams.ts";

const start = temporaryServers();
const PLAIN = ["--auth", "api-key", "--durability", "os", "--no-live-metrics", "--limit-requests", "none"] as const;
const JSON_TYPE = { "content-type": "application/json" };

interface Told {
  readonly status: number;
  readonly text: string;
  readonly from: "cache" | "origin";
}

interface Kept {
  readonly status: number;
  readonly text: string;
  readonly headers: Headers;
  readonly asked: Headers;
  readonly storedMs: number;
}

const directives = (headers: Headers): ReadonlyMap<string, string> =>
  new Map(
    (headers.get("cache-control") ?? "").split(",").flatMap((part) => {
      const [name = "", value = ""] = part.trim().toLowerCase().split("=");
      return name === "" ? [] : [[name, value] as const];
    }),
  );

/** What a shared cache may store (RFC 9111 §3, §3.5). */
function mayStore(asked: Headers, status: number, headers: Headers): boolean {
  const control = directives(headers);
  if (control.has("no-store") || control.has("private") || headers.get("vary") === "*") return false;
  const isForAll = control.has("public") || control.has("s-maxage") || control.has("must-revalidate");
  if (asked.has("authorization") && !isForAll) return false;
  return (
    control.has("max-age") ||
    control.has("public") ||
    headers.has("expires") ||
    headers.has("etag") ||
    [200, 404].includes(status)
  );
}

/** How long it may be given without asking: by its word, else a guess, as §4.2.2 lets caches make. */
function freshMs(headers: Headers): number {
  const control = directives(headers);
  if (control.has("no-cache")) return 0;
  const seconds = control.get("s-maxage") ?? control.get("max-age");
  return seconds === undefined ? 10_000 : Number(seconds) * 1000;
}

/** The cache. `isReckless`: it stores what it may not, for whomever, and gives it for 10 s without asking, which must be seen. */
function sharedCache(nowMs: () => number, isReckless = false) {
  const kept = new Map<string, Kept[]>();
  let hits = 0;
  const matching = (url: string, asked: Headers): Kept | undefined =>
    kept.get(url)?.findLast((entry) => {
      const vary = (isReckless ? "" : (entry.headers.get("vary") ?? "")).split(",").map((name) => name.trim());
      return vary.every((name) => name === "" || entry.asked.get(name) === asked.get(name));
    });
  return {
    hits: () => hits,
    async get(url: string, headers: Readonly<Record<string, string>>): Promise<Told> {
      const asked = new Headers(headers);
      const found = matching(url, asked);
      if (found !== undefined && nowMs() - found.storedMs < (isReckless ? 10_000 : freshMs(found.headers))) {
        hits++;
        return { status: found.status, text: found.text, from: "cache" };
      }
      const etag = found?.headers.get("etag") ?? null;
      const answer = await call("GET", url, {
        headers: { ...headers, ...(etag !== null && { "if-none-match": etag }) },
      });
      const text = await answer.text();
      if (answer.status === 304 && found !== undefined) {
        hits++;
        return { status: found.status, text: found.text, from: "cache" };
      }
      if (isReckless || mayStore(asked, answer.status, answer.headers)) {
        const entry = { status: answer.status, text, headers: answer.headers, asked, storedMs: nowMs() };
        kept.set(url, [...(kept.get(url) ?? []).slice(-8), entry]);
      }
      return { status: answer.status, text, from: "origin" };
    },
  };
}

interface Who {
  readonly name: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly query: string;
  /** Names it may read begin so. */
  readonly prefix: string | null;
}

async function tenants(server: TestServer, tokens: Readonly<Record<"ann" | "bob", string>>): Promise<Who[]> {
  const { access } = await signedBy(tokens.ann, server, ["ann/*"]);
  return [
    { name: "ann", headers: bearer(tokens.ann), query: "", prefix: "ann/" },
    { name: "bob", headers: bearer(tokens.bob), query: "", prefix: "bob/" },
    { name: "ann by a signed token", headers: {}, query: access, prefix: "ann/" },
    {
      name: "a page of ann's",
      headers: { ...bearer(tokens.ann), origin: "https://app.example" },
      query: "",
      prefix: "ann/",
    },
    { name: "nobody", headers: {}, query: "", prefix: null },
    { name: "a guess", headers: bearer("sk_junk"), query: "", prefix: null },
  ];
}

const QUERIES = ["", "offset=-1", "tail=1", "offset=now", "offset=0000000000000000_0000000000000000", "key=k"];
const SUFFIXES = ["", "", "", "", "/_details", "/_profile"];

/** Reads at random through a cache, while streams are appended to, deleted and made anew; counts what must not be. */
async function readThrough(
  isReckless: boolean,
  rounds: number,
): Promise<{ crossed: number; stale: number; hits: number }> {
  const keys = keyedDirectory({ ann: ["all:ann/*"], bob: ["all:bob/*"] });
  const server = await start({ args: [...PLAIN, "--cors-origin", "https://app.example"], dataDir: keys.dataDir });
  const random = seededRandom(runSeed());
  console.log(`caches: seed ${random.seed}`);
  const callers = await tenants(server, keys.tokens);
  let nowMs = 0;
  const cache = sharedCache(() => nowMs, isReckless);
  const names = ["ann/1", "ann/2", "bob/1", "bob/2"];
  const marks = new Map<string, string>();
  let incarnations = 0;
  const make = async (name: string): Promise<void> => {
    const token = name.startsWith("ann") ? keys.tokens.ann : keys.tokens.bob;
    const url = `${server.url}/v1/stream/${name}`;
    await callAs(token, "DELETE", url);
    const mark = `${name}#${incarnations++};`;
    marks.set(name, mark);
    const body = JSON.stringify([mark, mark]);
    expect((await callAs(token, "PUT", url, { headers: { ...JSON_TYPE, "stream-key": "k" }, body })).status).toBe(201);
  };
  for (const name of names) await make(name);
  let [crossed, stale] = [0, 0];
  for (let round = 0; round < rounds; round++) {
    nowMs += random.below(500);
    const name = names[random.below(names.length)] ?? "";
    if (random.below(20) === 0) await make(name);
    const who = callers[random.below(callers.length)];
    if (who === undefined) continue;
    const suffix = SUFFIXES[random.below(SUFFIXES.length)] ?? "";
    const query = [
      suffix === "" ? (QUERIES[random.below(QUERIES.length)] ?? "") : "",
      who.query === "" ? "" : `access=${who.query}`,
    ];
    const url = `${server.url}/v1/stream/${name}${suffix}?${query.filter((part) => part !== "").join("&")}`;
    const { status, text } = await cache.get(url, who.headers);
    const may = who.prefix !== null && name.startsWith(who.prefix);
    if (!may && ![401, 403].includes(status)) crossed++;
    if (may && status >= 400 && status !== 400) crossed++;
    // What is told of a stream bears the mark of the one that is there now.
    const others = [...text.matchAll(/(\w+\/\d)#(\d+);/g)].filter(([mark]) => mark !== marks.get(name));
    if (others.length > 0) stale++;
  }
  return { crossed, stale, hits: cache.hits() };
}

describe("a shared cache in front of two tenants", () => {
  test("gives nobody what is not for him, and nothing of a stream that is no more", async () => {
    const { crossed, stale, hits } = await readThrough(false, 3000);
    console.log(`3000 reads, ${hits} from the cache, ${crossed} crossed, ${stale} stale`);
    expect({ crossed, stale }).toEqual({ crossed: 0, stale: 0 });
  }, 60_000);

  test("control: one that keeps what it may not gives both", async () => {
    const { crossed, stale, hits } = await readThrough(true, 3000);
    console.log(`3000 reads, ${hits} from the cache, ${crossed} crossed, ${stale} stale`);
    expect([hits > 0, crossed > 0, stale > 0]).toEqual([true, true, true]);
  }, 60_000);

  test("public keys may be kept, and only they", async () => {
    const keys = keyedDirectory({ ann: ["all"] });
    const server = await start({ args: PLAIN, dataDir: keys.dataDir });
    const url = `${server.url}/v1/stream/a`;
    const body = JSON.stringify([1, 2, 3]);
    expect((await callAs(keys.tokens.ann, "PUT", url, { headers: JSON_TYPE, body })).status).toBe(201);
    const cache = sharedCache(() => 0);
    const jwks = `${server.url}/v1/stream/__ds/jwks.json`;
    await cache.get(jwks, {});
    expect((await cache.get(jwks, {})).from).toBe("cache");
    for (const path of ["/v1/stream/a", "/v1/stream/a?offset=-1", "/v1/streams", "/metrics", "/v1/server/_details"]) {
      await cache.get(server.url + path, bearer(keys.tokens.ann));
      expect([path, (await cache.get(server.url + path, bearer(keys.tokens.ann))).from]).toEqual([path, "origin"]);
    }
  });
});

describe("one's own cache", () => {
  test("is told what an answer depends on, and revalidates with the grant looked at first", async () => {
    const keys = keyedDirectory({ ann: ["all:ann/*"], bob: ["all:bob/*"] });
    const args = [...PLAIN, "--cors-origin", "https://app.example"];
    const server = await start({ args, dataDir: keys.dataDir });
    const url = `${server.url}/v1/stream/ann/1`;
    await callAs(keys.tokens.ann, "PUT", url, { headers: JSON_TYPE, body: "[1]" });
    const read = await callAs(keys.tokens.ann, "GET", url);
    const etag = read.headers.get("etag") ?? "";
    expect(read.headers.get("vary")).toMatch(/authorization/i);
    const again = (token: string): Promise<Response> =>
      callAs(token, "GET", url, { headers: { "if-none-match": etag } });
    const same = await again(keys.tokens.ann);
    expect([same.status, same.headers.get("vary")]).toEqual([304, read.headers.get("vary")]);
    // 304 would tell what is there.
    expect((await again(keys.tokens.bob)).status).toBe(403);
    expect((await call("GET", url, { headers: { "if-none-match": etag } })).status).toBe(401);
    expect((await call("GET", url, { headers: { "if-none-match": "*" } })).status).toBe(401);
    const page = await callAs(keys.tokens.ann, "GET", url, { headers: { origin: "https://app.example" } });
    expect(page.headers.get("vary")).toMatch(/origin.*authorization|authorization.*origin/i);
    // A stream of the same name is another one.
    await callAs(keys.tokens.ann, "DELETE", url);
    await callAs(keys.tokens.ann, "PUT", url, { headers: JSON_TYPE, body: "[1]" });
    const anew = await again(keys.tokens.ann);
    expect([anew.status, anew.headers.get("etag") === etag]).toEqual([200, false]);
  });
});
