/** The touch loop of one query, in the order that misses nothing (docs/live-queries.md). */

export interface LiveQuery {
  readonly keys: readonly string[];
  readonly templateIds: readonly string[];
  /** Reads the database and shows what it finds. */
  run(): void;
}

interface WaitAnswer {
  readonly touched: boolean;
  readonly stale?: boolean;
  readonly cursor: string;
}

export async function ask<T>(method: string, url: string, body?: unknown): Promise<T> {
  const response = await fetch(url, { method, body: body === undefined ? null : JSON.stringify(body) });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${url}: ${response.status} ${text}`);
  return JSON.parse(text) as T;
}

/** Runs the query, and again after every touch, until `signal` aborts. */
export async function follow(stream: string, query: LiveQuery, signal: AbortSignal): Promise<void> {
  // The cursor comes first: what changes while the query runs is told by the wait.
  let { cursor } = await ask<{ cursor: string }>("GET", `${stream}/touch/meta?settle=flush`);
  while (!signal.aborted) {
    query.run();
    for (let again = false; !again && !signal.aborted;) {
      const body = { keys: query.keys, cursor, timeoutMs: 1_000, templateIdsUsed: query.templateIds };
      const answer = await ask<WaitAnswer>("POST", `${stream}/touch/wait`, body);
      cursor = answer.cursor;
      again = answer.touched || answer.stale === true;
    }
  }
}
