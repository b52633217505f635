/** Reads the running meter into a Snapshot; keeps nothing but the names of its rows. */

import { COUNTERS_MAP, EXECS_MAP, EXECVE_KEY, EXECVEAT_KEY, watchedCounts } from "../counts/abi.ts";
import { EXPECTED, errnoName } from "../counts/errnos.ts";
import {
  type Breakdown,
  type ExecsRow,
  type FailureCounts,
  type RowName,
  rowsOf,
  type Snapshot,
} from "../counts/snapshot.ts";
import { type Failures, OTHER_ROW } from "./addon.ts";
import type { Meter } from "./meter.ts";
import { Names } from "./names.ts";

const NAMES = new WeakMap<Meter, Names>();
const UNBROKEN: RowName = { labels: {}, uid: undefined, of: undefined, key: "" };

/** @throws Error where the kernel refuses, or where a key the meter seeded is gone */
export function read(meter: Meter): Snapshot {
  const clock = performance.now();
  const time = new Date();
  // The ends of calls are read before the attempts, so no more calls have ended than begun.
  const names = NAMES.get(meter) ?? new Names();
  NAMES.set(meter, names);
  const execs = meter.readExecs(names.serial);
  const failures = meter.readFailures();
  const counters = meter.readCounters();
  const programs = meter.programs();
  const scope = meter.scope ? meter.readScope() : undefined;

  const counter = (key: string): bigint => {
    const value = counters.find(([name]) => name === key)?.[1];
    if (value === undefined) throw new Error(`the key ${key} is gone from the map ${COUNTERS_MAP}`);
    return value;
  };
  const other = execs.kinds.indexOf(OTHER_ROW);
  if (other < 0) throw new Error(`the row of all others is gone from the map ${EXECS_MAP}`);
  // A run that the kernel skipped was an exec too, but its labels are not known.
  const misses = programs.find(({ name }) => name === "count_exec")?.misses ?? 0n;
  // Of a scoped meter it is not known whether it was one in its control group.
  const skipped = meter.scope === undefined ? misses : 0n;
  const total = execs.total + skipped;
  const noRoom = execs.counts[other] as bigint;
  execs.counts[other] = noRoom + skipped;
  const breakdown = meter.by.length > 0 ? names.breakdown(execs, meter) : unbroken(total);
  let rows: ExecsRow[] | undefined;
  return {
    time,
    clock,
    startTime: meter.startTime,
    attempts: meter.attempts
      ? { execve: counter(EXECVE_KEY), execveat: counter(EXECVEAT_KEY) }
      : undefined,
    // The total of execs includes its missed runs already.
    missed: meter.attempts
      ? programs.find(({ name }) => name === meter.headlineProgram)?.misses
      : 0n,
    execs: total,
    cgroup: scope && { path: scope.path, present: scope.group !== 0n, recreated: scope.made },
    by: meter.by,
    breakdown,
    // Made only where it is asked for: that takes longer than the rest of a read.
    get execsBy() {
      rows ??= rowsOf(breakdown);
      return rows;
    },
    noRoom,
    retired: meter.retires ? execs.retired : undefined,
    failures: failures && byErrno(failures),
    checks: failures?.checks,
    unfollowed: failures?.unfollowed,
    watched: watchedCounts(counters),
    programs,
    tables: [
      { name: COUNTERS_MAP, entries: counters.length, capacity: meter.countersMap.capacity },
      ...(meter.by.length > 0
        ? [{ name: EXECS_MAP, entries: execs.kinds.length, capacity: meter.execsMap.capacity }]
        : []),
    ],
    readDuration: (performance.now() - clock) / 1000,
  };
}

/** All execs as one row. */
function unbroken(total: bigint): Breakdown {
  return { names: [UNBROKEN], counts: BigUint64Array.of(total), namesakes: false };
}

/** Failures by errno, with 0 for each error that the manual names, so that counts start at 0. */
function byErrno({ failed }: Failures): FailureCounts {
  const none = () => new Map<string, bigint>(EXPECTED.map((name) => [name, 0n]));
  const counts = { execve: none(), execveat: none() };
  for (const [syscall, errno, count] of failed) counts[syscall].set(errnoName(errno), count);
  return counts;
}
