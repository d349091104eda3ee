/** Two live queries over a SQLite table, against a running server. See README.md. */

import { Database } from "bun:sqlite";
import { formatKey, KeyWriter } from "../../src/protocol/touch-keys.ts";
import { makeTemplate } from "../../src/features/touch/template.ts";
import { ask, follow } from "./live-query.ts";

interface Todo {
  readonly id: number;
  readonly userId: string;
  readonly status: string;
  readonly title: string;
}

const server = process.argv[2] ?? process.env["STREAM_URL"] ?? "http://127.0.0.1:4437";
const stream = `${server}/v1/stream/example-todos-${Date.now()}`;
const db = new Database(":memory:");
db.run("CREATE TABLE todo (id INTEGER PRIMARY KEY, userId TEXT, status TEXT, title TEXT)");

// The stream, its profile, and the shapes of the two queries.
const created = await fetch(stream, { method: "PUT", headers: { "Content-Type": "application/json" } });
if (created.status !== 201) throw new Error(`PUT ${stream}: ${created.status} ${await created.text()}`);
await ask("POST", `${stream}/_profile`, { profile: { kind: "state-protocol", touch: { enabled: true } } });
const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));
const byUser = templateOf("userId");
const byStatus = templateOf("status");
const templates = [byUser, byStatus].map(({ entity, fields }) => ({ entity, fields }));
await ask("POST", `${stream}/touch/templates/activate`, { templates });

function templateOf(name: string) {
  const template = makeTemplate({ entity: "todo", fields: [{ name, encoding: "string" }] }, writer);
  if (template === null) throw new Error("the template is valid");
  return template;
}

/** Commits to the database, then appends what changed. */
async function save(next: Todo): Promise<void> {
  const old = db.query<Todo, [number]>("SELECT * FROM todo WHERE id = ?").get(next.id);
  db.query("INSERT OR REPLACE INTO todo VALUES (?, ?, ?, ?)").run(next.id, next.userId, next.status, next.title);
  const change = {
    type: "todo",
    key: String(next.id),
    value: next,
    ...(old === null ? {} : { old_value: old }),
    headers: { operation: old === null ? "insert" : "update" },
  };
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(stream, { method: "POST", headers, body: JSON.stringify(change) });
  if (response.status !== 204) throw new Error(`append: ${response.status} ${await response.text()}`);
}

const listOf = (user: string): string[] =>
  db
    .query<{ title: string }, [string]>("SELECT title FROM todo WHERE userId = ? ORDER BY id")
    .all(user)
    .map(({ title }) => title);
const countOpen = (): number =>
  db.query<{ n: number }, [string]>("SELECT count(*) AS n FROM todo WHERE status = ?").get("open")?.n ?? 0;

const shown = { list: [] as string[], open: 0, listRuns: 0, countRuns: 0 };
const stop = new AbortController();
const queries = [
  follow(
    stream,
    {
      keys: [formatKey(writer.watch(byUser.idWords, ["ann"]))],
      templateIds: [byUser.id],
      run() {
        shown.list = listOf("ann");
        shown.listRuns++;
        console.log("list of ann:", shown.list.join(", ") || "(empty)");
      },
    },
    stop.signal,
  ),
  follow(
    stream,
    {
      // Editing an open to-do does not change how many there are: only membership counts.
      keys: [formatKey(writer.membership(byStatus.idWords, ["open"]))],
      templateIds: [byStatus.id],
      run() {
        shown.open = countOpen();
        shown.countRuns++;
        console.log("open:", shown.open);
      },
    },
    stop.signal,
  ),
];

await Bun.sleep(300);
await save({ id: 1, userId: "ann", status: "open", title: "tea" });
await save({ id: 2, userId: "bob", status: "open", title: "milk" });
await Bun.sleep(200);
await save({ id: 2, userId: "bob", status: "open", title: "oat milk" });
await Bun.sleep(200);
await save({ id: 2, userId: "ann", status: "done", title: "oat milk" });
await Bun.sleep(300);
stop.abort();
await Promise.all(queries);

const same = JSON.stringify([shown.list, shown.open]) === JSON.stringify([listOf("ann"), countOpen()]);
console.log(`list ran ${shown.listRuns} times, count ran ${shown.countRuns} times, ${same ? "both right" : "WRONG"}`);
process.exitCode = same ? 0 : 1;
