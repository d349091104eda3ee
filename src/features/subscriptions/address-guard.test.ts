/** The ranges, against arithmetic on whole numbers, on and around every edge; and the addresses that attackers ask for. */

import { describe, expect, test } from "bun:test";
import { assert as check, bigInt, integer, property } from "fast-check";
import { isLoopbackAddress, isPublicAddress } from "./address-guard.ts";

const RESERVED_IPV4 =
  "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
    .split(" ")
    .map((range) => rangeOf(range, 32, ipv4Number));

/** First and last address of each, with the groups written out. */
const RESERVED_IN_UNICAST: readonly (readonly [bigint, bigint])[] = [
  [group(0x2001, 0), group(0x2001, 0x0200) - 1n],
  [group(0x2001, 0x0db8), group(0x2001, 0x0db9) - 1n],
  [group(0x2002, 0), group(0x2003, 0) - 1n],
  [group(0x3fff, 0), group(0x3fff, 0x1000) - 1n],
];
const UNICAST: readonly [bigint, bigint] = [group(0x2000, 0), group(0x4000, 0) - 1n];

function rangeOf(range: string, width: number, parse: (text: string) => bigint): readonly [bigint, bigint] {
  const [network = "", bits] = range.split("/");
  const first = parse(network);
  return [first, first + (1n << BigInt(width - Number(bits))) - 1n];
}

function ipv4Number(text: string): bigint {
  return text.split(".").reduce((number, part) => number * 256n + BigInt(part), 0n);
}

function ipv4Text(number: bigint): string {
  return [24n, 16n, 8n, 0n].map((shift) => (number >> shift) & 0xffn).join(".");
}

function group(first: number, second: number): bigint {
  return (BigInt(first) << 112n) + (BigInt(second) << 96n);
}

function ipv6Text(number: bigint): string {
  return Array.from({ length: 8 }, (_, at) => ((number >> BigInt(112 - 16 * at)) & 0xffffn).toString(16)).join(":");
}

const within = (number: bigint, [first, last]: readonly [bigint, bigint]): boolean => number >= first && number <= last;
const isPublicIpv4 = (number: bigint): boolean => !RESERVED_IPV4.some((range) => within(number, range));
const isPublicIpv6 = (number: bigint): boolean =>
  within(number, UNICAST) && !RESERVED_IN_UNICAST.some((range) => within(number, range));

describe("public addresses", () => {
  test("IPv4: every edge of every range, and both sides of it", () => {
    for (const edge of RESERVED_IPV4.flat()) {
      for (const number of [edge - 1n, edge, edge + 1n]) {
        if (number < 0n || number >= 1n << 32n) continue;
        const text = ipv4Text(number);
        expect([text, isPublicAddress(text)]).toEqual([text, isPublicIpv4(number)]);
      }
    }
  });

  test("IPv4: anywhere", () => {
    check(
      property(integer({ min: 0, max: 2 ** 32 - 1 }), (number) => {
        return isPublicAddress(ipv4Text(BigInt(number))) === isPublicIpv4(BigInt(number));
      }),
      { numRuns: 5_000 },
    );
  });

  test("IPv6: every edge of every range, and both sides of it", () => {
    for (const edge of [UNICAST, ...RESERVED_IN_UNICAST].flat()) {
      for (const number of [edge - 1n, edge, edge + 1n]) {
        const text = ipv6Text(number);
        expect([text, isPublicAddress(text)]).toEqual([text, isPublicIpv6(number)]);
      }
    }
  });

  test("IPv6: anywhere, and anywhere in what is given out", () => {
    for (const range of [
      { min: 0n, max: (1n << 128n) - 1n },
      { min: UNICAST[0], max: UNICAST[1] },
      { min: group(0x2001, 0), max: group(0x2003, 0) },
    ]) {
      check(
        property(bigInt(range), (number) => isPublicAddress(ipv6Text(number)) === isPublicIpv6(number)),
        { numRuns: 3_000 },
      );
    }
  });

  test.each([
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "100.128.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001::200e",
    "2001:4860:4860::8888",
    "2620:4f:8000::1",
  ])("%s is one", (address) => expect(isPublicAddress(address)).toBe(true));

  test.each([
    // Metadata services.
    "169.254.169.254",
    "169.254.170.2",
    "fd00:ec2::254",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "0.0.0.0",
    "127.0.0.1",
    "127.255.255.255",
    "255.255.255.255",
    "::",
    "::1",
    // IPv4 in IPv6, also where it is public.
    "::127.0.0.1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "100::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "5f00::1",
    "2606:4700:4700::1111%1",
    // No addresses.
    "",
    " ",
    "localhost",
    "8.8.8",
    "8.8.8.8 ",
    "08.8.8.8",
    "0x8.8.8.8",
    "134744072",
    "8.8.8.8/32",
    "[2606:4700:4700::1111]",
    "2606:4700:4700::1111::",
  ])("%p is none", (address) => expect(isPublicAddress(address)).toBe(false));

  test("those of this machine", () => {
    const all = [
      "127.0.0.1",
      "127.9.9.9",
      "::1",
      "126.255.255.255",
      "128.0.0.0",
      "::2",
      "0.0.0.0",
      "::ffff:127.0.0.1",
      "127.1",
      "::1%lo",
    ];
    expect(all.filter(isLoopbackAddress)).toEqual(["127.0.0.1", "127.9.9.9", "::1"]);
  });
});
