/**
 * What a house rule is: a pure check over files, with samples that show it can fail and that it spares look-alikes.
 * A rule without a violating sample does not compile.
 */

import { lineAt, scan, type SourceFile } from "./source-text.ts";

export interface RuleParts {
  /** One line per violation, beginning with `path:line`; empty when the rule holds. */
  readonly check: (files: readonly SourceFile[]) => string[];
  readonly violating: readonly [readonly SourceFile[], ...(readonly SourceFile[])[]];
  readonly fine?: readonly (readonly SourceFile[])[];
}

export interface Rule extends RuleParts {
  readonly name: string;
}

export function rule(name: string, parts: RuleParts): Rule {
  return { name, ...parts };
}

export const isTypeScript = (path: string): boolean => path.endsWith(".ts");
export const isTest = (path: string): boolean => /\.(test|suite)\.ts$/.test(path);

/** TypeScript under `src/`, unit tests included. */
export function sourceFiles(files: readonly SourceFile[]): SourceFile[] {
  return files.filter(({ path }) => path.startsWith("src/") && isTypeScript(path));
}

/** `path:line what` for every match in the code, where words in comments and strings do not count. */
export function matchesInCode(file: SourceFile, pattern: RegExp, what: string): string[] {
  return [...scan(file.text).code.matchAll(pattern)].map(
    (match) => `${file.path}:${lineAt(file.text, match.index)} ${what}: ${match[0].trim()}`,
  );
}
