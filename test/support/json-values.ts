/** The elements of a JSON array as the text they were written in: what "byte for byte" is measured with. */

/** Raw text of each element of the top-level array in `text`, surrounding white space left out. */
export function rawArrayValues(text: string): string[] {
  const values: string[] = [];
  let depth = 0;
  let inString = false;
  let from = text.indexOf("[") + 1;
  if (from === 0) throw new Error("not a JSON array");
  for (let at = from; at < text.length; at++) {
    const character = text[at];
    if (inString) {
      if (character === "\\") at += 1;
      else if (character === '"') inString = false;
    } else if (character === '"') inString = true;
    else if (character === "[" || character === "{") depth += 1;
    else if (character === "," && depth === 0) {
      values.push(text.slice(from, at).trim());
      from = at + 1;
    } else if (character === "]" || character === "}") {
      if (depth === 0) {
        const last = text.slice(from, at).trim();
        return last === "" ? values : [...values, last];
      }
      depth -= 1;
    }
  }
  throw new Error("the JSON array does not end");
}
