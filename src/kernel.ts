/**
 * The seam to the kernel: the only file that loads the native addon. Everything
 * here is synchronous; reading takes microseconds.
 */
import { existsSync, readFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import { getSystemErrorName } from "node:util";
import { ExitCode, explain, UserError } from "./errors.ts";
import { COUNTERS_MAP, EXECVE_KEY, EXECVEAT_KEY, watchKey } from "./keys.ts";
import type { ProgramStats } from "./snapshot.ts";

const ADDON = join(__dirname, "../build/Release/execve_counter.node");
const OBJECT = join(__dirname, "../dist/execve_counter.bpf.o");

export interface MapInfo {
  name: string;
  /** As `bpftool map` shows it. */
  id: number;
  /** max_entries. */
  capacity: number;
}

/**
 * One loaded copy of the BPF object; native/session.h says what each method does.
 * Methods throw a NativeError where the kernel or libbpf fails, a TypeError for a
 * wrong argument, and an Error with code ERR_SESSION_STATE when called out of
 * order, a second close() included.
 */
export interface Session {
  load(programs: string[]): void;
  attach(program: string): void;
  lookup(key: string): bigint | undefined;
  update(key: string, value: bigint): void;
  remove(key: string): boolean;
  readCounters(): [key: string, value: bigint][];
  readExecs(): bigint;
  /** Of the loaded programs. */
  programs(): (ProgramStats & { misses: bigint })[];
  maps(): MapInfo[];
  close(): void;
}

/** What a Session throws: what was being done, and a positive errno. */
interface NativeError extends Error {
  step: string;
  errno: number;
}

interface Addon {
  Session: new (objectPath: string, log: (level: string, message: string) => void) => Session;
  libbpfVersion: string;
}

export interface KernelOptions {
  attempts: "tracepoint" | "off";
  /** Command names to count one by one. */
  watch: readonly string[];
  /** Receives libbpf's messages, a line each. */
  log: (line: string) => void;
}

/** The running meter in the kernel. */
export interface Kernel {
  readonly libbpfVersion: string;
  readonly startTime: Date;
  /** Whether attempts are counted. */
  readonly attempts: boolean;
  /** Whether the kernel says how many runs of every program it skips. */
  readonly reportsMisses: boolean;
  /** The program that counts what the printed line shows. */
  readonly headlineProgram: string;
  readonly maps: readonly MapInfo[];
  readonly countersMap: MapInfo;
  readCounters(): [key: string, value: bigint][];
  readExecs(): bigint;
  programs(): ProgramStats[];
  /** Detaches and unloads everything. */
  close(): void;
}

/**
 * Loads the programs, seeds the keys at 0 and attaches; all programs are attached
 * or none.
 *
 * @throws UserError when any step fails; nothing stays loaded then
 */
export function openKernel(options: KernelOptions): Kernel {
  const addon = loadAddon();
  const complaints: string[] = [];
  let session: Session | undefined;
  try {
    session = new addon.Session(OBJECT, (level, message) => {
      const lines = message.trimEnd().split("\n");
      if (level === "warn") complaints.push(...lines);
      for (const line of lines) options.log(line);
    });
    return start(session, addon.libbpfVersion, options);
  } catch (error) {
    session?.close();
    throw isNativeError(error) ? translate(error, complaints) : error;
  }
}

function start(session: Session, libbpfVersion: string, options: KernelOptions): Kernel {
  const attempts = options.attempts !== "off";
  const programs = attempts ? ["count_execve", "count_execveat", "count_exec"] : ["count_exec"];
  session.load(programs);
  for (const key of [
    ...(attempts ? [EXECVE_KEY, EXECVEAT_KEY] : []),
    ...options.watch.map(watchKey),
  ]) {
    session.update(key, 0n);
  }
  const startTime = new Date();
  for (const program of programs) session.attach(program);

  const maps = session.maps();
  const tracepointsReportMisses = reportsTracepointMisses(release());
  return {
    libbpfVersion,
    startTime,
    attempts,
    reportsMisses: !attempts || tracepointsReportMisses,
    headlineProgram: programs[0] as string,
    maps,
    countersMap: maps.find(({ name }) => name === COUNTERS_MAP) as MapInfo,
    readCounters: () => session.readCounters(),
    readExecs: () => session.readExecs(),
    programs: () =>
      session
        .programs()
        .map((program) =>
          program.hook.startsWith("tracepoint/") && !tracepointsReportMisses
            ? { ...program, misses: undefined }
            : program,
        ),
    close: () => session.close(),
  };
}

/**
 * Whether a kernel counts the runs it skips of programs on classic tracepoints,
 * which Linux does from 6.7 on (bpf_prog_inc_misses_counters() in trace_call_bpf()).
 *
 * @param kernelRelease as uname(2) says it: "6.1.0-18-amd64"
 */
export function reportsTracepointMisses(kernelRelease: string): boolean {
  const [major = 0, minor = 0] = kernelRelease.split(".").map((part) => Number.parseInt(part, 10));
  return major > 6 || (major === 6 && minor >= 7);
}

/** @throws UserError where there is no addon for this machine */
export function loadAddon(): Addon {
  try {
    return require(ADDON);
  } catch (error) {
    throw new UserError(
      `the native addon cannot be loaded: ${firstLine((error as Error).message)}`,
      "build it (make build), which installs libbpf too",
      ExitCode.failed,
    );
  }
}

function isNativeError(error: unknown): error is NativeError {
  return error instanceof Error && "step" in error && "errno" in error;
}

function translate(error: NativeError, complaints: readonly string[]): UserError {
  return explain(
    { step: error.step, code: getSystemErrorName(-error.errno), detail: tellingLine(complaints) },
    {
      capabilities: effectiveCapabilities(),
      btf: existsSync("/sys/kernel/btf/vmlinux"),
      object: OBJECT,
    },
  );
}

/** Of libbpf's complaints the one that says why: the verifier's last word, or else the first. */
function tellingLine(complaints: readonly string[]): string | undefined {
  const end = complaints.findIndex((line) => line.includes("-- END PROG LOAD LOG --"));
  const verdict = complaints
    .slice(0, Math.max(end, 0))
    .findLast((line) => !/^($|processed \d+ insns|verification time|stack depth)/.test(line));
  // libbpf complains of the limit on locked memory whenever bpf(2) is refused.
  const first = complaints.find((line) => !line.includes("RLIMIT_MEMLOCK"));
  return (verdict ?? first)?.replace(/^libbpf: /, "");
}

function effectiveCapabilities(): bigint {
  try {
    const line = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"));
    return BigInt(`0x${line?.[1] ?? "0"}`);
  } catch {
    return 0n; // no /proc: as good as none
  }
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}
