import { expect, test } from "vitest";
import { ExitCode } from "../../../src/base/errors.ts";
import { mountsIn, pathOf } from "../../../src/kernel/groups.ts";

const mount = (root: string, point: string, type: string) =>
  `41 31 0:38 ${root} ${point} rw,relatime shared:9 - ${type} ${type} rw`;
const UNIFIED = mount("/", "/sys/fs/cgroup", "cgroup2");
const HYBRID = [
  mount("/", "/sys/fs/cgroup", "tmpfs"),
  mount("/", "/sys/fs/cgroup/pids", "cgroup"),
  mount("/", "/sys/fs/cgroup/unified", "cgroup2"),
];
const of = (text: string, mounts: string[]) => pathOf(text, mountsIn(mounts.join("\n")));

test.each([
  ["from the root", "/system.slice/a.service", [UNIFIED], "/system.slice/a.service"],
  ["without a slash", "system.slice/a.service/", [UNIFIED], "/system.slice/a.service"],
  ["below a mount", "/sys/fs/cgroup/a.slice", [UNIFIED], "/a.slice"],
  ["a mount itself", "/sys/fs/cgroup", [UNIFIED], "/"],
  ["below a mount beside version 1", "/sys/fs/cgroup/unified/a", HYBRID, "/a"],
  ["below a mount of a part", "/cg/b", [mount("/docker/1", "/cg", "cgroup2")], "/docker/1/b"],
  ["the root", "/", [UNIFIED], "/"],
  ["by a way up", "/a/../b", [UNIFIED], "/b"],
  ["named like a mount", "/sys/fs/cgroups", [UNIFIED], "/sys/fs/cgroups"],
])("a group %s", (_, text, mounts, path) => {
  expect(of(text, mounts)).toBe(path);
});

test.each([
  ["", "give a control group"],
  ["/sys/fs/cgroup/pids/a", "of version 1: give the path that /proc/<pid>/cgroup has after 0::"],
  [`/${"a".repeat(1023)}`, "at most 1023 bytes"],
])("%s is no group", (text, remedy) => {
  expect(() => of(text, HYBRID)).toThrow(
    expect.objectContaining({
      exitCode: ExitCode.usage,
      remedy: expect.stringContaining(remedy),
    }),
  );
});
