/** Reads the running meter into a Snapshot; keeps nothing. */

import {
  COUNTERS_MAP,
  EXECS_MAP,
  EXECVE_KEY,
  EXECVEAT_KEY,
  OTHER_UID,
  watchedCounts,
} from "../counts/abi.ts";
import { EXPECTED, errnoName } from "../counts/errnos.ts";
import { OTHER } from "../counts/labels.ts";
import { type ExecsRow, type FailureCounts, merged, type Snapshot } from "../counts/snapshot.ts";
import type { Execs, Failures } from "./addon.ts";
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
  if (!execs.uids.includes(OTHER_UID)) {
    throw new Error(`the row of all others is gone from the map ${EXECS_MAP}`);
  }
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
    failures: failures && byErrno(failures),
    checks: failures?.checks,
    unfollowed: failures?.unfollowed,
    watched: watchedCounts(counters),
    programs,
    tables: [
      { name: COUNTERS_MAP, entries: counters.length, capacity: meter.countersMap.capacity },
      ...(meter.by.length > 0
        ? [{ name: EXECS_MAP, entries: execs.uids.length, capacity: meter.execsMap.capacity }]
        : []),
    ],
    readDuration: (performance.now() - clock) / 1000,
  };
}

/** The rows with the values of their labels; the row of all others includes the skipped runs. */
function breakdown(execs: Execs, skipped: bigint, meter: Meter): ExecsRow[] {
  const [byCommand, byUser, byContainer] = (["command", "user", "container"] as const).map(
    (label) => meter.by.includes(label),
  );
  const names = new Map<number, string>([[OTHER_UID, OTHER]]);
  let alike = false;
  const rows: ExecsRow[] = [];
  for (let i = 0; i < execs.uids.length; i++) {
    const uid = execs.uids[i] as number;
    const command = execs.commands[i] as string;
    const other = uid === OTHER_UID;
    const labels: ExecsRow["labels"] = {};
    const row: ExecsRow = { labels, count: (execs.counts[i] as bigint) + (other ? skipped : 0n) };
    if (byCommand) {
      labels.command = other ? OTHER : command;
      alike ||= command === OTHER || command.includes("\ufffd");
    }
    if (byUser) {
      let name = names.get(uid);
      if (name === undefined) {
        name = meter.userName(uid);
        names.set(uid, name);
      }
      labels.user = name;
      row.uid = uid;
    }
    if (byContainer) labels.container = other ? OTHER : (execs.containers[i] as string);
    rows.push(row);
  }
  // A command called "other", and names that are not UTF-8 and look the same once decoded.
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
