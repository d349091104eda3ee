/** Webhook URLs, good and hostile, judged by their text. */

import { describe, expect, test } from "bun:test";
import { hostileUrls } from "../../../test/support/hostile-urls.ts";
import { checkWebhookUrl, MAX_WEBHOOK_URL_CHARS } from "./webhook-url.ts";

function hrefOf(text: string, allowLocal = false): string {
  const checked = checkWebhookUrl(text, allowLocal);
  return "url" in checked ? checked.url.href : `refused: ${checked.reason}`;
}

function reasonFor(text: string): string {
  const checked = checkWebhookUrl(text, false);
  return "reason" in checked ? checked.reason : `fine: ${checked.url}`;
}

describe("webhook URLs", () => {
  test.each([
    ["https://hook.example.com", "https://hook.example.com/"],
    ["https://hook.example.com/a/b?c=d%20e&f=@", "https://hook.example.com/a/b?c=d%20e&f=@"],
    ["HTTPS://Hook.Example.COM:8443/X", "https://hook.example.com:8443/X"],
    ["https://hook.example.com:443/", "https://hook.example.com/"],
    ["https://hook.example.com:1/", "https://hook.example.com:1/"],
    ["https://hook.example.com:65535/", "https://hook.example.com:65535/"],
    ["https://bücher.example/", "https://xn--bcher-kva.example/"],
    ["https://a_b.example.com/", "https://a_b.example.com/"],
    ["https://1.1.1.1/", "https://1.1.1.1/"],
    ["https://0x01010101/", "https://1.1.1.1/"],
    ["https://[2606:4700:4700::1111]:8443/", "https://[2606:4700:4700::1111]:8443/"],
    ["https://localhost.example.com/", "https://localhost.example.com/"],
    ["https://local.example.com/127.0.0.1/@x", "https://local.example.com/127.0.0.1/@x"],
    [
      "https://internal-hooks.example.com/?to=http://127.0.0.1/",
      "https://internal-hooks.example.com/?to=http://127.0.0.1/",
    ],
  ])("%s is fine", (text, href) => {
    expect(hrefOf(text)).toBe(href);
    expect(hrefOf(text, true)).toBe(href);
  });

  test("no hostile one is", () => {
    const hostile = hostileUrls(8443);
    expect(hostile.length).toBeGreaterThan(60);
    expect(hostile.filter((text) => "url" in checkWebhookUrl(text, false))).toEqual([]);
  });

  test("local ones are where they are allowed: localhost and 127.0.0.0/8, and nothing else", () => {
    const allowed = new Set(
      hostileUrls(8443)
        .map((text) => [text, checkWebhookUrl(text, true)] as const)
        .flatMap(([, checked]) => ("url" in checked ? checked.url.hostname : [])),
    );
    expect([...allowed].sort()).toEqual(["127.0.0.1", "127.1.2.3", "localhost"]);
    expect(hrefOf("http://localhost:8080/x", true)).toBe("http://localhost:8080/x");
    expect(hrefOf("https://127.9.9.9/", true)).toBe("https://127.9.9.9/");
    for (const text of [
      "http://user@localhost/",
      "http://localhost/#x",
      "http://localhost:0/",
      "ftp://localhost/",
      "http://1.1.1.1/",
    ]) {
      expect([text, hrefOf(text, true)]).toEqual([text, expect.stringContaining("refused: ")]);
    }
  });

  test("the length is measured as written and as sent", () => {
    const base = "https://hook.example.com/";
    const longest = base + "a".repeat(MAX_WEBHOOK_URL_CHARS - base.length);
    expect(hrefOf(longest)).toBe(longest);
    expect(hrefOf(`${longest}a`)).toContain("at most 2048 characters");
    expect(hrefOf(base + "a/../".repeat(500))).toContain("at most 2048 characters");
    expect(hrefOf(base + "é".repeat(400))).toContain("at most 2048 characters");
  });

  test.each([
    ["http://hook.example.com/", "https://"],
    ["https://u:p@hook.example.com/", "user name"],
    ["https://hook.example.com/#x", "fragment"],
    ["https://hook.example.com:0/", "port"],
    ["https://10.0.0.1/", "address"],
    ["https://[::1]/", "address"],
    ["https://a.localhost./", "local name"],
    ["https://db.internal/", "local name"],
    ["https://intranet/", "single label"],
    ["https://hook.example.com./", "dot at its end"],
    ["https://a b/", "spaces"],
    ["hook.example.com", "written"],
  ])("%s: the reason says %s", (text, word) => expect(reasonFor(text)).toContain(word));
});
