import { expect, test } from "vitest";
import { locate } from "../../../src/stat/group.ts";

const mount = (root: string, point: string, type: string, flags = "rw", superFlags = "rw") =>
  `41 31 0:38 ${root} ${point} ${flags},relatime shared:9 - ${type} ${type} ${superFlags}`;
const TMPFS = mount("/", "/sys/fs/cgroup", "tmpfs");
const UNIFIED = mount("/", "/sys/fs/cgroup", "cgroup2");

test.each([
  ["alone", [UNIFIED], "0::/user.slice/a.scope", "/sys/fs/cgroup/user.slice/a.scope"],
  ["the root", [UNIFIED], "0::/", "/sys/fs/cgroup"],
  [
    "beside version 1",
    [
      TMPFS,
      mount("/", "/sys/fs/cgroup/pids", "cgroup"),
      mount("/", "/sys/fs/cgroup/unified", "cgroup2"),
    ],
    "9:name=systemd:/x\n8:pids:/y\n0::/a",
    "/sys/fs/cgroup/unified/a",
  ],
  ["below its root", [mount("/docker/1", "/cg", "cgroup2")], "0::/docker/1/b", "/cg/b"],
  ["a name with a blank", [mount("/", "/my\\040cg", "cgroup2")], "0::/a b", "/my cg/a b"],
  ["a name like a way up", [UNIFIED], "0::/..a", "/sys/fs/cgroup/..a"],
  ["a part of it", [mount("/docker/1", "/cg", "cgroup2"), UNIFIED], "0::/x", "/sys/fs/cgroup/x"],
  ["outside", [mount("/docker/1", "/cg", "cgroup2")], "0::/docker/2", undefined],
  ["read-only", [mount("/", "/cg", "cgroup2", "ro")], "0::/", undefined],
  ["read-only as a whole", [mount("/", "/cg", "cgroup2", "rw", "ro")], "0::/", undefined],
  ["not mounted", [TMPFS], "0::/", undefined],
  ["never mounted", [TMPFS], "8:pids:/y", undefined],
])("the hierarchy %s", (_, mounts, cgroup, path) => {
  expect(locate(`${mounts.join("\n")}\n`, `${cgroup}\n`)).toBe(path);
});
