/**
 * The profile port: how features give streams record rules of their own. A profile checks records at append, in the request's
 * turn; what it made of them (the digest) rides with the commit to whoever follows the feed.
 */

import type { Body } from "../protocol/append-rules.ts";
import type { BodyProblem } from "../protocol/json-scan.ts";
import type { SplitRecords } from "../protocol/json-records.ts";
import type { StreamProfile } from "../protocol/stream.ts";

export interface ProfileRules {
  readonly kind: string;
  /** Only streams of JSON records can have it. */
  readonly jsonOnly: boolean;
  /** Settings as a client sent them for a stream, without `kind`: completed by defaults, or why they are refused. */
  parse(
    settings: Readonly<Record<string, unknown>>,
    streamName: string,
  ): { readonly config: StreamProfile["config"] } | { reason: string };
  /** The records with their digest, or the first that breaks the rules. `config` is what `parse` returned. */
  check(config: StreamProfile["config"], records: SplitRecords): SplitRecords | BodyProblem;
}

export class Profiles {
  readonly #rules: ReadonlyMap<string, ProfileRules>;

  constructor(rules: readonly ProfileRules[]) {
    this.#rules = new Map(rules.map((rule) => [rule.kind, rule]));
  }

  get kinds(): readonly string[] {
    return [...this.#rules.keys()];
  }

  get(kind: string): ProfileRules | undefined {
    return this.#rules.get(kind);
  }

  /**
   * A stream may carry a profile that this server was started without: then its records are not checked. Nor are records that are no JSON,
   * when the profile is for JSON: the commit refuses their content type.
   */
  check(profile: StreamProfile | null, body: Body | null, json: boolean): Body | null {
    if (profile === null || body === null || "problem" in body) return body;
    const rules = this.#rules.get(profile.kind);
    if (rules === undefined || (rules.jsonOnly && !json)) return body;
    const checked = rules.check(profile.config, body);
    return "kind" in checked ? { problem: checked } : checked;
  }
}
