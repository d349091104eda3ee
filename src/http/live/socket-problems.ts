/** What a WebSocket refuses, and how a refusal is said on it. */

import { MAX_SOCKET_SUBSCRIPTIONS } from "../../protocol/limits.ts";
import { badRequest, describeRejection, type HttpProblem } from "../errors.ts";
import type { ServerMessage } from "./socket-messages.ts";

export const subscriptionExists = badRequest(
  "subscription-exists",
  "this connection has a subscription of that id; choose another id",
);
export const subscriptionUnknown = badRequest("subscription-unknown", "this connection has no subscription of that id");
export const viewsMissing = badRequest("views-missing", "this server has no live views");
export const tooManySubscriptions = badRequest(
  "too-many-subscriptions",
  `a connection follows at most ${MAX_SOCKET_SUBSCRIPTIONS} streams; open another one`,
);
export const tooManyRequests = describeRejection({ kind: "overloaded", reason: "too many requests are under way" });

export function errorOf({
  code,
  message,
  headers,
}: HttpProblem): Pick<ServerMessage & { type: "error" }, "error" | "headers"> {
  return { error: { code, message }, ...(headers === undefined ? {} : { headers: { ...headers } }) };
}
