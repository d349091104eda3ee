/** `GET …/aggregate` and `GET …/_analytics` (docs/analytics.md). */

import { type Methods, reads } from "../../http/access.ts";
import { type Exchange, respondJson, respondProblem, respondRejection } from "../../http/context.ts";
import { badRequest, type HttpProblem, isProblem } from "../../http/errors.ts";
import { oneParam } from "../../http/request-parts.ts";
import { parseMoment } from "../../http/routes/read-query.ts";
import { Pace } from "../../kit/turn.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { aggregate, type Wanted } from "./aggregate.ts";
import { type Estimates, estimatesOf } from "./aggregation-result.ts";
import type { Analytics } from "./analytics.ts";
import type { AnalyticsStream } from "./analytics-stream.ts";
import { CannotRead } from "./derived-stream.ts";
import { EVENT_TYPES, type EventType } from "./event.ts";
import { spanAt } from "./window-set.ts";

const HOUR_MS = 3_600_000;
const MAX_PERCENTILES = 20;
const QUERY = ["metric", "from", "to", "p", "group"] as const;

export function analyticsRoutes(analytics: Analytics): Readonly<Record<string, Methods>> {
  return {
    aggregate: { GET: reads((exchange) => onStage(exchange, analytics, answerAggregate)) },
    _analytics: { GET: reads((exchange) => onStage(exchange, analytics, describe)) },
  };
}

async function onStage(
  exchange: Exchange,
  analytics: Analytics,
  answer: (exchange: Exchange, stream: AnalyticsStream) => Response | Promise<Response>,
): Promise<Response> {
  const head = await exchange.engine.find(exchange.name, "look");
  if ("kind" in head) return respondRejection(exchange, head);
  try {
    const stream = await analytics.open(head);
    return stream === null ? respondProblem(exchange, off) : await answer(exchange, stream);
  } catch (cause) {
    if (cause instanceof CannotRead) return respondRejection(exchange, cause.why);
    throw cause;
  }
}

const off: HttpProblem = {
  status: 409,
  code: "analytics-off",
  message: "the stream has another profile; give it the profile analytics (docs/analytics.md)",
};

async function answerAggregate(exchange: Exchange, stream: AnalyticsStream): Promise<Response> {
  const { engine, request, query } = exchange;
  const asked = parseQuery(query, engine.clock.nowMs(), stream);
  if (isProblem(asked)) return respondProblem(exchange, asked);
  const { wanted, percentiles } = asked;
  const { groups, windows } = await aggregate(engine, stream, wanted, request.signal);
  const { type, name, fromMs, toMs, groupBy } = wanted;
  const told: Estimates[] = [];
  const pace = new Pace(engine.clock, BACKGROUND_TURN_MS);
  for (const [group, stats] of groups) {
    told.push({
      ...(groupBy !== null && { group: JSON.parse(group) as unknown }),
      ...estimatesOf(stats, percentiles),
    });
    // Sorting the values of a thousand groups takes a third of a second.
    if (pace.isOver) await pace.next();
  }
  const about = { metric: `${type}.${name}`, from: fromMs, to: toMs, windows };
  const [all = null] = told;
  return respondJson(exchange, 200, groupBy === null ? { ...about, result: all } : { ...about, groups: told });
}

function describe(exchange: Exchange, stream: AnalyticsStream): Response {
  return respondJson(exchange, 200, {
    settings: stream.settings,
    metrics: stream.getMetrics(),
    health: stream.health(),
    levels: stream.stages.map(({ target, size }) => ({ stream: target.name, openSeries: size })),
  });
}

interface Asked {
  readonly wanted: Wanted;
  readonly percentiles: readonly number[];
}

function parseQuery(query: URLSearchParams, nowMs: number, { settings }: AnalyticsStream): Asked | HttpProblem {
  const params: Partial<Record<(typeof QUERY)[number], string>> = {};
  for (const name of QUERY) {
    const value = oneParam(query, name);
    if (isProblem(value)) return value;
    if (value !== null) params[name] = value;
  }
  const { metric, p, group = null } = params;
  if (metric === undefined || metric === "")
    return badRequest("metric-missing", "metric names what is aggregated, such as performance.response_time");
  const to = params.to === undefined ? nowMs : parseTime(params.to, nowMs);
  if (to === null) return badRequest("to-invalid", timeMessage("to"));
  const from = params.from === undefined ? to - HOUR_MS : parseTime(params.from, nowMs);
  if (from === null) return badRequest("from-invalid", timeMessage("from"));
  if (from >= to) return badRequest("span-empty", "from lies before to");
  const percentiles = p === undefined ? settings.percentilesToCalculate : p.split(",").map(Number);
  if (percentiles.length > MAX_PERCENTILES || !percentiles.every((percentile) => percentile > 0 && percentile < 100)) {
    return badRequest("p-invalid", `p is up to ${MAX_PERCENTILES} percentiles between 0 and 100, with commas`);
  }
  const size = settings.aggregationWindowMs;
  const fromMs = spanAt(from, size).startMs;
  const toMs = spanAt(to + size - 1, size).startMs;
  return { wanted: { ...seriesNamed(metric), fromMs, toMs, groupBy: group }, percentiles };
}

/** `performance.response_time`; without a type it is a performance metric. */
function seriesNamed(metric: string): { readonly type: EventType; readonly name: string } {
  const type = EVENT_TYPES.find((candidate) => metric.startsWith(`${candidate}.`));
  return type === undefined ? { type: "performance", name: metric } : { type, name: metric.slice(type.length + 1) };
}

function parseTime(text: string, nowMs: number): number | null {
  return /^\d{1,15}$/.test(text) ? Number(text) : parseMoment(text, nowMs);
}

function timeMessage(name: string): string {
  return `${name} is an RFC 3339 time, milliseconds since the epoch, or an age such as -15m`;
}
