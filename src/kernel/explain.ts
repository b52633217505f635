/** Explains, in a user's words, what the kernel, libbpf or the dynamic linker refuses. */
import { ExitCode, MORE_FILES, UserError } from "../base/errors.ts";
import { READ_LABELS } from "../counts/labels.ts";
import { hasCapabilities } from "./capabilities.ts";

/** What was being done: see Step in native/failure.h. */
export const STEPS = [
  ...(["open", "load", "attach", "mount", "tracefs", "tracepoint", "perf_event"] as const),
  ...(["pin", "pinned", "slot", "lock", "find", "open_by_id", "follow"] as const),
  ...(["lookup", "update", "delete", "read", "settle", "retire"] as const),
  ...(["info", "scope", "command", "user", "notify"] as const),
  ...(["seccomp", "setgroups", "setresgid", "setresuid", "capset", "threads"] as const),
] as const;
export type Step = (typeof STEPS)[number];

/** What the addon reports: see Failure in native/failure.h. */
export interface KernelFailure {
  step: Step;
  /** The program's, map's or pin's name, or "". */
  subject: string;
  /** The errno's name: "EPERM". */
  code: string;
  /** The most telling line of libbpf's messages, where there is one. */
  detail: string | undefined;
  /** Whether the verifier has read the program, and refused it. */
  verdict?: boolean;
}

/** What is known about the machine at the moment of the failure. */
export interface Circumstances {
  /** The effective capabilities, a bit each (CapEff in /proc/self/status). */
  capabilities: bigint;
  /** Whether they hold in a user namespace only. */
  nested: boolean;
  /** Whether /sys is mounted. */
  sys: boolean;
  /** Whether /sys/kernel/btf/vmlinux exists. */
  btf: boolean;
  /** The object file that was to be loaded. */
  object: string;
  /** The directory to pin in, where there is one. */
  pins?: string | undefined;
}

const ALL_CAPABILITIES = "run it as root, or with CAP_BPF and CAP_PERFMON";
const BANNED =
  "the capabilities are there, so something else forbids it: look at the container's seccomp profile, at /sys/kernel/security/lockdown and, before Linux 5.11, at the limit on locked memory (ulimit -l)";
const ONLY_NESTED =
  "run it as root of the host: here root is root of a user namespace only, as in a rootless container";
const ROOT_FINDS = "run it as root: opening maps by id needs CAP_SYS_ADMIN";
export const unpinIt = (directory = "<dir>") =>
  `end those counts: execve-counter unpin ${directory}`;
export const beginAnew = (directory = "<dir>") =>
  `begin anew: give --pin-replace, or run execve-counter unpin ${directory}`;
const USE_RAW = "use --attempts raw, which does not need it";

/** Explains a failure of the kernel or of libbpf in a user's words. */
export function explain(failure: KernelFailure, here: Circumstances): UserError {
  const { step, subject, code } = failure;
  const doing = subject ? `${step} ${subject}` : step;
  const because = failure.detail ? `${code}: ${failure.detail}` : code;
  const unable = (what: string, remedy: string) => new UserError(what, remedy, ExitCode.unable);
  const failed = (what: string, remedy: string) => new UserError(what, remedy, ExitCode.failed);

  if (code === "EMFILE" || code === "ENFILE" || code === "ENOMEM") {
    return failed(
      `out of ${code === "ENOMEM" ? "memory" : "file descriptors"} (${doing}: ${code})`,
      code === "ENOMEM"
        ? "free memory, or raise the memory limit of the control group it runs in"
        : code === "EMFILE"
          ? MORE_FILES
          : "raise the machine's limit on open files (sysctl fs.file-max)",
    );
  }

  // libbpf takes the older name where the kernel seems not to have the helper.
  if (step === "load" && /helper bpf_probe_read|unknown func bpf_probe_read/.test(because)) {
    return unable(
      `lockdown=confidentiality forbids BPF to read the kernel's memory (${because})`,
      `leave out --cgroup, and ${READ_LABELS.join(", ")} of --by, and before Linux 5.11 give --attempts off without --failures; or boot with lockdown=integrity`,
    );
  }

  switch (step) {
    case "open":
      return failed(
        code === "ENOENT"
          ? `the BPF object is missing: ${here.object}`
          : `the BPF object cannot be read: ${here.object} (${because})`,
        isDenied(code)
          ? "let the agent's user read it, with chgrp and chmod"
          : "build it again (make build), or install execve-counter again",
      );
    case "mount":
      if (subject === "cgroup2") {
        return unable(
          `the unified hierarchy of control groups (cgroup2) is not mounted, and cannot be mounted (${code})`,
          "run it as root, or mount it: sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        );
      }
      return unable(
        `${subject} is not mounted, and the agent cannot mount it for itself (${code})`,
        USE_RAW,
      );
    case "tracefs":
      return unable(`tracefs ${isDenied(code) ? "may not" : "cannot"} be read (${code})`, USE_RAW);
    case "tracepoint":
      return unable(`this kernel has no tracepoints on system calls (${code})`, USE_RAW);
    case "perf_event":
      if (code === "ENOSYS") return unable(`this kernel has no perf events (${code})`, USE_RAW);
      if (isDenied(code)) return unable(`perf events may not be opened (${code})`, USE_RAW);
      break;
    case "load":
      if (!here.sys && code !== "ENOSYS" && !isDenied(code)) {
        return unable(
          "there is no /sys/kernel/btf/vmlinux, because /sys is not mounted",
          "mount it: sudo mount -t sysfs sysfs /sys",
        );
      }
      if (!here.btf && code !== "ENOSYS" && !isDenied(code)) {
        return unable(
          "this kernel has no BTF: there is no /sys/kernel/btf/vmlinux",
          "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as the distributions' kernels have it",
        );
      }
      break;
    case "lock":
      return failed(
        `cannot lock ${here.pins ?? "/run/execve-counter.lock"} (${code})`,
        "let this user open or create it",
      );
    case "scope":
      return unable(
        `the control group ${subject} cannot be used (${code})`,
        code === "EOPNOTSUPP"
          ? "run it outside of a threaded control group"
          : "run it as root, where the unified hierarchy of control groups (cgroup2) is writable",
      );
    case "command":
      return failed(
        `cannot run ${subject} (${code})`,
        code === "ENOENT"
          ? "give a program that is there, or on the $PATH of the user it runs as"
          : "give a program that the user it runs as may execute",
      );
    case "setgroups":
    case "setresgid":
    case "setresuid":
      return unable(
        `cannot run ${subject} as the user who called (${step}: ${code})`,
        "run it with CAP_SETUID and CAP_SETGID, or without SUDO_UID in the environment",
      );
    case "slot":
      return failed(
        `slot ${subject} calls another program, or none, which does not count (${code})`,
        "start the agent of that meter again: the counts stay",
      );
    case "pinned":
      if (code === "EROFS") return readOnly(here.pins);
      if (isDenied(code)) break;
      return failed(
        `the pin ${subject} does not match this version (${code})`,
        `start the version that pinned it, or ${beginAnew(here.pins)}`,
      );
    case "pin":
      // Every kernel can pin everything else.
      if (code !== "EINVAL") break;
      return unable(
        `this kernel cannot pin the link of a tracepoint (${doing}: ${code})`,
        "use --attempts raw, whose links every kernel can pin; Linux 5.15 and newer can pin a tracepoint's, too",
      );
  }
  if (code === "ENOSYS") {
    return unable(
      `this kernel has no BPF (${doing}: ${code})`,
      "boot a kernel with CONFIG_BPF_SYSCALL=y, or leave the sandbox that hides bpf(2)",
    );
  }
  if (code === "EPERM" && (step === "update" || step === "delete")) {
    return failed(
      `the map of counters is frozen: it can be read, but not edited (${doing}: ${code})`,
      `start the meter again; where it is pinned, first ${unpinIt(here.pins)}`,
    );
  }
  if (isDenied(code) && ["find", "open_by_id", "follow"].includes(step)) {
    return unable(
      `not permitted to look for the running meter (${doing}: ${code})`,
      here.nested ? ONLY_NESTED : ROOT_FINDS,
    );
  }
  if (step === "follow") {
    return code === "ESRCH"
      ? failed("the meter has ended", "start one: sudo execve-counter")
      : failed(
          `the running meter is of another version, with other tables (${code})`,
          "run the execve-counter that it was started with, or start the meter again with this one",
        );
  }
  if (isDenied(code) && !failure.verdict) {
    const capable =
      hasCapabilities(here.capabilities, "CAP_SYS_ADMIN") ||
      hasCapabilities(here.capabilities, "CAP_BPF", "CAP_PERFMON");
    return unable(
      `not permitted to use BPF (${doing}: ${code})`,
      here.nested ? ONLY_NESTED : capable ? BANNED : ALL_CAPABILITIES,
    );
  }
  if (step === "load" || step === "perf_event" || step === "attach") {
    return unable(
      `the kernel refuses the program (${doing}: ${because})`,
      "run again with --log.level debug and report what it prints",
    );
  }
  if (step === "update" && code === "E2BIG") {
    return new UserError(
      "there is no room for that many watched names",
      "watch fewer commands: there is room for 4096 counters",
      ExitCode.usage,
    );
  }
  return failed(
    `the counters cannot be used (${doing}: ${because})`,
    "start the meter again; if this repeats, report it with the output of --log.level debug",
  );
}

/** Pins in a read-only bpffs can be neither changed nor reused. */
export function readOnly(pins = "the directory of the pins"): UserError {
  return new UserError(
    `${pins} is mounted read-only`,
    "mount bpffs read-write there (mount -o remount,rw), or leave out what keeps it from that, like ProtectKernelTunables= in a unit",
    ExitCode.unable,
  );
}

/**
 * Explains why there is no addon.
 *
 * @param reason the message of dlopen(3); undefined where there is no file
 * @param glibc its version; undefined with another C library
 */
export function explainAddon(
  reason: string | undefined,
  architecture: string,
  glibc: string | undefined,
): UserError {
  const unable = (what: string, remedy: string) => new UserError(what, remedy, ExitCode.unable);
  if (architecture !== "x64" && architecture !== "arm64") {
    return unable(
      `there is no native addon for ${architecture}`,
      "run it with Node.js for x64 or arm64: it knows no other architecture's system calls",
    );
  }
  const needed = /GLIBC_([\d.]+)' not found/.exec(reason ?? "")?.[1];
  if (glibc === undefined || needed) {
    const here = glibc ? `this is glibc ${glibc}` : "this Node.js has another C library (musl?)";
    return unable(
      `the native addon is for glibc${needed ? ` ${needed} or newer` : ""}, and ${here}`,
      "run it on a system with that, like the image node:22-slim",
    );
  }
  return new UserError(
    `the native addon cannot be loaded: ${reason ?? "there is none"}`,
    // The dynamic linker gives no errno.
    reason?.endsWith("Too many open files")
      ? MORE_FILES
      : "install execve-counter again; in a checkout, build it (make build), which installs libbpf too",
    ExitCode.failed,
  );
}

function isDenied(code: string): boolean {
  return code === "EPERM" || code === "EACCES";
}
