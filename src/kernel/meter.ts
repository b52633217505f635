/**
 * The seam to the kernel: the only file that loads the native addon. Everything
 * here is synchronous; reading takes microseconds.
 */
import { existsSync, readFileSync } from "node:fs";
import { constants, release } from "node:os";
import { join } from "node:path";
import { getSystemErrorName } from "node:util";
import { ExitCode, UserError } from "../base/errors.ts";
import { COUNTERS_MAP, EXECS_MAP, EXECVE_KEY, EXECVEAT_KEY, watchKey } from "../counts/abi.ts";
import { LABELS, type Label } from "../counts/labels.ts";
import type { ProgramStats } from "../counts/snapshot.ts";
import { effectiveCapabilities, inUserNamespace } from "./capabilities.ts";
import { explain, explainAddon, unpinIt } from "./explain.ts";
import { type Pins, preparePins, unpin } from "./pins.ts";
import { userNames } from "./users.ts";

const OBJECT = join(__dirname, "../../dist/execve_counter.bpf.o");
/**
 * What was built here goes before what the package brings. Looked for at once: who has given
 * up root's privileges may not be able to.
 */
const ADDON = ["build/Release", `prebuilds/linux-${process.arch}`]
  .map((directory) => join(__dirname, "../..", directory, "execve_counter.node"))
  .find(existsSync);

let objectRead: Uint8Array | undefined;

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
  /**
   * @param flags the labels to break execs down by; "cgroup_v1" where the containers'
   *   cgroups are those of the pids controller; "failures" where calls are followed to their
   *   ends; "no_attempts" where they are not counted where they enter
   * @param rows that the table of execs has room for; 2 by default
   * @param pins the directory in bpffs to pin everything in; undefined for none
   * @param adopt what is pinned there, rather than to pin anew
   */
  load(programs: string[], flags?: string[], rows?: number, pins?: string, adopt?: boolean): void;
  /** A lock on a file or directory for as long as the session is open; EWOULDBLOCK. */
  lock(path: string): void;
  /**
   * Since when the counts run, in ms since 1970: `now`, or, where they are adopted, what
   * was said at first. To be called before anything is attached. Where another session is
   * followed, when its programs were loaded.
   */
  begin(now: number): number;
  /** Takes another session's counters, by the map's id. */
  adopt(mapId: number): void;
  /** Then finds what else that session has, to be read; once more where programs() says ESTALE. */
  follow(): void;
  attach(program: string): void;
  lookup(key: string): bigint | undefined;
  update(key: string, value: bigint): void;
  /** Puts a key there at 0; false where it is there, and keeps its count. */
  insert(key: string): boolean;
  remove(key: string): boolean;
  readCounters(): [key: string, value: bigint][];
  readExecs(): Execs;
  readFailures(): Failures;
  /** Of the loaded programs. */
  programs(): (ProgramStats & { misses: bigint })[];
  maps(): MapInfo[];
  /** As they were given to load(). */
  flags(): string[];
  close(): void;
}

/** The rows of the table of execs, column by column; what it is not keyed by is "" or 0. */
export interface Execs {
  commands: string[];
  /** 64 hexadecimal digits, "unknown", or "" outside containers. */
  containers: string[];
  uids: Uint32Array;
  counts: BigUint64Array;
}

/** How calls ended that started no program. */
export interface Failures {
  /** Failed calls; those that never happened are left out. An errno of 0 is not known. */
  failed: [syscall: "execve" | "execveat", errno: number, count: bigint][];
  /** Calls of execveat with AT_EXECVE_CHECK that returned 0. */
  checks: bigint;
  /** Calls that there was no room to follow. */
  unfollowed: bigint;
}

/** What a Session throws: what was being done, and a positive errno. */
interface NativeError extends Error {
  step: string;
  errno: number;
}

interface Addon {
  /** Of an object file, by its path or as it was read. */
  Session: new (
    object: string | Uint8Array,
    log: (level: string, message: string) => void,
  ) => Session;
  /** The ids of the maps of counters that loaded programs count in. */
  findCounters(): number[];
  /** Waits until every program has ended that runs now; see Session::Settle. */
  settle(): void;
  /** How what is pinned there counts: `flags` and `rows` as load() was given them. */
  pinned(pins: string): { flags: string[]; rows: number };
  /** Mounts bpffs, for everybody. */
  mountBpffs(directory: string): void;
  /**
   * The account's name, from NSS, or null where there is none: once a thread beside this one
   * knows, for which it waits for so many milliseconds; else undefined, and to be asked again.
   * Throws a NativeError where nobody can tell.
   */
  userName(uid: number, patience: number): string | null | undefined;
  /** The account of that name or number; waits, and throws likewise. */
  account(who: string | number): Account | undefined;
  /** Gives privileges up, for good; native/privileges.h says what and how. */
  restrict(keep: number[], uid?: number, gid?: number): void;
  /** Tells the service manager; false where there is none that wants to know. */
  notify(state: string): boolean;
  libbpfVersion: string;
}

/** By numbers, as the kernel knows it. */
export interface Account {
  uid: number;
  gid: number;
}

export type Attempts = "tracepoint" | "raw" | "off";

export interface KernelOptions {
  /** How to count attempts, and failures. */
  attempts: Attempts;
  /** Count failed calls by errno. */
  failures: boolean;
  /** What to break execs down by. */
  by: readonly Label[];
  /** Rows that the breakdown has room for. */
  maxSeries: number;
  /** Command names to count one by one. */
  watch: readonly string[];
  /** A directory in bpffs to pin everything in; undefined to count only while it is open. */
  pin: string | undefined;
  /** Receives libbpf's messages, a line each. */
  log: (line: string) => void;
}

/** A meter in the kernel, as it can be read: this process's or another's. */
export interface Meter {
  readonly startTime: Date;
  /** Whether attempts are counted. */
  readonly attempts: boolean;
  readonly by: readonly Label[];
  /** The program that counts what the printed line shows. */
  readonly headlineProgram: string;
  readonly countersMap: MapInfo;
  readonly execsMap: MapInfo;
  readCounters(): [key: string, value: bigint][];
  readExecs(): Execs;
  /** Undefined where failures are not counted. */
  readFailures(): Failures | undefined;
  /** The account's name, or the number where it has none, or none is known yet. */
  userName(uid: number): string;
  programs(): ProgramStats[];
  /** Detaches and unloads everything that is this process's, but what is pinned. */
  close(): void;
}

/** The meter that this process runs. */
export interface Kernel extends Meter {
  readonly libbpfVersion: string;
  /** Why the raw hook is used though it was not asked for. */
  readonly fallback: string | undefined;
  /** Whether the kernel says how many runs of every program it skips. */
  readonly reportsMisses: boolean;
  readonly maps: readonly MapInfo[];
  /** Whether the counts were pinned by another agent before. */
  readonly adopted: boolean;
  /** Whether what is pinned outlives this mount namespace; undefined where nobody can tell. */
  readonly pinsOutlive: boolean | undefined;
  /** Closes, and removes what was pinned by this start. */
  discard(): void;
}

/**
 * Loads the programs, seeds the keys at 0 and attaches; all programs are attached
 * or none.
 *
 * @throws UserError when any step fails; nothing stays loaded then
 */
export function openKernel(options: KernelOptions): Kernel {
  const open = (hook: Hook, fallback?: string) =>
    withSession(
      options.log,
      (session, addon) => ({ fallback, ...start(session, addon, hook, options) }),
      { pins: options.pin },
    );
  if (options.attempts === "raw") return open("raw");
  try {
    return open("tracepoint");
  } catch (error) {
    // Not where it is out of reach for want of memory or file descriptors.
    const unable = error instanceof UserError && error.exitCode === ExitCode.unable;
    if (!unable || !isNativeError(error.cause)) throw error;
    if (!["mount tracefs", "tracefs", "tracepoint", "perf_event"].includes(error.cause.step))
      throw error;
    return open("raw", error.message);
  }
}

/** The counters of a meter that runs in another process. */
export interface LiveCounters {
  readonly mapId: number;
  /** Locks a file that all who edit use, until this is closed; false where another has it. */
  lock(path: string): boolean;
  read(): [key: string, value: bigint][];
  /** Waits until no program can add any more to a key that is gone by now. */
  settle(): void;
  /** Puts a key there at 0; false where it is there, and keeps its count. */
  insert(key: string): boolean;
  /** False where there is no such key. */
  remove(key: string): boolean;
  close(): void;
}

/** The ids of the maps of counters of all meters that run; @throws UserError */
export function findMeters(): number[] {
  const { findCounters } = loadAddon();
  return translated([], findCounters);
}

/**
 * Finds the running meter.
 *
 * @param mapId of its map of counters; undefined for the only meter there is
 * @throws UserError where there is none, more than one, or no permission to look
 */
export function openLiveCounters(
  mapId: number | undefined,
  log: (line: string) => void,
): LiveCounters {
  return withSession(log, (session, addon) => {
    const id = chooseMeter(addon.findCounters(), mapId);
    session.adopt(id);
    return {
      mapId: id,
      lock: (path) => translated([], () => lock(session, path)),
      read: () => translated([], () => session.readCounters()),
      settle: () => translated([], () => addon.settle()),
      insert: (key) => translated([], () => session.insert(key)),
      remove: (key) => translated([], () => session.remove(key)),
      close: () => session.close(),
    };
  });
}

/**
 * The meter that is meant, of those that were found.
 *
 * @param mapId of its map of counters; undefined for the only meter there is
 * @throws UserError where there is none, or more than one
 */
export function chooseMeter(found: readonly number[], mapId: number | undefined): number {
  const id = mapId ?? found[0];
  if (id === undefined || !found.includes(id)) {
    const which = mapId === undefined ? "no meter is running" : `no meter has the map ${mapId}`;
    const others = found.length > 0 ? `choose one of --map ${found.join(", ")}` : undefined;
    throw new UserError(which, others ?? "start one: sudo execve-counter", ExitCode.failed);
  }
  if (mapId === undefined && found.length > 1) {
    throw new UserError(
      `${found.length} meters are running`,
      `choose one by the map that its first line names: --map ${found.join(" or ")}`,
      ExitCode.failed,
    );
  }
  return id;
}

/** A meter that another process runs. */
export interface RunningMeter extends Meter {
  /** Whether it was gone when its programs were asked for: its counts are the last ones. */
  readonly ended: boolean;
}

/**
 * Opens a meter that runs in another process, to be read: loads, attaches and changes
 * nothing.
 *
 * @throws UserError where it cannot be read
 */
export function openRunningMeter(mapId: number, log: (line: string) => void): RunningMeter {
  const follow = (session: Session, addon: Addon): RunningMeter => {
    session.adopt(mapId);
    session.follow();
    const flags = session.flags();
    let programs = programsOf(session);
    let ended = false;
    const attempts = Object.values(PROGRAMS)
      .map((hook) => hook.attempts[0])
      .find((name) => programs.some((program) => program.name === name));
    const counted = flags.includes("no_attempts") ? undefined : attempts;
    const by = LABELS.filter((label) => flags.includes(label));
    return {
      ...reading(session, addon, by, flags.includes("failures"), counted),
      startTime: new Date(session.begin(Date.now())),
      get ended() {
        return ended;
      },
      programs: () => {
        try {
          programs = followed(session);
          ended = false;
        } catch (error) {
          if (!isFollow(error, "ESRCH")) throw isNativeError(error) ? translate(error, []) : error;
          ended = true;
        }
        return programs;
      },
    };
  };
  // For the next one, which may start when the file can be read no more.
  if (!objectRead && existsSync(OBJECT)) objectRead = readFileSync(OBJECT);
  return withSession(log, follow, { object: objectRead });
}

/** Opens a session for `use`; closes it where that fails. */
function withSession<Result>(
  log: (line: string) => void,
  use: (session: Session, addon: Addon) => Result,
  {
    object = OBJECT,
    pins,
  }: { object?: string | Uint8Array | undefined; pins?: string | undefined } = {},
): Result {
  const addon = loadAddon();
  const complaints: string[] = [];
  const work = () => {
    const session = new addon.Session(object, (level, message) => {
      const lines = message.trimEnd().split("\n");
      if (level === "warn") complaints.push(...lines);
      for (const line of lines) log(line);
    });
    try {
      return use(session, addon);
    } catch (error) {
      session.close();
      throw error;
    }
  };
  return translated(complaints, work, pins);
}

/** False where somebody else has the lock. */
function lock(session: Session, path: string): boolean {
  try {
    session.lock(path);
    return true;
  } catch (error) {
    if (isNativeError(error) && error.errno === constants.errno.EWOULDBLOCK) return false;
    throw error;
  }
}

/** Does native work; what the kernel refuses becomes a UserError. */
function translated<Result>(
  complaints: readonly string[],
  work: () => Result,
  pins?: string,
): Result {
  try {
    return work();
  } catch (error) {
    throw isNativeError(error) ? translate(error, complaints, pins) : error;
  }
}

/** The programs that count attempts and failures, the one behind the headline first. */
const PROGRAMS = {
  tracepoint: {
    attempts: ["count_execve", "count_execveat"],
    failures: ["count_execve_failure", "count_execveat_failure"],
  },
  raw: { attempts: ["count_attempts"], failures: ["count_failures"] },
} as const;
type Hook = keyof typeof PROGRAMS;

/** The programs that these flags ask for. */
function programsFor(hook: Hook, { attempts, failures }: KernelOptions): string[] {
  return [
    ...(attempts === "off" && !failures ? [] : PROGRAMS[hook].attempts),
    ...(failures ? [...PROGRAMS[hook].failures, "count_killed"] : []),
    "count_exec",
  ];
}

const isSame = (one: readonly string[], other: readonly string[]) =>
  [...one].sort().join() === [...other].sort().join();

function start(
  session: Session,
  addon: Addon,
  asked: Hook,
  options: KernelOptions,
): Omit<Kernel, "fallback"> & { fallback?: string } {
  const { by, failures } = options;
  const attempts = options.attempts !== "off";
  const pins =
    options.pin === undefined
      ? undefined
      : preparePins(options.pin, {
          mountBpffs: (directory) => mountBpffs(addon, directory),
          lock: (directory) => lock(session, directory),
        });
  // Who fell back to it when it was pinned goes on by it.
  const fellBack =
    pins?.adopt === true && asked !== "raw" && isSame(pins.programs, programsFor("raw", options));
  const hook = fellBack ? "raw" : asked;
  const programs = programsFor(hook, options);
  // Without labels there is one row, besides the one for what finds no room.
  const rows = by.length > 0 ? options.maxSeries : 2;
  const flags = [
    ...by,
    ...(containersInVersion1() ? ["cgroup_v1"] : []),
    ...(failures ? ["failures"] : []),
    ...(attempts ? [] : ["no_attempts"]),
  ];
  let startTime: Date;
  try {
    if (pins?.adopt) requireSame(pins, addon.pinned(pins.path), programs, flags, rows, options);
    session.load(programs, flags, rows, pins?.path, pins?.adopt);
    startTime = new Date(session.begin(Date.now()));
    // Keys that were there may just have been removed.
    if (pins?.adopt) addon.settle();
    for (const key of [
      // Where they are adopted and gone, their counts are too: the reader says so.
      ...(attempts && !pins?.adopt ? [EXECVE_KEY, EXECVEAT_KEY] : []),
      ...options.watch.map(watchKey),
    ]) {
      session.insert(key);
    }
    // Where calls end before where they begin: so no call is followed whose end is not seen.
    for (const program of programs.toReversed()) session.attach(program);
    pins?.commit();
  } catch (error) {
    pins?.discard();
    throw error;
  }

  return {
    ...reading(session, addon, by, failures, attempts ? PROGRAMS[hook].attempts[0] : undefined),
    libbpfVersion: addon.libbpfVersion,
    startTime,
    reportsMisses: reportsTracepointMisses(release()) || hook === "raw" || !(attempts || failures),
    maps: session.maps(),
    adopted: pins?.adopt ?? false,
    pinsOutlive: pins?.outlive,
    ...(fellBack && { fallback: `${options.pin} was pinned by the raw hook` }),
    close: () => {
      pins?.close();
      session.close();
    },
    discard: () => {
      pins?.discard();
      session.close();
    },
  };
}

/** @throws UserError, naming the flags, where what is pinned counts otherwise than is asked for */
function requireSame(
  pins: Pins,
  pinned: { flags: readonly string[]; rows: number },
  programs: readonly string[],
  flags: readonly string[],
  rows: number,
  { pin, by }: KernelOptions,
): void {
  const words = (names: readonly string[], keys: readonly string[], rows: number) => {
    const hook = Object.entries(PROGRAMS).find(([, { attempts }]) => names.includes(attempts[0]));
    const labels = LABELS.filter((label) => keys.includes(label)).join();
    return [
      `--attempts ${(!keys.includes("no_attempts") && hook?.[0]) || "off"}`,
      keys.includes("failures") ? "--failures" : "no --failures",
      labels ? `--by ${labels}` : "no --by",
      // Without labels there is no choice.
      labels && by.length > 0 ? `--max-series ${rows}` : "",
    ];
  };
  const theirs = words(pins.programs, pinned.flags, pinned.rows);
  const ours = words(programs, flags, rows);
  const differ = (one: string[], other: string[]) => one.filter((word, i) => word !== other[i]);
  const [was, is] = [differ(theirs, ours), differ(ours, theirs)];
  if (was.length === 0) return;
  throw new UserError(
    `what is pinned in ${pin} counts with ${was.join(", ")}; asked for is ${is.join(", ")}`,
    `start with what it counts with, or ${unpinIt(pin)}`,
    ExitCode.failed,
  );
}

/**
 * How a session is read that has its tables.
 *
 * @param attempts the program that counts attempts; undefined where they are not counted
 */
function reading(
  session: Session,
  addon: Addon,
  by: readonly Label[],
  failures: boolean,
  attempts: string | undefined,
): Omit<Meter, "startTime"> {
  const maps = session.maps();
  const userName = userNames(addon.userName);
  // Starts the thread that asks: whom the agent becomes may not be able to have one more.
  if (by.includes("user")) userName(0);
  return {
    ...{ attempts: attempts !== undefined, by, headlineProgram: attempts ?? "count_exec" },
    countersMap: maps.find(({ name }) => name === COUNTERS_MAP) as MapInfo,
    execsMap: maps.find(({ name }) => name === EXECS_MAP) as MapInfo,
    readCounters: () => session.readCounters(),
    readExecs: () => session.readExecs(),
    readFailures: () => (failures ? session.readFailures() : undefined),
    userName,
    programs: () => programsOf(session),
    close: () => session.close(),
  };
}

/** The programs of a session that is followed, which may have become others. */
function followed(session: Session): ProgramStats[] {
  try {
    return programsOf(session);
  } catch (error) {
    if (!isFollow(error, "ESTALE")) throw error;
    session.follow();
    return programsOf(session);
  }
}

function isFollow(error: unknown, code: "ESRCH" | "ESTALE"): boolean {
  return isNativeError(error) && error.step === "follow" && error.errno === constants.errno[code];
}

/** The programs, with no number of misses where the kernel does not keep it. */
function programsOf(session: Session): ProgramStats[] {
  const reported = reportsTracepointMisses(release());
  return session
    .programs()
    .map((program) =>
      program.hook.startsWith("tracepoint/") && !reported
        ? { ...program, misses: undefined }
        : program,
    );
}

/**
 * Ends what is pinned and returns the paths that were removed.
 *
 * @throws UserError where that is not ours, or in use
 */
export function unpinKernel(directory: string, log: (line: string) => void): string[] {
  const work = (session: Session, addon: Addon) => {
    const removed = unpin(directory, {
      mountBpffs: (path) => mountBpffs(addon, path),
      lock: (path) => lock(session, path),
    });
    session.close();
    return removed;
  };
  return withSession(log, work, { pins: directory });
}

/** The errno's name where it cannot. */
function mountBpffs(addon: Addon, directory: string): string | undefined {
  try {
    addon.mountBpffs(directory);
    return undefined;
  } catch (error) {
    if (isNativeError(error)) return getSystemErrorName(-error.errno);
    throw error;
  }
}

/**
 * Whether the pids controller, which every container runtime uses, is in a version 1
 * hierarchy: then containers are found there, and else in the unified one.
 */
function containersInVersion1(): boolean {
  try {
    return /^[1-9]\d*:(?:[^:]*,)?pids(?:,[^:]*)?:/m.test(readFileSync("/proc/self/cgroup", "utf8"));
  } catch {
    return false; // a kernel without control groups
  }
}

/**
 * Whether a kernel is of this version or newer.
 *
 * @param kernelRelease as uname(2) says it: "6.1.0-18-amd64"
 */
export function isAtLeast(kernelRelease: string, major: number, minor: number): boolean {
  const [first = 0, second = 0] = kernelRelease.split(".").map((part) => Number.parseInt(part, 10));
  return first > major || (first === major && second >= minor);
}

/**
 * Whether a kernel counts the runs it skips of programs on classic tracepoints,
 * which Linux does from 6.7 on (bpf_prog_inc_misses_counters() in trace_call_bpf()).
 */
export function reportsTracepointMisses(kernelRelease: string): boolean {
  return isAtLeast(kernelRelease, 6, 7);
}

/** @throws UserError where there is no addon for this machine */
export function loadAddon(): Addon {
  try {
    if (ADDON) return require(ADDON);
  } catch (error) {
    throw explainAddon(firstLine((error as Error).message), process.arch, glibcVersion());
  }
  throw explainAddon(undefined, process.arch, glibcVersion());
}

/** Whether this is the kernel's or libbpf's refusal, or NSS's. */
export function isNativeError(error: unknown): error is NativeError {
  return error instanceof Error && "step" in error && "errno" in error;
}

function translate(error: NativeError, complaints: readonly string[], pins?: string): UserError {
  const verdict = verdictOf(complaints);
  // libbpf complains of the limit on locked memory whenever bpf(2) is refused.
  const first = complaints.find((line) => !line.includes("RLIMIT_MEMLOCK"));
  const explained = explain(
    {
      step: error.step,
      code: getSystemErrorName(-error.errno),
      detail: (verdict ?? first)?.replace(/^libbpf: /, ""),
      verdict: verdict !== undefined,
    },
    {
      capabilities: effectiveCapabilities(statusOfSelf()),
      nested: inUserNamespace(read("/proc/self/uid_map")),
      sys: existsSync("/sys/kernel"),
      btf: existsSync("/sys/kernel/btf/vmlinux"),
      object: OBJECT,
      pins,
    },
  );
  explained.cause = error;
  return explained;
}

/** The verifier's last word among libbpf's complaints, where it has spoken. */
function verdictOf(complaints: readonly string[]): string | undefined {
  const end = complaints.findIndex((line) => line.includes("-- END PROG LOAD LOG --"));
  return complaints
    .slice(0, Math.max(end, 0))
    .findLast((line) => !/^($|processed \d+ insns|verification time|stack depth)/.test(line));
}

/** /proc/self/status. */
export function statusOfSelf(): string | undefined {
  return read("/proc/self/status");
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined; // no /proc
  }
}

/** Of the C library that this Node.js runs with; undefined where it is not glibc. */
function glibcVersion(): string | undefined {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime;
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}
