/**
 * Unpacks a body of zstd frames: each frame's size is judged before, its content after, and what several threads unpack at once comes
 * out in order.
 */

import { present } from "../kit/assert.ts";
import { type Codec, loadCodec } from "./zstd-codec.ts";
import { type Frame, FrameError, FrameSplitter } from "./zstd-frames.ts";

export { FrameError, loadCodec };

/** Our servers send frames of at most 1 MiB; history of others may be cut otherwise. */
export const MAX_FRAME_CONTENT_BYTES = 16 * 1024 * 1024;

/** @throws FrameError when the body is damaged, cut off, or claims too much. */
export async function* unpacked(pieces: AsyncIterable<Uint8Array>, codec: Codec): AsyncGenerator<Uint8Array, void> {
  const splitter = new FrameSplitter(MAX_FRAME_CONTENT_BYTES);
  for await (const piece of pieces) yield* inOrder(splitter.push(piece), codec);
  splitter.end();
}

async function* inOrder(frames: readonly Frame[], codec: Codec): AsyncGenerator<Uint8Array, void> {
  const underway: Promise<Uint8Array | FrameError>[] = [];
  let bytes = 0;
  let started = 0;
  for (const { contentBytes } of frames) {
    for (let next = frames[started]; next !== undefined; next = frames[started]) {
      if (underway.length > 0 && bytes + next.contentBytes > codec.bytesAtOnce) break;
      underway.push(contentOf(next, codec));
      bytes += next.contentBytes;
      started++;
    }
    const content = await present(underway.shift(), "the frame to give out is underway");
    bytes -= contentBytes;
    if (content instanceof FrameError) throw content;
    if (content.length > 0) yield content;
  }
}

/** Never rejects: nobody waits for what is underway when the reader leaves. */
async function contentOf(frame: Frame, { unpack }: Codec): Promise<Uint8Array | FrameError> {
  let content: Uint8Array;
  try {
    content = await unpack(frame);
  } catch (cause) {
    return new FrameError(`a zstd frame is damaged: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
  if (content.length === frame.contentBytes) return content;
  return new FrameError(`a zstd frame unpacks to ${content.length} bytes and says ${frame.contentBytes}`);
}
