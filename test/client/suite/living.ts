/** Live queries, live views, touch keys, and workers of a subscription, in every runtime of the client. */

import { hash64, type TouchTemplate, touchKeys } from "../../../src/client/client.ts";
import { connectSubscriptions } from "../../../src/client/subscriptions.ts";
import { check, refused, same, thrown } from "./asserts.ts";
import {
  connections,
  eventually,
  fresh,
  nothingOpen,
  recordsOf,
  type SuiteContext,
  type SuiteTest,
} from "./suite-test.ts";

interface Todo {
  readonly id: string;
  readonly userId: string;
  readonly title: string;
  readonly n: number;
}

const byUser: TouchTemplate = { entity: "todo", fields: [{ name: "userId", encoding: "string" }] };

/** A stream of changes, and the table that they are of. */
async function todos(context: SuiteContext, name: string) {
  const stream = await fresh(context, name);
  (await stream.setProfile({ kind: "state-protocol", touch: { enabled: true } })).unwrap();
  const rows = new Map<string, Todo>();
  /** Into the table first, then into the stream. */
  async function save(id: string, userId: string, title: string): Promise<void> {
    const old = rows.get(id);
    const value = { id, userId, title, n: Number(id) };
    rows.set(id, value);
    const headers = { operation: old === undefined ? "insert" : "update" };
    (await stream.appendJson([{ type: "todo", key: id, value, ...(old && { old_value: old }), headers }])).unwrap();
  }
  async function remove(id: string): Promise<void> {
    const change = { type: "todo", key: id, old_value: rows.get(id), headers: { operation: "delete" } };
    rows.delete(id);
    (await stream.appendJson([change])).unwrap();
  }
  const titlesOf = (user: string): string[] =>
    [...rows.values()].filter(({ userId }) => userId === user).map(({ title }) => title);
  return { stream, save, remove, titlesOf };
}

export const living: readonly SuiteTest[] = [
  {
    name: "touch keys are the server's",
    run: async () => {
      const keys = touchKeys(await hash64());
      const byBoth: TouchTemplate = {
        entity: "todo",
        fields: [
          { name: "userId", encoding: "string" },
          { name: "projectId", encoding: "string" },
        ],
      };
      // From docs/live-queries.md.
      same([keys.table("todo"), keys.templateId(byBoth)], ["0c897182b17d6dc2", "109d47736c4ee693"]);
    },
  },
  {
    name: "live query: runs again when its rows changed, and only then",
    run: async (context) => {
      const { stream, save, titlesOf } = await todos(context, "live/query");
      const keys = touchKeys(await hash64());
      const seen: string[][] = [];
      const abort = new AbortController();
      const signal = AbortSignal.any([abort.signal, context.over]);
      const loop = (async () => {
        const watch = [keys.watch(byUser, ["ann"])];
        for await (const titles of stream.liveQuery({
          templates: [byUser],
          keys: watch,
          run: () => titlesOf("ann"),
          signal,
        }))
          seen.push(titles);
      })();
      const ended = thrown(loop);
      const shows = (titles: readonly string[]): Promise<unknown> =>
        eventually(`it shows ${titles.join()}`, () => seen.at(-1)?.join() === titles.join());
      await eventually("it has run", () => seen.length === 1);
      await save("1", "ann", "tea");
      await shows(["tea"]);
      const runs = seen.length;
      await save("2", "bob", "milk");
      await save("3", "bob", "jam");
      await save("2", "ann", "milk");
      await shows(["tea", "milk"]);
      check(`one more run for one more change, not ${seen.length - runs}`, seen.length - runs === 1);
      const reason = new Error("enough");
      abort.abort(reason);
      check("the reason of the abort", (await ended) === reason);
      await eventually("no wait is left", async () => {
        const meta = (await (await fetch(`${stream.url}/touch/meta`)).json()) as { readonly fineWaitersActive: number };
        return meta.fineWaitersActive === 0;
      });
    },
  },
  {
    name: "live view: the rows in their order, changes, another filter, and its end",
    run: async (context) => {
      const { stream, save, remove } = await todos(context, "live/view");
      for (const id of ["3", "1", "2"]) await save(id, "ann", `todo ${id}`);
      const view = stream.liveView<Todo>({ type: "todo", order: "-n", limit: 10 }, { signal: context.over });
      (await view.ready()).unwrap();
      const shown = (): string => [...view].map(({ value }) => value.title).join();
      const shows = (titles: string): Promise<unknown> =>
        eventually(`it shows ${titles}, not ${shown()}`, () => shown() === titles);
      await shows("todo 3,todo 2,todo 1");
      let told = 0;
      const unsubscribe = view.subscribe((changes) => (told += changes.length));
      await save("2", "bob", "done 2");
      await remove("3");
      await shows("done 2,todo 1");
      check("changes told", told >= 2);
      same([view.get("1")?.value.userId, view.size], ["ann", 2]);
      unsubscribe();
      (await view.update({ type: "todo", filter: 'userId = "ann"' })).unwrap();
      await shows("todo 1");
      await view.close();
      same((await view.done()).isOk(), true);
      await eventually("its connection is gone", async () => (await connections(context)) === 0);
      // Else the server keeps the rows for a minute.
      (await stream.delete()).unwrap();
      await nothingOpen(context);
    },
  },
  {
    name: "live view: what is none ends with the server's error",
    run: async (context) => {
      const { stream } = await todos(context, "live/no-view");
      const view = stream.liveView({ filter: "n >" }, { signal: context.over });
      await refused(view.ready(), 400);
      await refused(view.done(), 400);
      same(await recordsOf(stream), []);
    },
  },
  {
    name: "a worker is woken, reads what is new, and ends with its signal",
    run: async (context) => {
      const { url, over } = context;
      await fresh(context, "work/wakes");
      const subscriptions = connectSubscriptions({ url });
      const orders = subscriptions.subscription("suite-orders");
      const config = { type: "pull-wake", wakeStream: "work/wakes", pattern: "work/orders/*" } as const;
      same((await orders.create(config)).unwrap().created, true);
      const done: unknown[] = [];
      const failures: unknown[] = [];
      const end = new AbortController();
      const working = subscriptions.work("suite-orders", {
        worker: "ann",
        handle: async (job) => {
          for (const { path, ackedOffset } of job.streams) {
            const records = (await recordsOf(job.stream(path), { offset: ackedOffset })) as unknown[];
            done.push(...records);
          }
        },
        onFailure: ({ cause }) => failures.push(String(cause)),
        signal: AbortSignal.any([end.signal, over]),
      });
      const stream = await fresh(context, "work/orders/1");
      (await stream.appendJson([1])).unwrap();
      await eventually("the first is done", () => done.length === 1);
      (await stream.appendJson([2, 3])).unwrap();
      await eventually("all are done", () => done.length === 3);
      same([done, failures], [[1, 2, 3], []]);
      end.abort();
      (await working).unwrap();
      await eventually("its connection is gone", async () => (await connections(context)) === 0);
      (await orders.delete()).unwrap();
    },
  },
];
