/**
 * The file that holds the API keys: read when it changes, and rewritten as a whole by the `keys` commands while a server runs. Invariants:
 * what stands at its path is always a whole file (written beside it, synced, renamed); one writer at a time.
 */

import {
  closeSync,
  existsSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parseKeys, formatKeys, type StoredKey } from "../features/auth/index.ts";

const LOOK_MS = 1_000;

/** Where the keys of a data directory are, unless `--keys-file` says otherwise. */
export function keyFileIn(dataDir: string): string {
  return join(dataDir, "keys.json");
}

/** The file cannot be used; the message is for the operator. */
export class KeyFileFailure extends Error {
  override readonly name = "KeyFileFailure";
  readonly hint: string;

  constructor(message: string, hint: string, cause?: unknown) {
    super(message, { cause });
    this.hint = hint;
  }
}

/** The keys of a file; none when there is no file. @throws KeyFileFailure */
export function readKeyFile(path: string): readonly StoredKey[] {
  const text = textOf(path);
  return text === null ? [] : keysIn(path, text);
}

/** Changes the keys of a file and returns them. @throws KeyFileFailure, also when another command is changing it. */
export function updateKeyFile(
  path: string,
  change: (keys: readonly StoredKey[]) => readonly StoredKey[],
): readonly StoredKey[] {
  const draft = `${path}.new`;
  const fd = openDraft(draft);
  try {
    const keys = change(readKeyFile(path));
    const text = formatKeys(keys);
    // What could not be read again must not take the place of what can.
    const kept = parseKeys(text);
    if ("reason" in kept)
      throw new KeyFileFailure(`the key cannot be kept: ${kept.reason}`, "see 'streams-server keys create --help'");
    writeFileSync(fd, text);
    giveToOwner(fd, path);
    fsyncSync(fd);
    renameSync(draft, path);
    syncDirectory(dirname(path));
    return keys;
  } catch (cause) {
    rmSync(draft, { force: true });
    throw cause;
  } finally {
    closeSync(fd);
  }
}

/** Tells of every change of the file, about a second late. What cannot be read changes nothing, and is a fault. */
export class KeyFileWatch {
  readonly #path: string;
  readonly #onChange: (keys: readonly StoredKey[]) => void;
  readonly #onFault: (operation: string, cause: unknown) => void;
  readonly #timer: ReturnType<typeof setInterval>;
  #seen = "";
  #looking = false;

  /** @throws KeyFileFailure when the file cannot be used now. */
  constructor(
    path: string,
    onChange: (keys: readonly StoredKey[]) => void,
    onFault: (operation: string, cause: unknown) => void,
  ) {
    this.#path = path;
    this.#onChange = onChange;
    this.#onFault = onFault;
    onChange(readKeyFile(path));
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    if (this.#looking) return;
    this.#looking = true;
    this.#reload()
      .catch((cause: unknown) => this.#onFault("reading the API keys", cause))
      .finally(() => (this.#looking = false));
  }

  async #reload(): Promise<void> {
    const { mtimeMs, size, ino } = await statOf(this.#path);
    const now = `${mtimeMs} ${size} ${ino}`;
    if (now === this.#seen) return;
    const text = ino === 0 ? null : await readFile(this.#path, "utf8");
    // Read: what is wrong with its text is told once, and what kept it from being read is tried again.
    this.#seen = now;
    this.#onChange(text === null ? [] : keysIn(this.#path, text));
  }
}

function keysIn(path: string, text: string): readonly StoredKey[] {
  const keys = parseKeys(text);
  if (!("reason" in keys)) return keys;
  throw new KeyFileFailure(
    `the keys in ${path} cannot be used: ${keys.reason}`,
    "restore the file, or delete it and create keys again with 'streams-server keys create'",
  );
}

/** The server has to read it, also when somebody else has written it. */
function giveToOwner(fd: number, path: string): void {
  const { uid, gid } = existsSync(path) ? statSync(path) : statSync(dirname(path));
  const own = fstatSync(fd);
  if (own.uid !== uid || own.gid !== gid) fchownSync(fd, uid, gid);
}

function openDraft(draft: string): number {
  try {
    return openSync(draft, "wx", 0o600);
  } catch (cause) {
    if (codeOf(cause) === "EEXIST") {
      throw new KeyFileFailure(
        "another command is changing the keys",
        `try again; if none is running, one was interrupted: delete ${draft}`,
        cause,
      );
    }
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new KeyFileFailure(
      `${draft} cannot be written: ${reason}`,
      "the directory has to exist; start the server once",
      cause,
    );
  }
}

function textOf(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    if (codeOf(cause) === "ENOENT") return null;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new KeyFileFailure(`${path} cannot be read: ${reason}`, "the server needs to read its keys", cause);
  }
}

async function statOf(
  path: string,
): Promise<{ readonly mtimeMs: number; readonly size: number; readonly ino: number }> {
  try {
    return await stat(path);
  } catch (cause) {
    if (codeOf(cause) === "ENOENT") return { mtimeMs: 0, size: 0, ino: 0 };
    throw cause;
  }
}

function codeOf(cause: unknown): unknown {
  return cause instanceof Error && "code" in cause ? cause.code : undefined;
}

function syncDirectory(path: string): void {
  if (!statSync(path).isDirectory()) return;
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
