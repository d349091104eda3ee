/**
 * The filter language: which JSON records a read, a live connection or a view wants. Text in, an expression out, and from the
 * expression a predicate. Pure; no regular expressions, no code, bounded in length, depth and terms.
 *
 *   expression = all { "or" all }             all = one { "and" one }
 *   one        = "not" one | "(" expression ")" | has(path) | prefix(path, "text") | path in (literal, …)
 *              | path ( = != < <= > >= ) literal
 *   path       = name { "." name | [number] }   a name that is no word is quoted: "content-type"
 *   literal    = a JSON string, number, true, false or null
 *
 * A comparison holds only between values of one type, numbers by value, text by code unit; `<` and its kin only for numbers and
 * text. On a field that is missing every comparison is false, `!=` too: say `not (a = 1)` or `has(a)` for what is meant.
 */

/** Bounds of one filter: what an URL carries easily, and a predicate of at most about 2 µs. */
export const MAX_FILTER_CHARS = 2_048;
const MAX_TERMS = 64;
const MAX_DEPTH = 32;
const MAX_PATH = 16;

export type FilterLiteral = string | number | boolean | null;
export type FilterPath = readonly (string | number)[];
export type Comparison = "=" | "!=" | "<" | "<=" | ">" | ">=";

export type FilterExpression =
  | { readonly kind: "and" | "or"; readonly terms: readonly FilterExpression[] }
  | { readonly kind: "not"; readonly term: FilterExpression }
  | { readonly kind: "has"; readonly path: FilterPath }
  | { readonly kind: "prefix"; readonly path: FilterPath; readonly text: string }
  | { readonly kind: "in"; readonly path: FilterPath; readonly values: readonly FilterLiteral[] }
  | { readonly kind: "compare"; readonly path: FilterPath; readonly op: Comparison; readonly value: FilterLiteral };

export interface Filter {
  readonly text: string;
  readonly expression: FilterExpression;
  /** Whether a parsed record is wanted. Never throws. */
  matches(value: unknown): boolean;
}

export type FilterResult =
  | { readonly ok: true; readonly filter: Filter }
  | { readonly ok: false; readonly reason: string };

export function parseFilter(text: string): FilterResult {
  if (text.length > MAX_FILTER_CHARS)
    return { ok: false, reason: `a filter has at most ${MAX_FILTER_CHARS} characters` };
  try {
    const expression = new Parser(text).parse();
    return { ok: true, filter: { text, expression, matches: compile(expression) } };
  } catch (cause) {
    if (cause instanceof FilterSyntax) return { ok: false, reason: cause.message };
    throw cause;
  }
}

/** A path as it is written in a filter, or why it is none. */
export function parsePath(text: string): FilterPath | string {
  const parsed = parseFilter(`has(${text})`);
  if (!parsed.ok) return `'${text}' is no path of a field`;
  const { expression } = parsed.filter;
  // `a) or has(b` would be a filter, but no path.
  return expression.kind === "has" ? expression.path : `'${text}' is no path of a field`;
}

class FilterSyntax extends Error {}

interface Token {
  readonly kind: "word" | "text" | "number" | "mark" | "end";
  /** Of a text: its value. */
  readonly text: string;
  readonly at: number;
}

const SPACE = /[ \t\r\n]*/y;
const WORD = /[\p{L}_$][\p{L}\p{N}_$]*/uy;
// A JSON text: the controls are what it must not hold.
// oxlint-disable-next-line no-control-regex
const TEXT = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const MARK = /!=|<=|>=|[=<>().,[\]]/y;
const OPERATORS: readonly string[] = ["=", "!=", "<", "<=", ">", ">="];

class Parser {
  readonly #source: string;
  #at = 0;
  #token: Token;
  #terms = 0;
  #depth = 0;

  constructor(source: string) {
    this.#source = source;
    this.#token = this.#read();
  }

  parse(): FilterExpression {
    const expression = this.#expression();
    if (this.#token.kind !== "end") this.#fail("expected 'and', 'or' or the end");
    return expression;
  }

  #expression(): FilterExpression {
    if (++this.#depth > MAX_DEPTH) this.#fail(`a filter is nested at most ${MAX_DEPTH} deep`);
    const expression = this.#chain("or", () => this.#chain("and", () => this.#one()));
    this.#depth--;
    return expression;
  }

  #chain(kind: "and" | "or", next: () => FilterExpression): FilterExpression {
    const first = next();
    if (!this.#isWord(kind)) return first;
    const terms = [first];
    while (this.#isWord(kind)) {
      this.#take();
      terms.push(next());
    }
    return { kind, terms };
  }

  #one(): FilterExpression {
    if (++this.#terms > MAX_TERMS) this.#fail(`a filter has at most ${MAX_TERMS} terms`);
    if (this.#isWord("not")) {
      this.#take();
      if (++this.#depth > MAX_DEPTH) this.#fail(`a filter is nested at most ${MAX_DEPTH} deep`);
      const term = this.#one();
      this.#depth--;
      return { kind: "not", term };
    }
    if (this.#isMark("(")) {
      this.#take();
      const expression = this.#expression();
      this.#expect(")");
      return expression;
    }
    const name = this.#token;
    const path = this.#path();
    // `has` and `prefix` are fields like any other unless a bracket follows.
    if (name.kind === "word" && path.length === 1 && this.#isMark("(")) {
      if (name.text === "has") return this.#has();
      if (name.text === "prefix") return this.#prefix();
    }
    return this.#comparison(path);
  }

  #has(): FilterExpression {
    this.#expect("(");
    const path = this.#path();
    this.#expect(")");
    return { kind: "has", path };
  }

  #prefix(): FilterExpression {
    this.#expect("(");
    const path = this.#path();
    this.#expect(",");
    const text = this.#token.kind === "text" ? this.#take().text : this.#fail("expected a text in double quotes");
    this.#expect(")");
    return { kind: "prefix", path, text };
  }

  #comparison(path: FilterPath): FilterExpression {
    if (this.#isWord("in")) {
      this.#take();
      this.#expect("(");
      const values = [this.#literal()];
      while (this.#isMark(",")) {
        this.#take();
        if (++this.#terms > MAX_TERMS) this.#fail(`a filter has at most ${MAX_TERMS} terms`);
        values.push(this.#literal());
      }
      this.#expect(")");
      return { kind: "in", path, values };
    }
    if (this.#token.kind !== "mark" || !OPERATORS.includes(this.#token.text)) {
      this.#fail("expected one of = != < <= > >= or 'in'");
    }
    const op = this.#take().text as Comparison;
    const at = this.#token;
    const value = this.#literal();
    if (op !== "=" && op !== "!=" && typeof value !== "string" && typeof value !== "number") {
      this.#fail(`${op} compares numbers and texts`, at);
    }
    return { kind: "compare", path, op, value };
  }

  #path(): FilterPath {
    const path: (string | number)[] = [this.#name()];
    for (;;) {
      if (this.#isMark(".")) {
        this.#take();
        path.push(this.#name());
      } else if (this.#isMark("[")) {
        this.#take();
        const { kind, text } = this.#token;
        if (kind !== "number" || !/^\d{1,9}$/.test(text)) this.#fail("expected the number of an element");
        path.push(Number(this.#take().text));
        this.#expect("]");
      } else return path;
      if (path.length > MAX_PATH) this.#fail(`a path has at most ${MAX_PATH} parts`);
    }
  }

  #name(): string {
    if (this.#token.kind !== "word" && this.#token.kind !== "text") this.#fail("expected the name of a field");
    return this.#take().text;
  }

  #literal(): FilterLiteral {
    const token = this.#take();
    if (token.kind === "text") return token.text;
    if (token.kind === "number") return Number(token.text);
    if (token.kind === "word" && token.text === "true") return true;
    if (token.kind === "word" && token.text === "false") return false;
    if (token.kind === "word" && token.text === "null") return null;
    return this.#fail("expected a text in double quotes, a number, true, false or null", token);
  }

  #isWord(text: string): boolean {
    return this.#token.kind === "word" && this.#token.text === text;
  }

  #isMark(text: string): boolean {
    return this.#token.kind === "mark" && this.#token.text === text;
  }

  #expect(mark: string): void {
    if (!this.#isMark(mark)) this.#fail(`expected '${mark}'`);
    this.#take();
  }

  #take(): Token {
    const token = this.#token;
    this.#token = this.#read();
    return token;
  }

  #read(): Token {
    this.#match(SPACE);
    const at = this.#at;
    if (at === this.#source.length) return { kind: "end", text: "", at };
    const text = this.#match(TEXT);
    if (text !== null) return { kind: "text", text: JSON.parse(text) as string, at };
    const word = this.#match(WORD);
    if (word !== null) return { kind: "word", text: word, at };
    const number = this.#match(NUMBER);
    if (number !== null) return { kind: "number", text: number, at };
    const mark = this.#match(MARK);
    if (mark !== null) return { kind: "mark", text: mark, at };
    throw new FilterSyntax(`filter, position ${at}: this character does not belong in a filter`);
  }

  #match(pattern: RegExp): string | null {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#source);
    if (found === null) return null;
    this.#at = pattern.lastIndex;
    return found[0];
  }

  #fail(reason: string, token = this.#token): never {
    throw new FilterSyntax(`filter, position ${token.at}: ${reason}`);
  }
}

type Predicate = (value: unknown) => boolean;

function compile(expression: FilterExpression): Predicate {
  switch (expression.kind) {
    case "and": {
      const terms = expression.terms.map(compile);
      return (value) => terms.every((term) => term(value));
    }
    case "or": {
      const terms = expression.terms.map(compile);
      return (value) => terms.some((term) => term(value));
    }
    case "not": {
      const term = compile(expression.term);
      return (value) => !term(value);
    }
    case "has":
      return (value) => fieldAt(value, expression.path) !== undefined;
    case "prefix":
      return (value) => {
        const field = fieldAt(value, expression.path);
        return typeof field === "string" && field.startsWith(expression.text);
      };
    case "in": {
      const values = new Set<unknown>(expression.values);
      return (value) => values.has(fieldAt(value, expression.path));
    }
    case "compare":
      return compare(expression.path, expression.op, expression.value);
  }
}

function compare(path: FilterPath, op: Comparison, wanted: FilterLiteral): Predicate {
  const test = COMPARE[op];
  return (value) => {
    const field = fieldAt(value, path);
    if (typeof field !== typeof wanted || (field === null) !== (wanted === null)) {
      // Of another type, and there: certainly not the same.
      return op === "!=" && field !== undefined;
    }
    // Objects and arrays equal no literal.
    if (typeof field === "object" && field !== null) return op === "!=";
    return test(field as string, wanted as string);
  };
}

/** Texts and numbers alike: both sides are of one type. */
const COMPARE: Readonly<Record<Comparison, (left: string, right: string) => boolean>> = {
  "=": (left, right) => left === right,
  "!=": (left, right) => left !== right,
  "<": (left, right) => left < right,
  "<=": (left, right) => left <= right,
  ">": (left, right) => left > right,
  ">=": (left, right) => left >= right,
};

/** What is at a path; undefined when it leads nowhere. Own properties only: a record cannot lend us anything else. */
export function fieldAt(value: unknown, path: FilterPath): unknown {
  let at: unknown = value;
  for (const part of path) {
    if (typeof at !== "object" || at === null) return undefined;
    if (typeof part === "number" ? !Array.isArray(at) : Array.isArray(at)) return undefined;
    if (!Object.hasOwn(at, part)) return undefined;
    at = (at as Record<string | number, unknown>)[part];
  }
  return at;
}
