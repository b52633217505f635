/** Reads the running meter into a Snapshot; keeps nothing. */

import { COUNTERS_MAP, EXECS_MAP, EXECVE_KEY, EXECVEAT_KEY, watchedCounts } from "../counts/abi.ts";
import { EXPECTED, errnoName } from "../counts/errnos.ts";
import { OTHER, RETIRED } from "../counts/labels.ts";
import { type ExecsRow, type FailureCounts, merged, type Snapshot } from "../counts/snapshot.ts";
import { type Execs, type Failures, OTHER_ROW, RETIRED_ROW } from "./addon.ts";
import type { Meter } from "./meter.ts";

/** @throws Error where the kernel refuses, or where a key the meter seeded is gone */
export function read(meter: Meter): Snapshot {
  const clock = performance.now();
  const time = new Date();
  // The ends of calls are read before the attempts, so no more calls have ended than begun.
  const execs = meter.readExecs();
  const failures = meter.readFailures();
  const counters = meter.readCounters();
  const programs = meter.programs();

  const counter = (key: string): bigint => {
    const value = counters.find(([name]) => name === key)?.[1];
    if (value === undefined) throw new Error(`the key ${key} is gone from the map ${COUNTERS_MAP}`);
    return value;
  };
  const other = execs.kinds.indexOf(OTHER_ROW);
  if (other < 0) throw new Error(`the row of all others is gone from the map ${EXECS_MAP}`);
  // A run that the kernel skipped was an exec too, but its labels are not known.
  const skipped = programs.find(({ name }) => name === "count_exec")?.misses ?? 0n;
  let total = skipped;
  for (const count of execs.counts) total += count;
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
    by: meter.by,
    execsBy:
      meter.by.length > 0 ? breakdown(execs, skipped, meter) : [{ labels: {}, count: total }],
    noRoom: execs.counts[other] as bigint,
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

/** The rows with the values of their labels; the row of all others includes the skipped runs. */
function breakdown(execs: Execs, skipped: bigint, meter: Meter): ExecsRow[] {
  const users = new Map<number, string>();
  const nameOf = (uid: number) => {
    let name = users.get(uid);
    if (name === undefined) {
      name = meter.userName(uid);
      users.set(uid, name);
    }
    return name;
  };
  let { alike } = execs;
  const rows: ExecsRow[] = [];
  for (let i = 0; i < execs.kinds.length; i++) {
    const kind = execs.kinds[i];
    const labels: ExecsRow["labels"] = {};
    const row: ExecsRow = { labels, count: execs.counts[i] as bigint };
    if (kind === OTHER_ROW || kind === RETIRED_ROW) {
      const value = kind === OTHER_ROW ? OTHER : RETIRED;
      for (const label of meter.by) labels[label] = value;
      if (kind === OTHER_ROW) row.count += skipped;
      row.of = value;
    } else {
      for (const label of meter.by) {
        if (label === "user") {
          row.uid = execs.uids[i] as number;
          labels.user = nameOf(row.uid);
        } else {
          const value = execs.labels[label]?.[i] as string;
          labels[label] = value;
          alike ||= value === OTHER || value === RETIRED || value.includes("\ufffd");
        }
      }
    }
    rows.push(row);
  }
  // Such values, names that are not UTF-8 and look the same once decoded, and units that were
  // started again.
  if (!alike) return rows;
  return merged(rows, ({ labels, uid }) => Object.values({ ...labels, user: uid }).join("\0"));
}

/** Failures by errno, with 0 for each error that the manual names, so that counts start at 0. */
function byErrno({ failed }: Failures): FailureCounts {
  const none = () => new Map<string, bigint>(EXPECTED.map((name) => [name, 0n]));
  const counts = { execve: none(), execveat: none() };
  for (const [syscall, errno, count] of failed) counts[syscall].set(errnoName(errno), count);
  return counts;
}
