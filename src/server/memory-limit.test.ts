/** Where the memory limit comes from: the setting, or the tightest control group. */

import { expect, test } from "bun:test";
import { memoryLimit } from "./memory-limit.ts";

const MiB = 1024 * 1024;

function limitOf(files: Readonly<Record<string, string>>) {
  return memoryLimit(null, (path) => files[path] ?? null);
}

test("what the operator says comes first", () => {
  expect(memoryLimit(300 * MiB, () => expect.unreachable("not asked"))).toEqual({
    bytes: 300 * MiB,
    source: "setting",
  });
});

test.each([
  ["nothing is known", {}],
  ["an unlimited v2 group", { "/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/a/memory.max": "max\n" }],
  [
    "an unlimited v1 group",
    { "/proc/self/cgroup": "4:memory:/\n", "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n" },
  ],
  ["text that is no number", { "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "lots\n" }],
])("no limit: %s", (_, files) => {
  expect(limitOf(files)).toEqual({ bytes: null, source: "none" });
});

test("the tightest of a v2 group and its ancestors", () => {
  const files = {
    "/proc/self/cgroup": "0::/a/b\n",
    "/sys/fs/cgroup/a/b/memory.max": `${512 * MiB}\n`,
    "/sys/fs/cgroup/a/memory.max": `${256 * MiB}\n`,
  };
  expect(limitOf(files)).toEqual({ bytes: 256 * MiB, source: "cgroup" });
});

test("a v1 group, with names that hold colons, among others", () => {
  const files = {
    "/proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/x:y\n1:cpu:/\n0::/\n",
    "/sys/fs/cgroup/memory/x:y/memory.limit_in_bytes": String(256 * MiB),
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
  };
  expect(limitOf(files)).toEqual({ bytes: 256 * MiB, source: "cgroup" });
});

test("a path of the host that a container does not see: its root tells", () => {
  const files = { "/proc/self/cgroup": "0::/../../host/path\n", "/sys/fs/cgroup/memory.max": `${200 * MiB}` };
  expect(limitOf(files)).toEqual({ bytes: 200 * MiB, source: "cgroup" });
});
