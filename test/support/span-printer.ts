/** Preloaded into a server under test: a tracer that prints every span that ends, and knows the parent from `traceparent`. */

import {
  type Context,
  propagation,
  type Span,
  type SpanOptions,
  trace,
  type Tracer,
  type TracerProvider,
} from "@opentelemetry/api";

function printing(name: string, options: SpanOptions, parent: Context): Span {
  const attributes: Record<string, unknown> = { ...options.attributes };
  const parentContext = trace.getSpanContext(parent);
  const span = trace.wrapSpanContext({ traceId: parentContext?.traceId ?? "", spanId: "", traceFlags: 1 });
  return Object.assign(span, {
    setAttribute: (key: string, value: unknown) => {
      attributes[key] = value;
      return span;
    },
    end: () => {
      process.stderr.write(`${JSON.stringify({ span: name, trace: parentContext?.traceId ?? null, attributes })}\n`);
    },
  });
}

const tracer = {
  startSpan: printing,
  startActiveSpan: (name: string, options: SpanOptions, parent: Context, work: (span: Span) => unknown) =>
    work(printing(name, options, parent)),
} as unknown as Tracer;

const provider: TracerProvider = { getTracer: () => tracer };
trace.setGlobalTracerProvider(provider);
propagation.setGlobalPropagator({
  inject: () => undefined,
  extract: (context, carrier, getter) => {
    const [, traceId, spanId] = String(getter.get(carrier, "traceparent") ?? "").split("-");
    if (traceId === undefined || spanId === undefined) return context;
    return trace.setSpanContext(context, { traceId, spanId, traceFlags: 1, isRemote: true });
  },
  fields: () => ["traceparent"],
});
