/**
 * What one attack is, and the words that the tables of attacks are written in. `{host}` stands for the server's host, `{stream}` for a
 * JSON stream of the case's own, and `{smuggled}` for the path of a request that must never be carried out.
 */

/** A status, or `close`: hung up on without an answer. */
export type Outcome = number | "close";

export interface Attack {
  readonly name: string;
  readonly bytes: string;
  readonly allowed: readonly Outcome[];
  /** Records in `{stream}` afterwards. `if answered`: one with a 2xx, else none. `at most one`: what follows a good request is not. */
  readonly records?: number | "if answered" | "at most one";
  /** Sent as well, once an answer could have come: the rest of a body, or frames of a WebSocket. */
  readonly after?: string;
}

export type Group = readonly Attack[];

export const REFUSED: readonly Outcome[] = [400, "close"];
export const TOO_LARGE: readonly Outcome[] = [400, 413, 414, 431, "close"];
export const SMUGGLED =
  "PUT {smuggled} HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n";
export const JSON_TYPE = "Content-Type: application/json\r\n";

export function post(lines: string, body: string, version = "1.1"): string {
  return `POST {stream} HTTP/${version}\r\nHost: {host}\r\n${JSON_TYPE}${lines}\r\n${body}`;
}

export function get(target: string, lines = "Host: {host}\r\n", version = "1.1"): string {
  return `GET ${target} HTTP/${version}\r\n${lines}\r\n`;
}

export function cases(
  table: Readonly<Record<string, string>>,
  allowed: readonly Outcome[],
  more: Pick<Attack, "records" | "after"> = {},
): Group {
  return Object.entries(table).map(([name, bytes]) => ({ name, bytes, allowed, ...more }));
}

export const CHUNKED = "Transfer-Encoding: chunked\r\n";
export const chunked = (body: string): string => post(CHUNKED, body);
