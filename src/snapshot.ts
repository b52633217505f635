/** Plain data that says what was counted at one moment; every count is a u64 as bigint. */

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
  /** Runs that the kernel skipped (recursion_misses in struct bpf_prog_info). */
  misses: bigint;
}

export interface TableFill {
  name: string;
  entries: number;
  capacity: number;
}

export interface Snapshot {
  time: Date;
  /** Monotonic time in milliseconds, for rates: the clock on the wall may jump. */
  clock: number;
  /** Since when these counts run. */
  startTime: Date;
  /** Calls that entered the kernel; undefined with --attempts off. */
  attempts: { execve: bigint; execveat: bigint } | undefined;
  /** Programs started. */
  execs: bigint;
  /** Programs started, by watched command name. */
  watched: ReadonlyMap<string, bigint>;
  programs: readonly ProgramStats[];
  tables: readonly TableFill[];
  /** Seconds it took to read all this. */
  readDuration: number;
}

/** The number on the printed line: attempts by execve, or successes with --attempts off. */
export function headline(snapshot: Snapshot): bigint {
  return snapshot.attempts?.execve ?? snapshot.execs;
}

/** Runs the kernel skipped, over all programs. */
export function missed(snapshot: Snapshot): bigint {
  return snapshot.programs.reduce((sum, program) => sum + program.misses, 0n);
}

/**
 * What the headline did since `previous`: the difference, and executions per
 * second (0 where no time has passed).
 */
export function change(previous: Snapshot, now: Snapshot): { delta: bigint; rate: number } {
  const delta = headline(now) - headline(previous);
  const seconds = (now.clock - previous.clock) / 1000;
  return { delta, rate: seconds > 0 ? Number(delta) / seconds : 0 };
}

/** The snapshot as the JSON interface names it; bigints stay bigints. */
export function toPlain(snapshot: Snapshot) {
  return {
    time: snapshot.time.toISOString(),
    start_time: snapshot.startTime.toISOString(),
    execve_counter: headline(snapshot),
    attempts: snapshot.attempts,
    missed: missed(snapshot),
    execs: snapshot.execs,
    watched: Object.fromEntries(snapshot.watched),
  };
}
