/**
 * Sums of many small oddities, for changes that no single window shows (CUSUM, Page 1954): of the level, upwards and downwards, and of
 * the variance, upwards and downwards. A sum grows while the windows say "changed" and falls back to 0 while they do not.
 */

import { clamp } from "./normal-scores.ts";

/** Of a score, what a quiet series may have. Shifts of more than that are found; the most one window adds is the clip less this. */
const LEVEL_SLACK = 0.75;
const SCORE_CLIP = 4;
/** Log-likelihood ratios of so many times the usual variance against it: a change that is told, and one that shows the scale wrong. */
const WIDER = 2;
const NARROWER = 1 / 4;
const SQUARE_CLIP = 9;
/** The usual mean square: 1 for normal values, others have their own, but no less once the scale is right. */
const USUAL = { least: 0.5, prior: 100, memory: 1000 };

const logRatio = (square: number, variance: number): number => (square * (1 - 1 / variance) - Math.log(variance)) / 2;

export class ChangeSums {
  up = 0;
  down = 0;
  wide = 0;
  narrow = 0;
  #usualSquare = 1;
  #weight = USUAL.prior;

  /** A window's normal score, and its deviation in which the tails are as they were. */
  add(score: number, deviation: number): void {
    const clipped = clamp(score, SCORE_CLIP);
    this.up = Math.max(0, this.up + clipped - LEVEL_SLACK);
    this.down = Math.max(0, this.down - clipped - LEVEL_SLACK);
    const square = Math.min(deviation * deviation, SQUARE_CLIP);
    const ratio = Math.min(square / this.#usualSquare, SQUARE_CLIP);
    this.wide = Math.max(0, this.wide + logRatio(ratio, WIDER));
    this.narrow = Math.max(0, this.narrow + logRatio(square, NARROWER));
    this.#usualSquare = Math.max(USUAL.least, this.#usualSquare + (square - this.#usualSquare) / this.#weight);
    if (this.#weight < USUAL.memory) this.#weight++;
  }

  clear(): void {
    this.up = this.down = this.wide = this.narrow = 0;
  }
}
