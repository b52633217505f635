/** The list of watched commands of a meter that runs in another process. */
import { createServer, type Server } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { ExitCode, UserError } from "./errors.ts";
import { type LiveCounters, openLiveCounters } from "./kernel.ts";
import { watchedName, watchKey } from "./keys.ts";
import type { Log } from "./log.ts";

/** Programs started, by watched name. */
export function list(mapId: number | undefined, log: Log): Map<string, bigint> {
  const counters = openLiveCounters(mapId, log.debug);
  try {
    const watched = new Map<string, bigint>();
    for (const [key, count] of counters.read()) {
      const name = watchedName(key);
      if (name !== undefined) watched.set(name, (watched.get(name) ?? 0n) + count);
    }
    return watched;
  } finally {
    counters.close();
  }
}

/**
 * Counts these names too, from 0; what is watched already keeps its count.
 *
 * @throws UserError where there is no room for all of them; none is added then
 */
export function add(names: readonly string[], mapId: number | undefined, log: Log): Promise<void> {
  return edit(mapId, log, (counters) => {
    // Also for the sake of keys that somebody else has just removed.
    counters.settle();
    const added: string[] = [];
    try {
      for (const name of names) {
        if (counters.insert(watchKey(name))) added.push(name);
        else log.info(`${name} is watched already`);
      }
    } catch (error) {
      for (const name of added) counters.remove(watchKey(name));
      counters.settle();
      throw error;
    }
  });
}

/**
 * Counts these names no more.
 *
 * @throws UserError where one is not watched; the others are removed
 */
export function remove(
  names: readonly string[],
  mapId: number | undefined,
  log: Log,
): Promise<void> {
  return edit(mapId, log, (counters) => {
    const missing = names.filter((name) => !counters.remove(watchKey(name)));
    counters.settle();
    if (missing.length > 0) {
      throw new UserError(
        `not watched: ${missing.join(", ")}`,
        "execve-counter watch list shows what is",
        ExitCode.failed,
      );
    }
  });
}

/** Edits alone: a key must not come between another's removal and the wait after it. */
async function edit(
  mapId: number | undefined,
  log: Log,
  work: (counters: LiveCounters) => void,
): Promise<void> {
  const counters = openLiveCounters(mapId, log.debug);
  let lock: Server | undefined;
  try {
    lock = await take(`\0execve-counter/${counters.mapId}`);
    work(counters);
  } finally {
    lock?.close();
    counters.close();
  }
}

/** A lock that ends with the process: an abstract socket, which one process at a time can have. */
async function take(name: string): Promise<Server> {
  for (let attempt = 0; attempt < 500; attempt++) {
    const lock = await new Promise<Server | undefined>((resolve, reject) => {
      const server = createServer();
      server.once("error", (error: NodeJS.ErrnoException) =>
        error.code === "EADDRINUSE" ? resolve(undefined) : reject(error),
      );
      server.listen(name, () => resolve(server));
    });
    if (lock) return lock;
    await sleep(20);
  }
  throw new UserError(
    "another process has been editing the watch list for ten seconds",
    "end that process (ss -xlp | grep execve-counter names it), and try again",
    ExitCode.failed,
  );
}
