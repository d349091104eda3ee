/** Serves the page: its files, and the world from vega-datasets. */

const FILES: Readonly<Record<string, string>> = {
  "/": "page.html",
  "/page.js": "page.js",
  "/live-view.js": "live-view.js",
  "/land.js": "land.js",
  "/world.json": "../../node_modules/vega-datasets/data/world-110m.json",
};

/** Port 0 takes a free one. */
export function servePage(port: number) {
  return Bun.serve({
    hostname: "127.0.0.1",
    port,
    fetch({ url }) {
      const file = FILES[new URL(url).pathname];
      if (file === undefined) return new Response("not found", { status: 404 });
      return new Response(Bun.file(new URL(file, import.meta.url)));
    },
  });
}
