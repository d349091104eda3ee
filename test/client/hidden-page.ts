/** What the page of hidden-tab.test.ts runs: follows a stream in several ways at once, and remembers what it has seen. */

import { connect, type FollowOptions } from "../../src/client/client.ts";

export type Visibility = "visible" | "hidden";

/** What the page tells of itself. */
export interface PageReport {
  readonly visibility: Visibility;
  /** What it was after each `visibilitychange`. */
  readonly changes: readonly Visibility[];
  /** By the name of the reader: the values that came, in order. */
  readonly seen: Readonly<Record<string, readonly number[]>>;
  /** Readers that came to the end of the stream. */
  readonly ended: readonly string[];
  /** Errors that ended a reader, or that nothing caught. */
  readonly failures: readonly string[];
}

/** What of a browser's globals is needed. */
interface Window {
  readonly document: {
    readonly visibilityState: Visibility;
    addEventListener(type: "visibilitychange", listener: () => void): void;
  };
  addEventListener(
    type: string,
    listener: (event: { readonly message?: string; readonly reason?: unknown }) => void,
  ): void;
}

const page = globalThis as unknown as Window;
const changes: Visibility[] = [];
const seen: Record<string, number[]> = {};
const ended: string[] = [];
const failures: string[] = [];

page.document.addEventListener("visibilitychange", () => changes.push(page.document.visibilityState));
page.addEventListener("error", ({ message }) => failures.push(String(message)));
page.addEventListener("unhandledrejection", ({ reason }) => failures.push(String(reason)));

async function follow(url: string, stream: string, name: string, options: FollowOptions): Promise<void> {
  const values: number[] = (seen[name] = []);
  const decoder = new TextDecoder();
  try {
    for await (const { parts } of connect({ url }).stream(stream).follow(options))
      for (const part of parts) values.push(Number(decoder.decode(part)));
    ended.push(name);
  } catch (cause) {
    failures.push(`${name}: ${String(cause)}`);
  }
}

Object.assign(globalThis, {
  followAll: (url: string, stream: string, readers: Readonly<Record<string, FollowOptions>>) => {
    for (const [name, options] of Object.entries(readers)) void follow(url, stream, name, options);
  },
  report: (): PageReport => ({ visibility: page.document.visibilityState, changes, seen, ended, failures }),
});
