/**
 * What a test of the client's suite is and gets, and how it looks at a stream. The suite runs in Bun, in Node and in a browser, so
 * it uses what all three have, and nothing of a test library. Every test works on streams of its own.
 */

import type {
  ClientOptions,
  CreateOptions,
  ReadOptions,
  StreamClient,
  StreamHandle,
} from "../../../src/client/client.ts";
import { joinBytes } from "../../../src/kit/bytes.ts";
import { until } from "../../support/wait.ts";
import { same } from "./asserts.ts";

export interface SuiteContext {
  /** Of the server that is there for this run alone. */
  readonly url: string;
  /** A client of that server, unless the options name another URL. */
  readonly connect: (options?: Partial<ClientOptions>) => StreamClient;
  /** Aborts when the test is over, also when it failed: what it began must not disturb the next. */
  readonly over: AbortSignal;
}

export interface SuiteTest {
  readonly name: string;
  readonly run: (context: SuiteContext) => Promise<void>;
}

export const JSON_TYPE = "application/json";
export const TEXT_TYPE = "text/plain";
export const BYTES_TYPE = "application/octet-stream";

/** Longer than the long-poll timeout of the server that the suite runs against. */
export const LONG_POLL_TIMEOUT_MS = 300;

/** A stream that was not there before; JSON unless the options say otherwise. */
export async function fresh(context: SuiteContext, name: string, options: CreateOptions = {}): Promise<StreamHandle> {
  const stream = context.connect().stream(name);
  const created = await stream.create({ contentType: JSON_TYPE, ...options });
  same(created.unwrap().created, true);
  return stream;
}

export async function bytesOf(stream: StreamHandle, options: ReadOptions = {}): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of (await stream.read(options)).unwrap()) parts.push(part);
  return joinBytes(parts);
}

export async function textOf(stream: StreamHandle, options: ReadOptions = {}): Promise<string> {
  return new TextDecoder().decode(await bytesOf(stream, options));
}

/** The records of a JSON stream. */
export async function recordsOf(stream: StreamHandle, options: ReadOptions = {}): Promise<unknown> {
  return JSON.parse(await textOf(stream, options));
}

/** Bytes that do not repeat and do not compress, the same in every runtime. */
export function noise(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let state = 0x9e3779b9;
  for (let at = 0; at < length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[at] = state;
  }
  return bytes;
}

/** Far above what anything here takes, and below the deadline of a test. */
export const SLOW_MS = 10_000;

export function eventually(what: string, holds: () => boolean | Promise<boolean>): Promise<unknown> {
  return until(what, holds, SLOW_MS);
}

/** SSE connections and sockets at the server; there is nobody else's. */
export async function connections({ url }: SuiteContext): Promise<number> {
  const answer = (await (await fetch(`${url}/health/clients`)).json()) as { readonly clients: readonly unknown[] };
  return answer.clients.length;
}

/** These, long-polls and other waits that the server holds open, and the followers it has itself, such as those of live views. */
async function heldOpen(context: SuiteContext): Promise<number> {
  const health = (await (await fetch(`${context.url}/health`)).json()) as { readonly liveRequests: number };
  return health.liveRequests + (await connections(context));
}

export async function waitsAtServer(context: SuiteContext): Promise<void> {
  await eventually("the server lets somebody wait", async () => (await heldOpen(context)) > 0);
}

export async function nothingOpen(context: SuiteContext): Promise<void> {
  await eventually("the server holds nothing open", async () => (await heldOpen(context)) === 0);
}

/** A `fetch` that knows how many of its answers have a body which is neither read to its end nor given up. */
export function watchedFetch() {
  let open = 0;
  return {
    open: () => open,
    fetch: async (url: string, init: RequestInit): Promise<Response> => {
      const response = await fetch(url, init);
      if (response.body === null) return response;
      open += 1;
      const { status, headers } = response;
      return new Response(
        watched(response.body, () => (open -= 1)),
        { status, headers },
      );
    },
  };
}

/** Pulled only as it is read, so that it fails where the body below it fails. */
function watched(body: ReadableStream<Uint8Array>, ended: () => void): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream<Uint8Array>(
    {
      pull: async (controller) => {
        try {
          const { done, value } = await reader.read();
          if (value !== undefined) return controller.enqueue(value);
          if (!done) return;
        } catch (cause) {
          ended();
          throw cause;
        }
        ended();
        controller.close();
      },
      cancel: async (reason) => {
        ended();
        await reader.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
}
