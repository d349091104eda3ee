/** CRC-32 (IEEE) of bytes, continued from `seed`: a checksum against damage, not against forgery. */
export function crc32(bytes: Uint8Array, seed = 0): number {
  return Bun.hash.crc32(bytes, seed);
}
