import { expect, test } from "vitest";
import { canRun, examine, type Finding, type Machine } from "../../../src/cli/doctor.ts";

const CONFIG = "\nCONFIG_BPF_SYSCALL=y\nCONFIG_DEBUG_INFO_BTF=y\nCONFIG_FTRACE_SYSCALLS=y\n";
const FILES: Record<string, string> = {
  "/proc/config.gz": CONFIG,
  "/sys/kernel": "",
  "/sys/kernel/btf/vmlinux": "",
  "/proc/self/status": "CapEff:\t000001ffffffffff\n",
  "/proc/self/uid_map": "         0          0 4294967295\n",
  "/proc/sys/kernel/perf_event_paranoid": "2\n",
  "/proc/sys/kernel/unprivileged_bpf_disabled": "2\n",
  "/sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
  "/proc/cmdline": "quiet\n",
  "/proc/self/cgroup": "0::/\n",
};
const MOUNTS: Record<string, number> = {
  "/sys/kernel/tracing": 0x74726163,
  "/sys/fs/bpf": 0xcafe4a11,
};

/** A machine on which all is well, but for what is given; undefined removes a file. */
function machine(
  files: Record<string, string | undefined> = {},
  changes: Partial<Machine> = {},
): Machine {
  const all: Record<string, string | undefined> = { ...FILES, ...files };
  return {
    release: "6.12.9-amd64",
    version: "#1 SMP Debian 6.12.9-1",
    read: (path) => all[path],
    exists: (path) => all[path] !== undefined,
    fileSystem: (path) => MOUNTS[path],
    ...changes,
  };
}

function finding(what: string, of: Machine): Finding {
  const found = examine(of).find((each) => each.what === what);
  if (!found) throw new Error(`nothing about ${what}`);
  return found;
}

test("where all is well nothing is to do", () => {
  for (const { what, state, remedy } of examine(machine())) {
    expect({ what, state, remedy }).toEqual({ what, state: "ok", remedy: "" });
  }
});

test.each([
  ["kernel", machine({}, { release: "5.4.0" }), "note", "5.10"],
  ["kernel config", machine({ "/proc/config.gz": "\n" }), "note", "boot a kernel"],
  ["kernel config", machine({ "/proc/config.gz": undefined }), "unknown", ""],
  ["BTF", machine({ "/sys/kernel/btf/vmlinux": undefined }), "missing", "CONFIG_DEBUG_INFO_BTF"],
  ["tracefs", machine({}, { fileSystem: () => 1 }), "note", "mount -t tracefs tracefs"],
  ["bpffs", machine({}, { fileSystem: () => undefined }), "note", "-o mode=700 bpf /sys/fs/bpf"],
  ["BTF", machine({}, { exists: () => false }), "missing", "mount -t sysfs sysfs /sys"],
  [
    "bpffs",
    machine({}, { exists: () => false, fileSystem: () => undefined }),
    ...(["note", "mount -t sysfs sysfs /sys"] as const),
  ],
  ["lockdown", machine({ "/sys/kernel/security/lockdown": undefined }), "unknown", ""],
  ["capabilities", machine({ "/proc/self/status": "CapEff:\t0\n" }), "missing", "CAP_PERFMON"],
  ["capabilities", machine({ "/proc/self/status": "CapEff:\tc000000000\n" }), "note", "enough"],
  ["capabilities", machine({ "/proc/self/uid_map": "0 1000 1\n" }), "missing", "of the host"],
  [
    "perf_event_paranoid",
    machine({
      "/proc/sys/kernel/perf_event_paranoid": "3\n",
      "/proc/self/status": "CapEff:\tc000000000\n",
    }),
    "note",
    "the raw hook counts instead",
  ],
  ["perf_event_paranoid", machine({ "/proc/sys/kernel/perf_event_paranoid": "3" }), "ok", ""],
  [
    "lockdown",
    machine({ "/sys/kernel/security/lockdown": "none integrity [confidentiality]" }),
    "note",
    "lockdown=integrity",
  ],
  ["control groups", machine({ "/proc/self/cgroup": undefined }), "note", "container"],
] as const)("%s: what is wrong has a remedy", (what, of, state, remedy) => {
  const found = finding(what, of);
  expect(found.state).toBe(state);
  expect(found.remedy).toContain(remedy);
});

test.each([
  ["#1 SMP PREEMPT_RT Debian", "6.12.9", {}, "note", "tracepoint is exact once missed is added"],
  ["#1 SMP PREEMPT_RT Debian", "7.2.13", {}, "note", "raw is not"],
  ["#1 SMP PREEMPT_RT Debian", "5.10.0", {}, "note", "does not report missed runs"],
  [
    "#1 SMP PREEMPT_DYNAMIC Debian",
    "6.1.0",
    { "/proc/cmdline": "a preempt=full\n" },
    "note",
    "raw",
  ],
  ["#1 SMP PREEMPT_DYNAMIC Debian", "6.1.0", { "/proc/cmdline": "preempt=none" }, "ok", ""],
  [
    "#1 SMP PREEMPT_DYNAMIC Debian",
    "6.1.0",
    { "/sys/kernel/debug/sched/preempt": "none (voluntary) full\n" },
    "ok",
    "",
  ],
  ["#1 SMP PREEMPT_DYNAMIC Debian", "6.1.0", {}, "note", "raw"],
  ["#1 SMP PREEMPT Debian", "6.1.0", {}, "note", "does not report missed runs"],
  ["#1 SMP Debian", "6.1.0", {}, "ok", ""],
] as const)("%s %s: which hook is exact", (version, release, files, state, remedy) => {
  const found = finding("preemption", machine(files, { version, release }));
  expect(found.state).toBe(state);
  expect(found.remedy).toContain(remedy);
});

test.each([
  ["0::/\n", "version 2"],
  ["9:pids:/\n0::/\n", "versions 1 and 2"],
  ["9:pids:/\n", "version 1"],
])("control groups: %j is %s", (text, found) => {
  expect(finding("control groups", machine({ "/proc/self/cgroup": text })).found).toBe(found);
});

test("the meter can run where one hook works", () => {
  const hook = (what: string, state: Finding["state"]) => ({ what, state, found: "", remedy: "" });
  const broken = [hook("--attempts tracepoint", "missing"), hook("--attempts raw", "missing")];
  expect(canRun([...examine(machine()), ...broken])).toBe(false);
  expect(canRun([...broken, hook("--attempts off", "ok")])).toBe(true);
});
