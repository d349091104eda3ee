/**
 * Parses `text/event-stream` as it arrives, by the WHATWG rules this protocol needs: `event` and `data` fields, comments,
 * CR, LF and CRLF line ends in any mix and cut anywhere. Memory is bounded: one event may not exceed `maxEventChars`.
 */

export interface SseEvent {
  /** `message` when the server named none. */
  readonly type: string;
  /** The event's data lines joined by LF. */
  readonly data: string;
}

/** Feed it with `push`; events come out when their blank line has arrived. An unfinished event is never delivered. */
export class SseParser {
  readonly #maxEventChars: number;
  readonly #decoder = new TextDecoder();
  #rest = "";
  /** The last piece ended in CR: an LF that follows belongs to it. */
  #skipLineFeed = false;
  #type = "";
  #data: string[] = [];
  #dataChars = 0;

  constructor(maxEventChars: number) {
    this.#maxEventChars = maxEventChars;
  }

  push(piece: Uint8Array): SseEvent[] {
    const events: SseEvent[] = [];
    let text = this.#decoder.decode(piece, { stream: true });
    if (text === "") return events;
    if (this.#skipLineFeed && text.startsWith("\n")) text = text.slice(1);
    this.#skipLineFeed = text.endsWith("\r");

    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.#rest + (lines[0] ?? "");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      const event = this.#line(line);
      if (event !== null) events.push(event);
    }
    this.#checkBound(this.#rest.length);
    return events;
  }

  #line(line: string): SseEvent | null {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return null;
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "event") this.#type = value;
    if (field === "data") {
      this.#data.push(value);
      this.#dataChars += value.length + 1;
      this.#checkBound(0);
    }
    return null;
  }

  #dispatch(): SseEvent | null {
    const event = this.#data.length === 0 ? null : { type: this.#type || "message", data: this.#data.join("\n") };
    this.#type = "";
    this.#data = [];
    this.#dataChars = 0;
    return event;
  }

  #checkBound(unfinished: number): void {
    if (this.#dataChars + unfinished > this.#maxEventChars) {
      throw new RangeError(`one server-sent event is longer than ${this.#maxEventChars} characters`);
    }
  }
}
