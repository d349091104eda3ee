/** Where spans go, as a port: the server's work is told to a tracer when the process has one, and costs nothing otherwise. */

export type SpanAttributes = Readonly<Record<string, string | number | boolean>>;

export interface Spans {
  /**
   * Runs `work` inside a span and answers what it answers; a rejection marks the span as failed. `carrier`: the headers that may
   * name a parent (`traceparent`); null = a child of what runs now.
   */
  run<T>(
    name: string,
    attributes: SpanAttributes,
    carrier: Headers | null,
    work: (span: Span) => T | Promise<T>,
  ): Promise<T>;
}

export interface Span {
  set(name: string, value: string | number | boolean): void;
}
