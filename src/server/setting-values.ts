/**
 * The kinds of values a setting can have, each as a zod schema that reads what a flag or a variable gives (text), what a
 * config file gives (JSON), and says in one phrase what it expected. Pure.
 */

import { z } from "zod";
import { checkStreamName } from "../protocol/names.ts";
import { parseDuration, parseSize } from "../protocol/retention.ts";

/** A schema over `parse`, which returns undefined for what it does not understand. */
function value<T>(expected: string, parse: (raw: unknown) => T | undefined) {
  return z.unknown().transform((raw, context): T => {
    const parsed = parse(raw);
    if (parsed !== undefined) return parsed;
    context.addIssue({ code: "custom", message: `expected ${expected}, not ${JSON.stringify(raw)}` });
    return z.NEVER;
  });
}

export const text = value("some text", (raw) => (typeof raw === "string" && raw.trim() !== "" ? raw : undefined));

export const streamName = value("the name of a stream", (raw) =>
  typeof raw === "string" && checkStreamName(raw.trim()).ok ? raw.trim() : undefined,
);

/** What must not be repeated in what is said about a wrong value. */
export const secretText = z.unknown().transform((raw, context): string => {
  if (typeof raw === "string" && raw.trim() !== "") return raw;
  context.addIssue({ code: "custom", message: "expected some text" });
  return z.NEVER;
});

/** A limit, or `none`; null = not given. */
export function limit(amount: z.ZodType<number>) {
  return z.unknown().transform((raw, context): number | null => {
    if (raw === null) return null;
    if (raw === "none") return Infinity;
    const parsed = amount.safeParse(raw);
    if (parsed.success) return parsed.data;
    context.addIssue({ code: "custom", message: `${parsed.error.issues[0]?.message ?? "not valid"}; none = no limit` });
    return z.NEVER;
  });
}

/** Words of a list, repeated or separated by commas. */
export function words(known: readonly string[]) {
  return value(`some of ${known.join(", ")}`, (raw): readonly string[] | undefined => {
    const parts: unknown[] = Array.isArray(raw) ? raw : [raw];
    if (!parts.every((part) => typeof part === "string")) return undefined;
    const listed = parts.flatMap((part) => part.split(",")).map((word) => word.trim());
    return listed.every((word) => known.includes(word)) ? listed : undefined;
  });
}

/** A switch: `true` when the flag is there; a variable says `true` or `false`. */
export const toggle = value("true or false", (raw) => {
  if (raw === true || raw === "true" || raw === "1") return true;
  return raw === false || raw === "false" || raw === "0" ? false : undefined;
});

export function choice<const T extends string>(...words: readonly T[]) {
  return value(words.join(" or "), (raw) => words.find((word) => word === raw));
}

export function wholeNumber(min: number, max: number) {
  return value(`a whole number from ${min} to ${max}`, (raw) => {
    const number = typeof raw === "string" && /^\d{1,15}$/.test(raw) ? Number(raw) : raw;
    return typeof number === "number" && Number.isInteger(number) && number >= min && number <= max
      ? number
      : undefined;
  });
}

/** `500ms`, `20s`, `2m`; a bare number is seconds. Result in milliseconds. */
export function duration(min: string, max: string) {
  return quantity(`a duration such as 500ms, 20s or 2m, from ${min} to ${max}`, parseDuration, min, max);
}

/** `65536`, `64KiB`, `16MiB`. Result in bytes. */
export function size(min: string, max: string) {
  return quantity(`a size such as 64KiB or 16MiB, from ${min} to ${max}`, parseSize, min, max);
}

function quantity(expected: string, parse: (written: string) => number | null, min: string, max: string) {
  return value(expected, (raw) => {
    if (typeof raw !== "string" && typeof raw !== "number") return undefined;
    const amount = parse(String(raw).trim());
    const within = amount !== null && amount >= (parse(min) ?? 0) && amount <= (parse(max) ?? 0);
    return within ? amount : undefined;
  });
}

/** Origins of browsers, repeated or separated by commas, or `*` alone for any. */
export const origins = value("origins such as https://app.example, or * alone", (raw): "*" | string[] | undefined => {
  const parts: unknown[] = Array.isArray(raw) ? raw : [raw];
  const listed: string[] = [];
  for (const part of parts) {
    if (typeof part !== "string") return undefined;
    for (const origin of part.split(",")) if (origin.trim() !== "") listed.push(origin.trim());
  }
  if (listed.length === 1 && listed[0] === "*") return "*";
  return listed.every((origin) => URL.canParse(origin) && new URL(origin).origin === origin) ? listed : undefined;
});

/** An absolute http(s) URL without query or fragment; the slash at its end is dropped. */
export const baseUrl = value("a URL such as https://streams.example", (raw) => {
  if (typeof raw !== "string" || !URL.canParse(raw)) return undefined;
  const url = new URL(raw);
  if (!/^https?:$/.test(url.protocol) || url.search !== "" || url.hash !== "" || url.username !== "") return undefined;
  return url.origin + url.pathname.replace(/\/+$/, "");
});
