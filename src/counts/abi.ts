/**
 * Names and keys of the maps, as bpf/execve_counter.h defines them
 * (a test compares the two).
 */

export const COUNTERS_MAP = "execve_counter";
export const EXECS_MAP = "execs";
export const GROUPS_MAP = "groups";
export const OWNERS_MAP = "owners";
export const FAILURES_MAP = "failures";
export const CALLS_MAP = "calls";
export const STATE_MAP = "state";
export const SCOPE_MAP = "scope";
/** Bytes of a control group's path that the kernel tells: SCOPE_PATH_SIZE without the NUL. */
export const MAX_SCOPE_BYTES = 1023;
/** The name of the directory with pins of this kind. */
export const PIN_VERSION = "v3";
export const EXECVE_KEY = "execve_counter";
export const EXECVEAT_KEY = "execveat_counter";
const WATCH_PREFIX = "comm:";
export const WATCH_FILE_KEY = "watch_file";

/** The kernel keeps this many bytes of a command's name: TASK_COMM_LEN - 1. */
export const MAX_COMMAND_BYTES = 15;

/** The key that counts execs of the command `name`. */
export function watchKey(name: string): string {
  return WATCH_PREFIX + name;
}

/** The command name that `key` counts, or undefined where it counts something else. */
export function watchedName(key: string): string | undefined {
  return key.startsWith(WATCH_PREFIX) ? key.slice(WATCH_PREFIX.length) : undefined;
}

/**
 * The counts of the watched names among the counters. Names that are not UTF-8 can look the
 * same once decoded; their counts are added up.
 */
export function watchedCounts(counters: Iterable<[key: string, count: bigint]>) {
  const watched = new Map<string, bigint>();
  for (const [key, count] of counters) {
    const name = watchedName(key);
    if (name !== undefined) watched.set(name, (watched.get(name) ?? 0n) + count);
  }
  return watched;
}
