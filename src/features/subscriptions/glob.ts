/**
 * Patterns over stream names: `*` is one segment, `**` any number of them, everything else is literal (`%2A` a star). Many patterns
 * are kept in a tree by segment, so that a name is matched in the time of its own length, not of the number of patterns.
 */

import { MAX_DEEP_WILDCARDS, MAX_PATTERN_SEGMENTS } from "./limits.ts";

const ONE = Symbol("*");
const ANY = Symbol("**");
type Segment = string | typeof ONE | typeof ANY;

export interface Pattern {
  readonly segments: readonly Segment[];
  /** What every name that matches begins with. */
  readonly prefix: string;
}

/** The pattern, or why it is none. */
export function parsePattern(text: string): Pattern | string {
  const parts = text.split("/");
  if (parts.length > MAX_PATTERN_SEGMENTS) return `a pattern has at most ${MAX_PATTERN_SEGMENTS} segments`;
  if (parts.includes("")) return "a pattern has no empty segment";
  if (parts.some((part) => part.includes("*") && part !== "*" && part !== "**"))
    return "a * stands for a whole segment, ** for any number of them; %2A is a star";
  const segments = parts.map((part) => (part === "*" ? ONE : part === "**" ? ANY : part.replaceAll(/%2a/gi, "*")));
  if (segments.filter((segment) => segment === ANY).length > MAX_DEEP_WILDCARDS)
    return `a pattern has at most ${MAX_DEEP_WILDCARDS} times **`;
  const first = segments.findIndex((segment) => typeof segment === "symbol");
  const literal = segments.slice(0, first < 0 ? segments.length : first).filter((part) => typeof part === "string");
  // `a/**` matches `a` too.
  const prefix = literal.join("/") + (literal.length > 0 && segments[first] === ONE ? "/" : "");
  return { segments, prefix };
}

class Node<T> {
  readonly literals = new Map<string, Node<T>>();
  one: Node<T> | null = null;
  /** After `**`: stays here for any number of segments. */
  any: Node<T> | null = null;
  readonly values = new Set<T>();

  get isEmpty(): boolean {
    return this.values.size === 0 && this.literals.size === 0 && this.one === null && this.any === null;
  }
}

export class PatternTree<T> {
  readonly #root = new Node<T>();

  add({ segments }: Pattern, value: T): void {
    let node = this.#root;
    for (const segment of segments) node = childOf(node, segment);
    node.values.add(value);
  }

  remove({ segments }: Pattern, value: T): void {
    removeFrom(this.#root, segments, value);
  }

  /** The values of all patterns that match. */
  match(name: string): Set<T> {
    const found = new Set<T>();
    const segments = name.split("/");
    // A node that is reached twice at one place need not be walked twice.
    let level = new Set<Node<T>>();
    reach(this.#root, level);
    for (const segment of segments) {
      const next = new Set<Node<T>>();
      for (const node of level) {
        const literal = node.literals.get(segment);
        if (literal !== undefined) reach(literal, next);
        if (node.one !== null) reach(node.one, next);
        if (isDeep.has(node)) next.add(node);
      }
      level = next;
    }
    for (const node of level) for (const value of node.values) found.add(value);
    return found;
  }
}

/** Nodes behind a `**`, which take further segments and stay where they are. */
const isDeep = new WeakSet<object>();

/** Stands at a node, and behind the `**` that may be empty. */
function reach<T>(node: Node<T>, into: Set<Node<T>>): void {
  into.add(node);
  if (node.any !== null) reach(node.any, into);
}

function childOf<T>(node: Node<T>, segment: Segment): Node<T> {
  if (segment === ONE) return (node.one ??= new Node<T>());
  if (segment === ANY) {
    if (node.any === null) {
      node.any = new Node<T>();
      isDeep.add(node.any);
    }
    return node.any;
  }
  let child = node.literals.get(segment);
  if (child === undefined) node.literals.set(segment, (child = new Node<T>()));
  return child;
}

function removeFrom<T>(node: Node<T>, segments: readonly Segment[], value: T): void {
  const [segment, ...rest] = segments;
  if (segment === undefined) {
    node.values.delete(value);
    return;
  }
  const child = segment === ONE ? node.one : segment === ANY ? node.any : node.literals.get(segment);
  if (child === null || child === undefined) return;
  removeFrom(child, rest, value);
  if (!child.isEmpty) return;
  if (segment === ONE) node.one = null;
  else if (segment === ANY) node.any = null;
  else node.literals.delete(segment);
}
