/** Reads the running meter into a Snapshot; keeps nothing. */
import type { Kernel } from "./kernel.ts";
import { COUNTERS_MAP, EXECVE_KEY, EXECVEAT_KEY, watchedName } from "./keys.ts";
import type { Snapshot } from "./snapshot.ts";

/** @throws Error where the kernel refuses, or where a key the meter seeded is gone */
export function read(kernel: Kernel): Snapshot {
  const clock = performance.now();
  const time = new Date();
  const counters = kernel.readCounters();
  const execs = kernel.readExecs();
  const programs = kernel.programs();

  const counter = (key: string): bigint => {
    const value = counters.find(([name]) => name === key)?.[1];
    if (value === undefined) throw new Error(`the key ${key} is gone from the map ${COUNTERS_MAP}`);
    return value;
  };
  const watched = new Map<string, bigint>();
  for (const [key, value] of counters) {
    const name = watchedName(key);
    // Names that are no UTF-8 can look the same once decoded: those are one then.
    if (name !== undefined) watched.set(name, (watched.get(name) ?? 0n) + value);
  }
  return {
    time,
    clock,
    startTime: kernel.startTime,
    attempts: kernel.attempts
      ? { execve: counter(EXECVE_KEY), execveat: counter(EXECVEAT_KEY) }
      : undefined,
    missed: programs.find(({ name }) => name === kernel.headlineProgram)?.misses,
    execs,
    watched,
    programs,
    tables: [
      { name: COUNTERS_MAP, entries: counters.length, capacity: kernel.countersMap.capacity },
    ],
    readDuration: (performance.now() - clock) / 1000,
  };
}
