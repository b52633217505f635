/** The meter of this process: the programs and maps that count in the kernel. */
import { readFileSync } from "node:fs";
import { constants, release } from "node:os";
import { ExitCode, UserError } from "../base/errors.ts";
import {
  COUNTERS_MAP,
  EXECS_MAP,
  EXECVE_KEY,
  EXECVEAT_KEY,
  WATCH_FILE_KEY,
  watchKey,
} from "../counts/abi.ts";
import { GROUP_LABELS, LABELS, type Label } from "../counts/labels.ts";
import type { ProgramStats } from "../counts/snapshot.ts";
import {
  type Addon,
  type Execs,
  type Failures,
  type GroupScope,
  isNativeError,
  type MapInfo,
  type Session,
  type Tables,
} from "./addon.ts";
import { fileOrNothing } from "./capabilities.ts";
import { beginAnew, type Step } from "./explain.ts";
import { groupNumber, requireGroup, type Scope } from "./groups.ts";
import { lockdownMode } from "./lockdown.ts";
import { type ListChange, watchOnly } from "./ownlist.ts";
import { type Pins, preparePins, UnfitPins, unpin } from "./pins.ts";
import { reportsTracepointMisses } from "./release.ts";
import { lock, mountBpffs, translated, withSession } from "./session.ts";
import { userNames } from "./users.ts";

export type Attempts = "tracepoint" | "raw" | "off";

export interface MeterOptions {
  /** How to count attempts, and failures. */
  attempts: Attempts;
  /** Count failures by errno. */
  failures: boolean;
  /** The labels to break execs down by. */
  by: readonly Label[];
  /** Room for rows in the breakdown. */
  maxSeries: number;
  /** Command names to count one by one. */
  watch: readonly string[];
  /**
   * Whether these are the whole list, which no other process may edit. In reused pins the list
   * is the old one until watchOnly() is called: by then the start has succeeded.
   */
  wholeList?: boolean;
  /** A directory in bpffs to pin everything in; undefined to count only while it is open. */
  pin: string | undefined;
  /** Begin anew where what is pinned there does not fit; it then needs replace(). */
  pinReplace?: boolean | undefined;
  /** The control group outside of which nothing counts; undefined for the whole host. */
  scope?: Scope | undefined;
  /** Receives libbpf's messages, a line each. */
  log: (line: string) => void;
}

/** A meter that can be read: this process's or another's. */
export interface Meter {
  readonly startTime: Date;
  /** Whether attempts are counted. */
  readonly attempts: boolean;
  /** The path of the only control group that it counts in: see Scope; undefined for none. */
  readonly scope: string | undefined;
  readonly by: readonly Label[];
  /** The program that counts the number on the printed line. */
  readonly headlineProgram: string;
  readonly countersMap: MapInfo;
  readonly execsMap: MapInfo;
  readCounters(): [key: string, value: bigint][];
  /** See Tables in addon.ts. */
  readExecs(had?: number): Execs;
  /** Undefined where failures are not counted. */
  readFailures(): Failures | undefined;
  /** Undefined where it counts on the whole host. */
  readScope(): GroupScope | undefined;
  /** Whether rows can retire: a label ends with its control group. */
  readonly retires: boolean;
  /** The account's name, or the number where it has none, or none is known yet. */
  userName(uid: number): string;
  programs(): ProgramStats[];
  /** Detaches and unloads everything of this process, except what is pinned. */
  close(): void;
}

/** The meter that this process runs. */
export interface OwnMeter extends Meter {
  readonly libbpfVersion: string;
  /** Why the raw hook is used though it was not asked for. */
  readonly fallback: string | undefined;
  /** Whether the kernel reports the missed runs of every program. */
  readonly reportsMisses: boolean;
  readonly maps: readonly MapInfo[];
  /** Whether it reuses counts that an earlier agent pinned. */
  readonly reused: boolean;
  /** The directory that it is pinned in. */
  readonly pin: string | undefined;
  /** Whether the pins outlive this mount namespace; undefined where that is not known. */
  readonly pinsOutlive: boolean | undefined;
  /** Milliseconds since boot, as retire() takes them. */
  bootTime(): number;
  /** Removes rows of control groups that ended before that time; see native/session.h. */
  retire(endedBefore: number): number;
  /** Makes these names the whole watch list: see ownlist.ts. */
  watchOnly(names: readonly string[]): ListChange;
  /** When the pins that it replaces were made, and why they do not fit; undefined for none. */
  readonly replaces: string | undefined;
  /** Ends the counts that it replaces, which go on until then. Call it once nothing can fail. */
  replace(): void;
  /** Closes, and removes what this start has pinned, unless that has replaced other pins. */
  discard(): void;
}

/**
 * Loads the programs, seeds the keys at 0 and attaches all programs, or none.
 *
 * @throws UserError when any step fails; nothing stays loaded then
 */
export function openOwnMeter(options: MeterOptions): OwnMeter {
  const openOnce = (hook: Hook, fallback?: string, unfit?: string) =>
    withSession(
      options.log,
      (session, addon) => ({ fallback, ...start(session, addon, hook, options, unfit) }),
      options.pin,
    );
  const open = (hook: Hook, fallback?: string) => {
    try {
      return openOnce(hook, fallback);
    } catch (error) {
      if (!options.pinReplace || !isUnfit(error)) throw error;
      return openOnce(hook, fallback, error.message);
    }
  };
  if (options.attempts === "raw") return open("raw");
  // There is no tracepoint to be found then, and to unmount tracefs crashes Linux 6.12.
  const needsTracefs = options.attempts !== "off" || options.failures;
  if (needsTracefs && lockdownMode(fileOrNothing) === "confidentiality") {
    return open("raw", "lockdown=confidentiality hides the kernel's tracepoints");
  }
  try {
    return open("tracepoint");
  } catch (error) {
    // Not where the tracepoint is out of reach for lack of memory or file descriptors.
    const unable = error instanceof UserError && error.exitCode === ExitCode.unable;
    if (!unable || !isNativeError(error.cause)) throw error;
    const steps: Step[] = ["mount", "tracefs", "tracepoint", "perf_event"];
    if (!steps.includes(error.cause.step)) throw error;
    return open("raw", error.message);
  }
}

/** Whether it says that what is pinned does not fit. */
function isUnfit(error: unknown): error is UserError {
  if (!(error instanceof UserError)) return false;
  const { cause } = error;
  const mismatch = isNativeError(cause) && cause.step === "pinned";
  return error instanceof UnfitPins || (mismatch && cause.errno === constants.errno.EINVAL);
}

/** The programs that count attempts and failures, the one behind the headline first. */
export const PROGRAMS = {
  tracepoint: {
    attempts: ["count_execve", "count_execveat"],
    failures: ["count_execve_failure", "count_execveat_failure"],
  },
  raw: { attempts: ["count_attempts"], failures: ["count_failures"] },
} as const;
type Hook = keyof typeof PROGRAMS;

/** The programs that these flags ask for. */
function programsFor(hook: Hook, { attempts, failures, by, scope }: MeterOptions): string[] {
  return [
    ...(attempts === "off" && !failures ? [] : PROGRAMS[hook].attempts),
    ...(failures ? [...PROGRAMS[hook].failures, "count_killed"] : []),
    "count_exec",
    ...(canRetire(by) ? ["end_group"] : []),
    ...(scope?.path ? ["begin_scope", "end_scope"] : []),
  ];
}

const canRetire = (by: readonly Label[]) => by.some((label) => GROUP_LABELS.includes(label));

const isSame = (one: readonly string[], other: readonly string[]) =>
  [...one].sort().join() === [...other].sort().join();

/** @param unfit why what is pinned is to be replaced; undefined to reuse it */
function start(
  session: Session,
  addon: Addon,
  asked: Hook,
  options: MeterOptions,
  unfit: string | undefined,
): Omit<OwnMeter, "fallback"> & { fallback?: string } {
  const { by, failures } = options;
  const attempts = options.attempts !== "off";
  const pins =
    options.pin === undefined
      ? undefined
      : preparePins(options.pin, forPins(addon, session), unfit !== undefined);
  // Counts that fell back to the raw hook when they were pinned stay with it.
  const fellBack =
    pins?.reuse === true && asked !== "raw" && isSame(pins.programs, programsFor("raw", options));
  const hook = fellBack ? "raw" : asked;
  const programs = programsFor(hook, options);
  // Without labels there are two rows: one for all execs, and the row of all others.
  const rows = by.length > 0 ? options.maxSeries : 2;
  const flags = [
    ...by,
    ...(groupsInVersion1() ? ["cgroup_v1"] : []),
    ...(failures ? ["failures"] : []),
    ...(attempts ? [] : ["no_attempts"]),
  ];
  let startTime: Date;
  try {
    if (pins?.reuse) requireSame(pins, addon.pinned(pins.path), programs, flags, rows, options);
    const scope = options.scope?.path;
    if (options.scope && !pins?.reuse) requireGroup(options.scope);
    session.load({ programs, flags, rows, pins: pins?.path, reuse: pins?.reuse, scope });
    startTime = new Date(session.begin(Date.now()));
    // Another process may just have removed keys.
    if (pins?.reuse) session.settle();
    if (pins?.reuse && !options.wholeList) session.remove(WATCH_FILE_KEY);
    const watched = options.watch.map(watchKey);
    if (options.wholeList) watched.push(WATCH_FILE_KEY);
    for (const key of [
      // Where these keys are gone from reused pins, so are their counts: the reader says so.
      ...(attempts && !pins?.reuse ? [EXECVE_KEY, EXECVEAT_KEY] : []),
      ...(options.wholeList && pins?.reuse ? [] : watched),
    ]) {
      session.insert(key);
    }
    // The ends of calls before their entries, so that the end of every call followed is seen.
    for (const program of programs.toReversed()) session.attach(program);
    if (options.scope && !pins?.reuse) enterScope(session, options.scope);
    if (!pins?.replaced) pins?.commit();
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
    reused: pins?.reuse ?? false,
    pin: options.pin,
    pinsOutlive: pins?.outlive,
    replaces: pins?.replaced && `${pins.replaced.toISOString()}: ${unfit}`,
    replace: () => {
      if (pins?.replaced) pins.commit();
    },
    ...(fellBack && { fallback: `${options.pin} was pinned by the raw hook` }),
    watchOnly: (names) => translated([], () => watchOnly(session, names)),
    bootTime: addon.bootTime,
    retire: (endedBefore) => translated([], () => session.retire(endedBefore)),
    close: () => {
      session.close();
      pins?.close();
    },
    discard: () => {
      pins?.discard();
      session.close();
    },
  };
}

/** Begins to count in a group; from now on the kernel sees it go and come. */
function enterScope(session: Session, scope: Scope): void {
  for (let group: bigint | undefined; groupNumber(scope) !== group; ) {
    group = groupNumber(scope);
    session.setScope(group ?? 0n);
  }
}

/** How a meter counts otherwise than it was asked to, or may not be exact: a sentence each. */
export function noticesOf(meter: OwnMeter): string[] {
  const { fallback, pin, reportsMisses, pinsOutlive } = meter;
  return [
    ...(fallback ? [`${fallback}: the raw hook counts instead, as with --attempts raw`] : []),
    ...(reportsMisses
      ? []
      : [
          "this kernel does not report missed runs (Linux 6.7 and newer do); if it is fully preemptible, attempts and failures may be too low",
        ]),
    ...(pinsOutlive === false
      ? [
          `the bpffs of ${pin} is mounted in this mount namespace only, and the pins end with that namespace: mount it on the host, and start again`,
        ]
      : []),
  ];
}

/** @throws UserError, which names the flags, where the pinned counts were started with others */
function requireSame(
  pins: Pins,
  pinned: { flags: readonly string[]; rows: number; scope?: string },
  programs: readonly string[],
  flags: readonly string[],
  rows: number,
  { pin, by, scope }: MeterOptions,
): void {
  const words = (
    names: readonly string[],
    keys: readonly string[],
    rows: number,
    cgroup: string | undefined,
  ) => {
    const hook = Object.entries(PROGRAMS).find(([, { attempts }]) => names.includes(attempts[0]));
    const labels = LABELS.filter((label) => keys.includes(label)).join();
    return [
      `--attempts ${(!keys.includes("no_attempts") && hook?.[0]) || "off"}`,
      keys.includes("failures") ? "--failures" : "no --failures",
      labels ? `--by ${labels}` : "no --by",
      // Without labels there is no choice.
      labels && by.length > 0 ? `--max-series ${rows}` : "",
      cgroup === undefined ? "no --cgroup" : `--cgroup ${cgroup}`,
    ];
  };
  const theirs = words(pins.programs, pinned.flags, pinned.rows, pinned.scope);
  const ours = words(programs, flags, rows, scope?.path);
  const differ = (one: string[], other: string[]) => one.filter((word, i) => word !== other[i]);
  const [was, is] = [differ(theirs, ours), differ(ours, theirs)];
  if (was.length === 0) return;
  throw new UnfitPins(
    `the counts pinned in ${pin} were started with ${was.join(", ")}; this start asks for ${is.join(", ")}`,
    `start with those flags, or ${beginAnew(pin)}`,
    ExitCode.failed,
  );
}

/**
 * How a meter is read.
 *
 * @param attempts the program that counts attempts; undefined where they are not counted
 */
export function reading(
  tables: Tables,
  addon: Addon,
  by: readonly Label[],
  failures: boolean,
  attempts: string | undefined,
): Omit<Meter, "startTime"> {
  const maps = tables.maps();
  const userName = userNames(addon.userName);
  // Starts the thread that asks: the user that the agent becomes may have no threads left.
  if (by.includes("user")) userName(0);
  return {
    ...{
      attempts: attempts !== undefined,
      scope: translated([], () => tables.readScope())?.path,
      by,
      headlineProgram: attempts ?? "count_exec",
    },
    countersMap: maps.find(({ name }) => name === COUNTERS_MAP) as MapInfo,
    execsMap: maps.find(({ name }) => name === EXECS_MAP) as MapInfo,
    readCounters: () => translated([], () => tables.readCounters()),
    readScope: () => translated([], () => tables.readScope()),
    readExecs: (had) => translated([], () => tables.readExecs(had)),
    retires: canRetire(by),
    readFailures: () => (failures ? translated([], () => tables.readFailures()) : undefined),
    userName,
    programs: () => translated([], () => programsOf(tables)),
    close: () => tables.close(),
  };
}

/** The programs; without a number of misses where the kernel does not keep it. */
export function programsOf(tables: Tables): ProgramStats[] {
  const reported = reportsTracepointMisses(release());
  return tables
    .programs()
    .map((program) =>
      program.hook.startsWith("tracepoint/") && !reported
        ? { ...program, misses: undefined }
        : program,
    );
}

const forPins = (addon: Addon, session: Session) => ({
  mountBpffs: (path: string) => mountBpffs(addon, path),
  lock: (path: string) => lock(session, path),
  emptySlot: addon.emptySlot,
});

/**
 * Ends pinned counts, and returns the paths that were removed.
 *
 * @throws UserError where something there is not ours, or in use
 */
export function unpinMeter(directory: string, log: (line: string) => void): string[] {
  const work = (session: Session, addon: Addon) => {
    const removed = unpin(directory, forPins(addon, session));
    session.close();
    return removed;
  };
  return withSession(log, work, directory);
}

/**
 * Whether the pids controller, which every container runtime uses, is in a version 1
 * hierarchy. Then containers and units are found there, else in the unified one.
 */
function groupsInVersion1(): boolean {
  try {
    return /^[1-9]\d*:(?:[^:]*,)?pids(?:,[^:]*)?:/m.test(readFileSync("/proc/self/cgroup", "utf8"));
  } catch {
    return false; // a kernel without control groups
  }
}
