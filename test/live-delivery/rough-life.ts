/**
 * What happens to a reader in a random run: a seeded script of pauses, cuts and reconnects for as long as records are written. The
 * first thing in a script depends on the reader's number, so that each mode is paused and cut in every run.
 */

import type { SeededRandom } from "../support/random.ts";
import { DeliveryLog } from "./delivery-log.ts";
import { type Following, type Mode, type Overflow } from "./conversation.ts";
import { LiveReader, type Treatment } from "./live-reader.ts";
import {
  ALL,
  batchSize,
  BY_BOTH,
  BY_FILTER,
  BY_KEY,
  type Format,
  isSometimesLarge,
  type Wanted,
  type WrittenStream,
} from "./written-stream.ts";

const MAX_PAUSE_MS = 3000;
const MAX_READ_MS = 500;
const MAX_AWAY_MS = 300;
const MAX_BYTES_BEFORE_CUT = 400_000;
/** So much has come to everyone long before the end. */
const FIRST_CUT_BYTES = 2000;

const READERS: readonly (readonly [Mode, count: number])[] = [
  ["long-poll", 3],
  ["sse", 5],
  ["sse-last-event-id", 4],
  ["websocket", 5],
];
const OVERFLOWS: readonly Overflow[] = ["resume", "drop-oldest", "disconnect", "drop-oldest"];
const OF_JSON: readonly Wanted[] = [ALL, ALL, ALL, BY_KEY, BY_FILTER, BY_BOTH];
const OF_OTHERS: readonly Wanted[] = [ALL, ALL, ALL, BY_KEY];

/** Readers of every mode; half of the streams that they follow are the first one. */
export function roughReaders(
  server: { readonly url: string },
  streams: readonly [WrittenStream, ...WrittenStream[]],
  random: SeededRandom,
): LiveReader[] {
  const follow = (at: number): Following => {
    const written = streams[random.below(2) * random.below(streams.length)] ?? streams[0];
    const choices = written.format === "json" ? OF_JSON : OF_OTHERS;
    return {
      id: `${written.format} ${at}`,
      written,
      wanted: choices[random.below(choices.length)] ?? ALL,
      overflow: OVERFLOWS[random.below(OVERFLOWS.length)] ?? "resume",
      log: new DeliveryLog(),
    };
  };
  return READERS.flatMap(([mode, count]) =>
    Array.from({ length: count }, (_, index) => {
      const subscriptions = mode === "websocket" ? 1 + index : 1;
      const followings = Array.from({ length: subscriptions }, (_, at) => follow(at));
      const [first] = followings;
      // The same stream twice on one socket, at two speeds of forgetting.
      if (mode === "websocket" && index === 1 && first !== undefined)
        followings[1] = { ...first, id: "again", overflow: "resume", log: new DeliveryLog() };
      return new LiveReader(server, mode, followings);
    }),
  );
}

/** Lives one script until `isOver`; `over` wakes it from what it waits for. */
export async function roughLife(
  reader: LiveReader,
  number: number,
  random: SeededRandom,
  over: Promise<void>,
  isOver: () => boolean,
): Promise<void> {
  const wait = (maxMs: number): Promise<void> => Promise.race([Bun.sleep(random.below(maxMs)), over]);
  const renewSome = (): void => {
    for (const following of reader.followings) if (random.below(2) === 0) reader.renew(following);
  };
  for (let step = 0; !isOver(); step++) {
    reader.connect();
    const action = step === 0 ? (number % 2) * 5 : random.below(10);
    if (action < 5) {
      // Not from the start: a reader that had caught up is another one.
      await wait(MAX_READ_MS);
      reader.pause();
      if (random.below(3) === 0) renewSome();
      await wait(MAX_PAUSE_MS);
      if (random.below(3) === 0) reader.cut();
      else reader.resume();
    } else if (action < 7) {
      const within = step === 0 ? FIRST_CUT_BYTES : 1 + random.below(MAX_BYTES_BEFORE_CUT);
      reader.cutAfter(1 + random.below(within));
      await wait(MAX_READ_MS);
    } else if (action === 7) {
      reader.cut();
      await wait(MAX_AWAY_MS);
    } else if (action === 8) {
      renewSome();
      await wait(MAX_READ_MS);
    } else await wait(MAX_READ_MS);
  }
}

/** Bytes that one writer appends in large records; what comes then is small. */
const LARGE_BUDGET_BYTES: Readonly<Record<Format, number>> = { json: 12e6, text: 5e6, bytes: 3e6 };
const BURST_BYTES = 1.5e6;

/** Appends in its own pace: mostly a few records, now and then a burst that no buffer below a reader takes. */
export async function write(written: WrittenStream, random: SeededRandom, isOver: () => boolean): Promise<void> {
  const { format } = written;
  const mayBeLarge = (): boolean => written.bytes() < 2 * LARGE_BUDGET_BYTES[format];
  while (!isOver()) {
    if (mayBeLarge() && random.below(12) === 0) {
      const end = written.bytes() + BURST_BYTES;
      while (written.bytes() < end) await written.append(random, batchSize(format, random, 30), () => true);
    } else await written.append(random, batchSize(format, random, 20), mayBeLarge() ? isSometimesLarge : () => false);
    await Bun.sleep(random.below(12));
  }
}

/** One line that shows what was done to whom, and what came of it. */
export function summary(readers: readonly LiveReader[]): string {
  return READERS.map(([mode]) => {
    const ofMode = readers.filter((reader) => reader.mode === mode);
    const sum = (of: (reader: LiveReader) => number): number => ofMode.reduce((total, reader) => total + of(reader), 0);
    const done = (what: keyof Treatment): number => sum(({ treatment }) => treatment[what]);
    const logged = (kind: "gap" | "lagged"): number =>
      sum(({ followings }) => followings.reduce((total, { log }) => total + log.count(kind), 0));
    return (
      `${mode}: ${ofMode.length} readers of ${sum(({ followings }) => followings.length)}, ` +
      `${done("connections")} connections, paused ${done("pauses")}, ` +
      `cut ${done("cuts")} + ${done("cutsInside")} inside + ${done("cutsWhilePaused")} paused, ` +
      `renewed ${done("renewals")}, ended ${done("ended")}, ` +
      `${logged("gap")} gaps, ${logged("lagged")} lagged, ${(done("receivedBytes") / 1e6).toFixed(0)} MB`
    );
  }).join("\n  ");
}
