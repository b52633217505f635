/** The list of watched commands of a meter that runs in another process. */
import { setTimeout as sleep } from "node:timers/promises";
import { ExitCode, UserError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { printable } from "../base/text.ts";
import { watchedCounts, watchKey } from "../counts/abi.ts";
import { chooseMeter, findMeters } from "./running.ts";
import { lock, translated, withFollower } from "./session.ts";

const LOCK = "/run/execve-counter.lock";

/** Programs started, by watched name. */
export function list(mapId: number | undefined, log: Log): Map<string, bigint> {
  const counters = openLiveCounters(mapId, log.debug);
  try {
    return watchedCounts(counters.read());
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
        else log.info(`${printable(name)} is watched already`);
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
        `not watched: ${missing.map(printable).join(", ")}`,
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
  try {
    for (let attempt = 0; !counters.lock(LOCK); attempt++) {
      if (attempt === 500) {
        throw new UserError(
          "another process has been editing the watch list for ten seconds",
          `end the one that holds ${LOCK}, and try again`,
          ExitCode.failed,
        );
      }
      await sleep(20);
    }
    work(counters);
  } finally {
    counters.close();
  }
}

/** The counters of a meter that runs in another process. */
interface LiveCounters {
  readonly mapId: number;
  /** Locks a file that all who edit use, until this is closed; false where another has it. */
  lock(path: string): boolean;
  read(): [key: string, value: bigint][];
  /** Waits until no program can add any more to a key that is gone by now. */
  settle(): void;
  /** Puts a key there at 0; false where it is there, and keeps its count. */
  insert(key: string): boolean;
  /** False where there is no such key. */
  remove(key: string): boolean;
  close(): void;
}

/**
 * Finds the running meter.
 *
 * @param mapId of its map of counters; undefined for the only meter there is
 * @throws UserError where there is none, more than one, or no permission to look
 */
function openLiveCounters(mapId: number | undefined, log: (line: string) => void): LiveCounters {
  const id = chooseMeter(findMeters(), mapId);
  return withFollower(id, log, (follower, addon) => ({
    mapId: id,
    lock: (path) => translated([], () => lock(follower, path)),
    read: () => translated([], () => follower.readCounters()),
    settle: () => translated([], () => addon.settle()),
    insert: (key) => translated([], () => follower.insert(key)),
    remove: (key) => translated([], () => follower.remove(key)),
    close: () => follower.close(),
  }));
}
