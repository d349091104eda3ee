/** Subscriptions that wake workers: webhooks and pull-wake, durable (PROTOCOL §6, §7; docs/subscriptions.md). */

import type { Engine } from "../../engine/engine.ts";
import { secretOf, secretsHome, secretsIn } from "../../engine/secrets.ts";
import { subscriptionRoutes } from "./routes.ts";
import { type KeyStore, SigningKeys } from "./signing-keys.ts";
import { Subscriptions } from "./subscriptions.ts";
import { WakeTokens } from "./wake-tokens.ts";
import type { WebhookDelivery } from "./webhook-delivery.ts";

export interface SubscriptionsOptions {
  readonly engine: Engine;
  /** Webhooks to this machine are allowed: for development. */
  readonly allowLocal: boolean;
  /** An id that nobody can guess, and so many random bytes. */
  readonly newId: () => string;
  readonly randomBytes: (count: number) => Uint8Array;
  readonly onFault: (operation: string, cause: unknown) => void;
}

const SECRET = "secret";
const KEY = "key/";

/** Finds what the log has of them. Awaited before the first request. */
export async function createSubscriptions(options: SubscriptionsOptions) {
  const { engine, allowLocal, newId, randomBytes, onFault } = options;
  const { clock, deadlines } = engine;
  const tokens = new WakeTokens(await secretOf(engine, SECRET, randomBytes));
  const keys = new SigningKeys(keyStore(engine, await secretsHome(engine)));
  await keys.load();
  let delivery: Promise<WebhookDelivery> | null = null;
  // With the first webhook: Node's HTTP client takes longer to load than the data directory to open.
  const loadDelivery = async (): Promise<WebhookDelivery> => {
    const [{ WebhookClient }, webhooks] = await Promise.all([
      import("./webhook-client.ts"),
      import("./webhook-delivery.ts"),
    ]);
    const client = new WebhookClient({ deadlines, allowLocal });
    return new webhooks.WebhookDelivery({ client, keys, tokens, clock });
  };
  const subscriptions = new Subscriptions({
    engine,
    tokens,
    newId: () => `w_${newId()}`,
    deliver: async (...wake) => (await (delivery ??= loadDelivery())).deliver(...wake),
    onFault,
  });
  await subscriptions.load();
  return { subscriptions, reserved: subscriptionRoutes({ subscriptions, keys, allowLocal }) };
}

function keyStore(engine: Engine, home: number): KeyStore {
  const write = async (kid: string, key: string | null): Promise<void> => {
    const outcome = await engine.annotate(home, new Map([[KEY + kid, key]]));
    if (outcome.kind === "rejected") throw new Error(`a signing key was not saved: ${outcome.rejection.kind}`);
  };
  return {
    load: async () =>
      [...(await secretsIn(engine, home))].flatMap(([key, text]) => (key.startsWith(KEY) ? [text] : [])),
    add: (kid, key) => write(kid, key),
    remove: (kid) => write(kid, null),
  };
}
