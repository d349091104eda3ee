/**
 * Takes HTTP/1.1 answers apart as they arrive, as cheaply as a load client needs it: the status, headers on demand, the body
 * handed on piece by piece. Understands `Content-Length` and chunked bodies, cut anywhere. Requests are never pipelined, so there
 * is one answer at a time. Pure. Invariant: after `begin`, `take` is true exactly once, for the piece that ends the answer.
 */

type Part = "none" | "head" | "sized" | "chunk-size" | "chunk" | "chunk-end" | "trailer";

const NEWLINE = 0x0a;
const HEAD_END = Buffer.from("\r\n\r\n");
/** More than any server sends; also bounds the line of a chunk. */
const MAX_HEAD_BYTES = 64 * 1024;
const NOTHING: Buffer = Buffer.alloc(0);

export class AnswerParser {
  /** Of the answer under way, once its head is here. */
  status = 0;
  #part: Part = "none";
  #held: Buffer = NOTHING;
  #head = "";
  #left = 0;
  #line = "";

  /** A request is on its way. */
  begin(): void {
    this.#part = "head";
    this.status = 0;
  }

  /**
   * True when the answer is whole. A piece of the body is valid during the call only.
   * @throws RangeError for bytes that are no answer to the one request.
   */
  take(bytes: Buffer, onBody: (piece: Buffer) => void): boolean {
    for (let at = 0; at < bytes.length;) {
      if (this.#part === "none") throw new RangeError("the server sent what nobody asked for");
      if (this.#part === "head") at = this.#readHead(bytes, at);
      else if (this.#part === "sized" || this.#part === "chunk") at = this.#readBody(bytes, at, onBody);
      else at = this.#readLine(bytes, at);
    }
    return this.#part === "none";
  }

  /** Null when it is missing, and for answers that cannot have a body: their heads are not looked at. */
  header(name: string): string | null {
    const match = new RegExp(`^${name}:[ \\t]*(.*?)[ \\t]*\\r?$`, "im").exec(this.#head);
    return match?.[1] ?? null;
  }

  #readHead(bytes: Buffer, from: number): number {
    const fresh = from === 0 ? bytes : bytes.subarray(from);
    const seen = this.#held.length === 0 ? fresh : Buffer.concat([this.#held, fresh]);
    const end = seen.indexOf(HEAD_END);
    if (end === -1) {
      if (seen.length > MAX_HEAD_BYTES) throw new RangeError("the head of an answer does not end");
      // Copied: the socket uses its buffer again.
      this.#held = Buffer.from(seen);
      return bytes.length;
    }
    const next = from + end + HEAD_END.length - this.#held.length;
    this.#held = NOTHING;
    this.#enter(seen, end);
    return next;
  }

  #enter(seen: Buffer, end: number): void {
    const status = seen.toString("latin1", 0, 7) === "HTTP/1." ? Number(seen.toString("latin1", 9, 12)) : NaN;
    if (!(status >= 100 && status <= 999)) throw new RangeError("the answer is not HTTP/1.1");
    // Only a word in between: the answer itself comes after it.
    if (status < 200) return;
    this.status = status;
    this.#head = "";
    this.#part = "none";
    if (status === 204 || status === 304) return;
    this.#head = seen.toString("latin1", 0, end);
    if (this.header("transfer-encoding")?.toLowerCase() === "chunked") {
      this.#part = "chunk-size";
      return;
    }
    const length = this.header("content-length");
    if (length === null || !/^\d{1,15}$/.test(length)) throw new RangeError("the answer does not say how long it is");
    this.#left = Number(length);
    if (this.#left > 0) this.#part = "sized";
  }

  #readBody(bytes: Buffer, from: number, onBody: (piece: Buffer) => void): number {
    const to = Math.min(bytes.length, from + this.#left);
    this.#left -= to - from;
    onBody(bytes.subarray(from, to));
    if (this.#left === 0) this.#part = this.#part === "sized" ? "none" : "chunk-end";
    return to;
  }

  /** The lines around chunks: a size, the end of a chunk's bytes, what follows the last chunk. */
  #readLine(bytes: Buffer, from: number): number {
    const end = bytes.indexOf(NEWLINE, from);
    this.#line += bytes.toString("latin1", from, end === -1 ? bytes.length : end);
    if (this.#line.length > MAX_HEAD_BYTES) throw new RangeError("a line between chunks does not end");
    if (end === -1) return bytes.length;
    const line = this.#line.trim();
    this.#line = "";
    if (this.#part === "chunk-end") this.#part = "chunk-size";
    else if (this.#part === "chunk-size") {
      this.#left = /^[0-9a-f]{1,12}(?:;|$)/i.test(line) ? Number.parseInt(line, 16) : NaN;
      if (Number.isNaN(this.#left)) throw new RangeError("a chunk of the answer has no size");
      this.#part = this.#left === 0 ? "trailer" : "chunk";
    } else if (line === "") this.#part = "none";
    return end + 1;
  }
}
