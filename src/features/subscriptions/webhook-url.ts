/**
 * What a webhook URL may look like, judged by its text alone when a subscription is made (PROTOCOL §12.8). It says no early and with
 * a reason; it keeps nobody out by itself, since a name may resolve to anything: `webhook-client.ts` checks the addresses, each time.
 */

import { isIPv4, isIPv6 } from "node:net";
import { isLoopbackAddress, isPublicAddress } from "./address-guard.ts";

export const MAX_WEBHOOK_URL_CHARS = 2_048;

/** Names that are local by definition (RFC 6761, RFC 6762, ICANN's `.internal`), with all below them. */
const LOCAL_NAMES = ["localhost", "local", "internal"];

/** The URL as it will be used, or why not. `allowLocal`: `localhost` and 127.0.0.0/8 are fine, with `http:` as well. */
export function checkWebhookUrl(
  text: string,
  allowLocal: boolean,
): { readonly url: URL } | { readonly reason: string } {
  if (text.length > MAX_WEBHOOK_URL_CHARS) return tooLong;
  // URL parsing drops, trims and turns these; what was written is to be what is used.
  if (/[\s\p{Cc}\\]/u.test(text)) return { reason: "a webhook URL has no spaces, control characters or backslashes" };
  const authority = /^https?:\/\/([^/?#]+)/i.exec(text)?.[1];
  const url = authority === undefined ? null : URL.parse(text);
  if (authority === undefined || url === null) return { reason: "a webhook URL is written https://host/path" };
  if (url.href.length > MAX_WEBHOOK_URL_CHARS) return tooLong;
  // Empty ones are gone from the parsed URL.
  if (authority.includes("@")) return { reason: "a webhook URL has no user name or password" };
  if (text.includes("#")) return { reason: "a webhook URL has no fragment" };
  if (url.port === "0") return { reason: "the port is between 1 and 65535" };
  const host = bareHost(url);
  if (allowLocal && isLocalHost(host)) return { url };
  if (url.protocol !== "https:") return { reason: "a webhook URL begins with https://" };
  const reason = hostProblem(host);
  return reason === null ? { url } : { reason };
}

const tooLong = { reason: `a webhook URL has at most ${MAX_WEBHOOK_URL_CHARS} characters` };

/** The host without the brackets of an IPv6 address. */
export function bareHost(url: URL): string {
  return url.hostname.replaceAll(/^\[|\]$/g, "");
}

/** The hosts that `allowLocal` allows. */
export function isLocalHost(host: string): boolean {
  return host === "localhost" || (isIPv4(host) && isLoopbackAddress(host));
}

/** Parsing has turned every spelling of an IPv4 address into four numbers, and names into lower case ASCII. */
function hostProblem(host: string): string | null {
  if (isIPv4(host) || isIPv6(host)) {
    return isPublicAddress(host) ? null : "the address is not one that is reachable from everywhere";
  }
  const labels = host.split(".");
  if (LOCAL_NAMES.includes(labels.at(-1) || (labels.at(-2) ?? ""))) return "the host is a local name";
  if (labels.includes("")) return "the host has an empty label, or a dot at its end";
  return labels.length === 1 ? "the host is a single label, which is a local name" : null;
}
