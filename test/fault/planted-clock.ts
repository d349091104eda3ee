/**
 * Preloaded into a server by a test (`BUN_OPTIONS=--preload=…`): on SIGUSR2 the wall clock of the process jumps by
 * `PLANTED_JUMP_MS`, as if the machine's had been set; monotonic time and timers go on.
 */

const machineNow = Date.now.bind(Date);
let jumpedMs = 0;
Date.now = () => machineNow() + jumpedMs;

process.on("SIGUSR2", () => {
  jumpedMs += Number(process.env["PLANTED_JUMP_MS"] ?? 0);
});
