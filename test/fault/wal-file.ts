/**
 * The frames of an SQLite write-ahead log, as far as damaging them needs: where the valid ones end. The file is larger than
 * its valid part (it is pre-grown and reused), so the salts tell. Source: the SQLite file format, section 4.1.
 */

const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
const SALT_AT = { file: 16, frame: 8 };

export interface WalFrames {
  readonly count: number;
  /** Byte position where frame `index` (from 0) starts. */
  start(index: number): number;
  /** Byte position of the page inside frame `index`. */
  page(index: number): number;
  readonly pageBytes: number;
}

export async function walFrames(file: string): Promise<WalFrames> {
  const bytes = Buffer.from(await Bun.file(file).arrayBuffer());
  const pageBytes = bytes.readUInt32BE(8);
  const frameBytes = FRAME_HEADER_BYTES + pageBytes;
  const salts = bytes.subarray(SALT_AT.file, SALT_AT.file + 8);
  const start = (index: number): number => HEADER_BYTES + index * frameBytes;
  let count = 0;
  while (
    start(count + 1) <= bytes.length &&
    bytes.subarray(start(count) + SALT_AT.frame, start(count) + SALT_AT.frame + 8).equals(salts)
  ) {
    count++;
  }
  return { count, pageBytes, start, page: (index) => start(index) + FRAME_HEADER_BYTES };
}
