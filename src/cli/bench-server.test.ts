/** How the program starts itself again, from the sources and from the executable, and with which environment. */

import { expect, test } from "bun:test";
import { ownCommand } from "./bench-program.ts";
import { serverEnvironment } from "./bench-server.ts";

test("from the sources: Bun, its options, the script", () => {
  const program = { execPath: "/opt/bun", execArgv: ["--no-env-file"], main: "/src/cli/main.ts" };
  expect(ownCommand(program, ["serve"])).toEqual(["/opt/bun", "--no-env-file", "/src/cli/main.ts", "serve"]);
});

test.each(["/$bunfs/root/streams-server", "B:/~BUN/root/streams-server.exe"])(
  "from the executable: itself (%s)",
  (main) => {
    expect(ownCommand({ execPath: "/opt/streams-server", execArgv: [], main }, ["serve"])).toEqual([
      "/opt/streams-server",
      "serve",
    ]);
  },
);

test("settings of other servers, and credentials, are left out; the rest stays", () => {
  const env = serverEnvironment({ PATH: "/bin", STREAMS_AUTH: "jwt", STREAM_AUTH: "secret", UV_THREADPOOL_SIZE: "4" });
  expect(env).toMatchObject({ PATH: "/bin", UV_THREADPOOL_SIZE: "4", MIMALLOC_PURGE_DELAY: "1000" });
  expect(Object.keys(env).filter((name) => name.startsWith("STREAM"))).toEqual([]);
});
