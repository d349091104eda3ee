/**
 * The HTTP interface in a few words, for tests: one stream, its verbs, nothing hidden. Every call has a deadline, no
 * call retries or throws on a status; what the server answered is what the test sees.
 */

const CALL_DEADLINE_MS = 20_000;

export interface CallOptions {
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array<ArrayBuffer>;
  readonly signal?: AbortSignal;
}

export interface StreamUnderTest {
  readonly name: string;
  readonly path: string;
  readonly url: string;
  put(options?: CallOptions): Promise<Response>;
  /** Appends `body` under the stream's content type. */
  post(body: string | Uint8Array<ArrayBuffer>, headers?: Readonly<Record<string, string>>): Promise<Response>;
  close(): Promise<Response>;
  /** `query` is everything after the `?`. */
  get(query?: string, options?: CallOptions): Promise<Response>;
  head(): Promise<Response>;
  delete(): Promise<Response>;
  /** Whole records of a JSON stream from `query`; throws unless 200. */
  records(query?: string): Promise<unknown[]>;
  text(query?: string): Promise<string>;
  /** The offset after the last record. */
  tail(): Promise<string>;
}

export function streamAt(server: { readonly url: string }, name: string, type = "application/json"): StreamUnderTest {
  const path = `/v1/stream/${name}`;
  const url = server.url + path;
  const typed = { "content-type": type };
  const get = (query = "", options: CallOptions = {}): Promise<Response> =>
    call("GET", query === "" ? url : `${url}?${query}`, options);
  const text = async (query = ""): Promise<string> => {
    const response = await get(query);
    if (response.status !== 200) throw new Error(`GET ${path}?${query}: ${response.status} ${await response.text()}`);
    return response.text();
  };
  return {
    name,
    path,
    url,
    get,
    text,
    put: (options = {}) => call("PUT", url, { ...options, headers: { ...typed, ...options.headers } }),
    post: (body, headers = {}) => call("POST", url, { body, headers: { ...typed, ...headers } }),
    close: () => call("POST", url, { headers: { "stream-closed": "true" } }),
    head: () => call("HEAD", url),
    delete: () => call("DELETE", url),
    records: async (query = "") => JSON.parse(await text(query)) as unknown[],
    tail: async () => nextOffset(await call("HEAD", url)),
  };
}

/** Creates a stream that must be new. */
export async function newStream(
  server: { readonly url: string },
  name: string,
  type = "application/json",
  options: CallOptions = {},
): Promise<StreamUnderTest> {
  const stream = streamAt(server, name, type);
  const created = await stream.put(options);
  if (created.status !== 201) throw new Error(`PUT ${stream.path}: ${created.status} ${await created.text()}`);
  return stream;
}

/** One request with a deadline. */
export function call(method: string, url: string, options: CallOptions = {}): Promise<Response> {
  const deadline = AbortSignal.timeout(CALL_DEADLINE_MS);
  const signal = options.signal === undefined ? deadline : AbortSignal.any([deadline, options.signal]);
  return fetch(url, { method, redirect: "manual", ...options, signal });
}

/** `Stream-Next-Offset` of a response that must carry it. */
export function nextOffset(response: Response): string {
  const offset = response.headers.get("stream-next-offset");
  if (offset === null) throw new Error(`no Stream-Next-Offset in a ${response.status} answer`);
  return offset;
}

/** Shape of every error body. */
export interface ErrorBody {
  readonly error: { readonly code: string; readonly message: string; readonly hint?: string };
}

/** The error body; throws when the answer is not one. */
export async function errorOf(response: Response): Promise<ErrorBody["error"]> {
  const text = await response.text();
  const body = JSON.parse(text) as Partial<ErrorBody>;
  if (typeof body.error?.code !== "string" || typeof body.error.message !== "string") {
    throw new Error(`${response.status} without an error body: ${text}`);
  }
  return body.error;
}
