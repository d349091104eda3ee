/**
 * `GET /v1/ws`: makes the connection a WebSocket that speaks `streams.v1` (docs/websocket.md). Browsers let any page open one to
 * any host, so the Origin is checked here as for a write.
 */

import { type Exchange, respond, respondProblem, respondRejection } from "../context.ts";
import { badRequest, type HttpProblem } from "../errors.ts";
import { tooManyLive } from "../live/follow.ts";
import { SOCKET_PROTOCOL } from "../live/socket-messages.ts";
import { SocketConnection } from "../live/websocket.ts";
import { isSameOrigin, originRefused } from "../request-parts.ts";

export const SOCKET_PATH = "/v1/ws";

export function openSocket(exchange: Exchange): Response {
  const { engine, request, server, followers, clients, views, onFault, options, principal, client, uploads } = exchange;
  const problem = problemOf(exchange);
  if (problem !== null) return respondProblem(exchange, problem);
  if (engine.closing) return respondRejection(exchange, { kind: "closing" });
  if (!engine.liveRequests.take(1)) return respondRejection(exchange, tooManyLive);
  const full = client?.takeLive() ?? null;
  if (full !== null) {
    engine.liveRequests.give(1);
    return respondProblem(exchange, full);
  }
  const release = (): void => {
    engine.liveRequests.give(1);
    client?.giveLive();
  };
  const connection = new SocketConnection({
    engine,
    followers,
    clients,
    views,
    onFault,
    principal,
    client,
    bodyRoom: uploads.room,
    release,
    maxBodyBytes: options.maxBodyBytes,
  });
  const headers = { "Sec-WebSocket-Protocol": SOCKET_PROTOCOL };
  let isOpen = false;
  try {
    isOpen = server?.upgrade(request, { data: connection, headers }) === true;
  } finally {
    // Also when the embedding application has no `websocket`, and `upgrade` throws.
    if (!isOpen) release();
  }
  return isOpen ? respond(exchange, 101, {}) : respondProblem(exchange, upgradeInvalid);
}

function problemOf({ request: { headers }, host, allowOrigin }: Exchange): HttpProblem | null {
  if (headers.get("upgrade")?.toLowerCase() !== "websocket") return upgradeRequired;
  const origin = headers.get("origin");
  if (origin !== null && allowOrigin === null && !isSameOrigin(origin, host)) return originRefused;
  const offered = headers.get("sec-websocket-protocol")?.split(",") ?? [];
  return offered.some((name) => name.trim() === SOCKET_PROTOCOL) ? null : protocolMissing;
}

const upgradeRequired: HttpProblem = {
  status: 426,
  code: "upgrade-required",
  message: "this resource is a WebSocket; open it with one",
  headers: { Upgrade: "websocket" },
};
const upgradeInvalid = badRequest("upgrade-invalid", "the request asks for a WebSocket, but not as RFC 6455 wants it");
const protocolMissing = badRequest(
  "protocol-missing",
  `offer the protocol in Sec-WebSocket-Protocol: ${SOCKET_PROTOCOL}`,
);
