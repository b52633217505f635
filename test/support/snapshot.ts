import { type Breakdown, type ExecsRow, rowKey, type Snapshot } from "../../src/counts/snapshot.ts";

const PROGRAMS = [
  ["count_execve", "tracepoint/syscalls/sys_enter_execve"],
  ["count_execveat", "tracepoint/syscalls/sys_enter_execveat"],
  ["count_execve_failure", "tracepoint/syscalls/sys_exit_execve"],
  ["count_execveat_failure", "tracepoint/syscalls/sys_exit_execveat"],
  ["count_killed", "tp_btf/sched_process_exit"],
  ["count_exec", "tp_btf/sched_process_exec"],
] as const;

/** A snapshot of fixed numbers, for tests without a kernel. */
export function snapshot(changes: Partial<Omit<Snapshot, "breakdown">> = {}): Snapshot {
  const all: Omit<Snapshot, "breakdown"> = {
    time: new Date("2026-11-23T04:50:00Z"),
    clock: 0,
    startTime: new Date("2026-11-23T04:00:00Z"),
    attempts: { execve: 23n, execveat: 2n },
    missed: 0n,
    execs: 21n,
    by: ["command", "user", "container"],
    execsBy: [
      { labels: { command: "sh", user: "root", container: "" }, count: 12n },
      {
        labels: { command: "nc", user: "4242", container: "0123456789abcdef".repeat(4) },
        count: 3n,
      },
      { labels: { command: "other", user: "other", container: "other" }, count: 6n, of: "other" },
    ],
    noRoom: 0n,
    retired: 0n,
    failures: {
      execve: new Map([
        ["ENOENT", 3n],
        ["EACCES", 0n],
      ]),
      execveat: new Map([["ENOENT", 1n]]),
    },
    checks: 2n,
    unfollowed: 0n,
    watched: new Map([["nc", 3n]]),
    programs: PROGRAMS.map(([name, hook], i) => ({
      name,
      hook,
      id: 100 + i,
      runCount: 23n,
      runTime: 2_300n,
      misses: 0n,
    })),
    tables: [
      { name: "execve_counter", entries: 3, capacity: 4096 },
      { name: "execs", entries: 3, capacity: 1024 },
    ],
    readDuration: 0.000025,
    ...changes,
  };
  return { ...all, breakdown: breakdownOf(all.execsBy) };
}

function breakdownOf(rows: readonly ExecsRow[]): Breakdown {
  const users = new Map(rows.map(({ labels, uid }) => [uid, labels.user]));
  return {
    names: rows.map(({ labels, uid, of }) => ({ labels, uid, of, key: rowKey(labels, uid) })),
    counts: BigUint64Array.from(rows, ({ count }) => count),
    namesakes: new Set(users.values()).size < users.size,
  };
}
