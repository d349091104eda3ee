/** One wake as a signed webhook (PROTOCOL §7.1): its body, its signature, and what its answer means. Bound: webhooks under way. */

import type { Clock } from "../../kit/clock.ts";
import { utf8 } from "../../kit/bytes.ts";
import { isJsonObject } from "../../kit/json-object.ts";
import { Gate } from "../../kit/gate.ts";
import { STREAM_PREFIX } from "../../protocol/names.ts";
import { MAX_DELIVERIES, MAX_DELIVERIES_PER_HOST } from "./limits.ts";
import type { SigningKeys } from "./signing-keys.ts";
import type { Delivered, DeliveryOutcome, WebhookWake } from "./subscription-port.ts";
import type { WakeTokens } from "./wake-tokens.ts";
import { isWebhookFailure, type WebhookClient } from "./webhook-client.ts";

export interface DeliveryParts {
  readonly client: WebhookClient;
  readonly keys: SigningKeys;
  readonly tokens: WakeTokens;
  readonly clock: Clock;
}

const decoder = new TextDecoder();
/** Another wake has come, or none is wanted any more: nobody asks what came of this one. */
const overtaken: DeliveryOutcome = { kind: "taken" };

export class WebhookDelivery {
  readonly #parts: DeliveryParts;
  readonly #all = new Gate(MAX_DELIVERIES);
  /** By host: one that never answers must not hold up the others. */
  readonly #byHost = new Map<string, Gate>();

  constructor(parts: DeliveryParts) {
    this.#parts = parts;
  }

  /** Waits for its turn when too many are under way, of all or of its host. */
  async deliver(about: Delivered, wake: WebhookWake, signal: AbortSignal): Promise<DeliveryOutcome> {
    const { host } = new URL(about.record.config.webhookUrl ?? "");
    let gate = this.#byHost.get(host);
    if (gate === undefined) this.#byHost.set(host, (gate = new Gate(MAX_DELIVERIES_PER_HOST)));
    try {
      if (!(await gate.enter(signal))) return overtaken;
      try {
        return await this.#inTurn(about, wake, signal);
      } finally {
        gate.leave();
      }
    } finally {
      if (gate.isEmpty) this.#byHost.delete(host);
    }
  }

  async #inTurn(about: Delivered, wake: WebhookWake, signal: AbortSignal): Promise<DeliveryOutcome> {
    if (!(await this.#all.enter(signal))) return overtaken;
    try {
      return await this.#post(about, wake, signal);
    } finally {
      this.#all.leave();
    }
  }

  async #post(
    { id, subject, record: { config, base } }: Delivered,
    { wake, generation, streams }: WebhookWake,
    signal: AbortSignal,
  ): Promise<DeliveryOutcome> {
    const { client, keys, tokens, clock } = this.#parts;
    const nowMs = clock.nowMs();
    const body = JSON.stringify({
      subscription_id: id,
      wake_id: wake.id,
      generation,
      streams,
      callback_url: `${base}${STREAM_PREFIX}__ds/subscriptions/${encodeURIComponent(id)}/callback`,
      callback_token: tokens.mint({ subscription: subject, generation }, nowMs),
    });
    const headers = {
      "Content-Type": "application/json",
      "Webhook-Signature": await keys.signature(body, nowMs),
    };
    const outcome = await client.post(new URL(config.webhookUrl ?? ""), headers, utf8(body), signal);
    if (isWebhookFailure(outcome)) return { kind: "failed", reason: `${outcome.kind}: ${outcome.message}` };
    if (outcome.status >= 300) return { kind: "failed", reason: `the webhook answered ${outcome.status}` };
    return isDone(outcome.body) ? { kind: "done" } : { kind: "taken" };
  }
}

/** Any other answer means that the callback tells the rest. */
function isDone(body: Uint8Array): boolean {
  try {
    const answer: unknown = JSON.parse(decoder.decode(body));
    return isJsonObject(answer) && answer["done"] === true;
  } catch (cause) {
    if (cause instanceof SyntaxError) return false;
    throw cause;
  }
}
