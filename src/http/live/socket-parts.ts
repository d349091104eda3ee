/** What a WebSocket connection is made of: the socket below it, what it needs of the server, and the words it may end with. */

import type { Engine } from "../../engine/engine.ts";
import type { BodyRoom } from "../body-room.ts";
import type { Client } from "../client-limits.ts";
import type { Principal } from "../principal.ts";
import type { LiveClients } from "./clients.ts";
import type { Followers } from "./follower.ts";
import type { ViewOpener } from "./view-port.ts";

/** Why the server closes a socket; besides the codes of RFC 6455. */
export const CLOSE = {
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
  readonly bodyRoom: BodyRoom;
  /** What it is counted against; null when nothing is counted. */
  readonly client: Client | null;
  /** Gives back the place that the connection takes up. Called once, when it is gone. */
  readonly release: () => void;
  readonly onFault: (operation: string, cause: unknown) => void;
}
