/** Live views: filtered, ordered results over a State Protocol stream, kept up to date. */

import { LiveViews, type LiveViewsParts } from "./live-views.ts";
import { viewRoutes } from "./routes.ts";

export function createLiveViews({ newId, ...parts }: LiveViewsParts & { readonly newId: () => string }) {
  const views = new LiveViews(parts);
  return { views, routes: viewRoutes(views, newId) };
}
