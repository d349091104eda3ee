/** The wire of all HTTP servers: streams under `/v1/stream/`, records in JSON arrays, pages by `Stream-Next-Offset`. */

import { HttpConnection } from "./http-connection.ts";
import type { Wire, WireReader } from "./wire.ts";
import { postRequest, RequestWriter, simpleRequest, streamPath } from "./workloads.ts";

export const httpWire: Wire = {
  does: () => true,
  follows: null,
  isReady: (url) =>
    fetch(`${url}/v1/stream/bench-probe`, { method: "HEAD" }).then(
      () => true,
      () => false,
    ),
  open: (url) => HttpConnection.open(url),
  appendWriter: (url, connections, recordsPerRequest) => new RequestWriter(url, connections, recordsPerRequest),
  appendRequest: postRequest,
  createRequest: (url, stream) => simpleRequest("PUT", url, streamPath(stream)),
  openReader: (url) => HttpReader.open(url),
};

class HttpReader implements WireReader {
  readonly #connection: HttpConnection;
  readonly #url: string;

  private constructor(connection: HttpConnection, url: string) {
    this.#connection = connection;
    this.#url = url;
  }

  static async open(url: string): Promise<HttpReader> {
    return new HttpReader(await HttpConnection.open(url), url);
  }

  async count(stream: number): Promise<number> {
    let stored = 0;
    await readAll(this.#connection, this.#url, streamPath(stream), (bytes) => (stored += countRecords(bytes)));
    return stored;
  }

  readAll(stream: number): Promise<number> {
    return readAll(this.#connection, this.#url, streamPath(stream));
  }

  close(): void {
    this.#connection.close();
  }
}

function countRecords(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(0x7b); at !== -1; at = bytes.indexOf(0x7b, at + 1)) count++;
  return count;
}

/** Reads a stream from its start, page after page where a server pages. Returns the body bytes. */
export async function readAll(
  connection: HttpConnection,
  url: string,
  path: string,
  onBody?: (bytes: Uint8Array) => void,
): Promise<number> {
  let offset = "-1";
  let bodyBytes = 0;
  for (;;) {
    const answer = await connection.exchange(simpleRequest("GET", url, `${path}?offset=${offset}`), onBody);
    if (answer.status !== 200) throw new Error(`GET ${path}?offset=${offset} answered ${answer.status}`);
    bodyBytes += answer.bodyBytes;
    const next = answer.header("stream-next-offset");
    if (answer.header("stream-up-to-date") === "true" || next === null || next === offset) return bodyBytes;
    offset = next;
  }
}
