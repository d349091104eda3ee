/** `POST /v1/signed-urls`: a token for the query of a URL, to read certain streams for a short time. */

import { forbidden } from "../../http/principal.ts";
import { z } from "zod";
import { forKnown, type Methods } from "../../http/access.ts";
import { type Exchange, respondJson, respondProblem } from "../../http/context.ts";
import { type HttpProblem, isProblem } from "../../http/errors.ts";
import { receiveJson } from "../../http/json-body.ts";
import type { Clock } from "../../kit/clock.ts";
import { covers, type Grant } from "../../protocol/grants.ts";
import { checkStreamName, isReservedName, streamPath } from "../../protocol/names.ts";
import { parseDuration } from "../../protocol/retention.ts";
import { DEFAULT_URL_TTL_MS, MAX_GRANT_CHARS, MAX_SIGNED_STREAMS, MAX_TOKEN_CHARS, MAX_URL_TTL_MS } from "./limits.ts";
import { describeNames, isSigned, readGrant, type SignedTokens } from "./signed-tokens.ts";

const MAX_BODY_BYTES = 64 * 1024;

/** A stream, or what names begin with and a star. */
const names = z
  .string()
  .max(MAX_GRANT_CHARS)
  .refine((text) => (text.endsWith("*") ? text.isWellFormed() : parsesAsName(text)), {
    error: "expected the name of a stream, or a prefix and *",
  });

const request = z.strictObject({
  streams: z.array(names).min(1).max(MAX_SIGNED_STREAMS),
  expiresIn: z.string().max(32).optional(),
});

export interface AuthRoutesParts {
  readonly signed: SignedTokens;
  readonly clock: Clock;
  readonly publicUrl: string | null;
}

export function authRoutes(parts: AuthRoutesParts): Readonly<Record<string, Methods>> {
  return { "/v1/signed-urls": { POST: forKnown((exchange) => sign(exchange, parts)) } };
}

async function sign(exchange: Exchange, { signed, clock, publicUrl }: AuthRoutesParts): Promise<Response> {
  const { principal } = exchange;
  if (isSigned(principal) || principal.id === null) return respondProblem(exchange, notBySigned);
  const body = await receiveJson(exchange, request, MAX_BODY_BYTES);
  if (isProblem(body)) return respondProblem(exchange, body);
  const { streams, expiresIn } = body.value;
  const ttlMs = expiresIn === undefined ? DEFAULT_URL_TTL_MS : parseDuration(expiresIn);
  if (ttlMs === null || ttlMs < 1 || ttlMs > MAX_URL_TTL_MS) return respondProblem(exchange, ttlInvalid);
  const grants: Grant[] = [];
  for (const names of streams) {
    const grant = readGrant(names);
    if (grant === null || !covers(principal.grants, grant)) return respondProblem(exchange, forbidden("read", names));
    grants.push(grant);
  }
  // Not for longer than who signs it.
  const expiresMs = Math.min(clock.nowMs() + ttlMs, principal.expiresMs ?? Infinity);
  const access = signed.mint(grants, principal.id, expiresMs);
  if (access.length > MAX_TOKEN_CHARS) return respondProblem(exchange, tooManyNames);
  const base = publicUrl ?? "";
  const exact = grants.filter(({ isPrefix }) => !isPrefix);
  return respondJson(exchange, 201, {
    access,
    expiresAt: new Date(expiresMs).toISOString(),
    urls: Object.fromEntries(
      exact.map((grant) => [describeNames(grant), `${base}${streamPath(grant.name)}?access=${access}`]),
    ),
    socket: `${base}/v1/ws?access=${access}`,
  });
}

function parsesAsName(text: string): boolean {
  return checkStreamName(text).ok || isReservedName(text);
}

const tooManyNames: HttpProblem = {
  status: 400,
  code: "body-invalid",
  message: "the names are too long for one token: sign fewer streams, or a prefix",
};
const notBySigned: HttpProblem = {
  status: 403,
  code: "forbidden",
  message: "a signed URL cannot sign others; sign with a key or a token",
};
const ttlInvalid: HttpProblem = {
  status: 400,
  code: "body-invalid",
  message: "expiresIn is a duration such as 30s, 5m or 1h, and at most an hour",
};
