import type { Snapshot } from "../../src/snapshot.ts";

const PROGRAMS = [
  ["count_execve", "tracepoint/syscalls/sys_enter_execve"],
  ["count_execveat", "tracepoint/syscalls/sys_enter_execveat"],
  ["count_exec", "tp_btf/sched_process_exec"],
] as const;

/** A snapshot of fixed numbers, for tests without a kernel. */
export function snapshot(changes: Partial<Snapshot> = {}): Snapshot {
  return {
    time: new Date("2026-11-23T04:50:00Z"),
    clock: 0,
    startTime: new Date("2026-11-23T04:00:00Z"),
    attempts: { execve: 23n, execveat: 2n },
    missed: 0n,
    execs: 21n,
    watched: new Map([["nc", 3n]]),
    programs: PROGRAMS.map(([name, hook], i) => ({
      name,
      hook,
      id: 100 + i,
      runCount: 23n,
      runTime: 2_300n,
      misses: 0n,
    })),
    tables: [{ name: "execve_counter", entries: 3, capacity: 4096 }],
    readDuration: 0.000025,
    ...changes,
  };
}
