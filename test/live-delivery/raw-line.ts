/**
 * One TCP connection of a reader that misbehaves: it can stop reading, so that the kernel's buffers fill up and the server is held
 * back, and it can be cut anywhere. After the cut nothing more is handed on, not even what had arrived.
 */

import { connect } from "node:net";

export interface RawLine {
  send(bytes: string | Uint8Array): void;
  pause(): void;
  resume(): void;
  cut(): void;
  /** Cuts behind so many more received bytes. */
  cutAfter(bytes: number): void;
}

export interface LineOwner {
  opened(): void;
  received(bytes: Buffer): void;
  /** Once. `byServer`: nobody here has cut it. */
  closed(byServer: boolean): void;
}

export function rawLine(server: { readonly url: string }, owner: LineOwner): RawLine {
  const { hostname, port } = new URL(server.url);
  const socket = connect({ host: hostname, port: Number(port) });
  let left = Infinity;
  let open = true;
  const close = (byServer: boolean): void => {
    if (!open) return;
    open = false;
    socket.destroy();
    owner.closed(byServer);
  };
  socket
    .on("connect", () => owner.opened())
    .on("data", (chunk) => {
      if (!open) return;
      const bytes = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
      const isLast = bytes.length >= left;
      owner.received(isLast ? bytes.subarray(0, left) : bytes);
      left -= bytes.length;
      if (isLast) close(false);
    })
    .on("end", () => close(true))
    // A reset is one way for the server to hang up.
    .on("error", () => close(true))
    .on("close", () => close(true));
  return {
    send: (bytes) => void socket.write(bytes),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    cut: () => close(false),
    cutAfter: (bytes) => void (left = bytes),
  };
}
