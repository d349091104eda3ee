/** `…/_view`: a live view as server-sent events, what it shows now as one answer, and its change in place (docs/live-views.md). */

import { z } from "zod";
import { type Exchange, respond, respondProblem, whileWorking } from "../../http/context.ts";
import { type Methods, reads } from "../../http/access.ts";
import { badRequest, type HttpProblem, isProblem } from "../../http/errors.ts";
import { receiveJson } from "../../http/json-body.ts";
import type { Subscriptions } from "../../http/live/clients.ts";
import { respondClosing } from "../../http/live/sse.ts";
import { respondSse, type SseEnd, type SseSource } from "../../http/live/sse-connection.ts";
import { type OpenedView, type ViewFrame, ViewMailbox } from "../../http/live/view-port.ts";
import { oneParam } from "../../http/request-parts.ts";
import { joinBytes, utf8 } from "../../kit/bytes.ts";
import { encodeControlEvent, encodeDataEvent, encodeNotice, SSE_COMMENT } from "../../protocol/sse-frame.ts";
import type { LiveViews } from "./live-views.ts";
import { offsetIn } from "./view-position.ts";

const MAX_BODY_BYTES = 16 * 1024;
const QUERY = ["live", "type", "filter", "viewport", "order", "limit", "offset"] as const;

/** `newId`: an id that nobody can guess. */
export function viewRoutes(views: LiveViews, newId: () => string): Readonly<Record<string, Methods>> {
  /** Open SSE views by the id that their client was told: whoever knows it may change the view. */
  const byId = new Map<string, OpenedView>();
  return {
    _view: {
      GET: reads((exchange) => show(exchange, views, byId, newId())),
      POST: reads((exchange) => change(exchange, byId)),
    },
  };
}

async function show(
  exchange: Exchange,
  views: LiveViews,
  byId: Map<string, OpenedView>,
  id: string,
): Promise<Response> {
  const asked = parseQuery(exchange.query);
  if (isProblem(asked)) return respondProblem(exchange, asked);
  if (asked.live && exchange.engine.closing) return respondClosing(exchange);
  const mailbox = new ViewMailbox();
  const lastEventId = asked.live ? exchange.request.headers.get("last-event-id") : null;
  const since = lastEventId === null || lastEventId === "" ? asked.since : lastEventId;
  const view = await views.open(exchange.name, asked.request, asked.live ? since : null, mailbox);
  if (isProblem(view)) return respondProblem(exchange, view);
  if (!asked.live) return whileWorking(exchange, () => snapshot(exchange, view, mailbox));
  byId.set(id, view);
  return respondSse(exchange, new ViewEvents(id, view, mailbox, () => byId.delete(id)));
}

/** What the view shows now, and nothing later. */
async function snapshot(exchange: Exchange, view: OpenedView, mailbox: ViewMailbox): Promise<Response> {
  const abort = (): void => mailbox.end(null);
  exchange.request.signal.addEventListener("abort", abort);
  try {
    await mailbox.ready();
    const frame = mailbox.take();
    if (frame === null) return respondProblem(exchange, mailbox.ended?.why ?? gone);
    const headers = {
      "Content-Type": "application/json",
      "Cache-Control": "no-store",
      // A position in the stream, also for who goes on to read it from there.
      "Stream-Next-Offset": offsetIn(frame.offset),
    };
    return respond(exchange, 200, headers, `[${frame.records}]`);
  } finally {
    exchange.request.signal.removeEventListener("abort", abort);
    view.close();
  }
}

async function change(exchange: Exchange, byId: ReadonlyMap<string, OpenedView>): Promise<Response> {
  const id = oneParam(exchange.query, "id");
  if (isProblem(id)) return respondProblem(exchange, id);
  const view = id === null ? undefined : byId.get(id);
  if (view === undefined || view.plan.name !== exchange.name) return respondProblem(exchange, viewUnknown);
  const body = await receiveJson(exchange, z.unknown(), MAX_BODY_BYTES);
  if (isProblem(body)) return respondProblem(exchange, body);
  const problem = view.update(body.value);
  return problem === null ? respond(exchange, 204, {}) : respondProblem(exchange, problem);
}

/** A view as frames: its id, then State Protocol records in data events, each with its control event. */
class ViewEvents implements SseSource {
  readonly #id: string;
  readonly #view: OpenedView;
  readonly #mailbox: ViewMailbox;
  readonly #onStop: () => void;
  /** Where the last frame left its client; null before the first. */
  #shown: string | null = null;

  constructor(id: string, view: OpenedView, mailbox: ViewMailbox, onStop: () => void) {
    this.#id = id;
    this.#view = view;
    this.#mailbox = mailbox;
    this.#onStop = onStop;
  }

  get name(): string {
    return this.#view.plan.name;
  }

  /** Without a position: rows may be on their way, and who is cut off before them has to ask for them again. */
  greeting(): Uint8Array {
    return encodeNotice("view", { viewId: this.#id }, null);
  }

  ready(): Promise<void> {
    return this.#mailbox.ready();
  }

  takeNow(): Uint8Array | null {
    const frame = this.#mailbox.take();
    if (frame === null) return null;
    this.#shown = frame.offset;
    return this.#encode(frame);
  }

  async take(): Promise<SseEnd | null> {
    return this.#mailbox.ended === null ? null : { tell: true };
  }

  position(): Uint8Array {
    return this.#shown === null ? SSE_COMMENT : control(this.#shown);
  }

  subscriptions(): Subscriptions {
    return [[this.name, this.#view]];
  }

  stop(): void {
    this.#mailbox.end(null);
    this.#view.close();
    this.#onStop();
  }

  #encode({ records, offset, bytes }: ViewFrame): Uint8Array {
    return bytes.get("sse", () => joinBytes([encodeDataEvent([utf8(records)], "json", offset), control(offset)]));
  }
}

function control(offset: string): Uint8Array {
  return encodeControlEvent({ streamNextOffset: offset, upToDate: true });
}

interface Asked {
  readonly live: boolean;
  readonly since: string | null;
  readonly request: Readonly<Record<string, unknown>>;
}

/** `viewport=x,y,minX,minY,maxX,maxY`; everything else as in a message. */
function parseQuery(query: URLSearchParams): Asked | HttpProblem {
  const params: Partial<Record<(typeof QUERY)[number], string>> = {};
  for (const name of QUERY) {
    const value = oneParam(query, name);
    if (isProblem(value)) return value;
    if (value !== null) params[name] = value;
  }
  const { live, type, filter, viewport, order, limit, offset = null } = params;
  if (live !== undefined && live !== "sse") return badRequest("live-invalid", "a live view is told with live=sse");
  const request: Record<string, unknown> = {};
  for (const [name, value] of Object.entries({ type, filter, order })) if (value !== undefined) request[name] = value;
  if (limit !== undefined) request["limit"] = Number(limit);
  if (viewport !== undefined) {
    const [x, y, ...sides] = viewport.split(",");
    const [minX, minY, maxX, maxY] = sides.map((side) => (side.trim() === "" ? NaN : Number(side)));
    if (sides.length !== 4) return badRequest("view-invalid", "viewport is x,y,minX,minY,maxX,maxY");
    request["viewport"] = { x, y, minX, minY, maxX, maxY };
  }
  return { live: live === "sse", since: offset, request };
}

const viewUnknown: HttpProblem = {
  status: 404,
  code: "view-unknown",
  message: "no live view of this stream has that id; its connection has ended, open it again",
};
const gone = badRequest("view-ended", "the view ended before it showed anything");
