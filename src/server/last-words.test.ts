/** A process that must not go on says why and dies by SIGKILL, whichever way it comes to that. */

import { expect, test } from "bun:test";

const MODULE = new URL("./last-words.ts", import.meta.url).pathname;

test.each([
  ["dies.dieWithLastWords('the disk is gone', new Error('EIO'));", ["the disk is gone", "EIO"]],
  ["dies.dieOnDefects(); setTimeout(() => { throw new Error('nobody caught'); });", ["exception", "nobody caught"]],
  ["dies.dieOnDefects(); Promise.reject(new Error('nobody awaited'));", ["rejected promise", "nobody awaited"]],
])("%s", async (script, words) => {
  const source = `const dies = await import(${JSON.stringify(MODULE)}); process.on("exit", () => console.log("exit"));`;
  const child = Bun.spawn([process.execPath, "--eval", `${source} ${script} setInterval(() => {}, 1000);`], {
    stdout: "pipe",
    stderr: "pipe",
    timeout: 10_000,
  });
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  await child.exited;
  expect(child.signalCode).toBe("SIGKILL");
  expect(stdout).toBe("");
  for (const word of words) expect(stderr).toContain(word);
});
