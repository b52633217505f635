/** The list of watched commands of another process's meter. */
import { setTimeout as sleep } from "node:timers/promises";
import { ExitCode, UserError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { printable } from "../base/text.ts";
import { WATCH_FILE_KEY, watchedCounts, watchKey } from "../counts/abi.ts";
import { isNativeError } from "./addon.ts";
import { chooseMeter, findMeters } from "./running.ts";
import { lock, translated, withFollower, withSession } from "./session.ts";

const LOCK = "/run/execve-counter.lock";

/** Execs by watched name. */
export function list(mapId: number | undefined, log: Log): Map<string, bigint> {
  const counters = openLiveCounters(mapId, log.debug);
  try {
    return watchedCounts(counters.read());
  } finally {
    counters.close();
  }
}

/**
 * Counts these names too, from 0; a name that is watched already keeps its count.
 *
 * @throws UserError where there is no room for all of them; none is added then
 */
export function add(names: readonly string[], mapId: number | undefined, log: Log): Promise<void> {
  return edit(mapId, log, (counters) => {
    // Another process may just have removed keys.
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
 * Stops counting these names.
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
        "execve-counter watch list shows the watched names",
        ExitCode.failed,
      );
    }
  });
}

/** One edit at a time: no insertion may come between another's removal and the wait after it. */
async function edit(
  mapId: number | undefined,
  log: Log,
  work: (counters: LiveCounters) => void,
): Promise<void> {
  const counters = openLiveCounters(mapId, log.debug);
  try {
    await turn(() => counters.lock(LOCK));
    if (counters.isOfFile()) {
      throw new UserError(
        `the watch list of the map ${counters.mapId} is that of a file (--watch-file)`,
        "edit that file: its agent takes the change over within 2 seconds",
        ExitCode.failed,
      );
    }
    work(counters);
  } finally {
    counters.close();
  }
}

/**
 * Does work on the list of this process's meter while no other process edits one. A user who
 * may not lock the file of the editors goes without.
 */
export async function inTurn<Result>(log: Log, work: () => Result): Promise<Result> {
  const session = withSession(log.debug, (session) => session);
  try {
    await turn(() => translated([], () => lock(session, LOCK)));
    return work();
  } catch (error) {
    if (!(error instanceof UserError && isNativeError(error.cause))) throw error;
    if (error.cause.step !== "lock") throw error;
    log.debug(`${error.message}: edits the watch list without it`);
    return work();
  } finally {
    session.close();
  }
}

/** Waits until this process has the lock. */
async function turn(locks: () => boolean): Promise<void> {
  for (let attempt = 0; !locks(); attempt++) {
    if (attempt === 500) {
      throw new UserError(
        "another process has been editing the watch list for ten seconds",
        `end the one that holds ${LOCK}, and try again`,
        ExitCode.failed,
      );
    }
    await sleep(20);
  }
}

/** The counters of another process's meter. */
interface LiveCounters {
  readonly mapId: number;
  /** Locks the file that all editors use, until this is closed; false where another has the lock. */
  lock(path: string): boolean;
  read(): [key: string, value: bigint][];
  /** Whether a file is the whole list. */
  isOfFile(): boolean;
  /** Waits until no program can still add to a key that is gone by now. */
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
 * @param mapId of its map of counters; undefined for the only meter
 * @throws UserError where there is none, more than one, or no permission to look
 */
function openLiveCounters(mapId: number | undefined, log: (line: string) => void): LiveCounters {
  const id = chooseMeter(findMeters(), mapId);
  return withFollower(id, log, (follower) => ({
    mapId: id,
    lock: (path) => translated([], () => lock(follower, path)),
    read: () => translated([], () => follower.readCounters()),
    isOfFile: () => translated([], () => follower.lookup(WATCH_FILE_KEY)) !== undefined,
    settle: () => translated([], () => follower.settle()),
    insert: (key) => translated([], () => follower.insert(key)),
    remove: (key) => translated([], () => follower.remove(key)),
    close: () => follower.close(),
  }));
}
