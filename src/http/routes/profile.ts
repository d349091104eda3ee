/** `GET` and `POST …/_profile`: what a stream holds and by which rules its records are checked. */

import { z } from "zod";
import { isJson } from "../../protocol/content-type.ts";
import { isServerWritten, type StreamProfile } from "../../protocol/stream.ts";
import { type Exchange, respondJson, respondProblem, respondRejection } from "../context.ts";
import { badRequest, isProblem } from "../errors.ts";
import { receiveJson } from "../json-body.ts";

const API_VERSION = "durable.streams/profile/v1";
const GENERIC = "generic";
const MAX_PROFILE_BYTES = 64 * 1024;

const schema = z.strictObject({
  apiVersion: z.literal(API_VERSION).optional(),
  profile: z.looseObject({ kind: z.string().min(1) }),
});

export async function profileOf(exchange: Exchange): Promise<Response> {
  const head = await exchange.engine.find(exchange.name, "look");
  return "kind" in head ? respondRejection(exchange, head) : respondProfile(exchange, head.profile);
}

export async function setProfile(exchange: Exchange): Promise<Response> {
  const { engine, name } = exchange;
  const body = await receiveJson(exchange, schema, MAX_PROFILE_BYTES);
  if (isProblem(body)) return respondProblem(exchange, body);
  const { kind, ...settings } = body.value.profile;
  const head = await engine.find(name, "look");
  if ("kind" in head) return respondRejection(exchange, head);
  if (isServerWritten(head.profile)) return respondRejection(exchange, { kind: "stream-internal" });
  const { id } = head;
  const rules = engine.profiles.get(kind);
  if (rules === undefined && kind !== GENERIC) {
    const known = [GENERIC, ...engine.profiles.kinds].join(", ");
    return respondProblem(exchange, badRequest("profile-unknown", `profile.kind is one of: ${known}`));
  }
  let profile: StreamProfile | null = null;
  if (rules === undefined) {
    const [extra] = Object.keys(settings);
    if (extra !== undefined) {
      return respondProblem(exchange, badRequest("body-invalid", `profile: the generic profile has no '${extra}'`));
    }
  } else {
    if (rules.jsonOnly && !isJson(head.config.contentType)) {
      const message = `the profile '${kind}' needs a stream of application/json; this one is ${head.config.contentType}`;
      return respondProblem(exchange, { status: 409, code: "profile-conflict", message });
    }
    const parsed = rules.parse(settings, name);
    if ("reason" in parsed) return respondProblem(exchange, badRequest("body-invalid", parsed.reason));
    profile = { kind, config: parsed.config };
  }
  // Saying again what holds changes nothing: waits that rest on the profile go on.
  if (JSON.stringify(profile) !== JSON.stringify(head.profile)) {
    const outcome = await engine.setProfile(name, id, profile);
    if (outcome.kind === "rejected") return respondRejection(exchange, outcome.rejection);
  }
  return respondProfile(exchange, profile);
}

function respondProfile(exchange: Exchange, profile: StreamProfile | null): Response {
  const described = profile === null ? { kind: GENERIC } : { kind: profile.kind, ...profile.config };
  return respondJson(exchange, 200, { apiVersion: API_VERSION, profile: described });
}
