/**
 * Server-sent events as bytes (PROTOCOL §5.8): one `data` event and its `control` event. Text is cut at every line break, each
 * line its own `data:` field, so payload can never forge an event. Pure.
 */

import { joinBytes, utf8 } from "../kit/bytes.ts";

const LF = 0x0a;
const CR = 0x0d;
const DATA_EVENT = utf8("event: data\n");
const DATA_FIELD = utf8("data:");
const SPACE = utf8(" ");
const BLANK = 0x20;
const NEWLINE = utf8("\n");
const COMMA = 0x2c;
const OPEN = utf8("[");
const CLOSE = utf8("]");

export type SseEncoding = "json" | "text" | "base64";

export interface SseControl {
  readonly streamNextOffset: string;
  readonly streamCursor?: string;
  readonly upToDate?: true;
  readonly streamClosed?: true;
}

/**
 * One whole data event. JSON parts become one array; base64 parts one text. `nextOffset` is its id: a browser that lost the
 * connection after it says so in `Last-Event-ID`, also when the control event behind it did not arrive.
 */
export function encodeDataEvent(parts: readonly Uint8Array[], encoding: SseEncoding, nextOffset: string): Uint8Array {
  // The id comes first: some readers take the line after `event:` for the data.
  const head = [utf8(`id:${nextOffset}\n`), DATA_EVENT, DATA_FIELD];
  if (encoding === "base64") return joinBytes([...head, utf8(joinBytes(parts).toBase64()), NEWLINE, NEWLINE]);
  const pieces: Uint8Array[] = head;
  // Joined first: a line may run from one record into the next.
  if (encoding === "json") pushLines(pieces, joinBytes([OPEN, joinBytes(parts, COMMA), CLOSE]));
  else pushLines(pieces, joinBytes(parts));
  pieces.push(NEWLINE, NEWLINE);
  return joinBytes(pieces);
}

export function encodeControlEvent(control: SseControl): Uint8Array {
  return utf8(`id:${control.streamNextOffset}\nevent: control\ndata:${JSON.stringify(control)}\n\n`);
}

/**
 * Word about the delivery itself: readers that do not know the event pass over it. `nextOffset` is where it goes on; null = that is as
 * it was before, also for a reader that comes back.
 */
export function encodeNotice(event: "lagged" | "gap" | "view", facts: object, nextOffset: string | null): Uint8Array {
  return utf8(`${nextOffset === null ? "" : `id:${nextOffset}\n`}event: ${event}\ndata:${JSON.stringify(facts)}\n\n`);
}

/** How long a reader waits before it comes back; browsers wait three seconds otherwise, once a minute. */
export function encodeRetry(ms: number): Uint8Array {
  return utf8(`retry:${Math.round(ms)}\n\n`);
}

/** Keeps proxies and idle timeouts away; clients do not see it. */
export const SSE_COMMENT: Uint8Array = utf8(":\n\n");

/** Copies `text` with every CRLF, CR or LF turned into a new data field. */
function pushLines(pieces: Uint8Array[], text: Uint8Array): void {
  let start = 0;
  let at = nextBreak(text, 0);
  while (at < text.length) {
    pushLine(pieces, text.subarray(start, at));
    pieces.push(NEWLINE, DATA_FIELD);
    start = at + (text[at] === CR && text[at + 1] === LF ? 2 : 1);
    at = nextBreak(text, start);
  }
  pushLine(pieces, text.subarray(start));
}

/** Parsers strip one space after the colon: a line that begins with one gets one more. */
function pushLine(pieces: Uint8Array[], line: Uint8Array): void {
  if (line[0] === BLANK) pieces.push(SPACE);
  pieces.push(line);
}

function nextBreak(text: Uint8Array, from: number): number {
  const lf = text.indexOf(LF, from);
  const cr = text.indexOf(CR, from);
  if (lf < 0) return cr < 0 ? text.length : cr;
  return cr < 0 ? lf : Math.min(lf, cr);
}
