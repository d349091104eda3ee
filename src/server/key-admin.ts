/** What the `keys` commands do: make, list, revoke and rotate API keys in their file. A running server follows about a second later. */

import { makeKey, MAX_KEYS, type StoredKey } from "../features/auth/index.ts";
import { systemClock } from "../kit/clock.ts";
import { KeyFileFailure, readKeyFile, updateKeyFile } from "./key-file.ts";

const LAST_DATE_MS = 8.64e15;

/** A key without its digest: nobody needs that. Times are RFC 3339. */
export interface DescribedKey {
  readonly id: string;
  readonly name: string;
  readonly grants: readonly string[];
  readonly createdAt: string;
  readonly expiresAt: string | null;
}

/** A key, and its token, which nobody can see again. */
export interface MadeKey extends DescribedKey {
  readonly token: string;
}

/** `lifeMs`: null = it never expires. */
export function createKey(path: string, name: string, grants: readonly string[], lifeMs: number | null): MadeKey {
  const nowMs = systemClock.nowMs();
  const { key, token } = makeKey(
    { name, grants, expiresMs: lifeMs === null ? null : nowMs + lifeMs },
    nowMs,
    randomBytes,
  );
  updateKeyFile(path, (keys) => withKey(keys, key));
  return { ...described(key), token };
}

export function listKeys(path: string): readonly DescribedKey[] {
  return readKeyFile(path).map(described);
}

export function revokeKey(path: string, id: string): void {
  updateKeyFile(path, (keys) => {
    found(keys, id);
    return keys.filter((key) => key.id !== id);
  });
}

/**
 * A new key with the name and the grants of another, which goes on for `overlapMs`. How long the new one lives has to be said when the old
 * one ends: what is left of that is no measure.
 */
export function rotateKey(path: string, id: string, overlapMs: number, lifeMs: number | null): MadeKey {
  const nowMs = systemClock.nowMs();
  const { name, grants, expiresMs } = found(readKeyFile(path), id);
  if (expiresMs !== null && lifeMs === null) {
    const when = iso(expiresMs);
    throw new KeyFileFailure(`the key ${id} ends at ${when}`, "say when the new one does, e.g. --expires 90d");
  }
  const wanted = { name, grants, expiresMs: lifeMs === null ? null : nowMs + lifeMs };
  const { key: next, token } = makeKey(wanted, nowMs, randomBytes);
  updateKeyFile(path, (keys) => {
    const old = found(keys, id);
    const ending = { ...old, expiresMs: Math.min(old.expiresMs ?? Infinity, nowMs + overlapMs) };
    const others = keys.filter((key) => key.id !== id);
    return withKey(overlapMs > 0 ? [...others, ending] : others, next);
  });
  return { ...described(next), token };
}

function described({ id, name, grants, createdMs, expiresMs }: StoredKey): DescribedKey {
  return { id, name, grants, createdAt: iso(createdMs), expiresAt: expiresMs === null ? null : iso(expiresMs) };
}

/** The file may hold times that no calendar knows: its keys are listed all the same. */
function iso(ms: number): string {
  return new Date(Math.min(ms, LAST_DATE_MS)).toISOString();
}

/** Keys that have ended go. */
function withKey(all: readonly StoredKey[], key: StoredKey): readonly StoredKey[] {
  const keys = all.filter(({ expiresMs }) => expiresMs === null || expiresMs > key.createdMs);
  if (keys.length >= MAX_KEYS) {
    throw new KeyFileFailure(`there are ${MAX_KEYS} keys already`, "revoke some, or give callers tokens (--auth jwt)");
  }
  return [...keys, key];
}

function found(keys: readonly StoredKey[], id: string): StoredKey {
  const key = keys.find((candidate) => candidate.id === id);
  if (key === undefined) throw new KeyFileFailure(`there is no key ${id}`, "see 'streams-server keys ls'");
  return key;
}

function randomBytes(count: number): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(count));
}
