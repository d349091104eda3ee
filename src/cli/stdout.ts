/**
 * Writing results to stdout: waits for a slow reader instead of buffering without end, and ends quietly when the reader
 * has gone (`… | head -1`), as a command in a pipe should.
 */

/** Call once before the first `writeOut`. */
export function endQuietlyOnBrokenPipe(): void {
  process.stdout.on("error", end);
}

/** Takes `endQuietlyOnBrokenPipe` back, for what looks after its stdout by itself. */
export function outliveReader(): void {
  process.stdout.off("error", end);
}

function end(cause: NodeJS.ErrnoException): never {
  if (cause.code === "EPIPE") process.exit(0);
  process.stderr.write(`streams-server: cannot write to stdout: ${cause.message}\n`);
  process.exit(1);
}

/** Resolves when there is room for more. */
export async function writeOut(chunk: Uint8Array | string): Promise<void> {
  if (chunk.length === 0 || process.stdout.write(chunk)) return;
  await new Promise<void>((resolve) => process.stdout.once("drain", () => resolve()));
}

/** Resolves when everything was handed to the reader. That the last write failed is told after its callback, in the same turn. */
export async function flushOut(): Promise<void> {
  await new Promise<void>((resolve) => process.stdout.write("", () => resolve()));
  await new Promise<void>((resolve) => setImmediate(resolve));
}
