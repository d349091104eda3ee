/** The rules of a repeated create (PROTOCOL §5.1): the same configuration is success, another one a conflict. Pure. */

import { mediaType, OCTET_STREAM } from "./content-type.ts";
import { sameExpiry } from "./expiry.ts";
import type { CreateIntent } from "./intents.ts";
import { type Retention, sameRetention } from "./retention.ts";
import type { StreamConfig } from "./stream.ts";

/** What the rules compare a request with: the pending face of the stream. */
export interface ExistingStream {
  readonly config: StreamConfig;
  readonly closed: boolean;
  readonly retention: Retention;
}

/** The first part of a repeated PUT that differs from the stream it names, or null (PROTOCOL §5.1). */
export function conflictingField(existing: ExistingStream, intent: CreateIntent): string | null {
  const { config } = existing;
  const wanted = intent.fork;
  if (wanted === null) {
    if (config.fork !== null) return "Stream-Forked-From";
    if (mediaType(intent.contentType ?? OCTET_STREAM) !== mediaType(config.contentType)) return "Content-Type";
    if (!sameExpiry(intent.expiry, config.expiry)) return "Stream-TTL or Stream-Expires-At";
  } else {
    const origin = config.fork;
    if (origin === null || origin.sourceName !== wanted.sourceName) return "Stream-Forked-From";
    if (wanted.offset !== null && wanted.offset !== origin.offset) return "Stream-Fork-Offset";
    if (wanted.subOffset !== origin.subOffset) return "Stream-Fork-Sub-Offset";
    if (intent.contentType !== null && mediaType(intent.contentType) !== mediaType(config.contentType))
      return "Content-Type";
    if (intent.expiry.kind !== "never" && !sameExpiry(intent.expiry, config.expiry))
      return "Stream-TTL or Stream-Expires-At";
  }
  if (intent.close !== existing.closed) return "Stream-Closed";
  if (intent.retention !== null && !sameRetention(intent.retention, existing.retention)) return "Stream-Retention";
  return null;
}
