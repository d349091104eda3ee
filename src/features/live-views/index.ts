/** Live views: filtered, ordered results over a State Protocol stream, kept up to date. */

import { KeptRows, type RowStore } from "./kept-rows.ts";
import { LiveViews, type LiveViewsParts } from "./live-views.ts";
import { viewRoutes } from "./routes.ts";

export interface LiveViewsOptions extends Omit<LiveViewsParts, "kept"> {
  /** Where rows are kept between starts; null = nowhere. */
  readonly store: RowStore | null;
  /** An id that nobody can guess. */
  readonly newId: () => string;
}

export function createLiveViews({ newId, store, ...parts }: LiveViewsOptions) {
  const { engine, onFault } = parts;
  const kept = new KeptRows(store, engine.clock, onFault);
  const views = new LiveViews({ ...parts, kept });
  kept
    .prune(async (stream) => (await engine.byId(stream)) !== undefined)
    .catch((cause: unknown) => onFault("forgetting rows of deleted streams", cause));
  return { views, routes: viewRoutes(views, newId) };
}
