/** From the command line and the environment to subscriptions, as `target.ts` does for streams. */

import { connectSubscriptions, type SubscriptionClient, type SubscriptionHandle } from "../client/subscriptions.ts";
import { UsageError } from "./failure.ts";
import { type ClientFlags, serverFor } from "./target.ts";

export function subscriptionsFor(flags: ClientFlags): SubscriptionClient {
  return connectSubscriptions(serverFor(flags));
}

/** The subscription that an argument names. */
export function subscriptionFor(id: string, flags: ClientFlags): SubscriptionHandle {
  const subscriptions = subscriptionsFor(flags);
  try {
    return subscriptions.subscription(id);
  } catch (cause) {
    throw cause instanceof TypeError ? new UsageError(cause.message) : cause;
  }
}

/** For options that may be given more than once. */
export function collect(value: string, earlier: readonly string[] | undefined): string[] {
  return [...(earlier ?? []), value];
}
