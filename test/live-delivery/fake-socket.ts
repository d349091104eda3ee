/** A WebSocket of the test's own, with its connection: it takes what the test lets it take. */

import { expect } from "bun:test";
import { ANYONE } from "../../src/http/principal.ts";
import { SocketConnection } from "../../src/http/live/websocket.ts";
import { serverMessage, type ServerMessage } from "../../src/http/live/socket-messages.ts";
import { BodyRoom } from "../../src/http/body-room.ts";
import type { Client } from "../../src/http/client-limits.ts";
import type { LiveWorld } from "./live-world.ts";

/** A socket that takes `room` messages, one more that waits, and drops the rest: like the real one, in small. */
export class FakeSocket {
  readonly sent: ServerMessage[] = [];
  readonly connection: SocketConnection;
  room = Infinity;
  waiting = 0;
  dropping = false;
  ended: string | null = null;

  constructor({ engine, followers, clients, faults }: LiveWorld, client: Client | null = null) {
    const onFault = (operation: string, cause: unknown): void => void faults.push([operation, cause]);
    this.connection = new SocketConnection({
      engine,
      followers,
      clients,
      views: null,
      onFault,
      principal: ANYONE,
      client,
      bodyRoom: new BodyRoom(engine.bodyBytes, engine.budget.bodyBytes),
      release: () => engine.liveRequests.give(1),
      maxBodyBytes: 1024 * 1024,
    });
    expect(engine.liveRequests.take(1)).toBe(true);
    this.connection.open(this);
  }

  send = (text: string): number => {
    if (this.dropping) return 0;
    this.sent.push(serverMessage.parse(JSON.parse(text)));
    if (this.room-- > 0) return text.length;
    this.waiting += text.length;
    return -1;
  };
  getBufferedAmount = (): number => this.waiting;
  close = (code: number): void => void (this.ended = String(code));
  pings = 0;
  isDead = false;
  ping = (): void => {
    this.pings++;
    if (!this.isDead) this.connection.heard();
  };
  terminate = (): void => void (this.ended = "terminated");

  say(message: object): void {
    this.connection.receive(JSON.stringify(message));
  }

  /** Takes what waits, and so many messages more. */
  drain(room: number): void {
    this.room = room;
    this.waiting = 0;
    this.connection.drained();
  }

  records(id: string): unknown[] {
    return this.sent.flatMap((one) => (one.type === "records" && one.id === id ? (one.records ?? []) : []));
  }

  ofType(type: ServerMessage["type"]): ServerMessage[] {
    return this.sent.filter((one) => one.type === type);
  }
}
