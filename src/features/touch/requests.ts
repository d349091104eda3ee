/** Bodies of the touch routes as clients send them, and cursors. Pure. */

import { z } from "zod";
import { parseKey } from "../../protocol/touch-keys.ts";
import { DEFAULT_WAIT_MS, MAX_EXACT_KEYS, MAX_TEMPLATES_PER_REQUEST, MAX_WAIT_KEYS, MAX_WAIT_MS } from "./limits.ts";

const MAX_KEY_CHARS = 512;
const MAX_TTL_MS = 30 * 86_400_000;

const inactivityTtlMs = z.int().min(1).max(MAX_TTL_MS).optional();
/** Each is held to the template schema by itself: one bad template is denied, not the request. */
const templates = z.array(z.unknown()).max(MAX_TEMPLATES_PER_REQUEST);

export const activateRequest = z.strictObject({ templates: templates.min(1), inactivityTtlMs });

const CURSOR = /^(\d{1,16}):(\d{1,16})$/;

/** `<stream epoch>:<seq>`, a position in the log; or the tail at the time of the request. */
export type Cursor = "now" | { readonly epoch: number; readonly seq: number };

export function formatCursor(epoch: number, seq: number): string {
  return `${epoch}:${seq}`;
}

function parseCursor(text: string): Cursor | null {
  if (text === "now") return "now";
  const [, epoch, seq] = CURSOR.exec(text) ?? [];
  return epoch === undefined || seq === undefined ? null : { epoch: Number(epoch), seq: Number(seq) };
}

export const waitRequest = z
  .strictObject({
    keys: z.array(z.string().max(MAX_KEY_CHARS)).max(MAX_WAIT_KEYS).default([]),
    keyIds: z
      .array(
        z
          .int()
          .min(0)
          .max(2 ** 32 - 1),
      )
      .max(MAX_WAIT_KEYS)
      .default([]),
    cursor: z.string().transform((text, context): Cursor => {
      const cursor = parseCursor(text);
      if (cursor !== null) return cursor;
      context.addIssue({ code: "custom", message: "a cursor is 'now' or one that this server gave" });
      return z.NEVER;
    }),
    timeoutMs: z.int().min(0).max(MAX_WAIT_MS).default(DEFAULT_WAIT_MS),
    interestMode: z.enum(["fine", "coarse"]).default("fine"),
    exact: z.boolean().default(false),
    templateIdsUsed: z
      .array(z.string().regex(/^[0-9a-fA-F]{16}$/, "a template id is 16 hex digits"))
      .max(MAX_TEMPLATES_PER_REQUEST)
      .default([]),
    declareTemplates: templates.default([]),
    inactivityTtlMs,
  })
  .check((context) => {
    const { keys, keyIds, exact, interestMode, templateIdsUsed, declareTemplates } = context.value;
    const named = templateIdsUsed.length + declareTemplates.length;
    const refuse = (message: string): void => {
      context.issues.push({ code: "custom", message, input: context.value, path: ["keys"] });
    };
    if (keys.length + keyIds.length === 0 && (interestMode === "fine" || named === 0)) {
      refuse("name at least one key or key id (or, with interestMode coarse, a template)");
    }
    if (!exact) return;
    if (interestMode === "coarse") refuse("exact needs interestMode fine");
    if (keys.length === 0 || keys.length > MAX_EXACT_KEYS || keys.some((key) => parseKey(key) === null)) {
      refuse(`exact needs 1 to ${MAX_EXACT_KEYS} keys of 16 hex digits`);
    }
  });

export type WaitRequest = z.output<typeof waitRequest>;
