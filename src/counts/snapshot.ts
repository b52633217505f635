/** Plain data that says what was counted at one moment; every count is a u64 as bigint. */
import { EXECS_MAP } from "./abi.ts";
import { type Label, OTHER } from "./labels.ts";

export interface ProgramStats {
  /** The C name: "count_execve". */
  name: string;
  /** Where it hangs: "tracepoint/syscalls/sys_enter_execve". */
  hook: string;
  /** As `bpftool prog` shows it. */
  id: number;
  /** Runs, and nanoseconds spent in them; 0 while kernel.bpf_stats_enabled is 0. */
  runCount: bigint;
  runTime: bigint;
  /**
   * Runs that the kernel skipped (recursion_misses in struct bpf_prog_info);
   * undefined where it skips some and does not say.
   */
  misses: bigint | undefined;
}

export interface TableFill {
  name: string;
  entries: number;
  capacity: number;
}

/** Programs started that the labels' values tell apart from all others. */
export interface ExecsRow {
  labels: Partial<Record<Label, string>>;
  /** The user's, where that is a label: the name may become known later, or change. */
  uid?: number;
  count: bigint;
}

/** Failed calls by the errno's name. */
export type FailureCounts = Record<"execve" | "execveat", ReadonlyMap<string, bigint>>;

export interface Snapshot {
  time: Date;
  /** Monotonic time in milliseconds, for rates: the clock on the wall may jump. */
  clock: number;
  /** Since when these counts run. */
  startTime: Date;
  /** Calls that entered the kernel; undefined with --attempts off. */
  attempts: { execve: bigint; execveat: bigint } | undefined;
  /** Runs skipped that the headline lacks; undefined where nobody knows. */
  missed: bigint | undefined;
  /** Programs started. */
  execs: bigint;
  /** What execs are broken down by. */
  by: readonly Label[];
  /**
   * Programs started, broken down; the sum is `execs`. Without labels, one row. Users of one
   * name have rows of their own: see distinct().
   */
  execsBy: readonly ExecsRow[];
  /** Undefined without --failures. */
  failures: FailureCounts | undefined;
  /** Calls that only asked whether they might, and might; undefined without --failures. */
  checks: bigint | undefined;
  /** Calls that there was no room to follow to their ends; undefined without --failures. */
  unfollowed: bigint | undefined;
  /** Programs started, by watched command name. */
  watched: ReadonlyMap<string, bigint>;
  programs: readonly ProgramStats[];
  tables: readonly TableFill[];
  /** Seconds it took to read all this. */
  readDuration: number;
}

/**
 * Rows with those made one that are the same by `key`; the sum stays. Takes longer than all the
 * rest of a read, and is hardly ever needed.
 */
export function merged(rows: readonly ExecsRow[], key: (row: ExecsRow) => string): ExecsRow[] {
  const byKey = new Map<string, ExecsRow>();
  for (const row of rows) {
    const id = key(row);
    const before = byKey.get(id);
    byKey.set(id, before ? { ...before, count: before.count + row.count } : row);
  }
  return [...byKey.values()];
}

/** Rows that differ in their labels: users of one name are one. */
export function distinct(rows: readonly ExecsRow[]): readonly ExecsRow[] {
  const names = new Map<number | undefined, string | undefined>();
  for (const { labels, uid } of rows) names.set(uid, labels.user);
  if (new Set(names.values()).size === names.size) return rows;
  return merged(rows, ({ labels }) => Object.values(labels).join("\0"));
}

/** The number on the printed line: attempts by execve, or successes with --attempts off. */
export function headline(snapshot: Snapshot): bigint {
  return snapshot.attempts?.execve ?? snapshot.execs;
}

/**
 * What the headline did since `previous`, or since the start: the difference, and
 * executions per second (0 where no time has passed, or where somebody else has set the
 * count back).
 */
export function change(
  previous: Snapshot | undefined,
  now: Snapshot,
): { delta: bigint; rate: number } {
  const delta = previous ? headline(now) - headline(previous) : headline(now);
  const milliseconds = previous
    ? now.clock - previous.clock
    : now.time.getTime() - now.startTime.getTime();
  return {
    delta,
    rate: milliseconds > 0 && delta > 0n ? (Number(delta) * 1000) / milliseconds : 0,
  };
}

/** One count of a snapshot that says who or what. */
export interface Series {
  name: "exec" | "failed" | "watched";
  labels: Record<string, string>;
  count: bigint;
  /** To find it again by in another snapshot. */
  key: string;
}

/** What grew since `previous`, or since the start, and by how much: the most first. */
export function moved(previous: Snapshot | undefined, now: Snapshot): Moved[] {
  const before = new Map<string, bigint>();
  for (const { key, count } of previous ? seriesOf(previous) : []) before.set(key, count);
  const grown: Moved[] = [];
  for (const { name, labels, key, count } of seriesOf(now)) {
    const delta = count - (before.get(key) ?? 0n);
    if (delta > 0n) grown.push({ name, labels, delta });
  }
  return grown.sort((a, b) => (a.delta < b.delta ? 1 : a.delta > b.delta ? -1 : 0));
}

interface Moved {
  name: Series["name"];
  labels: Record<string, string>;
  delta: bigint;
}

/**
 * Every count that says who or what: rows of the breakdown, failures, watched names. Of as many
 * as there can be it takes a while: written so that it is a short one.
 */
export function seriesOf({ by, execsBy, failures, watched }: Snapshot): Series[] {
  const all: Series[] = [];
  const user = Object.keys(execsBy[0]?.labels ?? {}).indexOf("user");
  const add = (
    name: Series["name"],
    labels: Record<string, string>,
    count: bigint,
    uid?: number,
  ) => {
    const values = Object.values(labels);
    if (uid !== undefined) values[user] = `${uid}`;
    values.push(name);
    all.push({ name, labels, count, key: values.join("\0") });
  };
  if (by.length > 0) for (const { labels, uid, count } of execsBy) add("exec", labels, count, uid);
  for (const [syscall, counts] of Object.entries(failures ?? {})) {
    for (const [errno, count] of counts) add("failed", { syscall, errno }, count);
  }
  for (const [command, count] of watched) add("watched", { command }, count);
  return all;
}

/** Attempts by either call, execs, and failures of either; undefined what is not counted. */
export function totalsOf({ attempts, execs, failures }: Snapshot) {
  const sum = (counts: Iterable<bigint>) => [...counts].reduce((total, count) => total + count, 0n);
  return {
    attempts: attempts && sum(Object.values(attempts)),
    execs,
    failures: failures && sum(Object.values(failures).flatMap((counts) => [...counts.values()])),
  };
}

/** What is short where runs of a program were skipped; see docs/kernels.md. */
const SHORT: Record<string, string> = {
  count_execve: "calls of execve are short by as many",
  count_execveat: "calls of execveat are short by as many",
  count_attempts: "calls are short by up to as many",
  count_execve_failure: "up to as many failed calls of execve have an unknown errno",
  count_execveat_failure: "up to as many failed calls of execveat have an unknown errno",
  count_failures: "up to as many failed calls have an unknown errno",
  count_killed: "failed calls of tasks that ended are short by up to as many",
  count_exec: `programs started are ${OTHER} instead of who they were, and not among the watched`,
};

/** What the numbers have against them, in sentences; nothing where they are exact. */
export function doubts({ programs, by, tables, unfollowed }: Snapshot): string[] {
  const table = tables.find(({ name }) => name === EXECS_MAP);
  const full = by.length > 0 && table && table.entries >= table.capacity;
  return [
    ...(programs.some(({ misses }) => misses === undefined)
      ? ["This kernel does not say how many runs it skips: calls may be counted short."]
      : []),
    ...programs
      .filter(({ misses }) => misses)
      .map(({ name, misses }) => `The kernel skipped ${misses} runs of ${name}: ${SHORT[name]}.`),
    ...(unfollowed
      ? [`${unfollowed} calls could not be followed: their failures may be the other call's.`]
      : []),
    ...(full
      ? [`The table is full: what has no row of its own counts as ${OTHER} (--max-series).`]
      : []),
  ];
}

/** The snapshot as the JSON interface names it; bigints stay bigints. */
export function toPlain(snapshot: Snapshot) {
  return {
    time: snapshot.time.toISOString(),
    start_time: snapshot.startTime.toISOString(),
    execve_counter: headline(snapshot),
    attempts: snapshot.attempts,
    missed: snapshot.missed ?? null,
    execs: snapshot.execs,
    execs_by:
      snapshot.by.length > 0
        ? distinct(snapshot.execsBy).map(({ labels, count }) => ({ ...labels, execs: count }))
        : undefined,
    failures: snapshot.failures && {
      execve: nonzero(snapshot.failures.execve),
      execveat: nonzero(snapshot.failures.execveat),
    },
    checks: snapshot.checks,
    unfollowed: snapshot.unfollowed,
    watched: Object.fromEntries(snapshot.watched),
  };
}

function nonzero(counts: ReadonlyMap<string, bigint>): Record<string, bigint> {
  return Object.fromEntries([...counts].filter(([, count]) => count > 0n));
}
