/**
 * The keys that webhooks are signed with (PROTOCOL §6.5, §7.1): Ed25519, named by their thumbprint (RFC 7638), kept as attributes of an
 * internal stream. A key signs for 90 days; its public half stays published for a day after that.
 */

import { createHash, createPrivateKey, generateKeyPairSync, type KeyObject, sign, type webcrypto } from "node:crypto";
import { KEY_PUBLISHED_MS, KEY_SIGNS_MS } from "./limits.ts";

interface StoredKey {
  readonly kid: string;
  readonly createdMs: number;
  /** With its private half. */
  readonly jwk: webcrypto.JsonWebKey;
}

interface SigningKey extends StoredKey {
  readonly private: KeyObject;
}

/** Where they are kept. */
export interface KeyStore {
  load(): Promise<readonly string[]>;
  /** Resolves when it is durable. */
  add(kid: string, key: string): Promise<void>;
  remove(kid: string): Promise<void>;
}

export interface PublicJwk {
  readonly kty: string;
  readonly crv: string;
  readonly kid: string;
  readonly use: "sig";
  readonly alg: "EdDSA";
  readonly x: string;
}

export class SigningKeys {
  readonly #store: KeyStore;
  /** Newest last. */
  #keys: readonly SigningKey[] = [];
  #rotating: Promise<void> | null = null;

  constructor(store: KeyStore) {
    this.#store = store;
  }

  async load(): Promise<void> {
    const keys = (await this.#store.load()).map((text) => restored(JSON.parse(text) as StoredKey));
    this.#keys = keys.sort((left, right) => left.createdMs - right.createdMs);
  }

  /** The key that signs now; made when there is none, or the last one has signed for long enough. Old ones go once nobody needs them. */
  async current(nowMs: number): Promise<{ readonly kid: string }> {
    const newest = this.#keys.at(-1);
    if (newest !== undefined && nowMs < newest.createdMs + KEY_SIGNS_MS) return newest;
    await (this.#rotating ??= this.#rotate(nowMs).finally(() => (this.#rotating = null)));
    return this.#newest();
  }

  /** `t=<seconds>,kid=<key>,ed25519=<signature over "<seconds>.<body>">` */
  async signature(body: string, nowMs: number): Promise<string> {
    await this.current(nowMs);
    const key = this.#newest();
    const seconds = Math.floor(nowMs / 1000);
    const signature = sign(null, Buffer.from(`${seconds}.${body}`), key.private).toString("base64url");
    return `t=${seconds},kid=${key.kid},ed25519=${signature}`;
  }

  /** Every key that a receiver may still need. */
  async published(nowMs: number): Promise<readonly PublicJwk[]> {
    await this.current(nowMs);
    return this.#keys.map(({ kid, jwk: { kty = "", crv = "", x = "" } }) => ({
      kty,
      crv,
      kid,
      use: "sig",
      alg: "EdDSA",
      x,
    }));
  }

  async #rotate(nowMs: number): Promise<void> {
    const jwk = generateKeyPairSync("ed25519").privateKey.export({ format: "jwk" });
    const key: StoredKey = { kid: kidOf(jwk), createdMs: nowMs, jwk };
    // Durable before it signs anything.
    await this.#store.add(key.kid, JSON.stringify(key));
    const isNeeded = ({ createdMs }: SigningKey): boolean => createdMs + KEY_SIGNS_MS + KEY_PUBLISHED_MS > nowMs;
    const gone = this.#keys.filter((old) => !isNeeded(old));
    this.#keys = [...this.#keys.filter(isNeeded), restored(key)];
    for (const { kid } of gone) await this.#store.remove(kid);
  }

  #newest(): SigningKey {
    const newest = this.#keys.at(-1);
    if (newest === undefined) throw new Error("there is no key to sign webhooks with");
    return newest;
  }
}

function restored(key: StoredKey): SigningKey {
  return { ...key, private: createPrivateKey({ key: key.jwk, format: "jwk" }) };
}

function kidOf({ crv, kty, x }: webcrypto.JsonWebKey): string {
  // The members of RFC 7638, in its order.
  return `ds_${createHash("sha256").update(JSON.stringify({ crv, kty, x })).digest("base64url")}`;
}
