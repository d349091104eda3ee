/**
 * Spans over `@opentelemetry/api`: whoever registers an SDK before the server opens (`BUN_OPTIONS="--preload ./tracing.ts"`, or the
 * embedding application) gets them. Without an SDK there is no object at all, so no request pays for it.
 */

import {
  context,
  propagation,
  ProxyTracerProvider,
  ROOT_CONTEXT,
  SpanStatusCode,
  trace,
  type Tracer,
} from "@opentelemetry/api";
import type { Span, SpanAttributes, Spans } from "../kit/spans.ts";

const SCOPE = "streams-server";

/** Null when no SDK is registered. */
export function openSpans(): Spans | null {
  const provider = trace.getTracerProvider();
  if (provider instanceof ProxyTracerProvider && provider.getDelegateTracer(SCOPE) === undefined) return null;
  return new ApiSpans(provider.getTracer(SCOPE));
}

const headerGetter = {
  keys: (headers: Headers) => [...headers.keys()],
  get: (headers: Headers, name: string) => headers.get(name) ?? undefined,
};

class ApiSpans implements Spans {
  readonly #tracer: Tracer;

  constructor(tracer: Tracer) {
    this.#tracer = tracer;
  }

  run<T>(
    name: string,
    attributes: SpanAttributes,
    carrier: Headers | null,
    work: (span: Span) => T | Promise<T>,
  ): Promise<T> {
    const parent = carrier === null ? context.active() : propagation.extract(ROOT_CONTEXT, carrier, headerGetter);
    return this.#tracer.startActiveSpan(name, { attributes }, parent, async (span) => {
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
}
