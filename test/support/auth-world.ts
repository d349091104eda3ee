/**
 * Credentials for tests: data directories with API keys in them, an issuer of JSON Web Tokens with keys that it publishes, and
 * requests that bring what they make. Keys are written as the `keys` command writes them; tokens as an identity provider would.
 */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CryptoKey, exportJWK, generateKeyPair, type JWTPayload, SignJWT } from "jose";
import { formatKeys, parseKeys } from "../../src/features/auth/index.ts";
import { createKey } from "../../src/server/key-admin.ts";
import { call, type CallOptions } from "./streams.ts";

export interface KeyWish {
  readonly grants: readonly string[];
  /** Negative: it has expired already. Default: it never does. */
  readonly lifeMs?: number;
}

export interface KeyedDirectory<Name extends string> {
  readonly dataDir: string;
  readonly keysFile: string;
  readonly tokens: Readonly<Record<Name, string>>;
  readonly ids: Readonly<Record<Name, string>>;
}

const made: string[] = [];
process.on("exit", () => {
  for (const directory of made) rmSync(directory, { recursive: true, force: true });
});

/** A data directory with a key for every name. Its server removes it, or the end of the process does when that never started. */
export function keyedDirectory<Name extends string>(
  wishes: Readonly<Record<Name, KeyWish | readonly string[]>>,
): KeyedDirectory<Name> {
  const dataDir = mkdtempSync(join(tmpdir(), "streams-auth-test-"));
  made.push(dataDir);
  const keysFile = join(dataDir, "keys.json");
  const keys = Object.entries<KeyWish | readonly string[]>(wishes).map(([name, wish]) => {
    const { grants, lifeMs } = "grants" in wish ? wish : { grants: wish, lifeMs: undefined };
    return [name, createKey(keysFile, name, grants, lifeMs ?? null)] as const;
  });
  const tokens = Object.fromEntries(keys.map(([name, { token }]) => [name, token])) as Record<Name, string>;
  const ids = Object.fromEntries(keys.map(([name, { id }]) => [name, id])) as Record<Name, string>;
  return { dataDir, keysFile, tokens, ids };
}

/** Leaves the keys out that `gone` names, as if they had been revoked. */
export function dropKeys(keysFile: string, gone: readonly string[]): void {
  const keys = parseKeys(readFileSync(keysFile, "utf8"));
  if ("reason" in keys) throw new Error(`the key file is broken: ${keys.reason}`);
  writeFileSync(keysFile, formatKeys(keys.filter(({ id }) => !gone.includes(id))));
}

export const bearer = (token: string): { readonly authorization: string } => ({ authorization: `Bearer ${token}` });

/** One request with a token. */
export function callAs(token: string, method: string, url: string, options: CallOptions = {}): Promise<Response> {
  return call(method, url, { ...options, headers: { ...bearer(token), ...options.headers } });
}

export interface SignedAnswer {
  readonly access: string;
  readonly expiresAt: string;
  readonly urls: Readonly<Record<string, string>>;
  readonly socket: string;
}

/** A signed token that must be given. */
export async function signedBy(
  token: string,
  server: { readonly url: string },
  streams: readonly string[],
  expiresIn = "5m",
): Promise<SignedAnswer> {
  const answer = await callAs(token, "POST", `${server.url}/v1/signed-urls`, {
    body: JSON.stringify({ streams, expiresIn }),
  });
  if (answer.status !== 201) throw new Error(`signing was answered ${answer.status} ${await answer.text()}`);
  return (await answer.json()) as SignedAnswer;
}

export const SECRET = "0123456789abcdef0123456789abcdef-test";
export const AUDIENCE = "streams";
export const ISSUER = "https://id.example";

export interface Claims extends JWTPayload {
  readonly scope?: unknown;
}

const now = (): number => Math.floor(Date.now() / 1000);

/** Claims that are good for five minutes, besides what is given; undefined leaves one out. */
export function claimsOf(more: Claims = {}): JWTPayload {
  return { sub: "someone", aud: AUDIENCE, iss: ISSUER, exp: now() + 300, ...more };
}

/** A token that is signed with the secret of the tests. */
export function secretToken(more: Claims = {}, secret = SECRET, alg = "HS256"): Promise<string> {
  return new SignJWT(claimsOf(more)).setProtectedHeader({ alg }).sign(new TextEncoder().encode(secret));
}

export interface Issuer {
  readonly jwksUrl: string;
  readonly publicKey: CryptoKey;
  readonly privateKey: CryptoKey;
  /** How often the keys were fetched. */
  readonly fetches: () => number;
  /** Answers nothing but 500 from now on. */
  fail(): void;
  token(more?: Claims, header?: Readonly<Record<string, unknown>>): Promise<string>;
  stop(): Promise<void>;
}

/** Publishes an RS256 key as `k1` on a free loopback port. */
export async function startIssuer(): Promise<Issuer> {
  const { publicKey, privateKey } = await generateKeyPair("RS256", { extractable: true });
  const jwk = { ...(await exportJWK(publicKey)), kid: "k1", alg: "RS256", use: "sig" };
  let fetches = 0;
  let failing = false;
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: () => {
      fetches++;
      return failing ? new Response("broken", { status: 500 }) : Response.json({ keys: [jwk] });
    },
  });
  return {
    jwksUrl: `http://127.0.0.1:${server.port}/jwks.json`,
    publicKey,
    privateKey,
    fetches: () => fetches,
    fail: () => (failing = true),
    token: (more = {}, header = {}) =>
      new SignJWT(claimsOf(more)).setProtectedHeader({ alg: "RS256", kid: "k1", ...header }).sign(privateKey),
    stop: () => server.stop(true),
  };
}

export const SECRET_FLAGS = ["--auth", "jwt", "--jwt-audience", AUDIENCE, "--jwt-issuer", ISSUER] as const;
export const SECRET_ENV = { STREAMS_JWT_SECRET: SECRET } as const;

export function issuerFlags({ jwksUrl }: Pick<Issuer, "jwksUrl">): readonly string[] {
  return [...SECRET_FLAGS, "--jwt-jwks-url", jwksUrl];
}
