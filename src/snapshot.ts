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

export interface Snapshot {
  time: Date;
  /** Monotonic time in milliseconds, for rates: the clock on the wall may jump. */
  clock: number;
  /** Since when these counts run. */
  startTime: Date;
  /** Calls that entered the kernel; undefined with --attempts off. */
  attempts: { execve: bigint; execveat: bigint } | undefined;
  /** Runs skipped of the program behind the headline; undefined where nobody knows. */
  missed: bigint | undefined;
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

/**
 * What the headline did since `previous`, or since the start: the difference, and
 * executions per second (0 where no time has passed).
 */
export function change(
  previous: Snapshot | undefined,
  now: Snapshot,
): { delta: bigint; rate: number } {
  const delta = previous ? headline(now) - headline(previous) : headline(now);
  const milliseconds = previous
    ? now.clock - previous.clock
    : now.time.getTime() - now.startTime.getTime();
  return { delta, rate: milliseconds > 0 ? (Number(delta) * 1000) / milliseconds : 0 };
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
    watched: Object.fromEntries(snapshot.watched),
  };
}
