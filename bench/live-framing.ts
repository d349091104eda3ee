/** Payload in pieces that each come behind a header: how it is taken out of bytes that are cut anywhere. Pure: no sockets. */

/** Pieces of payload, each behind a header: `headerByte` is told its bytes and answers with a length once it is whole. */
export function framed(
  onPayload: (piece: Buffer) => void,
  headerByte: (byte: number) => number | null,
): (bytes: Buffer) => void {
  let left = 0;
  return (bytes) => {
    for (let at = 0; at < bytes.length;) {
      if (left === 0) {
        left = headerByte(bytes[at++] ?? 0) ?? 0;
        continue;
      }
      const taken = Math.min(left, bytes.length - at);
      onPayload(bytes.subarray(at, at + taken));
      left -= taken;
      at += taken;
    }
  };
}

const CR = 0x0d;
const NEWLINE = 0x0a;

export function isChunked(head: string): boolean {
  return /\r\ntransfer-encoding:\s*chunked/i.test(head);
}

/** Undoes `Transfer-Encoding: chunked`; the end of the body is not looked for, a live body ends with its socket. */
export function chunkDecoder(onPayload: (piece: Buffer) => void): (bytes: Buffer) => void {
  let line = "";
  return framed(onPayload, (byte) => {
    // A size, or the empty line after a chunk's data.
    if (byte !== NEWLINE) {
      if (byte !== CR) line += String.fromCharCode(byte);
      return null;
    }
    const size = line === "" ? null : Number.parseInt(line, 16);
    line = "";
    return size;
  });
}
