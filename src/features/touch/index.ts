/** Touch: live queries learn at once, and exactly, that they went stale. Switched on per stream by the state-protocol profile. */

import { type Hash32, touchRoutes } from "./routes.ts";
import { Touch, type TouchOptions } from "./touch.ts";

export type { TouchActivity } from "./activity.ts";
export type { TemplateEvent, TemplateSnapshot, TouchReport } from "./report.ts";

export function createTouch(options: TouchOptions & { readonly hash32: Hash32 }) {
  const touch = new Touch(options);
  return { touch, routes: touchRoutes(touch, options.hash32) };
}
