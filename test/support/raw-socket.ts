/**
 * HTTP as bytes on a socket, for what `fetch` will not send: broken requests, stalled uploads, readers that stop
 * reading. Every wait has a deadline.
 */

import { connect, type Socket } from "node:net";
import { within } from "./wait.ts";

export interface RawConnection {
  send(bytes: string | Uint8Array): void;
  /** Everything received so far, one character per byte. */
  received(): string;
  /** Asks `check` after each event of the socket until it gives something. */
  wait<T>(what: string, check: () => T | undefined | null, deadlineMs?: number): Promise<T>;
  /** Waits until what was received matches. */
  receive(pattern: RegExp, deadlineMs?: number): Promise<RegExpExecArray>;
  /** Stops reading: the kernel's buffers fill up, then the server is held back. */
  pause(): void;
  resume(): void;
  isClosed(): boolean;
  destroy(): void;
}

export async function connectRaw(server: { readonly url: string }): Promise<RawConnection> {
  const { hostname, port } = new URL(server.url);
  const socket: Socket = connect({ host: hostname, port: Number(port) });
  const pieces: string[] = [];
  let closed = false;
  let changed = Promise.withResolvers<void>();
  const notify = (): void => {
    changed.resolve();
    changed = Promise.withResolvers();
  };
  socket.setEncoding("latin1").on("data", (text: string) => {
    pieces.push(text);
    notify();
  });
  // A reset is one way for the server to refuse: it counts as closed.
  for (const end of ["error", "close"]) {
    socket.on(end, () => {
      closed = true;
      notify();
    });
  }
  await within("connecting", new Promise<void>((resolve) => socket.once("connect", resolve)));

  function received(): string {
    if (pieces.length > 1) pieces.splice(0, pieces.length, pieces.join(""));
    return pieces[0] ?? "";
  }
  async function wait<T>(check: () => T | undefined | null): Promise<T> {
    for (;;) {
      const found = check();
      if (found !== undefined && found !== null) return found;
      await changed.promise;
    }
  }
  return {
    send: (bytes) => void socket.write(bytes),
    received,
    wait: (what, check, deadlineMs = 20_000) => within(what, wait(check), deadlineMs),
    receive: (pattern, deadlineMs = 20_000) =>
      within(
        `receiving ${pattern.source}`,
        wait(() => pattern.exec(received())),
        deadlineMs,
      ),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    isClosed: () => closed,
    destroy: () => void socket.destroy(),
  };
}

export interface RawAnswer {
  /** Null when the server closed the connection without an answer. */
  readonly status: number | null;
  readonly text: string;
}

/** Sends one request as bytes; resolves with the first status line, or with null when the server hangs up. */
export async function exchangeRaw(
  server: { readonly url: string },
  request: string | Uint8Array,
  deadlineMs = 20_000,
): Promise<RawAnswer> {
  const connection = await connectRaw(server);
  connection.send(request);
  try {
    return await connection.wait(
      "the answer to a raw request",
      (): RawAnswer | undefined => {
        const text = connection.received();
        const status = /^HTTP\/1\.1 (\d{3})[^]*?\r\n\r\n/.exec(text);
        if (status !== null) return { status: Number(status[1]), text };
        return connection.isClosed() ? { status: null, text } : undefined;
      },
      deadlineMs,
    );
  } finally {
    connection.destroy();
  }
}
