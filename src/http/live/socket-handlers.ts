/** WebSockets as Bun wants them: every socket carries its connection, and nothing is left to Bun that it would do silently. */

import { MAX_SOCKET_MESSAGE_BYTES } from "../../protocol/limits.ts";
import type { Socket } from "./socket-parts.ts";
import type { SocketConnection } from "./websocket.ts";

/** For `Bun.serve`: every socket carries its connection. */
export const socketHandlers = {
  open: (socket: Socket & { data: SocketConnection }): void => socket.data.open(socket),
  message: (socket: { data: SocketConnection }, message: string | Uint8Array): void => socket.data.receive(message),
  drain: (socket: { data: SocketConnection }): void => socket.data.drained(),
  ping: (socket: { data: SocketConnection }): void => socket.data.heard(),
  pong: (socket: { data: SocketConnection }): void => socket.data.heard(),
  close: (socket: { data: SocketConnection }): void => socket.data.closed(),
  maxPayloadLength: MAX_SOCKET_MESSAGE_BYTES,
  // None: Bun counts the frame under way and drops the answer behind it. We give it one frame at a time, and count answers ourselves.
  backpressureLimit: 0,
  closeOnBackpressureLimit: false,
  // Of no use to us: whatever is sent counts as a sign of life of the other side. We ping, and listen.
  idleTimeout: 0,
  sendPings: false,
  perMessageDeflate: false,
};
