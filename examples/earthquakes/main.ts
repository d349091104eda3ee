/** Plays the earthquakes into a running stream server, and serves the page that shows them. See README.md. */

import { parseArgs } from "node:util";
import { makeStream, play, readQuakes, timeline } from "./play.ts";
import { servePage } from "./serve.ts";

const HOUR_MS = 3_600_000;
const SERVER = "http://127.0.0.1:4437";

const { values } = parseArgs({
  options: {
    url: { type: "string", default: process.env["STREAM_URL"] ?? SERVER },
    rate: { type: "string", default: "3600" },
    window: { type: "string", default: "48" },
    stream: { type: "string", default: "earthquakes" },
    port: { type: "string", default: "8080" },
  },
});
const { url, stream } = values;

const changes = timeline(await readQuakes(), Number(values.window) * HOUR_MS);
await makeStream(`${url}/v1/stream/${stream}`);
const page = servePage(Number(values.port));
console.log(`map: ${page.url.origin}/?${new URLSearchParams({ server: url, stream })}`);
await play(`${url}/v1/stream/${stream}`, changes, { rate: Number(values.rate) });
console.log(`played ${changes.length} changes; the map is served until Ctrl-C`);
