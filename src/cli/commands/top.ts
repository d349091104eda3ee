/**
 * `top`: how one server is doing, live: its `/metrics`, sampled and differenced, and the ticks of its metrics stream.
 * Owns the terminal while it runs, and gives it back however it ends. Keeps two samples and a bounded board, however long.
 */

import { Result } from "better-result";
import { type Command, InvalidArgumentError, Option } from "commander";
import {
  BrokenAnswer,
  type StreamClient,
  type StreamError,
  type StreamHandle,
  Unreachable,
} from "../../client/client.ts";
import { sleep } from "../../client/retry-policy.ts";
import { checkStreamName, streamPath } from "../../protocol/names.ts";
import { parseDuration } from "../../protocol/retention.ts";
import { ExpositionError, parseExposition } from "../exposition-parser.ts";
import { recordCount } from "../option-values.ts";
import { writeOut } from "../stdout.ts";
import { addClientOptions, type ClientFlags, clientFor, orFail } from "../target.ts";
import {
  figuresOf,
  fitLines,
  type Frame,
  type MetricsSample,
  type Outage,
  renderFrame,
  TouchBoard,
  touchRow,
  UNLIMITED,
} from "../top-frame.ts";

interface TopFlags extends ClientFlags {
  readonly interval: number;
  readonly count?: number;
  readonly metricsStream: string;
}

const MIN_INTERVAL_MS = 200;
const MAX_INTERVAL_MS = 60_000;
/** A server that takes longer to tell its figures counts as unreachable. */
const POLL_DEADLINE_MS = 5_000;
/** A row without news stays for a frame, or for so long: ticks come each second, never in step with frames. */
const KEEP_ROWS_MS = 3_000;
/** Between two tries to follow the metrics stream: it may be made, or come back. */
const FOLLOW_AGAIN_MS = 10_000;

export function addTop(program: Command): void {
  const command = program
    .command("top")
    .description("watch how a server is doing: rates, latencies, waiting clients, memory, touch streams")
    .addOption(
      new Option("--interval <duration>", "time between frames, 200ms to 60s")
        .argParser(frameInterval)
        .default(1_000, "1s"),
    )
    .addOption(new Option("--count <n>", "stop after so many frames").argParser(recordCount))
    .addOption(
      new Option("--metrics-stream <name>", "the stream that tells of touch streams")
        .argParser(metricsStream)
        .default("live.metrics"),
    )
    .addHelpText(
      "after",
      "\nLatencies are upper bounds of histogram buckets, over the time between two frames. Figures that the server does" +
        "\nnot tell are shown as -, and are null with --json, which prints one object per line and frame." +
        "\n\nExample:\n  $ streams-server top --interval 5s",
    );
  addClientOptions(command).action(top);
}

async function top(flags: TopFlags): Promise<void> {
  const client = clientFor(flags);
  const stream = client.stream(flags.metricsStream);
  const server = stream.url.slice(0, -streamPath(stream.name).length);
  const view = flags.json === true ? jsonView() : process.stdout.isTTY ? terminalView(server) : plainView(server);
  const stop = new AbortController();
  // Once: a second Ctrl-C ends the process even while it hangs on a reader that does not read.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
  try {
    await watch({ client, server, stream, view, signal: stop.signal }, flags);
  } catch (cause) {
    // Whatever was under way when the user had enough.
    if (!stop.signal.aborted) throw cause;
  } finally {
    stop.abort();
    view.end();
  }
}

interface Watch {
  readonly client: StreamClient;
  /** Its base URL. */
  readonly server: string;
  readonly stream: StreamHandle;
  readonly view: View;
  readonly signal: AbortSignal;
}

/** Frame after frame. Rejects with the signal's reason when it aborts. */
async function watch({ client, server, stream, view, signal }: Watch, flags: TopFlags): Promise<void> {
  const { interval, count = Infinity } = flags;
  let previous = orFail(await takeSample(client, server, signal));
  const ticks = new Ticks(Math.max(KEEP_ROWS_MS, interval));
  void ticks.follow(stream, signal);
  await view.begin(`${server}: the first frame needs two samples, ${interval / 1000} s apart`);
  let unreachableSince: string | null = null;
  for (let shown = 0; shown < count; shown++) {
    await sleep(interval, signal);
    const current = await takeSample(client, server, signal);
    const nowMs = Date.now();
    if (current.isErr()) {
      const at = new Date(nowMs).toISOString();
      unreachableSince ??= at;
      await view.show({ at, unreachable: true, unreachableSince, reason: current.error.message });
      continue;
    }
    unreachableSince = null;
    const figures = figuresOf(previous, current.value, nowMs);
    previous = current.value;
    await view.show({ ...figures, metricsStreamError: ticks.error, streams: ticks.board.take(performance.now()) });
  }
}

async function takeSample(
  client: StreamClient,
  server: string,
  signal: AbortSignal,
): Promise<Result<MetricsSample, StreamError>> {
  const url = `${server}/metrics`;
  const deadline = AbortSignal.timeout(POLL_DEADLINE_MS);
  try {
    const text = await client.metricsText(AbortSignal.any([signal, deadline]));
    if (text.isErr()) return Result.err(text.error);
    return Result.ok({ families: parseExposition(text.value), atMs: performance.now() });
  } catch (cause) {
    signal.throwIfAborted();
    if (cause instanceof ExpositionError) {
      const message = `the answer from ${url} is not in the Prometheus text format: ${cause.message}`;
      return Result.err(new BrokenAnswer({ message, hint: "the URL seems to belong to another kind of server", url }));
    }
    if (!deadline.aborted) throw cause;
    const message = `no answer from ${url} within ${POLL_DEADLINE_MS / 1000} s`;
    return Result.err(new Unreachable({ message, hint: "the server hangs, or is very busy", url, cause }));
  }
}

/** What the metrics stream tells, from now on. */
class Ticks {
  readonly board: TouchBoard;
  /** Why it is not followed; null while it is. */
  error: string | null = null;

  constructor(keepMs: number) {
    this.board = new TouchBoard(keepMs);
  }

  /** Ends when the signal aborts; never rejects. Frames go on without the stream. */
  async follow(stream: StreamHandle, signal: AbortSignal): Promise<void> {
    for (let pauseMs = 0; !signal.aborted; pauseMs = FOLLOW_AGAIN_MS) {
      try {
        await sleep(pauseMs, signal);
        for await (const { parts } of stream.follow({ offset: "now", signal })) {
          this.error = null;
          for (const part of parts) this.#take(part);
        }
        this.error = `${stream.name} is closed`;
      } catch (cause) {
        this.error = `cannot follow ${stream.name}: ${reasonOf(cause)}`;
      }
    }
  }

  #take(part: Uint8Array): void {
    const row = touchRow(JSON.parse(new TextDecoder().decode(part)));
    if (row !== null) this.board.add(row, performance.now());
  }
}

function reasonOf(cause: unknown): string {
  if (cause instanceof SyntaxError) return "its records are not JSON";
  return cause instanceof Error ? cause.message : String(cause);
}

/** Where frames go. `end` may be called at any time, once. */
interface View {
  /** Says that a frame will come, where somebody looks on. */
  begin(text: string): Promise<void>;
  show(frame: Frame | Outage): Promise<void>;
  end(): void;
}

function jsonView(): View {
  return {
    begin: () => Promise.resolve(),
    show: (frame) => writeOut(`${JSON.stringify(frame)}\n`),
    end: () => undefined,
  };
}

function plainView(server: string): View {
  let before = "";
  return {
    begin: () => Promise.resolve(),
    show: async (frame) => {
      await writeOut(`${before}${renderFrame(frame, server, UNLIMITED).join("\n")}\n`);
      before = "\n";
    },
    end: () => undefined,
  };
}

const HOME_AND_CLEAR = "\u001b[H\u001b[2J";
const HIDE_CURSOR = "\u001b[?25l";
const SHOW_CURSOR = "\u001b[?25h";
/** For a terminal that does not know its size. */
const USUAL_SIZE = { columns: 80, rows: 24 };

function terminalView(server: string): View {
  let drawn = false;
  // Asked each time: the window may have been resized.
  const size = () => ({
    columns: process.stdout.columns || USUAL_SIZE.columns,
    rows: process.stdout.rows || USUAL_SIZE.rows,
  });
  const draw = (lines: readonly string[]): Promise<void> => {
    drawn = true;
    // No line end after the last line, which would scroll.
    return writeOut(HIDE_CURSOR + HOME_AND_CLEAR + lines.join("\n"));
  };
  return {
    begin: (text) => draw(fitLines([text], size())),
    show: (frame) => draw(renderFrame(frame, server, size())),
    end: () => {
      if (drawn) process.stdout.write(`${SHOW_CURSOR}\n`);
    },
  };
}

function frameInterval(text: string): number {
  const intervalMs = parseDuration(text);
  if (intervalMs !== null && intervalMs >= MIN_INTERVAL_MS && intervalMs <= MAX_INTERVAL_MS) return intervalMs;
  throw new InvalidArgumentError("expected a duration from 200ms to 60s");
}

function metricsStream(text: string): string {
  const checked = checkStreamName(text);
  if (!checked.ok) throw new InvalidArgumentError(checked.reason);
  return checked.name;
}
