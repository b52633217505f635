/** The counts at one moment, as plain data; every count is a u64 as bigint. */
import { type Label, OTHER, RETIRED } from "./labels.ts";

export interface ProgramStats {
  /** The C name: "count_execve". */
  name: string;
  /** Where it is attached: "tracepoint/syscalls/sys_enter_execve". */
  hook: string;
  /** As `bpftool prog` shows it. */
  id: number;
  /** Runs, and nanoseconds spent in them; 0 while kernel.bpf_stats_enabled is 0. */
  runCount: bigint;
  runTime: bigint;
  /**
   * Runs that the kernel skipped (recursion_misses in struct bpf_prog_info);
   * undefined where it may skip some and does not report them.
   */
  misses: bigint | undefined;
}

export interface TableFill {
  name: string;
  entries: number;
  capacity: number;
}

export interface CgroupState {
  /** From the root of the unified hierarchy. */
  path: string;
  /** Whether it is there: else nothing counts. */
  present: boolean;
  /** How often it was removed and made again. */
  recreated: bigint;
}

/** The execs that have the same values of all labels. */
export interface ExecsRow {
  labels: Partial<Record<Label, string>>;
  /** The user's, where user is a label: the name may become known later, or change. */
  uid?: number;
  /** Where it is no row with labels, but of all others, or of all that have retired. */
  of?: typeof OTHER | typeof RETIRED;
  count: bigint;
}

/** What the execs of a row have in common: one object in all snapshots, until it changes. */
export interface RowName {
  readonly labels: ExecsRow["labels"];
  readonly uid: number | undefined;
  of: ExecsRow["of"] | undefined;
  /** Stays when a user's name changes. */
  readonly key: string;
  /** The labels as an exposition has them, once one was made. */
  text?: string;
}

/** The rows, column by column, because there can be many thousands. */
export interface Breakdown {
  names: readonly RowName[];
  counts: BigUint64Array;
  /** Whether users have the same name: then rows may have the same labels. */
  namesakes: boolean;
}

/** Failures by the errno's name. */
export type FailureCounts = Record<"execve" | "execveat", ReadonlyMap<string, bigint>>;

export interface Snapshot {
  time: Date;
  /** Monotonic time in milliseconds, for rates: the clock on the wall may jump. */
  clock: number;
  /** When these counts began. */
  startTime: Date;
  /** Calls that entered the kernel; undefined with --attempts off. */
  attempts: { execve: bigint; execveat: bigint } | undefined;
  /** Skipped runs that the headline lacks; undefined where the kernel does not report them. */
  missed: bigint | undefined;
  /** Calls that succeeded: programs started. */
  execs: bigint;
  /** The control group that alone is counted; undefined for the whole host. */
  cgroup?: CgroupState | undefined;
  /** The labels that break execs down. */
  by: readonly Label[];
  /**
   * Execs, broken down; the sum is `execs`. Without labels there is one row. Users with the same
   * name have a row each: see distinct().
   */
  execsBy: readonly ExecsRow[];
  /** The same, column by column. */
  breakdown: Breakdown;
  /** Execs among those that found no room for a row of their own, and count as "other". */
  noRoom: bigint;
  /** Rows that retired with their control groups; undefined where none can. */
  retired: bigint | undefined;
  /** Undefined without --failures. */
  failures: FailureCounts | undefined;
  /** Calls of execveat with AT_EXECVE_CHECK that returned 0; undefined without --failures. */
  checks: bigint | undefined;
  /** Calls that were not followed to their ends, for lack of room; undefined without --failures. */
  unfollowed: bigint | undefined;
  /** Execs by watched command name. */
  watched: ReadonlyMap<string, bigint>;
  programs: readonly ProgramStats[];
  tables: readonly TableFill[];
  /** Seconds it took to read all this. */
  readDuration: number;
}

/** The key of the row with these labels. */
export function rowKey(labels: ExecsRow["labels"], uid: number | undefined): string {
  const values = Object.values(labels);
  if (uid !== undefined) values[Object.keys(labels).indexOf("user")] = `${uid}`;
  values.push("exec");
  return values.join("\0");
}

export function rowsOf({ names, counts }: Breakdown): ExecsRow[] {
  return names.map(({ labels, uid, of }, i) => ({
    ...{ labels, count: counts[i] as bigint },
    ...(uid !== undefined && { uid }),
    ...(of && { of }),
  }));
}

/** Rows that differ in their labels: users with the same name share one. */
export function distinct({ execsBy, breakdown }: Snapshot): readonly ExecsRow[] {
  if (!breakdown.namesakes) return execsBy;
  const byLabels = new Map<string, ExecsRow>();
  for (const row of execsBy) {
    const key = rowKey(row.labels, undefined);
    const before = byLabels.get(key);
    byLabels.set(key, before ? { ...row, ...before, count: before.count + row.count } : row);
  }
  return [...byLabels.values()];
}

/** The headline, the number on the printed line: attempts by execve, or execs with --attempts off. */
export function headline(snapshot: Snapshot): bigint {
  return snapshot.attempts?.execve ?? snapshot.execs;
}

/**
 * How the headline changed since `previous`, or since the start: the difference, and the
 * rate per second (0 where no time has passed, or where another process has set the
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

/** A count of a snapshot that has labels. */
export interface Series {
  name: "exec" | "retired" | "failed" | "watched";
  labels: Record<string, string>;
  count: bigint;
  /** Identifies the series in every snapshot. */
  key: string;
}

/** The series that grew since `previous`, or since the start, and by how much; the most first. */
export function moved(previous: Snapshot | undefined, now: Snapshot): Moved[] {
  const before = new Map<string, bigint>();
  for (const { key, count } of previous ? othersOf(previous) : []) before.set(key, count);
  const grown = now.by.length > 0 ? movedRows(previous?.breakdown, now.breakdown) : [];
  for (const { name, labels, key, count } of othersOf(now)) {
    const delta = count - (before.get(key) ?? 0n);
    if (delta > 0n) grown.push({ name, labels, delta });
  }
  return grown.sort((a, b) => (a.delta < b.delta ? 1 : a.delta > b.delta ? -1 : 0));
}

/** Nearly all rows are where they were, and have not grown. */
function movedRows(previous: Breakdown | undefined, { names, counts }: Breakdown): Moved[] {
  const grown: Moved[] = [];
  let places: Map<string, number> | undefined;
  for (let i = 0; i < names.length; i++) {
    const { labels, of, key } = names[i] as RowName;
    if (of === RETIRED) continue; // these execs were counted before
    let place: number | undefined = i;
    if (previous?.names[i]?.key !== key) {
      places ??= new Map(previous?.names.map((name, at) => [name.key, at]));
      place = places.get(key);
    }
    const before = place === undefined ? 0n : (previous?.counts[place] as bigint);
    const count = counts[i] as bigint;
    if (count > before) grown.push({ name: "exec", labels, delta: count - before });
  }
  return grown;
}

interface Moved {
  name: Series["name"];
  labels: Record<string, string>;
  delta: bigint;
}

/**
 * Every count that has labels: rows of the breakdown, failures, watched names. There can be
 * many thousands, so it is written to be fast.
 */
export function seriesOf(snapshot: Snapshot): Series[] {
  const { names, counts } = snapshot.breakdown;
  const rows =
    snapshot.by.length > 0
      ? names.map(({ labels, of, key }, i): Series => {
          const name = of === RETIRED ? "retired" : "exec";
          return { name, labels, count: counts[i] as bigint, key };
        })
      : [];
  return [...rows, ...othersOf(snapshot)];
}

/** The same without rows. */
function othersOf({ failures, watched }: Snapshot): Series[] {
  const all: Series[] = [];
  for (const [syscall, counts] of Object.entries(failures ?? {})) {
    for (const [errno, count] of counts) {
      const key = [syscall, errno, "failed"].join("\0");
      all.push({ name: "failed", labels: { syscall, errno }, count, key });
    }
  }
  for (const [command, count] of watched) {
    const key = [command, "watched"].join("\0");
    all.push({ name: "watched", labels: { command }, count, key });
  }
  return all;
}

/** Attempts by either call, execs, and failures of either; undefined for what is not counted. */
export function totalsOf({ attempts, execs, failures }: Snapshot) {
  const sum = (counts: Iterable<bigint>) => [...counts].reduce((total, count) => total + count, 0n);
  return {
    attempts: attempts && sum(Object.values(attempts)),
    execs,
    failures: failures && sum(Object.values(failures).flatMap((counts) => [...counts.values()])),
  };
}

/** What skipped runs of each program make inexact; see docs/kernels.md. */
const SHORT: Record<string, string> = {
  count_execve: "attempts by execve are too low by as many",
  count_execveat: "attempts by execveat are too low by as many",
  count_attempts: "attempts are too low by up to as many",
  count_execve_failure: "up to as many failures of execve have an unknown errno",
  count_execveat_failure: "up to as many failures of execveat have an unknown errno",
  count_failures: "up to as many failures have an unknown errno",
  count_killed: "failures of tasks that ended are too low by up to as many",
  end_group: "rows of as many containers or units may never retire",
  begin_scope: "the control group may have been made again unseen, and then nothing counts",
  end_scope: "the control group may be gone, though it is shown as present",
  count_exec: `these execs count as ${OTHER}, and not as watched`,
};

/** Why the counts may be inexact, in sentences; empty where they are exact. */
export function doubts({ cgroup, programs, noRoom, unfollowed }: Snapshot): string[] {
  return [
    ...(cgroup?.present === false
      ? [`The control group ${cgroup.path} is gone: nothing counts until it is made again.`]
      : []),
    ...(programs.some(({ misses }) => misses === undefined)
      ? ["This kernel does not report missed runs: attempts may be too low."]
      : []),
    ...programs
      .filter(({ misses }) => misses)
      .map(
        ({ name, misses }) =>
          `The kernel skipped ${misses} runs of ${name}: ${cgroup && name === "count_exec" ? "of these, execs in the control group are not counted" : SHORT[name]}.`,
      ),
    ...(unfollowed
      ? [
          `${unfollowed} calls could not be followed: their failures may be counted under the other call.`,
        ]
      : []),
    ...(noRoom > 0n
      ? [`${noRoom} execs found no room for a row, and count as ${OTHER} (--max-series).`]
      : []),
  ];
}

/** The snapshot as the JSON interface names it; bigints stay bigints. */
export function toPlain(snapshot: Snapshot) {
  return {
    time: snapshot.time.toISOString(),
    start_time: snapshot.startTime.toISOString(),
    cgroup: snapshot.cgroup,
    execve_counter: headline(snapshot),
    attempts: snapshot.attempts,
    missed: snapshot.missed ?? null,
    execs: snapshot.execs,
    execs_by:
      snapshot.by.length > 0
        ? distinct(snapshot).map(({ labels, count }) => ({ ...labels, execs: count }))
        : undefined,
    overflow: snapshot.by.length > 0 ? snapshot.noRoom : undefined,
    retired_rows: snapshot.retired,
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
