/**
 * What a caller may do, and to which streams: `read:orders/*` and the like. The same words in keys, in tokens, and in signed URLs.
 * A scope says nothing about another: who may append may not read. Pure.
 */

/** `read`: records and metadata. `append`: records, events. `manage`: create, delete, fork, configure. */
export const SCOPES = ["read", "append", "manage"] as const;
export type Scope = (typeof SCOPES)[number];

/** Stands for all three in text. */
const ALL = "all";

export interface Grant {
  readonly scope: Scope | typeof ALL;
  /** A name, or what names begin with. */
  readonly name: string;
  readonly isPrefix: boolean;
}

/** Grammar: `<scope>`, `<scope>:<name>` or `<scope>:<prefix>*`; without a name it is for every stream. Null when it is none. */
export function parseGrant(text: string): Grant | null {
  const colon = text.indexOf(":");
  const word = colon === -1 ? text : text.slice(0, colon);
  const scope = word === ALL ? word : SCOPES.find((known) => known === word);
  const names = colon === -1 ? "*" : text.slice(colon + 1);
  if (scope === undefined || names === "") return null;
  const isPrefix = names.endsWith("*");
  return { scope, name: isPrefix ? names.slice(0, -1) : names, isPrefix };
}

export function formatGrant({ scope, name, isPrefix }: Grant): string {
  return `${scope}:${name}${isPrefix ? "*" : ""}`;
}

/** Every scope over every stream. */
export const EVERYTHING: readonly Grant[] = [{ scope: ALL, name: "", isPrefix: true }];

/** Whether one of the grants gives `scope` over this stream. */
export function allows(grants: readonly Grant[], scope: Scope, stream: string): boolean {
  return grants.some(
    (grant) => isFor(grant, scope) && (grant.isPrefix ? stream.startsWith(grant.name) : stream === grant.name),
  );
}

/** Whether one of the grants gives `scope` over every stream whose name begins with `prefix`. */
export function allowsEvery(grants: readonly Grant[], scope: Scope, prefix: string): boolean {
  return grants.some((grant) => isFor(grant, scope) && grant.isPrefix && prefix.startsWith(grant.name));
}

/** Whether what `wanted` gives is given by `grants` already. */
export function covers(grants: readonly Grant[], wanted: Grant): boolean {
  const scopes = wanted.scope === ALL ? SCOPES : [wanted.scope];
  return scopes.every((scope) =>
    wanted.isPrefix ? allowsEvery(grants, scope, wanted.name) : allows(grants, scope, wanted.name),
  );
}

function isFor(grant: Grant, scope: Scope): boolean {
  return grant.scope === scope || grant.scope === ALL;
}
