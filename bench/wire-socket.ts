/**
 * A TCP connection to a server, whatever it speaks: sends all it is given, in order, and hands on what comes. Owns the
 * socket and the bytes that the kernel has not taken yet.
 */

import type { Socket } from "bun";

export interface SocketEvents {
  /** The bytes are valid during the call only. */
  readonly received: (bytes: Buffer) => void;
  /** May be called more than once. */
  readonly ended: () => void;
}

const NOTHING: Buffer = Buffer.alloc(0);

export class WireSocket {
  #socket: Socket | null = null;
  #unsent: Uint8Array = NOTHING;

  private constructor() {}

  static async open(url: string, { received, ended }: SocketEvents): Promise<WireSocket> {
    const { hostname, port } = new URL(url);
    const opened = new WireSocket();
    opened.#socket = await Bun.connect({
      hostname,
      port: Number(port),
      socket: {
        open: (socket) => void socket.setNoDelay(true),
        data: (_, bytes) => received(bytes),
        drain: () => void opened.#flush(),
        close: ended,
        error: ended,
      },
    });
    return opened;
  }

  /** False when the connection is broken. The bytes must stay untouched until they are answered. */
  send(bytes: Uint8Array): boolean {
    this.#unsent = this.#unsent.length === 0 ? bytes : Buffer.concat([this.#unsent, bytes]);
    return this.#flush();
  }

  /** Ends it after what was sent. */
  end(): void {
    this.#socket?.end();
  }

  cut(): void {
    this.#socket?.terminate();
  }

  #flush(): boolean {
    if (this.#unsent.length === 0 || this.#socket === null) return true;
    const written = this.#socket.write(this.#unsent);
    if (written < 0) return false;
    this.#unsent = written === this.#unsent.length ? NOTHING : this.#unsent.subarray(written);
    return true;
  }
}
