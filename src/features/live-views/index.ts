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
  const kept = new KeptRows(store, parts.engine.clock, parts.onFault);
  const views = new LiveViews({ ...parts, kept });
  return { views, routes: viewRoutes(views, newId) };
}
