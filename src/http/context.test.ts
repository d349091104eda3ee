/** Where a request comes from, as far as limits go: one client per IPv4 address, and per /64 of IPv6. */

import { expect, test } from "bun:test";
import { clientAddress, type Exchange } from "./context.ts";

function addressOf(address: string | null): string {
  const server = {
    timeout: () => undefined,
    upgrade: () => false,
    requestIP: () => (address === null ? null : { address }),
  };
  // It looks at nothing else of an exchange.
  return clientAddress({ server, request: new Request("http://localhost/") } as unknown as Exchange);
}

test.each([
  ["127.0.0.1", "127.0.0.1"],
  ["::ffff:127.0.0.1", "127.0.0.1"],
  ["::FFFF:10.0.0.1", "10.0.0.1"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
  ["2001:db8:1:2::9", "2001:db8:1:2::/64"],
  ["2001:db8::9", "2001:db8:0:0::/64"],
  ["2001:db8:1:2::", "2001:db8:1:2::/64"],
  ["::1", "0:0:0:0::/64"],
  ["::", "0:0:0:0::/64"],
  ["1::2:3:4:5:6:7", "1:0:2:3::/64"],
])("%s is the client %s", (address, client) => {
  expect(addressOf(address)).toBe(`address:${client}`);
});

test("addresses of one /64 are one client, of two are two", () => {
  expect(addressOf("2001:db8:0:1::1")).toBe(addressOf("2001:db8:0:1:ffff:ffff:ffff:ffff"));
  expect(addressOf("2001:db8:0:1::1")).not.toBe(addressOf("2001:db8:0:2::1"));
  expect(addressOf("10.0.0.1")).not.toBe(addressOf("10.0.0.2"));
});

test("whose address is not known is one client, and no address", () => {
  expect(addressOf(null)).toBe(addressOf(null));
  expect(addressOf(null)).not.toMatch(/\d/);
});
