/**
 * The live views of all streams. The first view of a stream makes its state from the log; the last one that leaves lets it go, a while
 * later. Bounds: views, streams with views, and the bytes of their states.
 */

import type { Engine } from "../../engine/engine.ts";
import { EVERY_RECORD, type ReadStart } from "../../engine/reader.ts";
import { badRequest, describeFault, describeRejection, type HttpProblem } from "../../http/errors.ts";
import type { Followers } from "../../http/live/follower.ts";
import { SharedFrames } from "../../http/live/shared-frames.ts";
import type { OpenedView, ViewFrame, ViewMailbox, ViewOpener } from "../../http/live/view-port.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import { offsetAt, parseOffset, resolveOffset } from "../../protocol/offset.ts";
import { lineageOf, type StreamHead } from "../../protocol/stream.ts";
import { STATE_PROTOCOL } from "../state-protocol/index.ts";
import type { HybridUserUpdateBatcherStats } from "./hybrid-batcher.ts";
import type { KeptRows } from "./kept-rows.ts";
import { parseView, type ViewDefinition, type ViewRow } from "./view-definition.ts";
import type { ViewDiff } from "./view-diff.ts";
import {
  type ViewClient,
  type ViewEnd,
  type ViewHandle,
  type ViewMessage,
  ViewStream,
  type ViewStreamStats,
} from "./view-stream.ts";

export interface LiveViewsParts {
  readonly engine: Engine;
  readonly followers: Followers;
  readonly hash64: (text: string) => bigint;
  readonly kept: KeptRows;
  readonly onFault: (operation: string, cause: unknown) => void;
}

/** States of all streams and what clients were sent of them: room for about 200,000 rows; a share of it under a memory limit. */
const MAX_STATE_BYTES = 128 * 1024 * 1024;
/** A view of 1,000 rows costs about 50 kB for what it was sent. */
const MAX_VIEWS = 10_000;
/** A state that nobody looks at is kept this long: a client that reconnects does not make it read the log again. */
const LINGER_MS = 60_000;

interface Wanted {
  readonly definition: ViewDefinition;
  readonly since: string | null;
}

interface Kept {
  readonly stream: ViewStream;
  leaving: Deadline | null;
}

export interface LiveViewsDetails extends ViewStreamStats {
  readonly stream: string;
  readonly batcher: HybridUserUpdateBatcherStats;
}

export class LiveViews implements ViewOpener {
  readonly #parts: LiveViewsParts;
  readonly #streams = new Map<number, Kept>();
  readonly #maxStateBytes: number;
  #views = 0;

  constructor(parts: LiveViewsParts) {
    this.#parts = parts;
    const { metrics, budget } = parts.engine;
    this.#maxStateBytes = MAX_STATE_BYTES * budget.share;
    metrics.gauge("streams_live_views", "Open live views.", () => this.#views);
    metrics.gauge("streams_view_states", "Streams whose state is kept for live views.", () => this.#streams.size);
    metrics.gauge(
      "streams_view_state_bytes",
      "Rows kept for live views and what clients were sent of them, about.",
      () => this.#stateBytes(),
    );
  }

  async open(
    stream: string,
    request: unknown,
    since: string | null,
    mailbox: ViewMailbox,
  ): Promise<OpenedView | HttpProblem> {
    const definition = parseView(request);
    if (typeof definition === "string") return badRequest("view-invalid", definition);
    const token = since === null ? null : parseOffset(since);
    if (since !== null && token === null) return badRequest("offset-invalid", "offset is one that this view was told");
    const { engine } = this.#parts;
    const head = await engine.find(stream, "read");
    if ("kind" in head) return describeRejection(head);
    if (head.profile?.kind !== STATE_PROTOCOL) return needsStateProtocol;
    if (this.#views >= MAX_VIEWS || !engine.liveRequests.take(1)) return tooManyViews;
    const kept = this.#streams.get(head.id) ?? (await this.#keep(head.id, stream));
    if ("code" in kept) {
      engine.liveRequests.give(1);
      return kept;
    }
    // An offset of another stream is no place to go on from: then the whole set comes.
    const position = token === null ? null : resolveOffset(lineageOf(head), token);
    const known = position?.kind === "seq" ? offsetAt(lineageOf(head), position.seq) : null;
    return this.#view(head.id, kept, { definition, since: known }, mailbox);
  }

  /** The streams with the most views: their states, and what their batchers have done. */
  describe(limit: number): readonly LiveViewsDetails[] {
    const streams = [...this.#streams.values()].map(({ stream }) => stream);
    return streams
      .sort((left, right) => right.views - left.views)
      .slice(0, limit)
      .map((stream) => ({
        stream: stream.follower.plan.name,
        ...stream.getStats(),
        batcher: stream.batcher.getStats(),
      }));
  }

  async close(): Promise<void> {
    for (const { stream, leaving } of this.#streams.values()) {
      leaving?.cancel();
      await stream.close();
    }
    this.#streams.clear();
    this.#parts.kept.close();
  }

  async #keep(id: number, name: string): Promise<Kept | HttpProblem> {
    const { engine, followers, hash64, kept, onFault } = this.#parts;
    const head = await engine.find(name, "read");
    if ("kind" in head) return describeRejection(head);
    const plan = await engine.reader.plan(head, this.#startOf(head, await engine.reader.earliest(head)), EVERY_RECORD);
    if ("kind" in plan) return describeRejection(plan);
    // Others may have been as quick.
    const known = this.#streams.get(id);
    if (known !== undefined) return known;
    const follower = followers.open(plan, "resume");
    if ("kind" in follower) return describeRejection(follower);
    const { clock, deadlines } = engine;
    const hasRoom = (): boolean => this.#stateBytes() <= this.#maxStateBytes;
    const stream = new ViewStream(follower, {
      clock,
      deadlines,
      batching: {},
      hash: hash64,
      kept,
      hasRoom,
      onFault,
    });
    const state: Kept = { stream, leaving: null };
    this.#streams.set(id, state);
    stream
      .run()
      .then(() => void this.#streams.delete(id))
      .catch((cause: unknown) => onFault(`live views of ${name}`, cause));
    return state;
  }

  /** Behind what the kept rows stand for, when the log still joins on there. */
  #startOf({ id, next }: StreamHead, earliest: number): ReadStart {
    const seq = this.#parts.kept.checkpointOf(id);
    if (seq !== null && seq >= earliest && seq <= next) return { kind: "seq", seq };
    return { kind: "offset", token: { kind: "start" } };
  }

  #view(id: number, kept: Kept, wanted: Wanted, mailbox: ViewMailbox): OpenedView {
    const { stream } = kept;
    kept.leaving?.cancel();
    kept.leaving = null;
    this.#views++;
    const view = new OpenView(stream, wanted, mailbox, () => {
      this.#views--;
      this.#parts.engine.liveRequests.give(1);
      if (stream.views === 0 && stream.ended === null) this.#leaveLater(id, kept);
    });
    mailbox.connect(view);
    return view;
  }

  #leaveLater(id: number, kept: Kept): void {
    kept.leaving = this.#parts.engine.deadlines.after(LINGER_MS, () => {
      this.#streams.delete(id);
      kept.stream.close().catch((cause: unknown) => this.#parts.onFault("closing a state", cause));
    });
  }

  #stateBytes(): number {
    let bytes = 0;
    for (const { stream } of this.#streams.values()) bytes += stream.bytes;
    return bytes;
  }
}

/** One view as its connection holds it. */
class OpenView implements OpenedView {
  readonly #stream: ViewStream;
  readonly #handle: ViewHandle;
  readonly #onClose: () => void;
  readonly #mailbox: ViewMailbox;
  readonly #startOffset: string;
  #open = true;

  constructor(stream: ViewStream, { definition, since }: Wanted, mailbox: ViewMailbox, onClose: () => void) {
    this.#stream = stream;
    this.#onClose = onClose;
    this.#mailbox = mailbox;
    this.#startOffset = stream.offset;
    const client: ViewClient = {
      isReady: () => mailbox.isReady(),
      send: (message) => mailbox.put(frameOf(message)),
      end: (why) => mailbox.end(describeEnd(why)),
    };
    this.#handle = stream.open(definition, client, since);
  }

  get plan(): OpenedView["plan"] {
    return this.#stream.follower.plan;
  }
  /** What of the stream its client was told. */
  get offset(): string {
    return this.#mailbox.offset ?? this.#startOffset;
  }
  /** A view skips states, and is complete all the same. */
  readonly overflow = "latest";
  readonly dropped = 0;
  readonly behindSinceMs = null;

  update(request: unknown): HttpProblem | null {
    const definition = parseView(request);
    if (typeof definition === "string") return badRequest("view-invalid", definition);
    this.#handle.update(definition);
    return null;
  }

  drained(): void {
    this.#handle.drained();
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#handle.close();
    this.#onClose();
  }
}

/** One frame per message, for all clients that get it. */
const frames = new WeakMap<ViewMessage, ViewFrame>();

function frameOf(message: ViewMessage): ViewFrame {
  let frame = frames.get(message);
  if (frame === undefined) {
    const { diff, offset } = message;
    const records = encodeDiff(diff, offset);
    const full = diff.kind === "full";
    frame = { full, offset, records, bytes: new SharedFrames(), texts: new SharedFrames() };
    frames.set(message, frame);
  }
  return frame;
}

/** As State Protocol records: whoever can follow a stream of them can follow a view. */
function encodeDiff(diff: ViewDiff, offset: string): string {
  if (diff.kind === "changes") return diff.changes.map(({ operation, row }) => encodeRow(operation, row)).join(",");
  const control = (mark: string): string => JSON.stringify({ headers: { control: mark, offset } });
  const inserts = diff.rows.map((row) => encodeRow("insert", row));
  return [control("reset"), control("snapshot-start"), ...inserts, control("snapshot-end")].join(",");
}

function encodeRow(operation: "insert" | "update" | "delete", { type, key, value, offset }: ViewRow): string {
  // What leaves a view may still be in the stream: its value is of no use to the client.
  if (operation === "delete") return JSON.stringify({ type, key, headers: { operation } });
  return JSON.stringify({ type, key, value, headers: { operation, offset } });
}

function describeEnd(why: ViewEnd): HttpProblem {
  if (why.kind === "fault") return describeFault(why.cause);
  return why.kind === "state-too-large" ? stateTooLarge : describeRejection(why);
}

const needsStateProtocol: HttpProblem = {
  status: 409,
  code: "view-needs-state-protocol",
  message: "live views show rows: give the stream the profile state-protocol (docs/live-views.md)",
};
const tooManyViews = describeRejection({ kind: "overloaded", reason: "too many live views are open" });
const stateTooLarge: HttpProblem = {
  status: 507,
  code: "view-state-too-large",
  message: "the rows of the streams with live views do not fit into memory; read the stream instead",
};
