/**
 * The native addon, and the only file that loads it; native/ says what each method does.
 * Everything is synchronous; reading takes microseconds.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ProgramStats } from "../counts/snapshot.ts";
import { explainAddon, type Step } from "./explain.ts";

/**
 * What was built here goes before what the package brings. Looked for at once: who has given
 * up root's privileges may not be able to.
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
 * What a session and a follower have alike; native/ says what each method does. Methods throw
 * a NativeError where the kernel or libbpf fails, a TypeError for a wrong argument, and an
 * Error with code ERR_SESSION_STATE when called out of order, a second close() included.
 */
export interface Tables {
  /** A lock on a file or directory for as long as this is open; EWOULDBLOCK. */
  lock(path: string): void;
  lookup(key: string): bigint | undefined;
  update(key: string, value: bigint): void;
  /** Puts a key there at 0; false where it is there, and keeps its count. */
  insert(key: string): boolean;
  remove(key: string): boolean;
  readCounters(): [key: string, value: bigint][];
  readExecs(): Execs;
  readFailures(): Failures;
  /**
   * Since when the counts run, in ms since 1970. A session's: `now`, or, where they are
   * adopted, what was said at first; to be called before anything is attached. A follower's:
   * when the programs were loaded, where it is `now`.
   */
  begin(now: number): number;
  /** Of the programs that count. */
  programs(): (ProgramStats & { misses: bigint })[];
  maps(): MapInfo[];
  /** As they were given to load(). */
  flags(): string[];
  close(): void;
}

/** One loaded copy of the BPF object: see native/session.h. */
export interface Session extends Tables {
  /** Once. All but this, lock() and close() are for what is loaded. */
  load(options: LoadOptions): void;
  attach(program: string): void;
}

export interface LoadOptions {
  programs: readonly string[];
  /**
   * The labels to break execs down by; "cgroup_v1" where the containers' cgroups are those of
   * the pids controller; "failures" where calls are followed to their ends; "no_attempts"
   * where they are not counted where they enter.
   */
  flags?: readonly string[] | undefined;
  /** That the table of execs has room for; 2 by default. */
  rows?: number | undefined;
  /** A directory in bpffs to pin everything in. */
  pins?: string | undefined;
  /** What is pinned there, rather than to pin anew. */
  adopt?: boolean | undefined;
}

/** Another's meter, whose counters can be edited: see native/follower.h. */
export interface Follower extends Tables {
  /**
   * Finds what else that meter has, to be read: before that there are counters only. Once more
   * where programs() says ESTALE.
   */
  follow(): void;
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

/** What the addon throws: what was being done, to what ("" for nothing), and a positive errno. */
export interface NativeError extends Error {
  step: Step;
  subject: string;
  errno: number;
}

/** Receives libbpf's messages. */
export type NativeLog = (level: string, message: string) => void;

export interface Addon {
  /** Of an object file, by its path or as it was read. */
  Session: new (
    object: string | Uint8Array,
    log: NativeLog,
  ) => Session;
  /**
   * Takes another session's counters, by the map's id. Of the object file nothing is loaded: it
   * says what the programs are called.
   */
  Follower: new (
    object: string | Uint8Array,
    log: NativeLog,
    mapId: number,
  ) => Follower;
  /** The ids of the maps of counters that loaded programs count in. */
  findCounters(): number[];
  /** Waits until every program has ended that runs now; see Counters::Settle. */
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

/** Of the C library that this Node.js runs with; undefined where it is not glibc. */
function glibcVersion(): string | undefined {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime;
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}
