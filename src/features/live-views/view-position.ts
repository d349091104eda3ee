/**
 * Where a client of a view stands: an offset of the stream, and which view showed what it has: `<offset>~<16 hex digits>`. A browser
 * comes back to the address that it opened, also when the view was changed since; then it is the position that tells. Sorts like the
 * offset. Pure.
 */

import { type OffsetToken, parseOffset } from "../../protocol/offset.ts";

export interface ViewPosition {
  readonly token: OffsetToken;
  /** Hash of the identity of the view; null = a mere offset, which its client says is one of this view. */
  readonly view: bigint | null;
}

const POSITION = /^([^~]*)(?:~([0-9a-f]{16}))?$/;

export function encodePosition(offset: string, view: bigint): string {
  return `${offset}~${view.toString(16).padStart(16, "0")}`;
}

/** Null when it is none. */
export function parsePosition(text: string): ViewPosition | null {
  const [, offset = "", view] = POSITION.exec(text) ?? [];
  const token = parseOffset(offset);
  return token === null ? null : { token, view: view === undefined ? null : BigInt(`0x${view}`) };
}

/** The offset of a position. */
export function offsetIn(position: string): string {
  return POSITION.exec(position)?.[1] ?? position;
}
