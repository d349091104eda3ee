/**
 * The requests of touch (docs/live-queries.md): where a stream stands, the templates of a query, and the wait for a change.
 * Each is sent once; whoever calls decides whether to try again, which is harmless for all three.
 */

import { Result } from "better-result";
import { isJsonObject, type JsonObject } from "../kit/json-object.ts";
import { notAStream } from "./reading.ts";
import type { StreamError } from "./stream-error.ts";
import type { TouchTemplate } from "./touch-keys.ts";
import type { Transport } from "./transport.ts";

export interface TouchRequests {
  /** The cursor of everything that is durable now, once it is derived; at most 30 s later. */
  cursor(): Promise<Result<string, StreamError>>;
  /** Activates up to 256 templates; what is active already stays so. */
  activate(templates: readonly TouchTemplate[]): Promise<Result<Activation, StreamError>>;
  /** Answered at the first change that concerns a key, or after 30 s. */
  wait(wait: TouchWait): Promise<Result<TouchAnswer, StreamError>>;
}

export interface Activation {
  /** Waits on these are coarse; their ids are zeros when the template itself is wrong. */
  readonly denied: readonly { readonly templateId: string; readonly reason: string }[];
}

export interface TouchWait {
  /** 1 to 1,024. */
  readonly keys: readonly string[];
  readonly cursor: string;
  /** Up to 256: the templates of the keys. Activates what is not, or not any more, and keeps the others active. */
  readonly templates: readonly TouchTemplate[];
}

export interface TouchAnswer {
  readonly touched: boolean;
  /** What happened since the cursor of the wait is not known: to be taken for a touch. */
  readonly stale: boolean;
  /** Where the next wait goes on. */
  readonly cursor: string;
}

/** Far more than any answer of these has: 256 templates are 30 kB. */
const MAX_ANSWER_CHARS = 1024 * 1024;

export function touchRequests(transport: Transport, streamUrl: string, signal: AbortSignal | undefined): TouchRequests {
  /** `read` gives null for JSON that is something else. */
  async function ask<A>(
    path: string,
    body: JsonObject | null,
    read: (json: JsonObject) => A | null,
  ): Promise<Result<A, StreamError>> {
    const url = `${streamUrl}/touch/${path}`;
    const method = body === null ? "GET" : "POST";
    const plan = { method, url, body: body === null ? null : JSON.stringify(body), repeatable: true, signal } as const;
    const answer = await transport.sendOnce(plan);
    if (answer.isErr()) return Result.err(answer.error);
    const text = await transport.text(answer.value, MAX_ANSWER_CHARS, signal);
    if (text.isErr()) return Result.err(text.error);
    const json = text.value === null ? null : parsed(text.value);
    const told = json === null ? null : read(json);
    return told === null ? Result.err(notAStream(url, "is no answer of touch")) : Result.ok(told);
  }

  return {
    cursor: () => ask("meta?settle=flush", null, ({ cursor }) => (typeof cursor === "string" ? cursor : null)),
    activate: (templates) => ask("templates/activate", { templates }, readActivation),
    wait: ({ keys, cursor, templates }) => ask("wait", { keys, cursor, declareTemplates: templates }, readAnswer),
  };
}

function readActivation({ denied }: JsonObject): Activation | null {
  return Array.isArray(denied) ? { denied: denied as Activation["denied"] } : null;
}

function readAnswer({ touched, stale, cursor }: JsonObject): TouchAnswer | null {
  if (typeof touched !== "boolean" || typeof cursor !== "string") return null;
  return { touched, stale: stale === true, cursor };
}

function parsed(text: string): JsonObject | null {
  try {
    const value: unknown = JSON.parse(text);
    return isJsonObject(value) ? value : null;
  } catch (cause) {
    if (cause instanceof SyntaxError) return null;
    throw cause;
  }
}
