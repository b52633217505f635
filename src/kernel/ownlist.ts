/** The watch list of this process's meter, where it is given as a whole: by a file. */
import { ExitCode, UserError } from "../base/errors.ts";
import { COUNTERS_MAP, WATCH_FILE_KEY, watchedCounts, watchKey } from "../counts/abi.ts";
import type { Session } from "./addon.ts";

export interface ListChange {
  added: number;
  removed: number;
}

/**
 * Makes these names the whole watch list. A name that stays keeps its count, a new one starts
 * from 0. No other process may edit the list meanwhile: it leaves it alone once the key is there
 * that this puts there.
 *
 * @throws UserError, or a NativeError; the list is the old one then, with its counts
 */
export function watchOnly(session: Session, names: readonly string[]): ListChange {
  session.insert(WATCH_FILE_KEY);
  // Another process may just have removed keys.
  session.settle();
  const counters = session.readCounters();
  const watched = watchedCounts(counters);
  const wanted = new Set(names);
  const added = [...wanted].filter((name) => !watched.has(name));
  const removed = [...watched.keys()].filter((name) => !wanted.has(name));
  const capacity = session.maps().find(({ name }) => name === COUNTERS_MAP)?.capacity ?? 0;
  const room = capacity - counters.length;
  if (added.length > room + removed.length) {
    throw new UserError(
      "there is no room for that many watched names",
      `watch fewer commands: there is room for ${capacity} counters`,
      ExitCode.usage,
    );
  }

  const remove = (names: readonly string[]) => {
    const gone = names.filter((name) => session.remove(watchKey(name)));
    if (gone.length > 0) session.settle();
    return gone.length;
  };
  // What is added can be taken back, a count that is removed cannot: so that comes last, unless
  // there is no room for the old list and the new one at once.
  const early = added.length > room ? remove(removed) : undefined;
  const inserted: string[] = [];
  try {
    for (const name of added) if (session.insert(watchKey(name))) inserted.push(name);
  } catch (error) {
    remove(inserted);
    throw error;
  }
  return { added: inserted.length, removed: early ?? remove(removed) };
}
