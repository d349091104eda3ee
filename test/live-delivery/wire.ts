/**
 * Bytes taken apart as they come, cut anywhere: HTTP answers, server-sent events, WebSocket frames. Each part hands on only what
 * has arrived whole, which is the point: what was cut off was not received. Pure: no sockets.
 */

export interface AnswerHead {
  readonly status: number;
  /** By lower-case name. */
  readonly headers: ReadonlyMap<string, string>;
}

export interface AnswerSink {
  head(head: AnswerHead): void;
  /** A piece of the body, or of what follows an upgrade. */
  body(piece: Buffer): void;
  /** The body is complete. */
  end(): void;
}

type Stage =
  | { readonly kind: "head" }
  | { readonly kind: "sized"; left: number }
  | { readonly kind: "chunk-size" }
  | { readonly kind: "chunk"; left: number }
  | { readonly kind: "upgraded" };

const NEWLINE = 0x0a;
const MAX_HEAD_BYTES = 64 * 1024;

/** The answers on one connection, one after the other. */
export class AnswerParser {
  readonly #sink: AnswerSink;
  #stage: Stage = { kind: "head" };
  /** Of the head, or of the size line of a chunk. */
  #text = "";
  #isLastChunk = false;

  constructor(sink: AnswerSink) {
    this.#sink = sink;
  }

  push(bytes: Buffer): void {
    for (let rest = bytes; rest.length > 0;) rest = rest.subarray(this.#take(rest));
  }

  /** How many bytes it took. */
  #take(bytes: Buffer): number {
    const stage = this.#stage;
    if (stage.kind === "upgraded") {
      this.#sink.body(bytes);
      return bytes.length;
    }
    if (stage.kind === "head" || stage.kind === "chunk-size") {
      const end = bytes.indexOf(NEWLINE) + 1;
      const taken = end === 0 ? bytes.length : end;
      this.#text += bytes.toString("latin1", 0, taken);
      if (this.#text.length > MAX_HEAD_BYTES) throw new Error("a head without an end");
      if (end > 0 && stage.kind === "head" && this.#text.endsWith("\r\n\r\n")) this.#begin(parseHead(this.#text));
      if (end > 0 && stage.kind === "chunk-size") this.#chunkLine(this.#text.trim());
      return taken;
    }
    const taken = Math.min(stage.left, bytes.length);
    this.#sink.body(bytes.subarray(0, taken));
    stage.left -= taken;
    if (stage.left === 0) {
      if (stage.kind === "sized") this.#finish();
      else this.#stage = { kind: "chunk-size" };
    }
    return taken;
  }

  #begin(head: AnswerHead): void {
    this.#text = "";
    const left = Number(head.headers.get("content-length") ?? 0);
    if (head.status === 101) this.#stage = { kind: "upgraded" };
    else if (head.headers.get("transfer-encoding") === "chunked") this.#stage = { kind: "chunk-size" };
    else this.#stage = { kind: "sized", left };
    this.#sink.head(head);
    if (this.#stage.kind === "sized" && left === 0) this.#finish();
  }

  /** A size, the empty line behind a chunk, or the one behind the last chunk. */
  #chunkLine(line: string): void {
    this.#text = "";
    if (line === "") {
      if (this.#isLastChunk) this.#finish();
      return;
    }
    const left = Number.parseInt(line, 16);
    if (!Number.isSafeInteger(left)) throw new Error(`not the size of a chunk: ${line}`);
    if (left === 0) this.#isLastChunk = true;
    else this.#stage = { kind: "chunk", left };
  }

  #finish(): void {
    this.#stage = { kind: "head" };
    this.#isLastChunk = false;
    this.#sink.end();
  }
}

function parseHead(text: string): AnswerHead {
  const [first = "", ...lines] = text.trimEnd().split("\r\n");
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(first)?.[1]);
  if (Number.isNaN(status)) throw new Error(`not an answer: ${first}`);
  const headers = lines.map((line): [string, string] => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
  });
  return { status, headers: new Map(headers) };
}

export interface ServerSentEvent {
  readonly event: string;
  readonly id: string | null;
  readonly data: string;
}

/** Events, comments left out. */
export class EventParser {
  readonly #onEvent: (event: ServerSentEvent) => void;
  readonly #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #pending = "";

  constructor(onEvent: (event: ServerSentEvent) => void) {
    this.#onEvent = onEvent;
  }

  push(bytes: Buffer): void {
    let searched = Math.max(0, this.#pending.length - 1);
    this.#pending += this.#decoder.decode(bytes, { stream: true });
    for (;;) {
      const end = this.#pending.indexOf("\n\n", searched);
      if (end < 0) return;
      const event = parseEvent(this.#pending.slice(0, end));
      this.#pending = this.#pending.slice(end + 2);
      searched = 0;
      if (event !== null) this.#onEvent(event);
    }
  }
}

function parseEvent(frame: string): ServerSentEvent | null {
  let event = "message";
  let id: string | null = null;
  const data: string[] = [];
  for (const line of frame.split("\n")) {
    const colon = line.indexOf(":");
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (line.startsWith("event:")) event = value;
    else if (line.startsWith("id:")) id = value;
    else if (line.startsWith("data:")) data.push(value);
  }
  return data.length === 0 ? null : { event, id, data: data.join("\n") };
}

export const OPCODE = { text: 1, close: 8, ping: 9, pong: 10 } as const;

const FIN = 0x80;
const IS_MASKED = 0x80;

/** Frames of a server, which are neither masked nor split. */
export class FrameParser {
  readonly #onFrame: (opcode: number, payload: Buffer) => void;
  #pieces: Buffer[] = [];
  #held = 0;
  #needed = 2;

  constructor(onFrame: (opcode: number, payload: Buffer) => void) {
    this.#onFrame = onFrame;
  }

  push(bytes: Buffer): void {
    this.#pieces.push(bytes);
    this.#held += bytes.length;
    if (this.#held < this.#needed) return;
    let all = Buffer.concat(this.#pieces);
    for (;;) {
      const { head, payload } = frameSizes(all);
      this.#needed = head + payload;
      if (all.length < this.#needed) break;
      const [first = 0] = all;
      if ((first & FIN) === 0) throw new Error("a frame that is split");
      const frame = all.subarray(head, head + payload);
      all = all.subarray(this.#needed);
      this.#onFrame(first & 0x0f, frame);
    }
    this.#pieces = [all];
    this.#held = all.length;
  }
}

/** Of the head alone while it has not come whole. */
function frameSizes(bytes: Buffer): { head: number; payload: number } {
  const short = bytes[1];
  if (short === undefined) return { head: 2, payload: 0 };
  if (short >= 128) throw new Error("a masked frame from a server");
  if (short < 126) return { head: 2, payload: short };
  const head = short === 126 ? 4 : 10;
  if (bytes.length < head) return { head, payload: 0 };
  return { head, payload: short === 126 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2)) };
}

/** A frame of a client; a mask of zeros leaves the payload as it is. */
export function clientFrame(opcode: number, payload: Uint8Array): Buffer {
  const size = payload.length;
  if (size > 0xffff) throw new Error("clients of this test say little");
  const length = size < 126 ? [IS_MASKED | size] : [IS_MASKED | 126, size >> 8, size & 0xff];
  return Buffer.concat([Buffer.from([FIN | opcode, ...length, 0, 0, 0, 0]), payload]);
}
