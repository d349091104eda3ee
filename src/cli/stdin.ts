/** Stdin as it arrives. What cannot be read, such as a directory, is a mistake of the command line. */

import { UsageError } from "./failure.ts";

export async function* standardInput(): AsyncGenerator<Uint8Array, void> {
  try {
    yield* Bun.stdin.stream();
  } catch (cause) {
    const failed = cause instanceof Error && "syscall" in cause;
    throw failed ? new UsageError(`stdin cannot be read: ${cause.message}`) : cause;
  }
}
