/** XXH64 with seed 0 in plain arithmetic, for runtimes where WebAssembly may not be compiled. Some 30 MB/s. */

const MASK = 0xffff_ffff_ffff_ffffn;
const PRIMES = [
  0x9e3779b185ebca87n,
  0xc2b2ae3d27d4eb4fn,
  0x165667b19e3779f9n,
  0x85ebca77c2b2ae63n,
  0x27d4eb2f165667c5n,
] as const;
const [P1, P2, P3, P4, P5] = PRIMES;
const STRIPE_BYTES = 32;

const multiply = (left: bigint, right: bigint): bigint => (left * right) & MASK;
const rotate = (value: bigint, bits: bigint): bigint => ((value << bits) | (value >> (64n - bits))) & MASK;
const round = (lane: bigint, input: bigint): bigint => multiply(rotate((lane + multiply(input, P2)) & MASK, 31n), P1);
const merge = (hash: bigint, lane: bigint): bigint => (multiply(hash ^ round(0n, lane), P1) + P4) & MASK;

export function xxh64(bytes: Uint8Array): bigint {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { length } = bytes;
  let at = 0;
  let hash: bigint = P5;
  if (length >= STRIPE_BYTES) {
    let lanes: [bigint, bigint, bigint, bigint] = [(P1 + P2) & MASK, P2, 0n, (MASK + 1n - P1) & MASK];
    for (; at + STRIPE_BYTES <= length; at += STRIPE_BYTES) {
      const input = (lane: number): bigint => view.getBigUint64(at + 8 * lane, true);
      const [one, two, three, four] = lanes;
      lanes = [round(one, input(0)), round(two, input(1)), round(three, input(2)), round(four, input(3))];
    }
    const [one, two, three, four] = lanes;
    hash = (rotate(one, 1n) + rotate(two, 7n) + rotate(three, 12n) + rotate(four, 18n)) & MASK;
    for (const lane of lanes) hash = merge(hash, lane);
  }
  hash = (hash + BigInt(length)) & MASK;
  for (; at + 8 <= length; at += 8) {
    hash = (multiply(rotate(hash ^ round(0n, view.getBigUint64(at, true)), 27n), P1) + P4) & MASK;
  }
  if (at + 4 <= length) {
    hash = (multiply(rotate(hash ^ multiply(BigInt(view.getUint32(at, true)), P1), 23n), P2) + P3) & MASK;
    at += 4;
  }
  for (; at < length; at++) hash = multiply(rotate(hash ^ multiply(BigInt(view.getUint8(at)), P5), 11n), P1);
  hash = multiply(hash ^ (hash >> 33n), P2);
  hash = multiply(hash ^ (hash >> 29n), P3);
  return hash ^ (hash >> 32n);
}
