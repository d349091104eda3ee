/**
 * "Did you mean …?" for misspelled names: the closest known one by edit distance, if it is close at all. Pure.
 */

/** Up to three letters may be wrong, and at most half of them. */
export function nearestName(name: string, known: readonly string[]): string | null {
  let nearest: string | null = null;
  let distance = Math.min(3, Math.floor(name.length / 2)) + 1;
  for (const candidate of known) {
    const edits = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (edits < distance) [nearest, distance] = [candidate, edits];
  }
  return nearest;
}

/** Levenshtein distance, one row at a time. Cost: the product of the lengths. */
function editDistance(left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let i = 1; i <= left.length; i++) {
    const next = [i];
    for (let j = 1; j <= right.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (left[i - 1] === right[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[right.length] ?? 0;
}
