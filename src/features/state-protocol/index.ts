/**
 * The state-protocol profile: every record of the stream is a change or a control mark of the State Protocol, checked at append;
 * one violation refuses the whole append. The digest of an append is its parsed records, in order.
 */

import type { ProfileRules } from "../../engine/profiles.ts";
import type { StreamProfile } from "../../protocol/stream.ts";
import { isRow, parseStateRecord, type StateRecord } from "./record.ts";
import { type ProfileSettings, profileSettings, type TouchSettings } from "./touch-settings.ts";

export { isRow } from "./record.ts";
export type { ChangeRecord, ControlRecord, Operation, Row, StateRecord } from "./record.ts";
export type { TouchSettings } from "./touch-settings.ts";

export const STATE_PROTOCOL = "state-protocol";

/** Parsing is the longest turn of an append: 1 MiB of changes takes about 15 ms. Past it: 413, split the append. */
const MAX_APPEND_BYTES = 1024 * 1024;

const decoder = new TextDecoder();

export const stateProtocol: ProfileRules = {
  kind: STATE_PROTOCOL,
  jsonOnly: true,
  parse(settings) {
    const parsed = profileSettings.safeParse(settings);
    if (parsed.success) return { config: parsed.data };
    const [issue] = parsed.error.issues;
    const where = issue === undefined || issue.path.length === 0 ? "profile" : `profile.${issue.path.join(".")}`;
    return { reason: `${where}: ${issue?.message ?? "not valid"}` };
  },
  check(config, records) {
    if (records.payload.length > MAX_APPEND_BYTES) return { kind: "append-too-large", maxBytes: MAX_APPEND_BYTES };
    const settings = config as ProfileSettings;
    const strict = settings.touch.enabled && settings.touch.onMissingBefore === "error";
    const values = parseValues(records.payload);
    const digest: StateRecord[] = [];
    for (const [index, value] of values.entries()) {
      const record = parseStateRecord(value);
      if (typeof record === "string") return { kind: "record-invalid", index, reason: record };
      if (strict && lacksBefore(record)) {
        const reason = "'old_value' is missing, and this stream's profile asks for it (onMissingBefore: error)";
        return { kind: "record-invalid", index, reason };
      }
      digest.push(record);
    }
    return { ...records, digest };
  },
};

/** The touch settings of a stream; null when it has none or they are switched off. */
export function touchSettingsOf(profile: StreamProfile | null): TouchSettings | null {
  if (profile?.kind !== STATE_PROTOCOL) return null;
  const { touch } = profile.config as ProfileSettings;
  return touch.enabled ? touch : null;
}

/** The records of a stored JSON payload (comma-joined); null for one that is no State Protocol record. */
export function readStateRecords(payload: Uint8Array): (StateRecord | null)[] {
  return parseValues(payload).map((value) => {
    const record = parseStateRecord(value);
    return typeof record === "string" ? null : record;
  });
}

const OPEN = 0x5b;
const CLOSE = 0x5d;

/** Stored payloads were checked to be JSON before they were accepted. */
function parseValues(payload: Uint8Array): unknown[] {
  // The payload of an array body lies between its brackets: taken along they save a copy of the text.
  const { buffer, byteOffset, length } = payload;
  if (byteOffset > 0 && byteOffset + length < buffer.byteLength) {
    const whole = new Uint8Array(buffer, byteOffset - 1, length + 2);
    if (whole[0] === OPEN && whole[length + 1] === CLOSE) return JSON.parse(decoder.decode(whole)) as unknown[];
  }
  return JSON.parse(`[${decoder.decode(payload)}]`) as unknown[];
}

function lacksBefore(record: StateRecord): boolean {
  if (record.kind !== "change" || record.operation === "insert") return false;
  const { before } = record;
  return !isRow(before) && !(record.operation === "upsert" && before === null);
}
