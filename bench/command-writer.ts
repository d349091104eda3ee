/** Appends in a protocol that has one command per record: a batch is so many commands in one write. */

import type { AppendWriter } from "./wire.ts";
import { randomRecords } from "./workloads.ts";

export interface Command {
  /** The command that appends a record to some stream; as long as every other one. */
  of(record: string): Buffer;
  /** Writes the true stream, and what the connection adds, into the command that begins at `at`. */
  address(buffer: Buffer, at: number, connection: number, stream: number): void;
}

export class CommandWriter implements AppendWriter {
  readonly #command: Command;
  readonly #requests: readonly Buffer[];
  readonly #buffers: readonly Buffer[];
  readonly #commandBytes: number;
  #turn = 0;

  constructor(command: Command, connections: number, recordsPerRequest: number) {
    this.#command = command;
    this.#requests = randomRecords(recordsPerRequest).map((records) =>
      Buffer.concat(records.map((record) => command.of(record))),
    );
    const requestBytes = this.#requests[0]?.length ?? 0;
    this.#commandBytes = requestBytes / recordsPerRequest;
    this.#buffers = Array.from({ length: connections }, () => Buffer.alloc(requestBytes));
  }

  next(connection: number, stream: number): Uint8Array {
    const buffer = this.#buffers[connection];
    const request = this.#requests[this.#turn++ % this.#requests.length];
    if (buffer === undefined || request === undefined) throw new Error(`no connection ${connection}`);
    buffer.set(request);
    for (let at = 0; at < buffer.length; at += this.#commandBytes) {
      this.#command.address(buffer, at, connection, stream);
    }
    return buffer;
  }
}
