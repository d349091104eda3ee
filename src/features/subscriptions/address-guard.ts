/**
 * Which addresses a webhook may be sent to: those that any host on the internet could reach just as well, so that nobody reaches more through
 * this server than without it (IANA special-purpose registries; PROTOCOL §12.8). Names are no business of this file. Pure.
 */

import { BlockList, isIPv4, isIPv6 } from "node:net";

const reservedIpv4 = subnets("ipv4", [
  "0.0.0.0/8", // this host
  "10.0.0.0/8",
  "100.64.0.0/10", // carrier NAT; 100.100.100.200 is Alibaba's metadata service
  "127.0.0.0/8",
  "168.63.129.16/32", // Azure's platform service: looks public, answers only inside
  "169.254.0.0/16", // link-local; 169.254.169.254 is the metadata service of most clouds
  "172.16.0.0/12",
  "192.0.0.0/24", // protocol assignments; 192.0.0.192 is Oracle's metadata service
  "192.0.2.0/24", // documentation
  "192.88.99.0/24", // 6to4 relays
  "192.168.0.0/16",
  "198.18.0.0/15", // benchmarks
  "198.51.100.0/24", // documentation
  "203.0.113.0/24", // documentation
  "224.0.0.0/4", // multicast
  "240.0.0.0/4", // reserved, broadcast
]);

/**
 * What IANA has given out for global unicast. All else is refused unseen: ::1, fc00::/7 (fd00:ec2::254 is Amazon's metadata service),
 * fe80::/10, fec0::/10, ff00::/8, 5f00::/16. So are forms that carry an IPv4 address (::/96, ::ffff:0:0/96, 64:ff9b::/96, 64:ff9b:1::/48), a
 * public one as well: where the packet goes is decided by the kernel or a translator on the way, whose rules and private prefixes
 * this list does not know. A name that is meant for IPv4 has an A record.
 */
const unicastIpv6 = subnets("ipv6", ["2000::/3"]);
const reservedIpv6 = subnets("ipv6", [
  "2001::/23", // protocol assignments; Teredo carries IPv4 addresses
  "2001:db8::/32", // documentation
  "2002::/16", // 6to4 carries IPv4 addresses
  "3fff::/20", // documentation
]);

const loopback = subnets("ipv4", ["127.0.0.0/8"]);

/** Whether it is a globally reachable unicast address; false for what is no address at all, or has a zone. */
export function isPublicAddress(address: string): boolean {
  if (isIPv4(address)) return !reservedIpv4.check(address, "ipv4");
  // A zone names one of this machine's interfaces.
  if (!isIPv6(address) || address.includes("%")) return false;
  return unicastIpv6.check(address, "ipv6") && !reservedIpv6.check(address, "ipv6");
}

/** Whether it is in 127.0.0.0/8, or ::1. */
export function isLoopbackAddress(address: string): boolean {
  return address === "::1" || (isIPv4(address) && loopback.check(address, "ipv4"));
}

function subnets(family: "ipv4" | "ipv6", ranges: readonly string[]): BlockList {
  const list = new BlockList();
  for (const range of ranges) {
    const [network = "", bits] = range.split("/");
    list.addSubnet(network, Number(bits), family);
  }
  return list;
}
