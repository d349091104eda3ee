/** What a page runs to track events: bundled for a browser by track.test.ts. */

import { connect } from "../../src/client/client.ts";

/** One event each by a tracker that sees its page end, and by one that does not. Nothing is sent yet. */
Object.assign(globalThis, {
  trackTwo: (url: string, stream: string) => {
    const handle = connect({ url }).stream(stream);
    const flushIntervalMs = 600_000;
    const trackers = {
      seen: handle.tracker({ flushIntervalMs }),
      lost: handle.tracker({ flushIntervalMs, page: null }),
    };
    for (const [commandName, tracker] of Object.entries(trackers))
      tracker.track({ type: "command", data: { commandName } });
  },
});
