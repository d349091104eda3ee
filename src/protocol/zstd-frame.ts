/**
 * zstd frames (RFC 8878) without a codec: what a frame says of itself, and frames that hold bytes as they are. A body may be any number
 * of frames in a row, so stored ones and small ones of our own join without anything being compressed again. Pure.
 *
 * Every frame that a server of ours sends tells its content's size and ends in a checksum (the low half of XXH64, seed 0).
 */

/** The low 32 bits of XXH64 with seed 0. Injected: the server has it natively. */
export type ContentChecksum = (bytes: Uint8Array) => number;

export interface FrameHeader {
  readonly headerBytes: number;
  /** What the frame unpacks to; null = it does not say. */
  readonly contentBytes: number | null;
  readonly hasChecksum: boolean;
}

const MAGIC = 0xfd2fb528;
const MAGIC_BYTES = 4;
const IS_SINGLE_SEGMENT = 0x20;
const HAS_CHECKSUM = 0x04;
const RESERVED = 0x08;
/** By the two lowest bits of the descriptor, and by its two highest. */
const DICTIONARY_BYTES = [0, 1, 2, 4] as const;
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const;
/** Longest header: magic, descriptor, window, dictionary, content size. */
export const MAX_FRAME_HEADER_BYTES = 18;
export const BLOCK_HEADER_BYTES = 3;
export const FRAME_CHECKSUM_BYTES = 4;
/** A block has at most so many bytes. */
const MAX_BLOCK_BYTES = 128 * 1024;
/** Decoders may refuse a window of over 8 MiB, and of a frame like ours the content is the window. */
const MAX_PLAIN_FRAME_BYTES = 1024 * 1024;

/** Null when `bytes` do not begin with a whole header of a frame. */
export function readFrameHeader(bytes: Uint8Array): FrameHeader | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length <= MAGIC_BYTES || view.getUint32(0, true) !== MAGIC) return null;
  const descriptor = view.getUint8(MAGIC_BYTES);
  if ((descriptor & RESERVED) !== 0) return null;
  const isSingle = (descriptor & IS_SINGLE_SEGMENT) !== 0;
  const sizeBytes = descriptor < 0x40 && isSingle ? 1 : (CONTENT_SIZE_BYTES[descriptor >> 6] ?? 0);
  const sizeAt = MAGIC_BYTES + 1 + (isSingle ? 0 : 1) + (DICTIONARY_BYTES[descriptor & 3] ?? 0);
  const headerBytes = sizeAt + sizeBytes;
  if (bytes.length < headerBytes) return null;
  const contentBytes = readContentSize(view, sizeAt, sizeBytes);
  return { headerBytes, contentBytes, hasChecksum: (descriptor & HAS_CHECKSUM) !== 0 };
}

function readContentSize(view: DataView, at: number, length: number): number | null {
  switch (length) {
    case 1:
      return view.getUint8(at);
    case 2:
      return view.getUint16(at, true) + 256;
    case 4:
      return view.getUint32(at, true);
    case 8:
      return Number(view.getBigUint64(at, true));
    default:
      return null;
  }
}

/** Frames that unpack to `bytes`, whose blocks hold them as they are. */
export function* plainFrames(bytes: Uint8Array, checksum: ContentChecksum): Generator<Uint8Array> {
  for (let at = 0; at === 0 || at < bytes.length; at += MAX_PLAIN_FRAME_BYTES) {
    yield plainFrame(bytes.subarray(at, at + MAX_PLAIN_FRAME_BYTES), checksum);
  }
}

function plainFrame(content: Uint8Array, checksum: ContentChecksum): Uint8Array {
  const headerBytes = MAGIC_BYTES + 1 + 4;
  const blocks = Math.max(1, Math.ceil(content.length / MAX_BLOCK_BYTES));
  const frame = new Uint8Array(headerBytes + blocks * BLOCK_HEADER_BYTES + content.length + FRAME_CHECKSUM_BYTES);
  const view = new DataView(frame.buffer);
  view.setUint32(0, MAGIC, true);
  // The content's size in four bytes.
  view.setUint8(MAGIC_BYTES, 0x80 | IS_SINGLE_SEGMENT | HAS_CHECKSUM);
  view.setUint32(MAGIC_BYTES + 1, content.length, true);
  let at = headerBytes;
  for (let block = 0; block < blocks; block++) {
    const part = content.subarray(block * MAX_BLOCK_BYTES, (block + 1) * MAX_BLOCK_BYTES);
    // One bit: the last one; two: its type, 0 = as it is; then its length.
    const header = Number(block === blocks - 1) | (part.length << 3);
    view.setUint16(at, header & 0xffff, true);
    view.setUint8(at + 2, header >> 16);
    frame.set(part, at + BLOCK_HEADER_BYTES);
    at += BLOCK_HEADER_BYTES + part.length;
  }
  view.setUint32(at, checksum(content), true);
  return frame;
}
