/** Errors and aborts, in every runtime of the client: what goes wrong is told apart, and who aborts is told why. */

import { BrokenAnswer, type StreamError, Unreachable } from "../../../src/client/client.ts";
import { asRefused, check, failed, matches, refused, same, thrown } from "./asserts.ts";
import {
  BYTES_TYPE,
  eventually,
  fresh,
  nothingOpen,
  waitsAtServer,
  JSON_TYPE,
  noise,
  type SuiteContext,
  type SuiteTest,
  TEXT_TYPE,
  watchedFetch,
} from "./suite-test.ts";

/** Nobody listens there: it is above the ports that a system gives out. */
const NOBODY = "http://127.0.0.1:65534";
const QUICK = { maxAttempts: 2, baseDelayMs: 1, maxDelayMs: 1 };
/** So patient that only an abort ends it in time. */
const PATIENT = { maxAttempts: 10, baseDelayMs: 60_000, maxDelayMs: 60_000 };

function unreachable(error: unknown): void {
  check(`no connection, not ${String(error)}`, Unreachable.is(error));
  const { url, message, hint } = error as Unreachable;
  check("the place in the message", message.includes("127.0.0.1:65534") && url.startsWith(NOBODY));
  check("a hint", hint !== null);
}

/** The call is rejected with the very reason of the abort, which comes after `ready`. */
async function abortsWithReason(
  call: (signal: AbortSignal) => Promise<unknown>,
  ready: () => Promise<unknown>,
): Promise<void> {
  const abort = new AbortController();
  const reason = new Error("changed my mind");
  const rejected = thrown(call(abort.signal));
  await ready();
  abort.abort(reason);
  check("the reason of the abort", (await rejected) === reason);
}

/** A client whose next answer is this one, whatever it asks. */
function answered(context: SuiteContext, body: string, init: ResponseInit) {
  const client = context.connect({ fetch: () => Promise.resolve(new Response(body, init)), retry: QUICK });
  return client.stream("answered");
}

export const failing: readonly SuiteTest[] = [
  {
    name: "404 of a stream that is not there, from every call",
    run: async ({ connect }) => {
      const stream = connect().stream("error/none");
      const read = await refused(stream.read(), 404, "not-found");
      check("where it asked", new URL(read.url).pathname === "/v1/stream/error/none");
      await refused(stream.appendJson([1]), 404, "not-found");
      await refused(stream.close(), 404, "not-found");
      await refused(stream.head(), 404, "not-found");
      await refused(stream.details(), 404, "not-found");
      await refused(stream.setRetention("none"), 404, "not-found");
      await refused(stream.delete(), 404, "not-found");
      for (const live of ["long-poll", "sse"] as const) asRefused(await thrown(stream.follow({ live }).next()), 404);
    },
  },
  {
    name: "400, 409 and 413: what is asked wrong is told by its code",
    run: async (context) => {
      const stream = await fresh(context, "error/wrong");
      await refused(stream.read({ offset: "yesterday" }), 400, "offset-invalid");
      await refused(stream.read({ filter: "a =" }), 400, "filter-invalid");
      await refused(stream.append("{", { contentType: JSON_TYPE }), 400, "json-invalid");
      await refused(stream.appendJson([]), 400, "empty-array");
      await refused(stream.append("x", { contentType: TEXT_TYPE }), 409, "content-type-mismatch");
      const tooMany = Array.from({ length: 100_001 }, () => 0);
      await refused(stream.appendJson(tooMany), 413, "too-many-records");
    },
  },
  {
    name: "a name that no stream can have, and a URL that is none, are told before anything is sent",
    run: async ({ connect }) => {
      const cause = await thrown(Promise.resolve().then(() => connect().stream("a//b")));
      check("a TypeError", cause instanceof TypeError);
      const ftp = await thrown(Promise.resolve().then(() => connect({ url: "ftp://example.com" })));
      check("a TypeError", ftp instanceof TypeError);
    },
  },
  {
    name: "a server that nobody reaches, from every call",
    run: async ({ connect }) => {
      const client = connect({ url: NOBODY, retry: QUICK });
      const stream = client.stream("nobody");
      const errors: StreamError[] = [
        await failed(stream.create()),
        await failed(stream.appendJson([1])),
        await failed(stream.read()),
        await failed(stream.head()),
        await failed(stream.delete()),
        await failed(client.listPage({}, null)),
      ];
      for (const error of errors) unreachable(error);
      unreachable(await thrown(stream.follow().next()));
      unreachable(await thrown(client.list().next()));
    },
  },
  {
    name: "an answer of something else is broken, or quoted",
    run: async (context) => {
      const page = await failed(answered(context, "<h1>Welcome</h1>", { status: 200 }).read());
      check("a broken answer", BrokenAnswer.is(page));
      const forbidden = await failed(answered(context, "<h1>Forbidden</h1>", { status: 403 }).read());
      matches(forbidden, { _tag: "Refused", status: 403, code: "http-403" });
      check("its words", forbidden.message.includes("Forbidden"));
      const details = await failed(answered(context, "[1]", { status: 200 }).details());
      check("a broken answer", BrokenAnswer.is(details));
    },
  },
  {
    name: "overload is waited for as long as the server asks",
    run: async (context) => {
      const stream = await fresh(context, "error/overload");
      let refusals = 0;
      const sometimes = async (url: string, init: RequestInit): Promise<Response> => {
        if (++refusals > 2) return fetch(url, init);
        return new Response('{"error":{"code":"overloaded","message":"later"}}', {
          status: 429,
          headers: { "retry-after": "0" },
        });
      };
      const retry = { ...QUICK, maxAttempts: 3 };
      const client = context.connect({ fetch: sometimes, retry });
      (await client.stream(stream.name).appendJson([1])).unwrap();
      same(refusals, 3);
    },
  },
  {
    name: "aborted before it begins",
    run: async (context) => {
      const stream = await fresh(context, "abort/before");
      const reason = new Error("not even begun");
      const signal = AbortSignal.abort(reason);
      const calls = [
        stream.create({ signal }),
        stream.appendJson([1], { signal }),
        stream.close({ signal }),
        stream.read({ signal }),
        stream.head(signal),
        stream.details({ signal }),
        stream.setRetention("none", signal),
        stream.delete(signal),
        stream.follow({ signal }).next(),
        context.connect().listPage({ signal }, null),
      ];
      for (const call of calls.map(thrown)) check("the reason of the abort", (await call) === reason);
      same((await stream.read()).unwrap().upToDate, true);
    },
  },
  {
    name: "aborted while the server lets it wait",
    run: async (context) => {
      const stream = await fresh(context, "abort/wait");
      const { etag } = (await stream.details()).unwrap() ?? {};
      await abortsWithReason(
        (signal) => stream.details({ ifNoneMatch: etag ?? "", wait: true, signal }),
        () => waitsAtServer(context),
      );
      await nothingOpen(context);
    },
  },
  {
    name: "aborted in the middle of a body",
    run: async (context) => {
      const made = await fresh(context, "abort/body", { contentType: BYTES_TYPE });
      (await made.append(noise(4 * 1024 * 1024), { contentType: BYTES_TYPE })).unwrap();
      const { fetch, open } = watchedFetch();
      const stream = context.connect({ fetch }).stream(made.name);
      const reason = new Error("enough");
      const abort = new AbortController();
      const { signal } = abort;
      let seen = 0;
      const cause = await thrown(
        (async () => {
          for await (const piece of (await stream.read({ signal })).unwrap()) {
            seen += piece.length;
            same(open(), 1);
            abort.abort(reason);
          }
        })(),
      );
      check("the reason of the abort", cause === reason);
      check("a part of the body", seen > 0 && seen < 4 * 1024 * 1024);
      same(open(), 0);
    },
  },
  {
    name: "aborted while it waits to try again",
    run: async ({ connect }) => {
      let tries = 0;
      const fetch = (): Promise<Response> => {
        tries += 1;
        return Promise.reject(new TypeError("no network"));
      };
      const stream = connect({ fetch, retry: PATIENT }).stream("nobody");
      const tried = (count: number) => eventually(`it has tried ${count} times`, () => tries === count);
      await abortsWithReason(
        (signal) => stream.head(signal),
        () => tried(1),
      );
      await abortsWithReason(
        (signal) => stream.follow({ signal }).next(),
        () => tried(2),
      );
    },
  },
  {
    name: "aborted without a reason, and by time",
    run: async (context) => {
      const stream = await fresh(context, "abort/default");
      const { etag } = (await stream.details()).unwrap() ?? {};
      const wait = { ifNoneMatch: etag ?? "", wait: true };
      const late = await thrown(stream.details({ ...wait, signal: AbortSignal.timeout(30) }));
      same((late as Error).name, "TimeoutError");
      const abort = new AbortController();
      abort.abort();
      same(((await thrown(stream.details({ ...wait, signal: abort.signal }))) as Error).name, "AbortError");
      await nothingOpen(context);
    },
  },
];
