/**
 * Bodies on their way in. Owns the list of those under way and the one sweep a second that judges them, while there are any: a body
 * that is too slow is answered 408 and its connection closed, one that goes on may take as long as it likes.
 * Invariants: body bytes are taken from the admission before they are kept and given back exactly once; no timer per request.
 */

import type { Admission } from "../engine/admission.ts";
import { joinBytes } from "../kit/bytes.ts";
import type { Clock } from "../kit/clock.ts";
import type { Deadlines } from "../kit/deadlines.ts";
import {
  IDLE_TIMEOUT_MS,
  MAX_PREPAID_BODY_BYTES,
  MIN_CROWDED_UPLOAD_BYTES_PER_SECOND,
  MIN_UPLOAD_BYTES_PER_SECOND,
  UPLOAD_GRACE_MS,
  UPLOAD_SWEEP_MS,
} from "../protocol/limits.ts";
import { type BodyClient, BodyRoom } from "./body-room.ts";
import { badRequest, type HttpProblem } from "./errors.ts";
import { tooLarge } from "./request-parts.ts";

/** A request, who can keep its connection open, and who pays for its bytes; null when nobody does. */
export interface BodySource {
  readonly request: Request;
  readonly server: { timeout(request: Request, seconds: number): void } | null;
  readonly client: BodyClient | null;
}

/** A body and the in-flight bytes it holds until `release`. */
export interface ReceivedBody {
  readonly bytes: Uint8Array;
  release(): void;
}

/** What it needs of the engine: the admission of body bytes and its limit, time, and its timer. */
export interface UploadsParts {
  readonly bodyBytes: Admission;
  readonly budget: { readonly bodyBytes: number };
  readonly clock: Clock;
  readonly deadlines: Deadlines;
}

/** One body under way. Plain fields: there is one for every append. */
interface Upload {
  readonly source: BodySource;
  /** What was announced and taken at once; 0 for a body that is counted as it arrives. */
  readonly announced: number;
  /** Arrived so far, and at the last judgement. */
  bytes: number;
  judgedBytes: number;
  /** The first sweep that saw it; -1 before, so that quick bodies read no clock. */
  seenMs: number;
  /** The next judgement. */
  dueMs: number;
  /** The connection's idle timeout is off: Bun does not extend it while a body arrives. */
  held: boolean;
  /** Place in the list. */
  index: number;
  /** Ends the wait for the rest of it. */
  cut: () => void;
  isCut: boolean;
}

export class Uploads {
  readonly room: BodyRoom;
  readonly #parts: UploadsParts;
  readonly #underWay: Upload[] = [];
  #armed = false;
  #sweepDueMs = 0;

  constructor(parts: UploadsParts) {
    this.#parts = parts;
    this.room = new BodyRoom(parts.bodyBytes, parts.budget.bodyBytes);
  }

  /** How many bodies are under way. */
  get size(): number {
    return this.#underWay.length;
  }

  /**
   * Reads a body before anything else waits for it: 413 by its declared length, else by count; 429 when too many bytes are in
   * flight; 408 when it is too slow. The caller releases the bytes once the request is answered.
   */
  receive(source: BodySource, maxBytes: number): Promise<ReceivedBody | HttpProblem> {
    const { request } = source;
    const declared = request.headers.get("content-length");
    if (declared === "0") return Promise.resolve(EMPTY);
    if (declared !== null && Number(declared) > maxBytes) return Promise.resolve(tooLarge(maxBytes));
    // A large body counts as it arrives, not as it was announced: stalled uploads must not use up the room of others.
    if (declared !== null && Number(declared) <= MAX_PREPAID_BODY_BYTES) {
      return this.#receivePrepaid(source, Number(declared));
    }
    // Asking for `body` makes a stream, so only these requests do.
    const { body } = request;
    return body === null ? Promise.resolve(EMPTY) : this.#receiveCounted(source, body, maxBytes);
  }

  async #receivePrepaid(source: BodySource, length: number): Promise<ReceivedBody | HttpProblem> {
    const release = this.room.takeWhole(source.client, length);
    if (typeof release !== "function") return release;
    const upload = this.#add(source, length);
    try {
      const bytes = await new Promise<Uint8Array | null>((resolve, reject) => {
        upload.cut = () => resolve(null);
        source.request.bytes().then(resolve, reject);
      });
      if (bytes === null) {
        release();
        return tooSlow;
      }
      upload.bytes = length;
      return { bytes, release };
    } catch (cause) {
      release();
      return incomplete(cause);
    } finally {
      this.#remove(upload);
    }
  }

  async #receiveCounted(
    source: BodySource,
    body: ReadableStream<Uint8Array>,
    maxBytes: number,
  ): Promise<ReceivedBody | HttpProblem> {
    const { room } = this;
    const { client } = source;
    const reader = body.getReader();
    const upload = this.#add(source, 0);
    // The read that waits ends; a failure of the cancelling itself says that the body is gone, which is what is wanted.
    upload.cut = () => void reader.cancel().catch(() => undefined);
    const refuse = (problem: HttpProblem): HttpProblem => {
      room.give(client, upload.bytes);
      upload.cut();
      return problem;
    };
    const parts: Uint8Array[] = [];
    try {
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        const { length } = next.value;
        if (upload.bytes + length > maxBytes) return refuse(tooLarge(maxBytes));
        const full = room.take(client, length, maxBytes);
        if (full !== null) return refuse(full);
        upload.bytes += length;
        parts.push(next.value);
      }
      if (upload.isCut) return refuse(tooSlow);
    } catch (cause) {
      return refuse(upload.isCut ? tooSlow : incomplete(cause));
    } finally {
      this.#remove(upload);
    }
    return { bytes: joinBytes(parts), release: () => room.give(client, upload.bytes) };
  }

  #add(source: BodySource, announced: number): Upload {
    const upload: Upload = {
      source,
      announced,
      bytes: 0,
      judgedBytes: 0,
      seenMs: -1,
      dueMs: 0,
      held: false,
      index: this.#underWay.length,
      cut: nothing,
      isCut: false,
    };
    this.#underWay.push(upload);
    if (!this.#armed) this.#arm();
    return upload;
  }

  /** It is under way no more: the last one of the list takes its place. */
  #remove(upload: Upload): void {
    const last = this.#underWay.pop();
    if (last !== undefined && last !== upload) {
      last.index = upload.index;
      this.#underWay[upload.index] = last;
    }
    const { request, server, client } = upload.source;
    if (upload.held) server?.timeout(request, IDLE_TIMEOUT_MS / 1000);
    // Also what broke off; of a body read in one piece nobody knows how much came.
    client?.spend(Math.max(upload.bytes, upload.announced));
  }

  /** Runs out by itself when nothing is under way: a quiet server has no timer, and a busy one arms it once a second. */
  #arm(): void {
    const { clock, deadlines } = this.#parts;
    this.#armed = true;
    this.#sweepDueMs = clock.monotonicMs() + UPLOAD_SWEEP_MS;
    deadlines.after(UPLOAD_SWEEP_MS, () => this.#sweep());
  }

  #sweep(): void {
    this.#armed = false;
    if (this.#underWay.length === 0) return;
    const nowMs = this.#parts.clock.monotonicMs();
    const lateMs = nowMs - this.#sweepDueMs;
    // A loop that was deaf has read nothing: what came meanwhile still waits in the kernel.
    const wasDeaf = lateMs > UPLOAD_SWEEP_MS;
    for (const upload of this.#underWay) {
      if (upload.seenMs < 0) {
        upload.seenMs = nowMs;
        upload.dueMs = nowMs + UPLOAD_GRACE_MS;
      } else if (wasDeaf) {
        upload.seenMs += lateMs;
        upload.dueMs += lateMs;
      } else if (nowMs >= upload.dueMs && !upload.isCut) this.#judge(upload, nowMs);
    }
    this.#arm();
  }

  #judge(upload: Upload, nowMs: number): void {
    const rate = this.#bytesPerSecond();
    // Nobody sees how far a body has come that is taken whole: it has the time that its length needs, and is looked at in every sweep.
    const isWithinTime = nowMs < upload.seenMs + UPLOAD_GRACE_MS + (1000 * upload.announced) / rate;
    if (upload.announced > 0 && isWithinTime) return;
    if (upload.bytes - upload.judgedBytes < (rate * UPLOAD_GRACE_MS) / 1000) {
      upload.isCut = true;
      upload.cut();
      return;
    }
    upload.judgedBytes = upload.bytes;
    upload.dueMs = nowMs + UPLOAD_GRACE_MS;
    if (upload.held) return;
    upload.held = true;
    upload.source.server?.timeout(upload.source.request, 0);
  }

  /** Slow bodies are welcome while there is room: whoever would hold a crowded server's memory has to hurry. */
  #bytesPerSecond(): number {
    const { bodyBytes, budget } = this.#parts;
    return 2 * bodyBytes.used > budget.bodyBytes ? MIN_CROWDED_UPLOAD_BYTES_PER_SECOND : MIN_UPLOAD_BYTES_PER_SECOND;
  }
}

const nothing = (): void => undefined;

const EMPTY: ReceivedBody = { bytes: new Uint8Array(), release: nothing };

/** `Connection: close` makes Bun close it although the rest of the body has not come. */
const tooSlow: HttpProblem = {
  status: 408,
  code: "body-too-slow",
  message: `a body has to bring ${MIN_UPLOAD_BYTES_PER_SECOND} bytes a second, more when many are under way; split it, or try again`,
  headers: { Connection: "close" },
};

/** The client went away; nobody may read this answer. */
function incomplete(cause: unknown): HttpProblem {
  return badRequest(
    "body-incomplete",
    `the body did not arrive whole${cause instanceof Error ? `: ${cause.name}` : ""}`,
  );
}
