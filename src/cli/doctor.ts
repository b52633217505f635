/** What this machine offers for counting, what is missing, and what to do about it. */
import { existsSync, readFileSync, statfsSync } from "node:fs";
import { release, version } from "node:os";
import { gunzipSync } from "node:zlib";
import { LABELS, type Label, READ_LABELS } from "../counts/labels.ts";
import { effectiveCapabilities, hasCapabilities, inUserNamespace } from "../kernel/capabilities.ts";
import { lockdownMode } from "../kernel/lockdown.ts";
import { type Attempts, openOwnMeter } from "../kernel/meter.ts";
import { isAtLeast, reportsTracepointMisses } from "../kernel/release.ts";
import { findMeters } from "../kernel/running.ts";

export interface Finding {
  what: string;
  /** "note": works, but there is something to know. */
  state: "ok" | "note" | "missing" | "unknown";
  found: string;
  /** What to do, or to know; empty where all is well. */
  remedy: string;
}

/** What the machine reports of itself, by path; tests give their own. */
export interface Machine {
  release: string;
  /** As uname(2) has it: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1". */
  version: string;
  read(path: string): string | undefined;
  exists(path: string): boolean;
  /** The type of the file system there, as statfs(2) has it; undefined where there is none. */
  fileSystem(path: string): number | undefined;
}

export const HERE: Machine = {
  release: release(),
  version: version(),
  read(path) {
    try {
      const content = readFileSync(path);
      return (path.endsWith(".gz") ? gunzipSync(content) : content).toString();
    } catch {
      return undefined;
    }
  },
  exists: existsSync,
  fileSystem(path) {
    try {
      return statfsSync(path).type;
    } catch {
      return undefined;
    }
  },
};

// From linux/magic.h.
const TRACEFS_MAGIC = 0x74726163;
const BPFFS_MAGIC = 0xcafe4a11;

/** Looks at the machine, and loads nothing. */
export function examine(machine: Machine): Finding[] {
  return [
    kernel(machine),
    config(machine),
    btf(machine),
    fileSystem(machine, "tracefs", TRACEFS_MAGIC, [
      ...["/sys/kernel/tracing", "/sys/kernel/debug/tracing"],
    ]),
    fileSystem(machine, "bpffs", BPFFS_MAGIC, ["/sys/fs/bpf"]),
    capabilities(machine),
    paranoia(machine),
    sysctl(machine, "kernel/unprivileged_bpf_disabled"),
    lockdown(machine),
    preemption(machine),
    cgroups(machine),
  ];
}

/** Tries each hook for real, and finds other meters. */
export function attempt(log: (line: string) => void): Finding[] {
  // First: the meters of the tries end a little later only.
  const meters = others();
  const tried = (["tracepoint", "raw", "off"] as const).map((attempts) => tryHook(attempts, log));
  return [...tried, meters];
}

/** Whether the meter can run here: some hook works. */
export function canRun(findings: readonly Finding[]): boolean {
  return findings.some(({ what, state }) => what.startsWith("--attempts") && state !== "missing");
}

function ok(what: string, found: string): Finding {
  return { what, state: "ok", found, remedy: "" };
}

function kernel({ release }: Machine): Finding {
  if (isAtLeast(release, 5, 10)) return ok("kernel", release);
  const remedy = "Linux 5.10 is the oldest that is tested; run a newer one";
  return { what: "kernel", state: "note", found: release, remedy };
}

function config({ release, read }: Machine): Finding {
  const text = read("/proc/config.gz") ?? read(`/boot/config-${release}`);
  const what = "kernel config";
  if (text === undefined) {
    return { what, state: "unknown", found: "not readable", remedy: "" };
  }
  const missing = ["CONFIG_BPF_SYSCALL", "CONFIG_DEBUG_INFO_BTF", "CONFIG_FTRACE_SYSCALLS"].filter(
    (option) => !text.includes(`\n${option}=y`),
  );
  if (missing.length === 0) return ok(what, "BPF, BTF and system call tracepoints are built in");
  const remedy = "boot a kernel that has it, as the distributions' do";
  return { what, state: "note", found: `without ${missing.join(", ")}`, remedy };
}

const MOUNT_SYS = "it cannot be checked without /sys: sudo mount -t sysfs sysfs /sys";

function btf({ exists }: Machine): Finding {
  const path = "/sys/kernel/btf/vmlinux";
  if (exists(path)) return ok("BTF", path);
  const remedy = exists("/sys/kernel")
    ? "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as the distributions' kernels have it"
    : MOUNT_SYS;
  return { what: "BTF", state: "missing", found: `no ${path}`, remedy };
}

function fileSystem(
  { exists, fileSystem }: Machine,
  what: "tracefs" | "bpffs",
  magic: number,
  paths: readonly string[],
): Finding {
  const path = paths.find((each) => fileSystem(each) === magic);
  if (path) return ok(what, path);
  if (!exists("/sys/kernel")) {
    return { what, state: "note", found: "not mounted, nor is /sys", remedy: MOUNT_SYS };
  }
  const type = what === "bpffs" ? "bpf -o mode=700 bpf" : "tracefs tracefs";
  const need = what === "bpffs" ? "only --pin needs it" : "only --attempts tracepoint needs it";
  const remedy = `${need}, and an agent of root mounts it when needed: sudo mount -t ${type} ${paths[0]}`;
  return { what, state: "note", found: "not mounted", remedy };
}

function capabilities({ read }: Machine): Finding {
  const set = effectiveCapabilities(read("/proc/self/status"));
  const what = "capabilities";
  if (inUserNamespace(read("/proc/self/uid_map"))) {
    const remedy =
      "run it as root of the host; root of a rootless container has no power over the kernel";
    return { what, state: "missing", found: "those of a user namespace", remedy };
  }
  if (hasCapabilities(set, "CAP_SYS_ADMIN")) return ok(what, "CAP_SYS_ADMIN");
  if (hasCapabilities(set, "CAP_BPF", "CAP_PERFMON")) {
    const remedy = "enough to count; watch add|remove|list also needs CAP_SYS_ADMIN";
    return { what, state: "note", found: "CAP_BPF, CAP_PERFMON", remedy };
  }
  const remedy = "run it as root, or with CAP_BPF and CAP_PERFMON";
  return { what, state: "missing", found: "neither CAP_BPF and CAP_PERFMON nor root's", remedy };
}

/** Up to 2 this does not stop a user with the capabilities; more is Debian's and Ubuntu's own. */
function paranoia(machine: Machine): Finding {
  const finding = sysctl(machine, "kernel/perf_event_paranoid");
  const set = effectiveCapabilities(machine.read("/proc/self/status"));
  if (!(Number.parseInt(finding.found, 10) > 2) || hasCapabilities(set, "CAP_SYS_ADMIN")) {
    return finding;
  }
  const remedy =
    "--attempts tracepoint needs CAP_SYS_ADMIN here, not only CAP_PERFMON: the raw hook counts instead; or set it to 2";
  return { ...finding, state: "note", remedy };
}

/** Does not stop a user with the capabilities; shown for the record. */
function sysctl({ read }: Machine, name: string): Finding {
  const value = read(`/proc/sys/${name}`)?.trim();
  const what = name.replace("kernel/", "");
  if (value === undefined) return { what, state: "unknown", found: "not readable", remedy: "" };
  return ok(what, value);
}

const READ = `labels ${READ_LABELS.join(", ")}`;

function lockdown({ read, release }: Machine): Finding {
  const mode = lockdownMode(read);
  const what = "lockdown";
  // Not in this kernel, or securityfs is not mounted.
  if (mode === undefined) return { what, state: "unknown", found: "not readable", remedy: "" };
  if (mode !== "confidentiality") return ok(what, mode);
  const remedy = isAtLeast(release, 5, 11)
    ? `--attempts raw and off count; the ${READ} need lockdown=integrity`
    : `only --attempts off counts, without the ${READ}; all else needs lockdown=integrity`;
  return { what, state: "note", found: mode, remedy };
}

function preemption({ release, version, read }: Machine): Finding {
  const what = "preemption";
  const chosen = /\((\w+)\)/.exec(read("/sys/kernel/debug/sched/preempt") ?? "")?.[1];
  const asked = /(?:^|\s)preempt=(\w+)/.exec(read("/proc/cmdline") ?? "")?.[1];
  const built = /PREEMPT_RT|PREEMPT_DYNAMIC|PREEMPT/.exec(version)?.[0];
  const model = built === "PREEMPT_DYNAMIC" ? (chosen ?? asked) : built?.toLowerCase();
  if (built === undefined) return ok(what, "none, or voluntary");
  if (model === "none" || model === "voluntary") return ok(what, model);
  const found = model ?? "chosen at boot, and not known here (see /sys/kernel/debug/sched/preempt)";
  const remedy = !reportsTracepointMisses(release)
    ? "--attempts raw is exact; --attempts tracepoint may be too low, and this kernel does not report missed runs"
    : !isAtLeast(release, 7, 0)
      ? "--attempts raw is exact; --attempts tracepoint is exact once missed is added"
      : "--attempts tracepoint is exact once missed is added; --attempts raw is not";
  const full = ["full", "preempt", "preempt_rt"].includes(model ?? "");
  return { what, state: full || model === undefined ? "note" : "ok", found, remedy };
}

function cgroups({ read }: Machine): Finding {
  const text = read("/proc/self/cgroup");
  const what = "control groups";
  if (text === undefined) {
    const remedy = "the labels container and unit need them";
    return { what, state: "note", found: "none", remedy };
  }
  const one = /^[1-9]\d*:/m.test(text);
  const two = /^0::/m.test(text);
  return ok(what, one && two ? "versions 1 and 2" : one ? "version 1" : "version 2");
}

function tryHook(attempts: Attempts, log: (line: string) => void): Finding {
  const what = `--attempts ${attempts}`;
  const start = (by: readonly Label[]) => {
    const meter = openOwnMeter({
      ...{ attempts, failures: attempts !== "off", by, log },
      ...{ maxSeries: 16, watch: [], pin: undefined },
    });
    meter.close();
    return meter.fallback;
  };
  const remedy = "falls back to --attempts raw";
  try {
    const fallback = start(LABELS);
    return fallback ? { what, state: "note", found: fallback, remedy } : ok(what, "works");
  } catch {
    // Lockdown may forbid only some labels.
  }
  try {
    const fallback = start(LABELS.filter((label) => !READ_LABELS.includes(label)));
    const found = `${fallback ?? "works"}, without the ${READ}`;
    return { what, state: "note", found, remedy: fallback ? remedy : "see lockdown, above" };
  } catch (error) {
    const { message, remedy = "" } = error as Error & { remedy?: string };
    return { what, state: "missing", found: message, remedy };
  }
}

function others(): Finding {
  const what = "running meters";
  try {
    const maps = findMeters();
    return ok(what, maps.length === 0 ? "none" : `maps ${maps.join(", ")}`);
  } catch (error) {
    return { what, state: "unknown", found: (error as Error).message, remedy: "" };
  }
}
