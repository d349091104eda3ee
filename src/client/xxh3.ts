/**
 * XXH3-64 with seed 0 in plain TypeScript, for where WebAssembly may not run. 64-bit arithmetic is BigInt's: microseconds for a
 * key, which is short, and slow for long inputs, which are right all the same.
 * Source: the XXH3 specification of xxHash (doc/xxhash_spec.md, "XXH3").
 */

/** The 192 bytes of secret that the format prescribes, in base64. */
const SECRET_TEXT =
  "uP5sOSOkS758AYEs9yGtHN7UbemDkJfbckCkpLezZx/LeeZOzMDleIJa0H3M/3IhuAhGdPdDJI7gNZDmgTomTDwoUruRwwDL" +
  "iNBlixtTLqNxZEiXog35TjgZ70ap3qzYqPp2P+OcND/53LvHxwtPHYpR4EvNtFkxyJ9+ydl4c2TqxayDNNPrw8WBoP/6E2Pr" +
  "Fw3dUbfw2knTFlUmKdRonisWvlh9R6H8j/i40XrQMc5FyzqPlRYEKK/X+8q7S0B+";

const P32_1 = 0x9e3779b1n;
const P32_2 = 0x85ebca77n;
const P32_3 = 0xc2b2ae3dn;
const P64_1 = 0x9e3779b185ebca87n;
const P64_2 = 0xc2b2ae3d27d4eb4fn;
const P64_3 = 0x165667b19e3779f9n;
const P64_4 = 0x85ebca77c2b2ae63n;
const P64_5 = 0x27d4eb2f165667c5n;
const MIX_1 = 0x165667919e3779f9n;
const MIX_2 = 0x9fb21c651e98df25n;
const LOW_HALF = 0xffff_ffffn;

const STRIPE_BYTES = 64;
const STRIPES_PER_BLOCK = 16;
const BLOCK_BYTES = STRIPE_BYTES * STRIPES_PER_BLOCK;
const SECRET_BYTES = 192;

const secret = new DataView(Uint8Array.from(atob(SECRET_TEXT), (char) => char.charCodeAt(0)).buffer);

export function xxh3(bytes: Uint8Array): bigint {
  const input = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.length;
  if (length > 240) return hashLong(input);
  if (length > 128) return hash129to240(input);
  if (length > 16) return hash17to128(input);
  if (length > 8) return hash9to16(input);
  if (length > 3) return hash4to8(input);
  if (length > 0) return hash1to3(input);
  return finishShort(secretAt(56) ^ secretAt(64));
}

function hash1to3(input: DataView): bigint {
  const length = input.byteLength;
  const ends = input.getUint8(length - 1) | (length << 8) | (input.getUint8(0) << 16);
  // The middle byte may set the sign bit; `>>> 0` makes the word unsigned again.
  const packed = (ends | (input.getUint8(length >> 1) << 24)) >>> 0;
  return finishShort(BigInt(packed) ^ (secretAt(0) & LOW_HALF) ^ (secretAt(0) >> 32n));
}

function hash4to8(input: DataView): bigint {
  const length = input.byteLength;
  const first = BigInt(input.getUint32(0, true));
  const last = BigInt(input.getUint32(length - 4, true));
  let hash = ((first << 32n) | last) ^ secretAt(8) ^ secretAt(16);
  hash ^= rotate(hash, 49n) ^ rotate(hash, 24n);
  hash = low64(hash * MIX_2);
  hash ^= (hash >> 35n) + BigInt(length);
  hash = low64(hash * MIX_2);
  return hash ^ (hash >> 28n);
}

function hash9to16(input: DataView): bigint {
  const length = input.byteLength;
  const low = word(input, 0) ^ secretAt(24) ^ secretAt(32);
  const high = word(input, length - 8) ^ secretAt(40) ^ secretAt(48);
  return finish(BigInt(length) + reversed(low) + high + foldedProduct(low, high));
}

function hash17to128(input: DataView): bigint {
  const length = input.byteLength;
  let hash = BigInt(length) * P64_1;
  for (let pair = (length - 1) >> 5; pair >= 0; pair--) {
    hash += mix16(input, 16 * pair, 32 * pair);
    hash += mix16(input, length - 16 * (pair + 1), 32 * pair + 16);
  }
  return finish(hash);
}

function hash129to240(input: DataView): bigint {
  const length = input.byteLength;
  let hash = BigInt(length) * P64_1;
  for (let part = 0; part < 8; part++) hash += mix16(input, 16 * part, 16 * part);
  hash = finish(hash);
  for (let part = 8; part < length >> 4; part++) hash += mix16(input, 16 * part, 16 * (part - 8) + 3);
  return finish(hash + mix16(input, length - 16, 119));
}

function hashLong(input: DataView): bigint {
  const length = input.byteLength;
  const lanes = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1];
  const blocks = Math.floor((length - 1) / BLOCK_BYTES);
  for (let block = 0; block < blocks; block++) {
    addStripes(lanes, input, block * BLOCK_BYTES, STRIPES_PER_BLOCK);
    scramble(lanes);
  }
  const restAt = blocks * BLOCK_BYTES;
  addStripes(lanes, input, restAt, Math.floor((length - 1 - restAt) / STRIPE_BYTES));
  addStripe(lanes, input, length - STRIPE_BYTES, SECRET_BYTES - STRIPE_BYTES - 7);
  let hash = BigInt(length) * P64_1;
  for (let lane = 0; lane < 8; lane += 2) {
    const left = at(lanes, lane) ^ secretAt(11 + 8 * lane);
    hash += foldedProduct(left, at(lanes, lane + 1) ^ secretAt(19 + 8 * lane));
  }
  return finish(hash);
}

function addStripes(lanes: bigint[], input: DataView, start: number, count: number): void {
  for (let stripe = 0; stripe < count; stripe++) addStripe(lanes, input, start + stripe * STRIPE_BYTES, stripe * 8);
}

function addStripe(lanes: bigint[], input: DataView, start: number, secretStart: number): void {
  for (let lane = 0; lane < 8; lane++) {
    const value = word(input, start + 8 * lane);
    const keyed = value ^ secretAt(secretStart + 8 * lane);
    lanes[lane ^ 1] = low64(at(lanes, lane ^ 1) + value);
    lanes[lane] = low64(at(lanes, lane) + (keyed & LOW_HALF) * (keyed >> 32n));
  }
}

function scramble(lanes: bigint[]): void {
  for (let lane = 0; lane < 8; lane++) {
    const value = at(lanes, lane);
    lanes[lane] = low64((value ^ (value >> 47n) ^ secretAt(SECRET_BYTES - STRIPE_BYTES + 8 * lane)) * P32_1);
  }
}

function mix16(input: DataView, start: number, secretStart: number): bigint {
  const left = word(input, start) ^ secretAt(secretStart);
  return foldedProduct(left, word(input, start + 8) ^ secretAt(secretStart + 8));
}

function finish(sum: bigint): bigint {
  const hash = low64(sum);
  const mixed = low64((hash ^ (hash >> 37n)) * MIX_1);
  return mixed ^ (mixed >> 32n);
}

/** How inputs of up to three bytes end. */
function finishShort(start: bigint): bigint {
  let hash = low64((start ^ (start >> 33n)) * P64_2);
  hash = low64((hash ^ (hash >> 29n)) * P64_3);
  return hash ^ (hash >> 32n);
}

/** Both halves of the 128-bit product, folded into one. */
function foldedProduct(left: bigint, right: bigint): bigint {
  const product = left * right;
  return low64(product) ^ (product >> 64n);
}

function low64(value: bigint): bigint {
  return BigInt.asUintN(64, value);
}

function rotate(value: bigint, bits: bigint): bigint {
  return low64(value << bits) | (value >> (64n - bits));
}

/** The eight bytes in the other order. */
function reversed(value: bigint): bigint {
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setBigUint64(0, value);
  return bytes.getBigUint64(0, true);
}

function word(input: DataView, start: number): bigint {
  return input.getBigUint64(start, true);
}

function secretAt(start: number): bigint {
  return secret.getBigUint64(start, true);
}

function at(lanes: readonly bigint[], lane: number): bigint {
  return lanes[lane] ?? 0n;
}
