/**
 * From the command line and the environment to a client: `--url` or STREAM_URL name the server, STREAM_AUTH authorizes,
 * and a stream is given by its name or by its full URL.
 */

import type { Command } from "commander";
import type { Result } from "better-result";
import { connect, type StreamClient, type StreamError, type StreamHandle } from "../client/client.ts";
import { parseStreamName, STREAM_PREFIX } from "../protocol/names.ts";
import { RequestFailure, UsageError } from "./failure.ts";
import { isHeaderText } from "./option-values.ts";
import { writeOut } from "./stdout.ts";

const DEFAULT_URL = "http://127.0.0.1:4437";

/** The options every client command has. */
export interface ClientFlags {
  readonly url?: string;
  readonly json?: true;
}

export function addClientOptions(command: Command): Command {
  return command
    .option("--url <url>", `base URL of the server (env STREAM_URL; default ${DEFAULT_URL})`)
    .option("--json", "print results, and errors, as JSON");
}

export function clientFor(flags: ClientFlags): StreamClient {
  return connect(serverFor(flags));
}

/** Where the server is, and what is sent as authorization. */
export function serverFor(flags: ClientFlags): { readonly url: string; readonly auth?: string } {
  return serverAt(flags.url ?? nonBlank(process.env["STREAM_URL"]) ?? DEFAULT_URL);
}

/** The stream that an argument names. */
export function streamFor(argument: string, flags: ClientFlags): StreamHandle {
  if (!/^https?:\/\//i.test(argument)) return named(clientFor(flags), argument);
  const { baseUrl, name } = splitStreamUrl(argument);
  return named(connect(serverAt(baseUrl)), name);
}

/** The name of a stream given by name or by URL. */
export function streamName(argument: string): string {
  return /^https?:\/\//i.test(argument) ? splitStreamUrl(argument).name : argument;
}

/** What succeeded, or the failure that ends the command; `note` tells what had been done before. */
export function orFail<T>(result: Result<T, StreamError>, note: string | null = null): T {
  if (result.isErr()) throw new RequestFailure(result.error, note);
  return result.value;
}

/** One result: a line for people, or an object for programs. */
export function printResult(flags: ClientFlags, text: string, value: object): Promise<void> {
  return writeOut(`${flags.json === true ? JSON.stringify(value) : text}\n`);
}

function serverAt(url: string): { readonly url: string; readonly auth?: string } {
  const auth = nonBlank(process.env["STREAM_AUTH"]);
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol) || /[?#]/.test(url)) {
    throw new UsageError(`${JSON.stringify(url)} is not the URL of a server`, `such as ${DEFAULT_URL}`);
  }
  if (auth !== undefined && !isHeaderText(auth)) {
    throw new UsageError("STREAM_AUTH is expected to be text that a header carries: Latin-1, no line ends");
  }
  // A bare token is a bearer token; "Basic …" and the like are sent as they are.
  return { url, ...(auth === undefined ? {} : { auth: auth.includes(" ") ? auth : `Bearer ${auth}` }) };
}

function named(client: StreamClient, name: string): StreamHandle {
  try {
    return client.stream(name);
  } catch (cause) {
    throw cause instanceof TypeError ? new UsageError(`${JSON.stringify(name)}: ${cause.message}`) : cause;
  }
}

function splitStreamUrl(argument: string): { readonly baseUrl: string; readonly name: string } {
  const at = argument.indexOf(STREAM_PREFIX);
  if (at === -1 || /[?#]/.test(argument)) {
    throw new UsageError(`${argument} is not the URL of a stream`, `such as ${DEFAULT_URL}${STREAM_PREFIX}orders`);
  }
  const parsed = parseStreamName(argument.slice(at + STREAM_PREFIX.length));
  if (!parsed.ok) throw new UsageError(`${argument}: ${parsed.reason}`);
  return { baseUrl: argument.slice(0, at), name: parsed.name };
}

function nonBlank(text: string | undefined): string | undefined {
  return text === undefined || text.trim() === "" ? undefined : text.trim();
}
