/**
 * One WebSocket (docs/websocket.md): many streams followed and appended to on one connection. A subscription is a follower and a
 * loop that sends what it gives; when the socket is full all of them stand still, and one after the other goes on when it drains.
 * Nothing is queued for a client that does not read: records wait in the log, and answers only up to a bound.
 */

import type { Engine } from "../../engine/engine.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import { TokenBucket } from "../../kit/token-bucket.ts";
import {
  MAX_SOCKET_BACKLOG_BYTES,
  MAX_SOCKET_REQUESTS,
  MAX_SOCKET_SUBSCRIPTIONS,
  MAX_UNANSWERED_PINGS,
  SOCKET_BYTES_PER_MESSAGE,
  SOCKET_DRAIN_MS,
  SOCKET_HEARTBEAT_MS,
  SOCKET_MESSAGES_PER_SECOND,
} from "../../protocol/limits.ts";
import { allows } from "../../protocol/grants.ts";
import { checkStreamName } from "../../protocol/names.ts";
import { forbidden, type Principal } from "../principal.ts";
import { badRequest, describeFault, describeRejection, type HttpProblem, isProblem } from "../errors.ts";
import { parseReadQuery } from "../routes/read-query.ts";
import { aboutOf, appendSaid, refOf } from "./socket-append.ts";
import type { Followed, LiveClient, LiveClients } from "./clients.ts";
import { type OpenedView, ViewMailbox, type ViewOpener } from "./view-port.ts";
import type { Follower, Followers, LiveItem } from "./follower.ts";
import { encodeStep, encodeView, encodingOf, placeOf, type SocketEncoding } from "./socket-frames.ts";
import { type Append, readMessage, type ServerMessage, type ShowView, type Subscribe } from "./socket-messages.ts";

/** Why the server closes a socket; besides the codes of RFC 6455. */
const CLOSE = {
  policy: [1008, "too many messages"],
  binary: [1003, "messages are JSON text"],
  restart: [1012, "the server is shutting down; come back with your offsets"],
  expired: [4003, "the credentials have expired or were revoked"],
  silent: [4002, "nothing was heard for too long"],
  slow: [4001, "too slow; come back with your offsets"],
} as const;

/** What the connection needs of the socket below it: Bun's. */
export interface Socket {
  /** Bytes sent; -1 = taken, but the socket is full now; 0 = not taken. */
  send(text: string): number;
  /** Bytes that it has taken and not passed on. */
  getBufferedAmount(): number;
  close(code: number, reason: string): void;
  ping(): void;
  /** Without a word. */
  terminate(): void;
}

export interface SocketParts {
  readonly engine: Engine;
  readonly followers: Followers;
  readonly clients: LiveClients;
  readonly views: ViewOpener | null;
  readonly maxBodyBytes: number;
  /** Who opened it: every message is held to what that one may do. */
  readonly principal: Principal;
  /** Counts a message against its client; a problem when that has sent too much. */
  readonly charge: (bytes: number) => HttpProblem | null;
  /** Gives back the place that the connection takes up. Called once, when it is gone. */
  readonly release: () => void;
  readonly onFault: (operation: string, cause: unknown) => void;
}

/** What a connection follows under one id. */
interface Entry {
  readonly followed: Followed;
  stop(): void;
}

interface Subscription extends Entry {
  readonly followed: Follower;
  readonly encoding: SocketEncoding;
}

interface ShownView extends Entry {
  readonly followed: OpenedView;
  readonly mailbox: ViewMailbox;
}

export class SocketConnection {
  readonly #parts: SocketParts;
  readonly #subscriptions = new Map<string, Entry>();
  readonly #views = new Map<string, ShownView>();
  readonly #rate: TokenBucket;
  /** Subscriptions that wait until the socket has room and nobody else is sending. */
  readonly #queue: (() => void)[] = [];
  #socket: Socket | null = null;
  #client: LiveClient | null = null;
  #beat: Deadline | null = null;
  #sentMs = 0;
  /** Pings that nothing was heard after. */
  #unanswered = 0;
  #full = false;
  /** Bytes of answers given to the socket since it is full. */
  #backlog = 0;
  #sending = false;
  #requests = 0;
  #draining = false;

  constructor(parts: SocketParts) {
    this.#parts = parts;
    const { clock } = parts.engine;
    this.#rate = new TokenBucket(SOCKET_MESSAGES_PER_SECOND, 2 * SOCKET_MESSAGES_PER_SECOND, clock);
  }

  open(socket: Socket): void {
    this.#socket = socket;
    this.#client = this.#parts.clients.open({
      kind: "websocket",
      subscriptions: () => this.#followers(),
      cut: () => this.#close(CLOSE.slow),
      drain: () => this.#drain(),
    });
    this.#beatAfter(SOCKET_HEARTBEAT_MS);
    this.#say({ type: "connected", clientId: this.#client.id, heartbeatMs: SOCKET_HEARTBEAT_MS });
  }

  receive(message: string | Uint8Array): void {
    if (typeof message !== "string") return this.#close(CLOSE.binary);
    this.heard();
    if (!this.#rate.take(1 + Math.floor(message.length / SOCKET_BYTES_PER_MESSAGE))) return this.#close(CLOSE.policy);
    if (!this.#parts.principal.isValid()) return this.#close(CLOSE.expired);
    const read = readMessage(message);
    const limited = this.#parts.charge(Buffer.byteLength(message));
    if (limited !== null) return this.#refuse("said" in read ? aboutOf(read.said) : read.about, limited);
    if (!("said" in read)) return this.#refuse(read.about, badRequest("message-invalid", read.reason));
    const { said } = read;
    if (said.type === "ping") return this.#say({ type: "pong", ...refOf(said) });
    if (said.type === "unsubscribe") return this.#unsubscribe(said.id);
    const about = aboutOf(said);
    const scope = said.type === "append" ? "append" : "read";
    if (!allows(this.#parts.principal.grants, scope, said.stream)) {
      return this.#refuse(about, forbidden(scope, said.stream));
    }
    if (this.#draining) return this.#refuse(about, describeRejection({ kind: "closing" }));
    if (this.#requests >= MAX_SOCKET_REQUESTS) return this.#refuse(about, tooManyRequests);
    this.#requests++;
    this.#do(said)
      .then((problem) => {
        if (problem !== null) this.#refuse(about, problem);
      })
      .catch((cause: unknown) => this.#refuse(about, this.#problemOf(`${said.type} of ${said.stream}`, cause)))
      .finally(() => {
        if (--this.#requests === 0 && this.#draining) this.#close(CLOSE.restart);
      });
  }

  /** A sign of life of the other side. */
  heard(): void {
    this.#unanswered = 0;
  }

  /** The socket has passed on some of what it was given. */
  drained(): void {
    if (this.#socket === null || this.#socket.getBufferedAmount() > 0) return;
    this.#full = false;
    this.#backlog = 0;
    this.#client?.taken();
    this.#next();
  }

  /** The connection is gone, whoever ended it. */
  closed(): void {
    this.#socket = null;
    this.#beat?.cancel();
    for (const id of this.#subscriptions.keys()) this.#drop(id);
    for (const go of this.#queue.splice(0)) go();
    if (this.#client === null) return;
    this.#client.close();
    this.#client = null;
    this.#parts.release();
  }

  #do(said: Append | Subscribe | ShowView): Promise<HttpProblem | null> {
    if (said.type === "append") return this.#append(said);
    return said.type === "view" ? this.#show(said) : this.#subscribe(said);
  }

  async #subscribe(said: Subscribe): Promise<HttpProblem | null> {
    const { engine, followers } = this.#parts;
    const id = said.id ?? said.stream;
    if (this.#subscriptions.has(id)) return subscriptionExists;
    if (this.#subscriptions.size >= MAX_SOCKET_SUBSCRIPTIONS) return tooManySubscriptions;
    const name = checkStreamName(said.stream);
    if (!name.ok) return badRequest("name-invalid", name.reason);
    const wanted = parseReadQuery(queryOf(said), new Headers(), engine.clock.nowMs());
    if (isProblem(wanted)) return wanted;
    const head = await engine.find(said.stream, "read");
    if ("kind" in head) return describeRejection(head);
    const plan = await engine.reader.plan(head, wanted.start, wanted);
    if ("kind" in plan) return describeRejection(plan);
    // Others may have come meanwhile.
    if (this.#socket === null) return null;
    if (this.#subscriptions.has(id)) return subscriptionExists;
    if (this.#subscriptions.size >= MAX_SOCKET_SUBSCRIPTIONS) return tooManySubscriptions;
    const follower = followers.open(plan, wanted.overflow, said.behind);
    if ("kind" in follower) return describeRejection(follower);
    const stop = (): void => follower.stop();
    const subscription: Subscription = { followed: follower, encoding: encodingOf(plan), stop };
    this.#subscriptions.set(id, subscription);
    const { contentType } = plan;
    this.#say({ type: "subscribed", id, ...placeOf(plan), stream: said.stream, contentType });
    this.#pump(id, subscription).catch((cause: unknown) => this.#failed(id, subscription, cause));
    return null;
  }

  /** Opens a view, or has one that is open show something else. */
  async #show({ stream, id = stream, view: request, offset }: ShowView): Promise<HttpProblem | null> {
    const { views } = this.#parts;
    if (views === null) return viewsMissing;
    const name = checkStreamName(stream);
    if (!name.ok) return badRequest("name-invalid", name.reason);
    const known = this.#views.get(id)?.followed;
    if (known !== undefined && known.plan.name === stream) return known.update(request);
    const taken = (): HttpProblem | null => {
      if (this.#subscriptions.has(id)) return subscriptionExists;
      return this.#subscriptions.size >= MAX_SOCKET_SUBSCRIPTIONS ? tooManySubscriptions : null;
    };
    const before = taken();
    if (before !== null) return before;
    const mailbox = new ViewMailbox();
    const followed = await views.open(stream, request, offset ?? null, mailbox);
    if (isProblem(followed)) return followed;
    const now = taken();
    if (now !== null || this.#socket === null) {
      followed.close();
      return now;
    }
    const stop = (): void => {
      mailbox.end(null);
      followed.close();
    };
    const shown: ShownView = { followed, mailbox, stop };
    this.#subscriptions.set(id, shown);
    this.#views.set(id, shown);
    this.#say({ type: "subscribed", id, offset: followed.offset, stream, contentType: "application/json" });
    this.#pumpView(id, shown).catch((cause: unknown) => this.#failed(id, shown, cause));
    return null;
  }

  #unsubscribe(id: string): void {
    const entry = this.#subscriptions.get(id);
    if (entry === undefined) return this.#refuse({ id }, subscriptionUnknown);
    this.#drop(id);
    this.#say({ type: "unsubscribed", id, offset: entry.followed.offset, reason: "request" });
  }

  #drop(id: string): void {
    this.#subscriptions.get(id)?.stop();
    this.#subscriptions.delete(id);
    this.#views.delete(id);
  }

  /** Sends what a subscription has to say, as fast as the socket takes it, until one of the two ends. */
  async #pump(id: string, subscription: Subscription): Promise<void> {
    const { followed: follower } = subscription;
    const isOpen = (): boolean => this.#subscriptions.get(id) === subscription;
    for (;;) {
      await follower.ready();
      if (!isOpen()) return;
      // Nothing is kept for a socket that does not take it.
      if (this.#full) follower.pass();
      // Not before it can be sent: what is taken counts as sent.
      const held = this.#isFree() ? follower.takeHeld() : null;
      if (held !== null) {
        this.#sendItem(id, subscription, held);
        continue;
      }
      await this.#turn();
      try {
        if (!isOpen()) return;
        const item = follower.takeHeld() ?? (await follower.take());
        if (item !== null && isOpen()) this.#sendItem(id, subscription, item);
      } finally {
        this.#sending = false;
        this.#next();
      }
    }
  }

  /** Sends what a view shows, one frame at a time: the next is worked out when the socket has taken this one. */
  async #pumpView(id: string, shown: ShownView): Promise<void> {
    const { mailbox } = shown;
    for (;;) {
      await mailbox.ready();
      await this.#turn();
      try {
        if (this.#subscriptions.get(id) !== shown) return;
        const frame = mailbox.take();
        if (frame !== null) this.#send(encodeView(id, frame));
        else if (mailbox.ended !== null) return this.#sayEnd(id, shown, mailbox.ended.why);
      } finally {
        this.#sending = false;
        this.#next();
      }
    }
  }

  #sayEnd(id: string, { followed: { offset } }: Entry, why: HttpProblem | null): void {
    this.#drop(id);
    if (why === null) return this.#say({ type: "unsubscribed", id, offset, reason: "closed" });
    this.#say({ type: "unsubscribed", id, offset, reason: "error", ...errorOf(why) });
  }

  #sendItem(id: string, subscription: Subscription, item: LiveItem): void {
    if (item.kind === "step") return this.#send(encodeStep(id, subscription.encoding, item));
    if (item.kind !== "end") {
      const { kind: type, ...facts } = item;
      // The two differ in one field each; which goes with which is the item's own type.
      return this.#say({ type, id, ...facts } as ServerMessage);
    }
    // The whole socket closes for that reason.
    if (item.why?.kind === "closing") return this.#drop(id);
    this.#sayEnd(id, subscription, item.why === null ? null : describeRejection(item.why));
  }

  #isFree(): boolean {
    return !this.#full && !this.#sending;
  }

  /** Resolves when the socket has room and it is this caller's turn, who then ends it; or when the socket is gone. */
  #turn(): Promise<void> {
    return new Promise((resolve) => {
      this.#queue.push(resolve);
      this.#next();
    });
  }

  #next(): void {
    if (!this.#isFree()) return;
    const go = this.#queue.shift();
    if (go === undefined) return;
    this.#sending = true;
    go();
  }

  async #append(said: Append): Promise<HttpProblem | null> {
    const answer = await appendSaid(this.#parts, said);
    if (isProblem(answer)) return answer;
    this.#say(answer);
    return null;
  }

  #refuse(about: { readonly ref?: string | number; readonly id?: string }, problem: HttpProblem): void {
    this.#say({ type: "error", ...about, ...errorOf(problem) });
  }

  #say(message: ServerMessage): void {
    this.#send(JSON.stringify(message));
  }

  #send(text: string): void {
    if (this.#socket === null || this.#client === null) return;
    const sent = this.#socket.send(text);
    // What a client has asked for and does not read may not pile up; what it was told it can have again.
    if (this.#full) this.#backlog += text.length;
    if (sent === 0 || this.#backlog > MAX_SOCKET_BACKLOG_BYTES) return this.#close(CLOSE.slow);
    this.#sentMs = this.#client.sent();
    if (sent > 0 && !this.#full) this.#client.taken();
    else this.#full = true;
  }

  #close([code, reason]: (typeof CLOSE)[keyof typeof CLOSE]): void {
    const [socket, full] = [this.#socket, this.#full];
    this.closed();
    // A word of farewell would wait behind what is not taken, and the socket with it.
    if (full) socket?.terminate();
    else socket?.close(code, reason);
  }

  /** What was thrown ends the one thing that it was thrown in. */
  #failed(id: string, entry: Entry, cause: unknown): void {
    const problem = this.#problemOf(`following ${entry.followed.plan.name}`, cause);
    if (this.#subscriptions.get(id) === entry) this.#sayEnd(id, entry, problem);
  }

  #problemOf(operation: string, cause: unknown): HttpProblem {
    const problem = describeFault(cause);
    if (problem.status === 500) this.#parts.onFault(`${operation} on a WebSocket`, cause);
    return problem;
  }

  /** Takes no new requests, lets those under way finish for a moment, and ends. */
  #drain(): void {
    if (this.#requests === 0) return this.#close(CLOSE.restart);
    this.#draining = true;
    this.#parts.engine.deadlines.after(SOCKET_DRAIN_MS, () => this.#close(CLOSE.restart));
  }

  #beatAfter(ms: number): void {
    this.#beat = this.#parts.engine.deadlines.after(ms, () => {
      const { clock } = this.#parts.engine;
      const nowMs = clock.monotonicMs();
      if (!this.#parts.principal.isValid()) return this.#close(CLOSE.expired);
      if (this.#unanswered++ >= MAX_UNANSWERED_PINGS) return this.#close(CLOSE.silent);
      // A full socket has enough to say.
      const quietMs = nowMs - this.#sentMs;
      const isQuiet = quietMs >= SOCKET_HEARTBEAT_MS && !this.#full;
      if (isQuiet) this.#say({ type: "heartbeat", time: new Date(clock.nowMs()).toISOString() });
      this.#socket?.ping();
      this.#beatAfter(quietMs < SOCKET_HEARTBEAT_MS ? SOCKET_HEARTBEAT_MS - quietMs : SOCKET_HEARTBEAT_MS);
    });
  }

  *#followers(): Generator<readonly [string, Followed]> {
    for (const [id, { followed }] of this.#subscriptions) yield [id, followed];
  }
}

const subscriptionExists = badRequest(
  "subscription-exists",
  "this connection has a subscription of that id; choose another id",
);
const subscriptionUnknown = badRequest("subscription-unknown", "this connection has no subscription of that id");
const viewsMissing = badRequest("views-missing", "this server has no live views");
const tooManySubscriptions = badRequest(
  "too-many-subscriptions",
  `a connection follows at most ${MAX_SOCKET_SUBSCRIPTIONS} streams; open another one`,
);
const tooManyRequests = describeRejection({ kind: "overloaded", reason: "too many requests are under way" });

function errorOf({
  code,
  message,
  headers,
}: HttpProblem): Pick<ServerMessage & { type: "error" }, "error" | "headers"> {
  return { error: { code, message }, ...(headers === undefined ? {} : { headers: { ...headers } }) };
}

/** The fields of a subscription mean what they mean over HTTP, where `live=sse` is their like. */
function queryOf({ offset, from, tail, key, filter, overflow }: Subscribe): URLSearchParams {
  const query = new URLSearchParams({ live: "sse" });
  for (const [name, value] of Object.entries({ offset, from, tail, key, filter, overflow })) {
    if (value !== undefined) query.set(name, String(value));
  }
  return query;
}
