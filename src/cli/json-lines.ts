/**
 * JSON values as lines: each value's own bytes, with line ends inside it turned into spaces. Inside a JSON string a line
 * end is always escaped, so what is replaced is only the spacing between tokens.
 */

const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const SPACE = 0x20;

export function jsonLines(values: readonly Uint8Array[]): Uint8Array {
  const lines = new Uint8Array(values.reduce((total, value) => total + value.length + 1, 0));
  let at = 0;
  for (const value of values) {
    lines.set(value, at);
    const end = at + value.length;
    for (; at < end; at++) if (lines[at] === LINE_FEED || lines[at] === CARRIAGE_RETURN) lines[at] = SPACE;
    lines[at++] = LINE_FEED;
  }
  return lines;
}
