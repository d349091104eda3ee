/**
 * One WebSocket (docs/websocket.md): many streams followed and appended to on one connection. A subscription is a follower and a
 * loop that sends what it gives; when the socket is full all of them stand still, and one after the other goes on when it drains.
 * Nothing is queued for a client that does not read: records wait in the log, and answers only up to a bound.
 */

import { TokenBucket } from "../../kit/token-bucket.ts";
import {
  MAX_SOCKET_BACKLOG_BYTES,
  MAX_SOCKET_REQUESTS,
  MAX_SOCKET_SUBSCRIPTIONS,
  SOCKET_BYTES_PER_MESSAGE,
  SOCKET_DRAIN_MS,
  SOCKET_HEARTBEAT_MS,
  SOCKET_MESSAGES_PER_SECOND,
} from "../../protocol/limits.ts";
import { allows } from "../../protocol/grants.ts";
import { checkStreamName } from "../../protocol/names.ts";
import { forbidden } from "../principal.ts";
import { badRequest, describeFault, describeRejection, type HttpProblem, isProblem } from "../errors.ts";
import { parseReadQuery } from "../routes/read-query.ts";
import { aboutOf, appendSaid, refOf } from "./socket-append.ts";
import type { Followed, LiveClient } from "./clients.ts";
import { type OpenedView, ViewMailbox } from "./view-port.ts";
import type { Follower, LiveItem } from "./follower.ts";
import { encodeStep, encodeView, encodingOf, placeOf, type SocketEncoding } from "./socket-frames.ts";
import {
  errorOf,
  subscriptionExists,
  subscriptionUnknown,
  tooManyRequests,
  tooManySubscriptions,
  viewsMissing,
} from "./socket-problems.ts";
import { CLOSE, type Socket, type SocketParts } from "./socket-parts.ts";
import { SocketPulse } from "./socket-pulse.ts";
import {
  type Append,
  queryOf,
  readMessage,
  type ServerMessage,
  type ShowView,
  type Subscribe,
} from "./socket-messages.ts";

/** What a connection follows under one id. */
interface Entry {
  readonly followed: Followed;
  readonly stop: () => void;
  /** The socket is full: it gives up what it holds, and has it later from the log. */
  readonly pass: () => void;
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
  #pulse: SocketPulse | null = null;
  #full = false;
  /** Room of the frame that the socket has not passed on. */
  #heldRoom = 0;
  /** Characters of answers given to the socket since it is full. */
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
      crowds: () => this.#heldRoom > 0 && this.#parts.followers.room.isShort,
      drain: () => this.#drain(),
    });
    this.#pulse = new SocketPulse(this.#parts.engine, {
      look: () => void (this.#parts.principal.isValid() || this.#close(CLOSE.expired)),
      ping: () => socket.ping(),
      speak: () => this.#speak(),
      silent: () => this.#close(CLOSE.silent),
    });
    this.#say({ type: "connected", clientId: this.#client.id, heartbeatMs: SOCKET_HEARTBEAT_MS });
  }

  receive(message: string | Uint8Array): void {
    if (typeof message !== "string") return this.#close(CLOSE.binary);
    this.heard();
    if (!this.#rate.take(1 + Math.floor(message.length / SOCKET_BYTES_PER_MESSAGE))) return this.#close(CLOSE.policy);
    if (!this.#parts.principal.isValid()) return this.#close(CLOSE.expired);
    const read = readMessage(message);
    const limited = this.#parts.client?.charge(Buffer.byteLength(message)) ?? null;
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
    this.#pulse?.heard();
  }

  /** The socket has passed on some of what it was given. */
  drained(): void {
    if (this.#socket === null || this.#socket.getBufferedAmount() > 0) return;
    this.#full = false;
    this.#backlog = 0;
    this.#giveRoom();
    this.#client?.taken();
    this.#next();
  }

  /** The connection is gone, whoever ended it. */
  closed(): void {
    this.#socket = null;
    this.#pulse?.stop();
    this.#giveRoom();
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
    const { engine, followers, client } = this.#parts;
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
    const full = client?.takePlace() ?? null;
    if (full !== null) return full;
    const follower = followers.open(plan, wanted.overflow, said.behind);
    if ("kind" in follower) {
      client?.givePlace();
      return describeRejection(follower);
    }
    const subscription: Subscription = {
      followed: follower,
      encoding: encodingOf(plan),
      stop: () => follower.stop(),
      pass: () => follower.pass(),
    };
    this.#subscriptions.set(id, subscription);
    const { contentType } = plan;
    this.#say({ type: "subscribed", id, ...placeOf(plan), stream: said.stream, contentType });
    this.#pump(id, subscription).catch((cause: unknown) => this.#failed(id, subscription, cause));
    return null;
  }

  /** Opens a view, or has one that is open show something else. */
  async #show({ stream, id = stream, view: request, offset }: ShowView): Promise<HttpProblem | null> {
    const { views, client } = this.#parts;
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
    const full = client?.takePlace() ?? null;
    if (full !== null) return full;
    const mailbox = new ViewMailbox();
    let isOpen = false;
    try {
      const followed = await views.open(stream, request, offset ?? null, mailbox);
      if (isProblem(followed)) return followed;
      const now = taken();
      isOpen = now === null && this.#socket !== null;
      if (isOpen) this.#opened(id, followed, mailbox);
      else followed.close();
      return now;
    } finally {
      if (!isOpen) client?.givePlace();
    }
  }

  #opened(id: string, followed: OpenedView, mailbox: ViewMailbox): void {
    const stream = followed.plan.name;
    const stop = (): void => {
      mailbox.end(null);
      followed.close();
    };
    // A view holds one frame at most, and nothing that is counted.
    const shown: ShownView = { followed, mailbox, stop, pass: () => undefined };
    this.#subscriptions.set(id, shown);
    this.#views.set(id, shown);
    this.#say({ type: "subscribed", id, offset: followed.offset, stream, contentType: "application/json" });
    this.#pumpView(id, shown).catch((cause: unknown) => this.#failed(id, shown, cause));
  }

  #unsubscribe(id: string): void {
    const entry = this.#subscriptions.get(id);
    if (entry === undefined) return this.#refuse({ id }, subscriptionUnknown);
    this.#drop(id);
    this.#say({ type: "unsubscribed", id, offset: entry.followed.offset, reason: "request" });
  }

  #drop(id: string): void {
    const entry = this.#subscriptions.get(id);
    if (entry === undefined) return;
    this.#subscriptions.delete(id);
    this.#views.delete(id);
    entry.stop();
    this.#parts.client?.givePlace();
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
        if (frame !== null) this.#sendFrame(encodeView(id, frame));
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
    if (item.kind === "step") {
      this.#heldRoom += subscription.followed.handOver();
      this.#sendFrame(encodeStep(id, subscription.encoding, item));
      if (!this.#full || this.#socket === null) this.#giveRoom();
      return;
    }
    if (item.kind !== "end") {
      const { kind: type, ...facts } = item;
      // The two differ in one field each; which goes with which is the item's own type.
      return this.#say({ type, id, ...facts } as ServerMessage);
    }
    // The whole socket closes for that reason.
    if (item.why?.kind === "closing") return this.#drop(id);
    this.#sayEnd(id, subscription, item.why === null ? null : describeRejection(item.why));
  }

  #giveRoom(): void {
    if (this.#heldRoom === 0) return;
    this.#parts.followers.room.give(this.#heldRoom);
    this.#heldRoom = 0;
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

  /** What a client has asked for and does not read may not pile up; what it was told it can have again. */
  #say(message: ServerMessage): void {
    const text = JSON.stringify(message);
    if (this.#full) this.#backlog += text.length;
    if (this.#backlog > MAX_SOCKET_BACKLOG_BYTES) return this.#close(CLOSE.slow);
    this.#sendFrame(text);
  }

  /** A full socket is given at most one of these: that of whose turn it was when an answer filled it. */
  #sendFrame(text: string): void {
    if (this.#socket === null || this.#client === null) return;
    const sent = this.#socket.send(text);
    if (sent === 0) return this.#close(CLOSE.slow);
    this.#pulse?.sent(this.#client.sent());
    if (sent > 0 && !this.#full) this.#client.taken();
    else this.#fill();
  }

  #fill(): void {
    if (this.#full) return;
    this.#full = true;
    // Room is for those who can send now.
    if (this.#parts.followers.room.used === this.#heldRoom) return;
    for (const { pass } of this.#subscriptions.values()) pass();
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

  /** Says that it is there, unless its socket has enough to say. */
  #speak(): void {
    const time = new Date(this.#parts.engine.clock.nowMs()).toISOString();
    if (!this.#full) this.#say({ type: "heartbeat", time });
  }

  *#followers(): Generator<readonly [string, Followed]> {
    for (const [id, { followed }] of this.#subscriptions) yield [id, followed];
  }
}
