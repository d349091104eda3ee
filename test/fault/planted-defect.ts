/**
 * Preloaded into a server by a test (`BUN_OPTIONS=--preload=…`): on SIGUSR2 it does what a forgotten `.catch` does, or throws in a
 * timer (`PLANTED_DEFECT=rejection|exception`). The server itself has no such door.
 */

const DEFECTS: Readonly<Record<string, () => void>> = {
  rejection: () => void Promise.reject(new Error("planted defect")),
  exception: () => {
    setTimeout(() => {
      throw new Error("planted defect");
    });
  },
};

process.on("SIGUSR2", () => DEFECTS[process.env["PLANTED_DEFECT"] ?? ""]?.());
