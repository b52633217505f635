/**
 * The native addon, and the only file that loads it; native/ says what each method does.
 * Everything is synchronous; reading takes microseconds.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Label } from "../counts/labels.ts";
import type { ProgramStats } from "../counts/snapshot.ts";
import { explainAddon, type Step } from "./explain.ts";

/**
 * An addon that was built here goes before the package's own. It is looked for at once: after
 * giving up root's privileges this may not be possible.
 */
const ADDON = ["build/Release", `prebuilds/linux-${process.arch}`]
  .map((directory) => join(__dirname, "../..", directory, "execve_counter.node"))
  .find(existsSync);

export interface MapInfo {
  name: string;
  /** As `bpftool map` shows it. */
  id: number;
  /** max_entries. */
  capacity: number;
}

/**
 * What a session and a follower have in common; native/ says what each method does. Methods throw
 * a NativeError where the kernel or libbpf fails, a TypeError for a wrong argument, and an
 * Error with code ERR_SESSION_STATE when called out of order, a second close() included.
 */
export interface Tables {
  /** Locks a file or directory for as long as this is open; EWOULDBLOCK where another has it. */
  lock(path: string): void;
  lookup(key: string): bigint | undefined;
  update(key: string, value: bigint): void;
  /** Puts a key there at 0; false where it is there, and keeps its count. */
  insert(key: string): boolean;
  remove(key: string): boolean;
  readCounters(): [key: string, value: bigint][];
  /**
   * @param had the serial of the last read, where its labels are remembered; else the labels of
   *   all rows are told
   */
  readExecs(had?: number): Execs;
  readFailures(): Failures;
  /** The control group outside of which nothing counts; undefined where there is none. */
  readScope(): GroupScope | undefined;
  /** Waits until every program that runs now has ended; see Counters::barrier. */
  settle(): void;
  /**
   * When the counts began, in ms since 1970. Of a session: `now`, or the first start where it
   * reuses pins; call it before anything is attached. Of a follower: when the programs were
   * loaded, given that it is `now`.
   */
  begin(now: number): number;
  /** The programs that count. */
  programs(): (ProgramStats & { misses: bigint })[];
  maps(): MapInfo[];
  /** The flags as load() was given them. */
  flags(): string[];
  close(): void;
}

/** One loaded copy of the BPF object: see native/session.h. */
export interface Session extends Tables {
  /** Call it once. All other methods but lock() and close() need it. */
  load(options: LoadOptions): void;
  attach(program: string): void;
  /**
   * Removes rows of control groups that ended before that time, in ms since boot, and adds them
   * to the retired row; returns how many.
   */
  retire(endedBefore: number): number;
  /** Counts in the group of that number from now on. */
  setScope(group: bigint): void;
}

export interface LoadOptions {
  programs: readonly string[];
  /**
   * The labels to break execs down by; "cgroup_v1" where the containers' cgroups are those of
   * the pids controller; "failures" where calls are followed to their ends; "no_attempts"
   * where attempts are not counted.
   */
  flags?: readonly string[] | undefined;
  /** Rows that the table of execs has room for; 2 by default. */
  rows?: number | undefined;
  /** A directory in bpffs to pin everything in. */
  pins?: string | undefined;
  /** Whether to reuse what is pinned there, rather than to pin anew. */
  reuse?: boolean | undefined;
  /**
   * The path of the control group outside of which nothing counts, from the root of the unified
   * hierarchy; "" for one that is never made again. Nothing counts until setScope().
   */
  scope?: string | undefined;
}

/** See struct scope in bpf/execve_counter.h. */
export interface GroupScope {
  path: string;
  /** 0 while there is none of that path. */
  group: bigint;
  /** How often it was made again. */
  made: bigint;
}

/** Another process's meter; its counters can be edited: see native/follower.h. */
export interface Follower extends Tables {
  /**
   * Finds the other maps of that meter; before that it has counters only. Call it again where
   * programs() says ESTALE.
   */
  follow(): void;
}

/** The rows of the table of execs, column by column. */
export interface Execs {
  /** Of each row: 0 for one with labels, or OTHER_ROW, or RETIRED_ROW, whose labels say nothing. */
  kinds: Uint8Array;
  counts: BigUint64Array;
  /** Of each row its number, which it keeps from one read to the next. */
  numbers: Uint32Array;
  /** The sum of all counts. */
  total: bigint;
  /** Of this read. */
  serial: number;
  /** Whether all numbers are new: those of earlier reads mean nothing. */
  anew: boolean;
  /** The rows whose labels are told, by their places in `numbers`. */
  fresh: Uint32Array;
  /** Of each of these the user, where that is a label. */
  uids: Uint32Array;
  /** Of each of these the other labels that are chosen. */
  labels: Partial<Record<Label, string[]>>;
  /** How many rows were removed. */
  retired: bigint;
}

/** The kinds of rows that have no labels of their own: see RowKind in native/tables.h. */
export const OTHER_ROW = 1;
export const RETIRED_ROW = 2;

/** How the calls ended that started no program. */
export interface Failures {
  /** Failures; those that never happened are left out. An errno of 0 is not known. */
  failed: [syscall: "execve" | "execveat", errno: number, count: bigint][];
  /** Calls of execveat with AT_EXECVE_CHECK that returned 0. */
  checks: bigint;
  /** Calls that were not followed, for lack of room. */
  unfollowed: bigint;
}

/** What the addon throws: the step, its subject ("" for none), and a positive errno. */
export interface NativeError extends Error {
  step: Step;
  subject: string;
  errno: number;
}

/** Receives libbpf's messages. */
export type NativeLog = (level: string, message: string) => void;

export interface Addon {
  /** @param object the object file's path, or its content */
  Session: new (
    object: string | Uint8Array,
    log: NativeLog,
  ) => Session;
  /**
   * Opens another session's map of counters by its id. Nothing of the object file is loaded: it
   * has the names of the programs.
   */
  Follower: new (
    object: string | Uint8Array,
    log: NativeLog,
    mapId: number,
  ) => Follower;
  /** The ids of the maps of counters that loaded programs count in. */
  findCounters(): number[];
  /** How the pinned meter counts: `flags`, `rows` and `scope` as load() was given them. */
  pinned(pins: string): { flags: string[]; rows: number; scope?: string };
  /** Empties the slot pinned there, not through a symbolic link, if it can. */
  emptySlot(path: string): void;
  /** Mounts bpffs, for all processes. */
  mountBpffs(directory: string): void;
  /**
   * The account's name, from NSS, or null where there is none. Another thread asks for it; this
   * waits for it for so many milliseconds, then returns undefined: ask again. Throws a
   * NativeError where NSS fails.
   */
  userName(uid: number, patience: number): string | null | undefined;
  /** The account of that name or number; waits for it, and throws where NSS fails. */
  account(who: string | number): Account | undefined;
  /** Gives privileges up, for good; native/privileges.h says what and how. */
  restrict(keep: number[], uid?: number, gid?: number): void;
  /** Milliseconds since boot, those asleep included: the clock that retire() goes by. */
  bootTime(): number;
  /** Tells the service manager; false where there is none that has asked for it. */
  notify(state: string): boolean;
  /** What a user's processes have of the account; undefined where there is none. */
  login(uid: number, gid: number): Login | undefined;
  /** Mounts a file system for this process alone; returns the directory's descriptor. */
  mountAlone(type: string): number;
  /**
   * Runs a command in a control group, and waits for its end: see native/command.h. Each word of
   * the command has a NUL at its end. `environment` says what differs: NAME=value, or NAME for
   * what is to be left out.
   */
  runCommand(
    command: Uint8Array,
    environment: readonly string[],
    group: string,
    uid?: number | undefined,
    gid?: number | undefined,
    groups?: readonly number[] | undefined,
  ): Outcome;
  /** Ends this process by a signal, without a core; returns where that does not end it. */
  endBy(signal: number): void;
  libbpfVersion: string;
}

export interface Login {
  name: string;
  home: string;
  shell: string;
  /** As initgroups(3) would set them. */
  groups: number[];
}

/** How a command ended. */
export interface Outcome {
  code: number;
  /** 0 where it exited. */
  signal: number;
  milliseconds: number;
}

/** By numbers, as the kernel knows it. */
export interface Account {
  uid: number;
  gid: number;
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

/** The version of glibc that this Node.js runs with; undefined with another C library. */
function glibcVersion(): string | undefined {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime;
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}
