/** A week of earthquakes as changes of rows, and a player that appends them to a stream, faster than they happened. */

const QUAKES = new URL("../../node_modules/vega-datasets/data/earthquakes.json", import.meta.url);
const JSON_TYPE = { "content-type": "application/json" };
/** About 200 kB: an append to such a stream may have 1 MiB. */
const MAX_BATCH = 1_000;

/** What of the file is used: GeoJSON of the USGS. */
interface Feature {
  readonly id: string;
  readonly properties: { readonly mag: number; readonly place: string; readonly time: number };
  readonly geometry: { readonly coordinates: readonly [lng: number, lat: number, depth: number] };
}

export interface Quake {
  readonly mag: number;
  readonly place: string;
  readonly time: number;
  readonly lng: number;
  readonly lat: number;
  readonly depth: number;
}

/** A State Protocol record, and when it happened. */
export interface Change {
  readonly atMs: number;
  readonly record: object;
}

/** By their ids. */
export async function readQuakes(): Promise<Map<string, Quake>> {
  const { features } = (await Bun.file(QUAKES).json()) as { readonly features: readonly Feature[] };
  const quakes = features.map(({ id, properties: { mag, place, time }, geometry }): [string, Quake] => {
    const [lng, lat, depth] = geometry.coordinates;
    return [id, { mag, place, time, lng, lat, depth }];
  });
  return new Map(quakes);
}

/** Every quake enters when it happened and leaves `windowMs` later, until the last one has entered. */
export function timeline(quakes: ReadonlyMap<string, Quake>, windowMs: number): Change[] {
  const lastMs = Math.max(...[...quakes.values()].map(({ time }) => time));
  return [...quakes]
    .flatMap(([key, value]): Change[] => [
      { atMs: value.time, record: { type: "quake", key, value, headers: { operation: "upsert" } } },
      { atMs: value.time + windowMs, record: { type: "quake", key, headers: { operation: "delete" } } },
    ])
    .filter(({ atMs }) => atMs <= lastMs)
    .toSorted((left, right) => left.atMs - right.atMs);
}

/** Makes a stream of rows, or empties the one there is. */
export async function makeStream(url: string): Promise<void> {
  await ask("PUT", url);
  await ask("POST", `${url}/_profile`, { profile: { kind: "state-protocol" } });
  await ask("POST", url, { headers: { control: "reset" } });
}

/** Appends the changes in the order of their time, `rate` times as fast, all that are due every `tickMs`. */
export async function play(
  url: string,
  changes: readonly Change[],
  { rate, tickMs = 500 }: { readonly rate: number; readonly tickMs?: number },
): Promise<void> {
  const firstMs = changes[0]?.atMs ?? 0;
  const startMs = performance.now();
  for (let played = 0; played < changes.length;) {
    await Bun.sleep(tickMs);
    const nowMs = firstMs + (performance.now() - startMs) * rate;
    const due = changes.slice(played, played + MAX_BATCH).filter(({ atMs }) => atMs <= nowMs);
    if (due.length > 0)
      await ask(
        "POST",
        url,
        due.map(({ record }) => record),
      );
    played += due.length;
  }
}

async function ask(method: string, url: string, body?: unknown): Promise<void> {
  const response = await fetch(url, {
    method,
    headers: JSON_TYPE,
    body: body === undefined ? null : JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${method} ${url}: ${response.status} ${await response.text()}`);
}
