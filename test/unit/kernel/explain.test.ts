import { expect, test } from "vitest";
import { ExitCode } from "../../../src/base/errors.ts";
import {
  type Circumstances,
  explain,
  explainAddon,
  STEPS,
  type Step,
} from "../../../src/kernel/explain.ts";
import { readProjectFile } from "../../support/files.ts";

const ROOT: Circumstances = {
  capabilities: (1n << 41n) - 1n,
  nested: false,
  sys: true,
  btf: true,
  object: "/x/counter.o",
};
const NOBODY: Circumstances = { ...ROOT, capabilities: 0n };

test("the steps are those that the addon knows", () => {
  const names = readProjectFile("native/failure.h").matchAll(/return "(\w+)";/g);
  expect([...names].map(([, name]) => name).sort()).toEqual([...STEPS].sort());
});

test.each([
  ["open", "ENOENT", ROOT, ExitCode.failed, "missing: /x/counter.o", "make build"],
  ["open", "EINVAL", ROOT, ExitCode.failed, "cannot be read: /x/counter.o", "install"],
  ["load", "EPERM", NOBODY, ExitCode.unable, "not permitted", "CAP_BPF and CAP_PERFMON"],
  ["load", "EPERM", ROOT, ExitCode.unable, "not permitted", "seccomp"],
  ["load", "EPERM", { ...ROOT, nested: true }, ExitCode.unable, "not permitted", "of the host"],
  ["find", "EPERM", { ...ROOT, nested: true }, ExitCode.unable, "to look", "of the host"],
  ["find", "EPERM", ROOT, ExitCode.unable, "to look", "CAP_SYS_ADMIN"],
  ["open", "EACCES", ROOT, ExitCode.failed, "cannot be read: /x/counter.o", "chgrp"],
  [
    "lock",
    "EROFS",
    ROOT,
    ExitCode.failed,
    "lock /run/execve-counter.lock (EROFS)",
    "let this user open",
  ],
  [
    "lock",
    "EACCES",
    { ...ROOT, pins: "/x" },
    ExitCode.failed,
    "lock /x (EACCES)",
    "let this user open",
  ],
  ["load", "ENFILE", ROOT, ExitCode.failed, "out of file descriptors", "fs.file-max"],
  ["pinned execs", "EINVAL", { ...ROOT, pins: "/x" }, ExitCode.failed, "the pin execs", "unpin /x"],
  ["pinned execs", "EPERM", { ...ROOT, pins: "/x" }, ExitCode.unable, "not permitted", "seccomp"],
  ["pinned execs", "EROFS", { ...ROOT, pins: "/x" }, ExitCode.unable, "/x is mounted", "remount"],
  ["load", "EPERM", { ...NOBODY, btf: false }, ExitCode.unable, "not permitted", "root"],
  ["load", "ESRCH", { ...ROOT, btf: false }, ExitCode.unable, "no BTF", "CONFIG_DEBUG_INFO_BTF"],
  [
    ...(["load", "ESRCH", { ...ROOT, sys: false, btf: false }, ExitCode.unable] as const),
    ...["/sys is not mounted", "mount -t sysfs"],
  ],
  ["load", "EINVAL", ROOT, ExitCode.unable, "refuses the program", "--log.level debug"],
  ["load", "ENOSYS", { ...ROOT, btf: false }, ExitCode.unable, "no BPF", "CONFIG_BPF_SYSCALL"],
  ["tracefs", "EACCES", NOBODY, ExitCode.unable, "may not be read", "--attempts raw"],
  ["tracefs", "EPERM", ROOT, ExitCode.unable, "may not be read", "--attempts raw"],
  ["tracefs", "EIO", ROOT, ExitCode.unable, "cannot be read", "--attempts raw"],
  ["mount tracefs", "EPERM", NOBODY, ExitCode.unable, "tracefs is not mounted", "--attempts raw"],
  ["mount tracefs", "ENOSYS", ROOT, ExitCode.unable, "not mounted", "--attempts raw"],
  ["tracepoint", "ENOENT", ROOT, ExitCode.unable, "no tracepoints", "--attempts raw"],
  ["perf_event", "EACCES", NOBODY, ExitCode.unable, "may not be opened", "--attempts raw"],
  ["perf_event", "ENOSYS", ROOT, ExitCode.unable, "no perf events", "--attempts raw"],
  ["perf_event", "EINVAL", ROOT, ExitCode.unable, "refuses", "--log.level debug"],
  ["attach count_exec", "EINVAL", ROOT, ExitCode.unable, "(attach count_exec: EINVAL)", "debug"],
  ["pin link_x", "EINVAL", ROOT, ExitCode.unable, "link of a tracepoint (pin link_x: E", "raw"],
  ["pin execs", "EPERM", NOBODY, ExitCode.unable, "not permitted to use BPF (pin execs", "CAP_BPF"],
  ["update", "E2BIG", ROOT, ExitCode.usage, "no room", "4096"],
  ["update", "EPERM", ROOT, ExitCode.failed, "frozen", "start the meter again"],
  ["delete", "EPERM", ROOT, ExitCode.failed, "frozen", "start the meter again"],
  ["mount cgroup2", "EPERM", NOBODY, ExitCode.unable, "(cgroup2) is not mounted", "as root"],
  ["scope /x", "EACCES", NOBODY, ExitCode.unable, "group /x cannot be used", "as root"],
  ["scope /x", "EOPNOTSUPP", ROOT, ExitCode.unable, "group /x cannot be used", "threaded"],
  ["command x", "ENOENT", ROOT, ExitCode.failed, "cannot run x (ENOENT)", "$PATH"],
  ["command x", "EACCES", ROOT, ExitCode.failed, "cannot run x (EACCES)", "may execute"],
  ["setgroups x", "EPERM", ROOT, ExitCode.unable, "x as the user who called", "CAP_SETGID"],
  ["follow", "EPERM", NOBODY, ExitCode.unable, "not permitted to look", "CAP_SYS_ADMIN"],
  ["follow", "ESRCH", ROOT, ExitCode.failed, "the meter has ended", "start one"],
  ["follow", "EINVAL", ROOT, ExitCode.failed, "of another version", "start the meter again"],
  ["slot", "ESTALE", ROOT, ExitCode.failed, "which does not count", "start the agent"],
  ["open", "EMFILE", ROOT, ExitCode.failed, "out of file descriptors", "ulimit -n"],
  ["tracefs", "EMFILE", ROOT, ExitCode.failed, "out of file descriptors", "ulimit -n"],
  ["load", "EMFILE", ROOT, ExitCode.failed, "out of file descriptors", "ulimit -n"],
  ["load", "ENOMEM", ROOT, ExitCode.failed, "out of memory", "control group"],
  ["read", "EINVAL", ROOT, ExitCode.failed, "cannot be used", "again"],
] as const)("%s: %s", (doing, code, here, exitCode, what, remedy) => {
  const [step, subject = ""] = doing.split(" ") as [Step, string?];
  const error = explain({ step, subject, code, detail: undefined }, here);
  expect(error.exitCode).toBe(exitCode);
  expect(error.message).toContain(what);
  expect(error.remedy).toContain(remedy);
  expect(error.message + error.remedy).not.toContain("\n");
});

test("what the verifier refuses with EACCES is no want of privileges", () => {
  const detail = "R1 invalid mem access";
  const error = explain({ step: "load", subject: "", code: "EACCES", detail, verdict: true }, ROOT);
  expect(error.message).toBe(
    "the kernel refuses the program (load: EACCES: R1 invalid mem access)",
  );
});

test.each([
  "program of this type cannot use helper bpf_probe_read_kernel_str#115",
  "unknown func bpf_probe_read#4",
])("%s: that is lockdown's doing", (detail) => {
  const error = explain({ step: "load", subject: "", code: "EINVAL", detail, verdict: true }, ROOT);
  expect(error.message).toContain("lockdown=confidentiality forbids");
  expect(error.remedy).toContain("container, unit, path of --by");
  expect(error.exitCode).toBe(ExitCode.unable);
});

test("what libbpf said is part of the line", () => {
  const detail = "invalid mem access";
  const error = explain({ step: "load", subject: "", code: "EINVAL", detail }, ROOT);
  expect(error.message).toContain("invalid mem access");
});

test.each([
  [undefined, "riscv64", "2.41", "no native addon for riscv64", "x64 or arm64"],
  [undefined, "x64", undefined, "another C library (musl?)", "node:22-slim"],
  [
    "Error loading shared library ld-linux-x86-64.so.2: No such file or directory",
    ...["x64", undefined, "another C library (musl?)", "node:22-slim"],
  ],
  [
    "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by x.node)",
    ...["arm64", "2.28", "is for glibc 2.34 or newer, and this is glibc 2.28", "node:22-slim"],
  ],
] as const)("no addon fits: %s on %s, glibc %s", (reason, architecture, glibc, what, remedy) => {
  const error = explainAddon(reason, architecture, glibc);
  expect(error.exitCode).toBe(ExitCode.unable);
  expect(error.message).toContain(what);
  expect(error.remedy).toContain(remedy);
});

test.each([
  [undefined, "cannot be loaded: there is none"],
  ["libbpf.so.1: cannot open shared object file", "cannot be loaded: libbpf.so.1: cannot open"],
])("an addon would fit: %s", (reason, what) => {
  const error = explainAddon(reason, "x64", "2.36");
  expect(error.exitCode).toBe(ExitCode.failed);
  expect(error.message).toContain(what);
  expect(error.remedy).toContain("make build");
});
