/**
 * Spans over `@opentelemetry/api`: whoever registers an SDK before the server opens (`BUN_OPTIONS="--preload ./tracing.ts"`, or the
 * embedding application) gets them. Without an SDK there is no object at all, so no request pays for it, and nothing is loaded.
 */

import type * as Api from "@opentelemetry/api";
import type { Span, SpanAttributes, Spans } from "../kit/spans.ts";

const SCOPE = "streams-server";
/** Where the API, whichever copy of it, keeps what was registered. */
const REGISTERED = Symbol.for("opentelemetry.js.api.1");

/** Null when no SDK is registered. */
export async function openSpans(): Promise<Spans | null> {
  return REGISTERED in globalThis ? spansOver(await import("@opentelemetry/api")) : null;
}

const headerGetter = {
  keys: (headers: Headers) => [...headers.keys()],
  get: (headers: Headers, name: string) => headers.get(name) ?? undefined,
};

/** What was registered may be something else than a tracer: then there are none either. */
function spansOver({
  context,
  propagation,
  ProxyTracerProvider,
  ROOT_CONTEXT,
  SpanStatusCode,
  trace,
}: typeof Api): Spans | null {
  const provider = trace.getTracerProvider();
  if (provider instanceof ProxyTracerProvider && provider.getDelegateTracer(SCOPE) === undefined) return null;
  const tracer = provider.getTracer(SCOPE);

  function run<T>(
    name: string,
    attributes: SpanAttributes,
    carrier: Headers | null,
    work: (span: Span) => T | Promise<T>,
  ): Promise<T> {
    const parent = carrier === null ? context.active() : propagation.extract(ROOT_CONTEXT, carrier, headerGetter);
    return tracer.startActiveSpan(name, { attributes }, parent, async (span) => {
      try {
        return await work({ set: (key, value) => void span.setAttribute(key, value) });
      } catch (cause) {
        span.setStatus({ code: SpanStatusCode.ERROR, message: cause instanceof Error ? cause.message : String(cause) });
        throw cause;
      } finally {
        span.end();
      }
    });
  }

  return { run };
}
