/**
 * TypeScript source as text that rules can search: the same characters at the same positions, with comments and the
 * insides of strings blanked out, so that a word in a comment or a message is never mistaken for code.
 * It is a scanner, not a parser: it knows comments, strings, templates and regular expressions, and nothing else.
 */

export interface SourceFile {
  /** Relative to the repository, with `/`. */
  readonly path: string;
  readonly text: string;
}

export interface ScannedSource {
  /** Comments, string contents and regular expressions blanked. Quotes stay. Same length and lines as the text. */
  readonly code: string;
  readonly comments: readonly Span[];
  /** Contents of string literals and of the literal parts of templates. */
  readonly strings: readonly Span[];
}

export interface Span {
  readonly start: number;
  readonly text: string;
}

/** Where an import points: the text between the quotes, and the offset of the statement's quote. */
export interface ImportSite {
  readonly specifier: string;
  readonly start: number;
}

const scans = new Map<string, ScannedSource>();

/** Scans once per distinct text. */
export function scan(text: string): ScannedSource {
  let scanned = scans.get(text);
  if (scanned === undefined) scans.set(text, (scanned = new Scanner(text).run()));
  return scanned;
}

/** The line number, from 1, of an offset. */
export function lineAt(text: string, offset: number): number {
  let line = 1;
  for (let at = text.indexOf("\n"); at !== -1 && at < offset; at = text.indexOf("\n", at + 1)) line++;
  return line;
}

/** Offset just past the bracket that closes the one at `open`, in blanked code. */
export function closingOffset(code: string, open: number): number {
  let depth = 0;
  for (let at = open; at < code.length; at++) {
    if (code[at] === "{" || code[at] === "(" || code[at] === "[") depth++;
    else if (code[at] === "}" || code[at] === ")" || code[at] === "]") depth--;
    if (depth === 0) return at + 1;
  }
  return code.length;
}

/** Static, type-only, re-exporting, side-effect and dynamic imports, `import("x").T` types, and worker URLs. */
export function importsOf(text: string): ImportSite[] {
  const { code } = scan(text);
  const forms = [
    /\b(?:from|import)\s*(["'])( *)\1/g,
    /\b(?:import|require)\s*\(\s*(["'`])( *)\1/g,
    /\bnew\s+URL\s*\(\s*(["'`])( *)\1\s*,\s*import\.meta\.url/g,
  ];
  const sites: ImportSite[] = [];
  for (const form of forms) {
    for (const match of code.matchAll(form)) {
      const quote = match.index + match[0].indexOf(match[1] ?? "");
      sites.push({ specifier: text.slice(quote + 1, quote + 1 + (match[2] ?? "").length), start: quote });
    }
  }
  return sites;
}

/** Words after which a slash begins a regular expression, not a division. */
const BEFORE_REGEX =
  /(?:^|[(,=:[!&|?{};+\-*%<>~^]|\b(?:return|typeof|case|in|of|do|else|void|throw|await|yield|delete|new))$/;

class Scanner {
  readonly #text: string;
  readonly #code: string[];
  readonly #comments: Span[] = [];
  readonly #strings: Span[] = [];
  #at = 0;

  constructor(text: string) {
    this.#text = text;
    this.#code = [...Array(text.length).keys()].map((index) => text.charAt(index));
  }

  run(): ScannedSource {
    this.#codeUntil(null);
    return { code: this.#code.join(""), comments: this.#comments, strings: this.#strings };
  }

  /** Walks code up to the `}` that ends a template's expression, or to the end of the text. */
  #codeUntil(end: "}" | null): void {
    let depth = 0;
    while (this.#at < this.#text.length) {
      const char = this.#text.charAt(this.#at);
      if (end !== null && char === "}" && depth === 0) return;
      if (char === "{") depth++;
      if (char === "}") depth--;
      if (this.#text.startsWith("//", this.#at)) this.#comment("\n");
      else if (this.#text.startsWith("/*", this.#at)) this.#comment("*/");
      else if (char === '"' || char === "'") this.#string(char);
      else if (char === "`") this.#template();
      else if (char === "/" && this.#regexStarts()) this.#regex();
      else this.#at++;
    }
  }

  #comment(end: string): void {
    const found = this.#text.indexOf(end, this.#at + 2);
    const stop = found === -1 ? this.#text.length : found + (end === "\n" ? 0 : end.length);
    this.#comments.push({ start: this.#at, text: this.#text.slice(this.#at, stop) });
    this.#blank(this.#at, stop);
    this.#at = stop;
  }

  #string(quote: string): void {
    const start = ++this.#at;
    while (this.#at < this.#text.length && this.#text[this.#at] !== quote && this.#text[this.#at] !== "\n")
      this.#step();
    this.#keepString(start, this.#at++);
  }

  #template(): void {
    let start = ++this.#at;
    while (this.#at < this.#text.length && this.#text[this.#at] !== "`") {
      if (!this.#text.startsWith("${", this.#at)) {
        this.#step();
        continue;
      }
      this.#keepString(start, this.#at);
      this.#at += 2;
      this.#codeUntil("}");
      start = ++this.#at;
    }
    this.#keepString(start, this.#at++);
  }

  #regexStarts(): boolean {
    const before = this.#code.slice(Math.max(0, this.#at - 40), this.#at).join("");
    const ahead = this.#text.slice(this.#at + 1, this.#text.indexOf("\n", this.#at) >>> 0);
    return BEFORE_REGEX.test(before.trimEnd()) && ahead.includes("/");
  }

  #regex(): void {
    const start = ++this.#at;
    let inClass = false;
    while (this.#at < this.#text.length && this.#text[this.#at] !== "\n") {
      const char = this.#text[this.#at];
      if (char === "/" && !inClass) break;
      if (char === "[") inClass = true;
      if (char === "]") inClass = false;
      this.#step();
    }
    this.#blank(start, this.#at++);
  }

  /** One character, or an escape and what it escapes. */
  #step(): void {
    this.#at += this.#text[this.#at] === "\\" ? 2 : 1;
  }

  #keepString(start: number, end: number): void {
    this.#strings.push({ start, text: this.#text.slice(start, end) });
    this.#blank(start, end);
  }

  #blank(start: number, end: number): void {
    for (let at = start; at < Math.min(end, this.#text.length); at++) if (this.#text[at] !== "\n") this.#code[at] = " ";
  }
}
