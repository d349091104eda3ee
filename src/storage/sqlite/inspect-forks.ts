/**
 * Inspection of forks: what a fork says of its source, how many forks each source really has, and that no two streams share a name.
 */

import type { Database } from "bun:sqlite";
import { isJsonObject } from "../../kit/json-object.ts";
import type { StreamHead } from "../../protocol/stream.ts";
import type { Findings } from "./finding.ts";
import type { Tail } from "./inspect-commits.ts";
import { headById } from "./inspect-heads.ts";
import { RowCursor } from "./row-cursor.ts";

interface ForkCount {
  readonly stream: number;
  readonly forks: number;
}

/** Forks of each source in the order of the sources' ids, as of the last commit. SQLite sorts them, on disk if there are many. */
export function* forkCounts(db: Database, tail: Tail): Generator<ForkCount> {
  const table = new RowCursor(
    db
      .query<ForkCount, []>(
        `SELECT json_extract(head, '$.config.fork.sourceId') AS stream, count(*) AS forks FROM streams
          WHERE deletion < 2 AND CASE WHEN json_valid(head) THEN json_type(head, '$.config.fork.sourceId') END = 'integer'
          GROUP BY 1 ORDER BY 1`,
      )
      .iterate(),
    rethrow,
  );
  const later = new RowCursor(laterForks(db, tail), rethrow);
  for (;;) {
    const stream = Math.min(table.current?.stream ?? Infinity, later.current?.stream ?? Infinity);
    if (stream === Infinity) return;
    let forks = 0;
    for (const cursor of [table, later]) {
      for (const row of cursor.while((candidate) => candidate.stream === stream)) forks += row.forks;
    }
    if (forks !== 0) yield { stream, forks };
  }
}

/** Whoever walks the counts hears of it. */
function rethrow(cause: unknown): never {
  throw cause;
}

/** What the unsealed commits add to the counts of the table, and take from them. */
function laterForks(db: Database, tail: Tail): ForkCount[] {
  const changes = new Map<number, number>();
  const add = (head: StreamHead | null, amount: number): void => {
    const fork = head?.config.fork ?? null;
    if (head === null || fork === null || head.deletion === "hard") return;
    changes.set(fork.sourceId, (changes.get(fork.sourceId) ?? 0) + amount);
  };
  for (const head of tail.heads.values()) {
    add(headById(db, head.id), -1);
    add(head, 1);
  }
  return [...changes].map(([stream, forks]) => ({ stream, forks })).sort((left, right) => left.stream - right.stream);
}

/** What is wrong with a stream as a fork. */
export function forkProblems(db: Database, head: StreamHead, tail: Tail): string[] {
  const { fork, from } = head.config;
  if (fork === null || head.deletion === "hard") return [];
  const source = tail.heads.get(fork.sourceId) ?? headById(db, fork.sourceId);
  const problems: string[] = [];
  if (source === null) problems.push(`its source, stream ${fork.sourceId}, does not exist`);
  else if (source.deletion === "hard") problems.push(`its source, stream ${fork.sourceId}, is deleted for good`);
  else if (source.next < from) problems.push(`it begins at ${from}, and its source ends at ${source.next}`);
  let end = 0;
  for (const segment of fork.inherited as readonly unknown[]) {
    if (isJsonObject(segment) && segment["from"] === end && Number(segment["to"]) >= end) end = Number(segment["to"]);
    else problems.push(`what it inherits does not follow on at ${end}`);
  }
  if (end !== from) problems.push(`what it inherits ends at ${end}, and it begins at ${from}`);
  return problems;
}

/** Streams that are not deleted for good have names of their own. */
export function inspectNames(db: Database, tail: Tail, findings: Findings): void {
  findings.guard("name", "the names", () => {
    const shared = db.query<{ name: string }, []>(
      "SELECT name FROM streams INDEXED BY streams_by_name WHERE deletion < 2 GROUP BY name HAVING count(*) > 1",
    );
    const idsOf = db.query<{ id: number }, [string]>(
      "SELECT id FROM streams WHERE name = ? AND deletion < 2 ORDER BY id",
    );
    for (const { name } of shared.iterate()) {
      const ids = idsOf.all(name).map(({ id }) => id);
      const alive = ids.filter((id) => tail.heads.get(id)?.deletion !== "hard");
      if (alive.length < 2) continue;
      findings.error("name", `streams ${alive.join(" and ")} share the name '${name}'`, { stream: name });
    }
  });
}
