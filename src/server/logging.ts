/**
 * Where log lines go: stderr, as text on a terminal and as JSON lines elsewhere. stdout belongs to the banner.
 * A reader of stderr that stalls costs lines, counted, never memory.
 */

import {
  configureSync,
  getJsonLinesFormatter,
  getTextFormatter,
  type LogLevel,
  type LogRecord,
} from "@logtape/logtape";

/** Lines wait for a slow stderr up to here; then they are dropped. */
const MAX_PENDING_BYTES = 1024 * 1024;

export function configureLogging(lowestLevel: LogLevel): void {
  const format = process.stderr.isTTY
    ? getTextFormatter({ timestamp: "time", value: "bare" })
    : getJsonLinesFormatter();
  let dropped = 0;
  const stderr = (record: LogRecord): void => {
    if (process.stderr.writableLength > MAX_PENDING_BYTES) {
      dropped++;
      return;
    }
    if (dropped > 0) process.stderr.write(`streams-server: ${dropped} log lines dropped, stderr is not being read\n`);
    dropped = 0;
    process.stderr.write(format(record));
  };
  configureSync({
    sinks: { stderr },
    loggers: [
      { category: "streams", sinks: ["stderr"], lowestLevel },
      { category: ["logtape", "meta"], sinks: ["stderr"], lowestLevel: "warning" },
    ],
  });
}
