/**
 * The live views of all streams. The first view of a stream makes its state from the log; the last one that leaves lets it go, a while
 * later. A stream has one state at a time, from before it is made until its rows are kept. Bounds: views, streams with views (each
 * takes up a live request), and the bytes of their states.
 */

import type { Engine } from "../../engine/engine.ts";
import { EVERY_RECORD, type ReadStart } from "../../engine/reader.ts";
import { badRequest, describeFault, describeRejection, type HttpProblem } from "../../http/errors.ts";
import type { Follower, Followers } from "../../http/live/follower.ts";
import { SharedFrames } from "../../http/live/shared-frames.ts";
import type { OpenedView, ViewFrame, ViewMailbox, ViewOpener } from "../../http/live/view-port.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import { encodeOffset, offsetAt, resolveOffset } from "../../protocol/offset.ts";
import { type Commit, lineageOf, type StreamHead } from "../../protocol/stream.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import { STATE_PROTOCOL } from "../state-protocol/index.ts";
import type { HybridUserUpdateBatcherStats } from "./hybrid-batcher.ts";
import type { KeptRows } from "./kept-rows.ts";
import { parseView, type ViewDefinition } from "./view-definition.ts";
import type { ViewChange, ViewDiff } from "./view-diff.ts";
import { encodePosition, parsePosition, type ViewPosition } from "./view-position.ts";
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
/** A view of 1,000 rows costs about 70 kB for what it was sent. */
const MAX_VIEWS = 10_000;
/** A state that nobody looks at is kept this long: a client that reconnects does not make it read the log again. */
const LINGER_MS = 60_000;
/** After streams were deleted it is looked this much later, once, for rows that are kept of them. */
const PRUNE_AFTER_MS = 60_000;
/** Where an unread stream begins. */
const START: ReadStart = { kind: "offset", token: { kind: "start" } };

interface Wanted {
  readonly definition: ViewDefinition;
  readonly since: string | null;
}

/** The state of one stream, from when the first view asks for it until it has ended and its rows are kept. */
interface StreamState {
  /** The state, when it can be looked at; or why there is none. */
  readonly opening: Promise<ViewStream | HttpProblem>;
  /** Null while it is opened. */
  stream: ViewStream | null;
  /** Resolves when nothing of it is left: the next one may begin. */
  over: Promise<void>;
  leaving: Deadline | null;
}

export interface LiveViewsDetails extends ViewStreamStats {
  readonly stream: string;
  readonly batcher: HybridUserUpdateBatcherStats;
}

export class LiveViews implements ViewOpener {
  readonly #parts: LiveViewsParts;
  readonly #states = new Map<number, StreamState>();
  readonly #maxStateBytes: number;
  #views = 0;
  #pruneLater: Deadline | null = null;

  constructor(parts: LiveViewsParts) {
    this.#parts = parts;
    const { metrics, budget } = parts.engine;
    this.#maxStateBytes = MAX_STATE_BYTES * budget.share;
    metrics.gauge("streams_live_views", "Open live views.", () => this.#views);
    metrics.gauge("streams_view_states", "Streams whose state is kept for live views.", () => this.#states.size);
    metrics.gauge(
      "streams_view_state_bytes",
      "Rows kept for live views and what clients were sent of them, about.",
      () => this.#stateBytes(),
    );
    this.#prune();
    parts.engine.follow((commit) => this.#onCommit(commit));
  }

  async open(
    stream: string,
    request: unknown,
    since: string | null,
    mailbox: ViewMailbox,
  ): Promise<OpenedView | HttpProblem> {
    const definition = parseView(request);
    if (typeof definition === "string") return badRequest("view-invalid", definition);
    const position = since === null ? null : parsePosition(since);
    if (since !== null && position === null)
      return badRequest("offset-invalid", "offset is one that this view was told");
    if (position?.token.kind === "now") return nowIsNoView;
    const { engine } = this.#parts;
    const head = await engine.find(stream, "read");
    if ("kind" in head) return describeRejection(head);
    if (head.profile?.kind !== STATE_PROTOCOL) return needsStateProtocol;
    if (this.#views >= MAX_VIEWS || !engine.liveRequests.take(1)) return tooManyViews;
    let isOpen = false;
    try {
      const state = await this.#stateOf(head.id, stream);
      if ("code" in state) return state;
      const known = position === null ? null : this.#known(head, definition, position);
      const view = this.#view(state, { definition, since: known }, mailbox);
      isOpen = true;
      return view;
    } finally {
      if (!isOpen) engine.liveRequests.give(1);
    }
  }

  /** The streams with the most views: their states, and what their batchers have done. */
  describe(limit: number): readonly LiveViewsDetails[] {
    return this.#open()
      .sort((left, right) => right.views - left.views)
      .slice(0, limit)
      .map((stream) => ({
        stream: stream.follower.plan.name,
        ...stream.getStats(),
        batcher: stream.batcher.getStats(),
      }));
  }

  async close(): Promise<void> {
    this.#pruneLater?.cancel();
    for (const state of this.#states.values()) {
      state.leaving?.cancel();
      (await openedBy(state))?.close();
      await state.over;
    }
    this.#parts.kept.close();
  }

  /** A stream's state, made if need be. One that ends is waited for: two at a time would keep each other's rows. */
  async #stateOf(id: number, name: string): Promise<OpenState | HttpProblem> {
    for (;;) {
      const state = this.#states.get(id) ?? this.#make(id, name);
      const stream = await state.opening;
      if ("code" in stream) return stream;
      if (stream.ended === null) return { state, stream };
      await state.over;
    }
  }

  #make(id: number, name: string): StreamState {
    const state: StreamState = {
      opening: this.#openState(id, name),
      stream: null,
      over: Promise.resolve(),
      leaving: null,
    };
    this.#states.set(id, state);
    state.over = this.#live(id, state);
    return state;
  }

  /** The whole life of a state. Only here does it leave the map, when all is done. */
  async #live(id: number, state: StreamState): Promise<void> {
    try {
      state.stream = await openedBy(state);
      await state.stream?.run();
    } catch (cause) {
      this.#parts.onFault("ending the live views of a stream", cause);
    } finally {
      this.#states.delete(id);
    }
  }

  async #openState(id: number, name: string): Promise<ViewStream | HttpProblem> {
    const { engine, hash64, kept, onFault } = this.#parts;
    const rows = kept.of(id);
    const follower = await this.#follow(id, name, rows.checkpoint());
    if ("kind" in follower) return describeRejection(follower);
    const { clock, deadlines } = engine;
    return new ViewStream(follower, {
      clock,
      deadlines,
      batching: {},
      hash: hash64,
      kept: rows,
      fromStart: () => this.#follow(id, name, null),
      hasRoom: (moreBytes = 0) => this.#stateBytes() + moreBytes <= this.#maxStateBytes,
      onFault,
    });
  }

  /** From `seq` on, when the log still joins on there; else from its start. */
  async #follow(id: number, name: string, seq: number | null): Promise<Follower | Rejection> {
    const { engine, followers } = this.#parts;
    const head = await engine.find(name, "read");
    if ("kind" in head) return head;
    // Another stream of that name by now.
    if (head.id !== id) return { kind: "not-found" };
    const earliest = await engine.reader.earliest(head);
    const joins = seq !== null && seq >= earliest && seq <= head.next;
    const plan = await engine.reader.plan(head, joins ? { kind: "seq", seq } : START, EVERY_RECORD);
    return "kind" in plan ? plan : followers.open(plan, "resume");
  }

  /** Up to where a client has what a view showed. Null = nowhere: then the whole set comes. */
  #known(head: StreamHead, { identity }: ViewDefinition, { token, view }: ViewPosition): string | null {
    if (token.kind !== "at" || (view !== null && view !== this.#parts.hash64(identity))) return null;
    const lineage = lineageOf(head);
    const position = resolveOffset(lineage, token);
    return position.kind === "seq" ? offsetAt(lineage, position.seq) : null;
  }

  #view({ state, stream }: OpenState, wanted: Wanted, mailbox: ViewMailbox): OpenedView {
    const { engine, hash64 } = this.#parts;
    state.leaving?.cancel();
    state.leaving = null;
    this.#views++;
    const view = new OpenView(stream, wanted, mailbox, hash64, () => {
      this.#views--;
      engine.liveRequests.give(1);
      if (stream.views > 0 || stream.ended !== null) return;
      state.leaving = engine.deadlines.after(LINGER_MS, () => stream.close());
    });
    mailbox.connect(view);
    return view;
  }

  /** Streams are deleted without a look at what is kept of them; those with views see to it themselves. Must not throw. */
  #onCommit({ changes }: Commit): void {
    if (this.#pruneLater !== null || !changes.some(({ deletion }) => deletion !== undefined)) return;
    this.#pruneLater = this.#parts.engine.deadlines.after(PRUNE_AFTER_MS, () => {
      this.#pruneLater = null;
      this.#prune();
    });
  }

  /** Forgets the rows of streams that are there no more. */
  #prune(): void {
    const { engine, kept, onFault } = this.#parts;
    kept
      .prune(async (stream) => this.#states.has(stream) || (await engine.byId(stream)) !== undefined)
      .catch((cause: unknown) => onFault("forgetting rows of deleted streams", cause));
  }

  #open(): ViewStream[] {
    return [...this.#states.values()].flatMap(({ stream }) => (stream === null ? [] : [stream]));
  }

  #stateBytes(): number {
    let bytes = 0;
    for (const { stream } of this.#states.values()) bytes += stream?.bytes ?? 0;
    return bytes;
  }
}

/** The state, once it can be looked at; null when it could not be opened. */
async function openedBy({ opening }: StreamState): Promise<ViewStream | null> {
  const stream = await opening.catch(() => {
    /* Who asked for it is told. */
  });
  return stream === undefined || "code" in stream ? null : stream;
}

interface OpenState {
  readonly state: StreamState;
  readonly stream: ViewStream;
}

/** One view as its connection holds it. */
class OpenView implements OpenedView {
  readonly #stream: ViewStream;
  readonly #handle: ViewHandle;
  readonly #onClose: () => void;
  readonly #mailbox: ViewMailbox;
  /** What its client had before it was told anything. */
  readonly #since: string;
  #open = true;

  constructor(
    stream: ViewStream,
    { definition, since }: Wanted,
    mailbox: ViewMailbox,
    hash64: (text: string) => bigint,
    onClose: () => void,
  ) {
    this.#stream = stream;
    this.#onClose = onClose;
    this.#mailbox = mailbox;
    this.#since = since ?? encodeOffset(0, 0);
    const client: ViewClient = {
      isReady: () => mailbox.isReady(),
      send: (message) => mailbox.put(frameOf(message, hash64)),
      end: (why) => mailbox.end(describeEnd(why)),
    };
    this.#handle = stream.open(definition, client, since);
  }

  get plan(): OpenedView["plan"] {
    return this.#stream.follower.plan;
  }
  /** What of the stream its client was told. */
  get offset(): string {
    return this.#mailbox.offset ?? this.#since;
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

function frameOf(message: ViewMessage, hash64: (text: string) => bigint): ViewFrame {
  let frame = frames.get(message);
  if (frame === undefined) {
    const { diff, offset, definition } = message;
    const records = encodeDiff(diff, offset);
    const full = diff.kind === "full";
    const position = encodePosition(offset, hash64(definition.identity));
    frame = { full, offset: position, records, bytes: new SharedFrames(), texts: new SharedFrames() };
    frames.set(message, frame);
  }
  return frame;
}

/** As State Protocol records: whoever can follow a stream of them can follow a view. */
function encodeDiff(diff: ViewDiff, offset: string): string {
  if (diff.kind === "changes") return diff.changes.map(encodeChange).join(",");
  const control = (mark: string): string => JSON.stringify({ headers: { control: mark, offset } });
  const inserts = diff.rows.map((row) => encodeChange({ operation: "insert", row }));
  return [control("reset"), control("snapshot-start"), ...inserts, control("snapshot-end")].join(",");
}

function encodeChange({ operation, row }: ViewChange): string {
  const { type, key } = row;
  // What leaves a view may still be in the stream: its value is of no use to the client.
  if (operation === "delete") return JSON.stringify({ type, key, headers: { operation } });
  const { value, offset } = row;
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
const nowIsNoView = badRequest(
  "offset-invalid",
  "offset=now would show rows as they change, and never those that do not; without an offset a view is shown whole",
);
const tooManyViews = describeRejection({ kind: "overloaded", reason: "too many live views are open" });
const stateTooLarge: HttpProblem = {
  status: 507,
  code: "view-state-too-large",
  message: "the rows of the streams with live views do not fit into memory; read the stream instead",
};
