/**
 * Writing results to stdout: waits for a slow reader instead of buffering without end, and ends quietly when the reader
 * has gone (`… | head -1`), as a command in a pipe should.
 */

/** Call once before the first `writeOut`. */
export function endQuietlyOnBrokenPipe(): void {
  process.stdout.on("error", (cause: NodeJS.ErrnoException) => {
    if (cause.code === "EPIPE") process.exit(0);
    process.stderr.write(`streams-server: cannot write to stdout: ${cause.message}\n`);
    process.exit(1);
  });
}

/** Resolves when there is room for more. */
export async function writeOut(chunk: Uint8Array | string): Promise<void> {
  if (chunk.length === 0 || process.stdout.write(chunk)) return;
  await new Promise<void>((resolve) => process.stdout.once("drain", () => resolve()));
}

/** Resolves when everything was handed to the reader. */
export function flushOut(): Promise<void> {
  return new Promise((resolve) => process.stdout.write("", () => resolve()));
}
