/**
 * The keys that are valid now, replaced as a whole when their file changes. A key that is not among them any more has been revoked. They
 * are found by their digest: the search takes as long for a token of a known id as for any other.
 */

import type { Clock } from "../../kit/clock.ts";
import { type Grant, parseGrant } from "../../protocol/grants.ts";
import type { Principal } from "../../http/principal.ts";
import { isKey, sha256Of, type StoredKey } from "./api-key.ts";
import type { Check } from "./credentials.ts";

interface Entry {
  readonly key: StoredKey;
  readonly principal: Principal;
}

const PREFIX = "key:";

export class ApiKeys {
  readonly #clock: Clock;
  #byDigest: ReadonlyMap<string, Entry> = new Map<string, Entry>();
  #byId: ReadonlyMap<string, Entry> = new Map<string, Entry>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  replace(keys: readonly StoredKey[]): void {
    const entries = keys.map((key): Entry => ({ key, principal: this.#principalOf(key) }));
    this.#byDigest = new Map(entries.map((entry) => [entry.key.sha256, entry]));
    this.#byId = new Map(entries.map((entry) => [PREFIX + entry.key.id, entry]));
  }

  check(token: string): Check {
    if (!isKey(token)) return "malformed";
    const entry = this.#byDigest.get(sha256Of(token));
    if (entry === undefined) return "unknown";
    return this.#isLive(entry.key) ? entry.principal : "expired";
  }

  /** Whether the caller with this id may still do anything. */
  isValid(principalId: string): boolean {
    const entry = this.#byId.get(principalId);
    return entry !== undefined && this.#isLive(entry.key);
  }

  #isLive({ expiresMs }: StoredKey): boolean {
    return expiresMs === null || this.#clock.nowMs() < expiresMs;
  }

  #principalOf(key: StoredKey): Principal {
    const grants = key.grants.map(parseGrant).filter((grant): grant is Grant => grant !== null);
    const isValid = (): boolean => this.#byDigest.has(key.sha256) && this.#isLive(key);
    const id = PREFIX + key.id;
    return { id, client: id, grants, expiresMs: key.expiresMs, isValid };
  }
}
