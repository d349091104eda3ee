/**
 * A head as a row of `streams`, both ways: what a column says, and what the JSON in `head` must hold to be one. Pure; reading never throws
 * on what a row holds.
 */

import { isJsonObject } from "../../kit/json-object.ts";
import { expiryDeadlineMs } from "../../protocol/expiry.ts";
import { keepsAll } from "../../protocol/retention.ts";
import type { Deletion, StreamHead } from "../../protocol/stream.ts";
import type { StreamRow } from "./row-crc.ts";

/** By the number in the column `deletion`. */
export const DELETIONS: readonly Deletion[] = ["none", "soft", "hard"];
/** The columns of a row with its checksum. */
export const STREAM_COLUMNS = "id, name, deletion, deadline_ms, retained, head, crc";

type StoredHead = Omit<StreamHead, "id" | "producers" | "deletion">;

const COUNTERS = ["next", "bytes", "trimmedBytes", "retainedFrom", "forks", "producerCount", "lastCommit"] as const;

export function encodeHead(head: StreamHead): StreamRow {
  const { id, producers: _producers, deletion, ...stored } = head;
  return {
    id,
    name: head.config.name,
    deletion: DELETIONS.indexOf(deletion),
    ...marksOf(head),
    head: JSON.stringify(stored satisfies StoredHead),
  };
}

/**
 * What the sweeps look for: columns of their own, with an index each. What is deleted leaves them at once: until its row is freed every look
 * would pass it.
 */
export function marksOf(head: StreamHead): Pick<StreamRow, "deadline_ms" | "retained"> {
  const deadlineMs = head.deletion === "none" ? expiryDeadlineMs(head.config.expiry, head.accessedMs) : Infinity;
  return {
    deadline_ms: Number.isFinite(deadlineMs) ? deadlineMs : null,
    retained: keepsAll(head.retention) || head.deletion === "hard" ? 0 : 1,
  };
}

/** Null when the row holds no head. */
export function decodeHead(row: Pick<StreamRow, "id" | "deletion" | "head">): StreamHead | null {
  let stored: unknown;
  try {
    stored = JSON.parse(row.head);
  } catch {
    // Not JSON: the caller says so in its own way.
    return null;
  }
  if (!isStoredHead(stored)) return null;
  const deletion = DELETIONS[row.deletion] ?? "none";
  // Written before there were profiles, a head has none.
  return { ...stored, profile: stored.profile ?? null, id: row.id, deletion, producers: new Map() };
}

/** What every reader of a head relies on. */
function isStoredHead(value: unknown): value is StoredHead {
  if (!isJsonObject(value) || !isJsonObject(value["config"]) || !isJsonObject(value["retention"])) return false;
  const { name, from, expiry, fork } = value["config"];
  if (typeof name !== "string" || !isCount(from) || !isJsonObject(expiry)) return false;
  if (fork !== null && !(isJsonObject(fork) && isCount(fork["sourceId"]) && Array.isArray(fork["inherited"])))
    return false;
  return COUNTERS.every((field) => isCount(value[field]));
}

/** Whether a column holds a number as we write them: a damaged page can give it any value, of any type. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}
