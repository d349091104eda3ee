/**
 * A small reader of server-sent events: one event at a time, pulled, each with a deadline. It reads no faster than it
 * is asked to, so a test can be a slow reader.
 */

import { within } from "./wait.ts";

export interface SseEvent {
  /** Event name: `data`, `control`, or `message` when the frame names none. */
  readonly event: string;
  readonly data: string;
}

/** A `control` event's payload. */
export interface SseControl {
  readonly streamNextOffset: string;
  readonly streamCursor?: string;
  readonly upToDate?: boolean;
  readonly streamClosed?: boolean;
}

export interface SseReader {
  readonly response: Response;
  /** The next event, or null at the end of the response. */
  next(deadlineMs?: number): Promise<SseEvent | null>;
  /** Skips data; the next control event, or null at the end. */
  nextControl(deadlineMs?: number): Promise<SseControl | null>;
  /** Reads data events of a JSON stream until `count` records came; exactly `count` must come. */
  records(count: number, deadlineMs?: number): Promise<unknown[]>;
  close(): void;
}

/** Opens `url` (which asks for `live=sse`); throws unless the answer is 200. */
export async function openSse(url: string, headers: Readonly<Record<string, string>> = {}): Promise<SseReader> {
  const abort = new AbortController();
  const opening = fetch(url, { headers: { accept: "text/event-stream", ...headers }, signal: abort.signal });
  const response = await within(`the answer to ${url}`, opening);
  if (response.status !== 200 || response.body === null) {
    throw new Error(`${url}: ${response.status} ${await response.text()}`);
  }
  const events = parseSse(response.body);

  async function next(deadlineMs = 20_000): Promise<SseEvent | null> {
    const result = await within("the next event", events.next(), deadlineMs);
    return result.done === true ? null : result.value;
  }
  async function nextControl(deadlineMs = 20_000): Promise<SseControl | null> {
    for (;;) {
      const event = await next(deadlineMs);
      if (event === null) return null;
      if (event.event === "control") return JSON.parse(event.data) as SseControl;
    }
  }
  async function records(count: number, deadlineMs = 20_000): Promise<unknown[]> {
    const found: unknown[] = [];
    while (found.length < count) {
      const event = await next(deadlineMs);
      if (event === null) throw new Error(`the response ended after ${found.length} of ${count} records`);
      if (event.event === "data") found.push(...(JSON.parse(event.data) as unknown[]));
    }
    if (found.length > count) throw new Error(`${found.length} records came, ${count} were expected`);
    return found;
  }
  return { response, next, nextControl, records, close: () => abort.abort() };
}

/** Frames of an event stream, comments left out. An unfinished frame at the end is dropped, as browsers do. */
export async function* parseSse(body: ReadableStream<Uint8Array>): AsyncGenerator<SseEvent, void> {
  const decoder = new TextDecoder();
  let pending = "";
  for await (const chunk of body) {
    const frames = (pending + decoder.decode(chunk, { stream: true })).split(/\r?\n\r?\n/);
    pending = frames.pop() ?? "";
    for (const frame of frames) {
      const event = parseFrame(frame);
      if (event !== null) yield event;
    }
  }
}

function parseFrame(frame: string): SseEvent | null {
  let event = "message";
  const data: string[] = [];
  for (const line of frame.split(/\r?\n/)) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return data.length === 0 ? null : { event, data: data.join("\n") };
}
