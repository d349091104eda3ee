/**
 * Credentials that must not be accepted: forged, damaged, expired, or spelled in ways that a lenient reader would take. Each kind is a
 * function of seeded randomness, so that a run can be repeated. What is signed with the right key is flawed in what it says.
 */

import { createHmac, KeyObject, sign } from "node:crypto";
import { type CryptoKey, exportJWK, exportSPKI, generateKeyPair, SignJWT } from "jose";
import { claimsOf, type Issuer, SECRET } from "./auth-world.ts";
import type { SeededRandom } from "./random.ts";

/** What is sent: the whole header, or a token in the query. */
export type Forgery = { readonly authorization: string } | { readonly access: string };
export type Forger = (random: SeededRandom) => Forgery | Promise<Forgery>;

const BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const encoded = (value: unknown): string =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
const pick = <T>(random: SeededRandom, from: readonly T[]): T => {
  const found = from[random.below(from.length)];
  if (found === undefined) throw new Error("nothing to pick from");
  return found;
};
const noise = (random: SeededRandom, length: number): string =>
  Array.from({ length }, () => BASE64URL[random.below(64)]).join("");
const asBearer = (token: string): Forgery => ({ authorization: `Bearer ${token}` });

/** The text with one character exchanged. The last one of a part is left: its spare bits are a kind of their own. */
function flipped(random: SeededRandom, text: string, from: number): string {
  for (;;) {
    const at = from + random.below(text.length - from);
    const next = text[at + 1];
    if (next === undefined || next === "." || next === "_" || text[at] === "." || text[at] === "_") continue;
    const other = BASE64URL[random.below(64)] ?? "A";
    if (other !== text[at]) return text.slice(0, at) + other + text.slice(at + 1);
  }
}

/** The same bytes in another spelling, as far as base64 decoders go that do not look closely. */
function respelled(random: SeededRandom, text: string): string {
  const last = BASE64URL.indexOf(text.at(-1) ?? "");
  return pick(random, [
    `${text}=`,
    `${text}==`,
    `${text}%3D`,
    `${text}.`,
    // Of 32 bytes two bits are left over, of 256 four.
    text.slice(0, -1) + (BASE64URL[last ^ 1] ?? "A"),
  ]);
}

/** Ways to damage a credential that is good, and ways to send a good one that are none. */
function damages(good: string, prefixLength: number): readonly Forger[] {
  return [
    (random) => asBearer(flipped(random, good, prefixLength)),
    (random) => asBearer(good.slice(0, random.below(good.length))),
    (random) => asBearer(respelled(random, good)),
    (random) => asBearer(good + noise(random, 1 + random.below(20))),
    (random) => asBearer(noise(random, 1 + random.below(20)) + good),
    (random) => asBearer(good.slice(0, prefixLength) + noise(random, good.length - prefixLength)),
    (random) => asBearer(noise(random, 8_200 + random.below(4_000))),
    (random) => ({
      authorization: pick(random, [
        `Basic ${good}`,
        `Token ${good}`,
        `Bearer  ${good}`,
        `Bearer ${good} ${good}`,
        `Bearer ${good},`,
        `Bearer ${good}, Bearer ${good}`,
        `Bearer,${good}`,
        `Bearer:${good}`,
        `Bearer "${good}"`,
        `Bearer ${good}\tx`,
        good,
        "Bearer",
        "Bearer null",
        "Bearer undefined",
        `B\u00e9arer ${good}`,
        `Bearer ${good}\u00a0`,
        `Digest username="${good}"`,
      ]),
    }),
    (random) => ({ access: random.below(2) === 0 ? good : flipped(random, good, prefixLength) }),
  ];
}

export function forgedKeys(good: string): readonly Forger[] {
  const [, id = "", secret = ""] = good.split("_", 3).length === 3 ? (/^sk_([^_]+)_(.+)$/.exec(good) ?? []) : [];
  return [
    ...damages(good, 3),
    (random) => asBearer(`sk_${id}_${noise(random, 43)}`),
    (random) =>
      asBearer(
        `sk_${noise(random, 10)
          .toLowerCase()
          .replaceAll(/[^a-z2-7]/g, "a")}_${secret}`,
      ),
    (random) =>
      asBearer(
        pick(random, [
          good.toUpperCase(),
          `SK_${id}_${secret}`,
          `sk_${id.toUpperCase()}_${secret}`,
          `sk_${id}_${secret.toLowerCase()}x`,
          `sk_${id}_`,
          `sk__${secret}`,
          `sk_${id}`,
          `sk-${id}-${secret}`,
          `su_${id}_${secret}`,
          `sk_${id}_${"0".repeat(64)}`,
          "sk_constructor_x",
          `sk___proto___${secret}`,
        ]),
      ),
  ];
}

export function forgedSigned(good: string): readonly Forger[] {
  const [payload = "", mac = ""] = good.slice(3).split(".");
  const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as Record<string, unknown>;
  const forged = (more: object): Forgery => ({ access: `su_${encoded({ ...claims, ...more })}.${mac}` });
  return [
    (random) => ({ access: flipped(random, good, 3) }),
    (random) => ({ access: good.slice(0, random.below(good.length)) }),
    (random) => ({ access: respelled(random, good) }),
    (random) => ({ access: `su_${payload}=.${mac}` + noise(random, random.below(3)) }),
    (random) => forged({ exp: Date.now() + random.below(10 ** 9) + 60_000 }),
    (random) => forged({ read: [pick(random, ["*", "", "a*"])] }),
    (random) => forged({ by: `key:${noise(random, 10)}` }),
    (random) => {
      const body = encoded({ ...claims, read: ["*"] });
      const secret = pick(random, ["", SECRET, "signed-urls", good, noise(random, 32)]);
      return { access: `su_${body}.${createHmac("sha256", secret).update(`su_${body}`).digest("base64url")}` };
    },
    (random) => ({
      access: pick(random, ["su_", "su_.", `su_.${mac}`, `su_${payload}.`, `su_${payload}`, "su_e30.", "."]),
    }),
    (random) => ({ access: `SU_${payload}.${mac}${noise(random, random.below(2))}` }),
    (random) => ({ access: noise(random, 8_200 + random.below(4_000)) }),
    () => asBearer(good),
  ];
}

/** Claims that are flawed, whoever signs them. */
function flawedClaims(random: SeededRandom): Readonly<Record<string, unknown>> {
  const seconds = Math.floor(Date.now() / 1000);
  return pick<Readonly<Record<string, unknown>>>(random, [
    { exp: seconds - 6 - random.below(10 ** 6) },
    { exp: undefined },
    { exp: null },
    { exp: String(seconds + 300) },
    { exp: 0 },
    { exp: -1 },
    { exp: [seconds + 300] },
    { nbf: seconds + 60 + random.below(10 ** 6) },
    { nbf: "soon" },
    { aud: "others" },
    { aud: undefined },
    { aud: ["a", "b"] },
    { aud: { streams: true } },
    { iss: "https://id.example.evil" },
    { iss: undefined },
    { iss: ["https://evil.example"] },
  ]);
}

type Header = Readonly<Record<string, unknown>>;

/** A token over any header and claims, with the secret as HMAC key. */
function hmacToken(
  header: Header | string,
  claims: object | string,
  key: string | Uint8Array,
  hash = "sha256",
): string {
  const input = `${encoded(header)}.${encoded(claims)}`;
  return `${input}.${createHmac(hash, key).update(input).digest("base64url")}`;
}

const everything = { scope: "all" };
const hostile = [
  "../../../../dev/null",
  "k1' OR '1'='1",
  "k1\u0000",
  "__proto__",
  "constructor",
  "",
  "k2",
  "K1",
  "k1 ",
];

/** What does not depend on how the server checks: no signature, or the attacker's. */
async function unsigned(): Promise<readonly Forger[]> {
  const evil = await generateKeyPair("ES256", { extractable: true });
  const jwk = await exportJWK(evil.publicKey);
  const withHeader = (header: Header): Promise<string> =>
    new SignJWT(claimsOf(everything)).setProtectedHeader({ alg: "ES256", ...header }).sign(evil.privateKey);
  const embedded = await Promise.all([
    withHeader({ jwk }),
    withHeader({ jku: "http://127.0.0.1:1/jwks.json", kid: "k1" }),
    withHeader({ x5u: "http://127.0.0.1:1/cert.pem" }),
    withHeader({ x5c: ["MIIB"], kid: "k1" }),
    withHeader({ kid: "k1" }),
    ...hostile.map((kid) => withHeader({ kid })),
  ]);
  return [
    (random) => {
      const alg = pick(random, ["none", "None", "NONE", "nOnE", "", null, "HS1", "HS256 ", ["HS256"], 256]);
      return asBearer(
        `${encoded({ alg, typ: "JWT" })}.${encoded(claimsOf(everything))}.${noise(random, random.below(2) * 43)}`,
      );
    },
    (random) => asBearer(pick(random, embedded)),
    (random) => {
      const header = pick(random, [
        '{"alg":"HS256","alg":"none"}',
        '{"alg":"none","alg":"HS256"}',
        '{"alg":"HS256","alg":"HS256","kid":"k1"}',
        '{"__proto__":{"alg":"none"}}',
        "null",
        "[]",
        '"HS256"',
        "{",
        "",
      ]);
      return asBearer(hmacToken(header, claimsOf(everything), noise(random, 40)));
    },
    (random) =>
      asBearer(
        `${encoded({ alg: "dir", enc: "A256GCM" })}..${noise(random, 16)}.${noise(random, 30)}.${noise(random, 22)}`,
      ),
    (random) =>
      asBearer(Array.from({ length: random.below(8) }, () => noise(random, random.below(9))).join(".") || "."),
  ];
}

/** Against a server that knows a secret. */
export async function forgedBySecret(good: string): Promise<readonly Forger[]> {
  const claims = claimsOf(everything);
  return [
    ...damages(good, 0),
    ...(await unsigned()),
    (random) => asBearer(hmacToken({ alg: "HS256" }, { ...claims, ...flawedClaims(random) }, SECRET)),
    (random) =>
      asBearer(hmacToken({ alg: "HS256" }, claims, pick(random, ["", " ", `${SECRET} `, "secret", noise(random, 32)]))),
    (random) =>
      asBearer(
        hmacToken({ alg: pick(random, ["HS384", "HS512"]) }, claims, SECRET, pick(random, ["sha384", "sha512"])),
      ),
    (random) =>
      asBearer(
        hmacToken(
          pick<Header>(random, [
            { alg: "HS256", crit: ["unknown"], unknown: 1 },
            { alg: "HS256", crit: ["exp"], exp: 1 },
            { alg: "HS256", crit: [] },
            { alg: "HS256", crit: "b64", b64: false },
            { alg: "HS256", crit: ["b64"], b64: false },
          ]),
          claims,
          SECRET,
        ),
      ),
    // A good token in a token that is not.
    (random) => asBearer(hmacToken({ alg: "HS256", cty: "JWT" }, good, noise(random, 40))),
    (random) => asBearer(hmacToken({ alg: "HS256" }, pick(random, [good, "null", "[]", '"x"', "1", ""]), SECRET)),
  ];
}

/** Against a server that fetches the keys of an issuer. */
export async function forgedByIssuer({ publicKey, privateKey }: Issuer, good: string): Promise<readonly Forger[]> {
  const claims = claimsOf(everything);
  const pem = await exportSPKI(publicKey);
  const jwk = JSON.stringify(await exportJWK(publicKey));
  // Confusion: what everybody knows, as a secret.
  const known = [
    pem,
    pem.trim(),
    `${pem}\n`,
    jwk,
    pem.replaceAll(/-----[^-]+-----|\n/g, ""),
    (await exportJWK(publicKey)).n ?? "",
  ];
  const evil = await generateKeyPair("RS256");
  const signed = (alg: string, key: CryptoKey, more: object = {}, header: Header = {}): Promise<string> =>
    new SignJWT({ ...claims, ...more }).setProtectedHeader({ alg, kid: "k1", ...header }).sign(key);
  const strangers = await Promise.all([
    signed("RS256", evil.privateKey),
    ...hostile.map((kid) => signed("RS256", evil.privateKey, {}, { kid })),
    ...hostile.map((kid) => signed("RS256", privateKey, {}, { kid })),
  ]);
  /** As no library would sign it. */
  const critical = (header: Header): string => {
    const input = `${encoded({ alg: "RS256", kid: "k1", ...header })}.${encoded(claims)}`;
    return `${input}.${sign("sha256", Buffer.from(input), KeyObject.from(privateKey)).toString("base64url")}`;
  };
  const odd: readonly Header[] = [
    { crit: ["exp"], exp: 1 },
    { crit: ["nothing"], nothing: 1 },
    { crit: [] },
    { crit: ["b64"], b64: false },
    { alg: "RS512" },
    { alg: "none" },
  ];
  return [
    ...damages(good, 0),
    ...(await unsigned()),
    (random) => asBearer(critical(pick(random, odd))),
    (random) => asBearer(hmacToken({ alg: "HS256", kid: "k1" }, claims, pick(random, known))),
    (random) =>
      asBearer(hmacToken({ alg: pick(random, ["HS256", "HS384", "HS512"]) }, claims, bytes(pick(random, known)))),
    (random) => asBearer(pick(random, strangers)),
    async (random) => asBearer(await signed("RS256", privateKey, flawedClaims(random))),
  ];
}
