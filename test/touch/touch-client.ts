/** Touch of one stream in a few words, for tests. */

import type { Template } from "../../src/features/touch/template.ts";
import { call, newStream } from "../support/streams.ts";

export type Answer = Readonly<Record<string, unknown>>;

export interface TouchUnderTest {
  readonly url: string;
  wait(body: Answer, signal?: AbortSignal): Promise<Answer>;
  meta(): Promise<Answer>;
  /** Resolves once everything appended so far is derived. */
  settled(): Promise<Answer>;
  append(...changes: readonly unknown[]): Promise<void>;
  /** A request to `path` below the stream, whatever it answers. */
  ask(method: string, path: string, body?: unknown): Promise<Response>;
}

/** A new stream with touch on and these templates active. */
export async function touchStream(
  server: { readonly url: string },
  name: string,
  templates: readonly Template[],
  settings: Answer = {},
): Promise<TouchUnderTest> {
  const { url } = await newStream(server, name);
  const touch = touchAt(url);
  const touchSettings = { enabled: true, ...settings };
  const profile = { profile: { kind: "state-protocol", touch: touchSettings } };
  await json(await touch.ask("POST", "_profile", profile));
  if (templates.length === 0) return touch;
  const specs = templates.map(({ entity, fields }) => ({ entity, fields }));
  const { denied } = await json(await touch.ask("POST", "touch/templates/activate", { templates: specs }));
  if (!Array.isArray(denied) || denied.length > 0) throw new Error(`denied: ${JSON.stringify(denied)}`);
  return touch;
}

export function touchAt(url: string): TouchUnderTest {
  const ask = (method: string, path: string, body?: unknown): Promise<Response> =>
    call(method, `${url}/${path}`, body === undefined ? {} : { body: JSON.stringify(body) });
  return {
    url,
    ask,
    // A wait has no deadline but its own.
    wait: async (body, signal) => {
      const init = { method: "POST", body: JSON.stringify(body), ...(signal === undefined ? {} : { signal }) };
      return json(await fetch(`${url}/touch/wait`, init));
    },
    meta: async () => json(await ask("GET", "touch/meta")),
    settled: async () => json(await ask("GET", "touch/meta?settle=flush")),
    append: async (...changes) => {
      const headers = { "content-type": "application/json" };
      const response = await call("POST", url, { body: JSON.stringify(changes), headers });
      if (response.status !== 204) throw new Error(`append: ${response.status} ${await response.text()}`);
    },
  };
}

async function json(response: Response): Promise<Answer> {
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${response.url}: ${response.status} ${text}`);
  return JSON.parse(text) as Answer;
}
