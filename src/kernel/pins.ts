/**
 * The directory in bpffs where a meter is pinned, to keep counting while no agent runs.
 * The pins have their final name only while they are complete:
 *
 *   <directory>/v3           the pins that PIN_VERSION in bpf/execve_counter.h lists
 *   <directory>/unfinished   the same, while they are made or removed
 *   <directory>/v3-new       the same, complete, while what they replace is removed
 *
 * Only the agent that has the lock on the directory works in it. What it finds unfinished is
 * left over from an interrupted start or unpin. What it finds new takes the place of all else.
 */
import {
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  unlinkSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { ExitCode, UserError } from "../base/errors.ts";
import {
  CALLS_MAP,
  COUNTERS_MAP,
  EXECS_MAP,
  FAILURES_MAP,
  GROUPS_MAP,
  OWNERS_MAP,
  PIN_VERSION,
  SCOPE_MAP,
  STATE_MAP,
} from "../counts/abi.ts";
import {
  BPFFS,
  close,
  type Directory,
  descend,
  type MountBpffs,
  makePlace,
  type Place,
  usable,
} from "./directory.ts";
import { beginAnew } from "./explain.ts";

const UNFINISHED = "unfinished";
const NEW = "-new";
const NAMES = /^(?:unfinished|v\d+(?:-new)?)$/;
const MAPS = [COUNTERS_MAP, EXECS_MAP, GROUPS_MAP, OWNERS_MAP, FAILURES_MAP, CALLS_MAP, STATE_MAP];
const OURS = /^(?:enter|next|link)_(count_\w+|end_group|begin_scope|end_scope)$/;

/** The functions of the addon that pins need. */
export interface Native {
  mountBpffs: MountBpffs;
  /** False where another process has the lock. */
  lock(directory: string): boolean;
  emptySlot(path: string): void;
}

/** What is pinned does not fit this start, which can replace it. */
export class UnfitPins extends UserError {}

export interface Pins {
  /** The path of the maps, programs and links that are, or will be, pinned; until close(). */
  readonly path: string;
  /** Whether they are there already, to be reused. */
  readonly reuse: boolean;
  /** The programs whose entries are there. */
  readonly programs: readonly string[];
  /** Whether they outlive this mount namespace; undefined where that is not known. */
  readonly outlive: boolean | undefined;
  /** When that was pinned which they replace; undefined where they replace nothing. */
  readonly replaced: Date | undefined;
  /**
   * Gives what was pinned its final name. What it replaces counts until then, and is removed: not
   * sooner, so that a start that fails leaves it as it was.
   */
  commit(): void;
  /** Removes what this start has pinned, unless that has replaced other pins, and closes. */
  discard(): void;
  close(): void;
}

/**
 * Makes the directory ready to pin in, or finds the pins in it.
 *
 * @param replace whether to pin anew though pins are there
 * @throws UserError where that is not possible, UnfitPins where it would be with `replace`; then
 *   nothing that was there is changed, except for what an interrupted start left
 */
export function preparePins(directory: string, native: Native, replace: boolean): Pins {
  const path = resolve(directory);
  return usable(path, () => {
    const { made, mounted, ...place } = makePlace(path, native.mountBpffs);
    try {
      return prepare(place, made, mounted, native, replace);
    } catch (error) {
      try {
        if (made) rmdirSync(place.parent.at(place.name));
      } finally {
        close(place);
      }
      throw error;
    }
  });
}

function prepare(
  place: Place,
  made: boolean,
  mounted: boolean,
  native: Native,
  replace: boolean,
): Pins {
  const { top } = place;
  lock(top, native);
  endReplacement(top, native);
  const found = top.names();
  const old = found.filter((name) => name !== UNFINISHED);
  for (const name of old) {
    if (!NAMES.test(name)) throw foreign(join(top.path, name));
    if (name === PIN_VERSION || replace) continue;
    throw new UnfitPins(
      `${join(top.path, name)} was pinned by another version`,
      `start that version, or ${beginAnew(top.path)}`,
      ExitCode.failed,
    );
  }
  const replaced = replace ? withStocks(top, old, lastPinned) : undefined;
  if (found.includes(UNFINISHED)) removeThese(top, [UNFINISHED], native);
  const reuse = !replace && found.includes(PIN_VERSION);
  let name = reuse ? PIN_VERSION : UNFINISHED;
  let discardable = !reuse;
  if (!reuse) mkdirSync(top.at(name), { mode: 0o700 });
  let directory: Directory | undefined;
  let programs: string[];
  try {
    directory = top.enter(name);
    // Also where nothing is there, to be sure that a descriptor is left to discard it with.
    programs = programsIn(directory);
  } catch (error) {
    directory?.close();
    if (!reuse) rmdirSync(top.at(name));
    throw error;
  }
  const opened = directory;
  const stop = () => {
    opened.close();
    close(place);
  };
  return {
    path: opened.at(),
    reuse,
    programs,
    outlive: outlive(top, mounted),
    replaced,
    commit() {
      if (reuse) return;
      const rename = (to: string) => {
        renameSync(top.at(name), top.at(to));
        name = to;
      };
      usable(top.path, () => {
        if (replaced) {
          rename(PIN_VERSION + NEW);
          discardable = false;
          removeThese(top, old, native);
        }
        rename(PIN_VERSION);
      });
    },
    discard() {
      if (discardable) {
        usable(top.path, () => {
          remove(top, { directory: opened, name, pins: opened.names() }, native);
          if (made) rmdirSync(place.parent.at(place.name));
        });
      }
      stop();
    },
    close: stop,
  };
}

/**
 * Removes the pins, which ends their counting, and returns their paths.
 *
 * @throws UserError where something there is not ours; nothing is removed then
 */
export function unpin(directory: string, native: Native): string[] {
  const path = resolve(directory);
  return usable(path, () => {
    const { missing, ...place } = descend(path);
    try {
      return missing.length > 0 ? [] : removeAll(place, native);
    } finally {
      close(place);
    }
  });
}

function removeAll({ parent, top, name }: Place, native: Native): string[] {
  if (!top.isBpffs()) {
    throw new UserError(
      `${top.path} is not in a bpffs: nothing is pinned there`,
      `give the directory that --pin was given: ${BPFFS}/execve-counter by default`,
      ExitCode.failed,
    );
  }
  lock(top, native, true);
  const removed = removeThese(top, top.names(), native);
  if (parent.status().dev !== top.status().dev) return removed; // the bpffs itself
  rmdirSync(parent.at(name));
  return [...removed, top.path];
}

/** Lets one agent at a time use a private directory, which root may let belong to any user. */
function lock(top: Directory, native: Native, ofAnyUser = false): void {
  const { uid, mode } = top.status();
  const user = process.geteuid?.();
  if ((uid !== user && !(ofAnyUser && user === 0)) || (mode & 0o077) !== 0) {
    throw new UserError(
      `${top.path} is not private: others may change what is in it`,
      "make yourself its only user (chown, chmod 700), or choose another directory",
      ExitCode.failed,
    );
  }
  if (!native.lock(top.at())) {
    throw new UserError(
      `another execve-counter uses the pins in ${top.path}`,
      "stop it first, or choose another directory",
      ExitCode.failed,
    );
  }
}

/** A directory with pins, and their names; all of them are ours. */
interface Stock {
  directory: Directory;
  name: string;
  pins: string[];
}

/** Where a replacement was interrupted, what is new takes the place of all else. */
function endReplacement(top: Directory, native: Native): void {
  const names = top.names();
  const complete = names.find((name) => NAMES.test(name) && name.endsWith(NEW));
  if (complete === undefined) return;
  const rest = names.filter((name) => name !== complete);
  removeThese(top, rest, native);
  renameSync(top.at(complete), top.at(complete.slice(0, -NEW.length)));
}

/**
 * Removes these directories, and returns the paths of what was there.
 *
 * @throws UserError where something there is not ours; nothing is removed then
 */
function removeThese(top: Directory, names: readonly string[], native: Native): string[] {
  const sorted = [...names].sort(); // UNFINISHED first: the others take its name
  return withStocks(top, sorted, (stocks) => stocks.flatMap((stock) => remove(top, stock, native)));
}

/** Does work on these directories; @throws UserError where something there is not ours. */
function withStocks<Result>(
  top: Directory,
  names: readonly string[],
  work: (stocks: Stock[]) => Result,
): Result {
  const stocks: Stock[] = [];
  try {
    for (const name of names) {
      if (!NAMES.test(name)) throw foreign(join(top.path, name));
      stocks.push(takeStock(top, name));
    }
    return work(stocks);
  } finally {
    for (const { directory } of stocks) directory.close();
  }
}

/** When the last of these pins was made; undefined without any directory. */
function lastPinned(stocks: Stock[]): Date | undefined {
  const times = stocks.map(({ directory, pins }) => {
    if (pins.length === 0) return directory.status().mtimeMs;
    return Math.max(...pins.map((pin) => lstatSync(directory.at(pin)).mtimeMs));
  });
  return times.length > 0 ? new Date(Math.max(...times)) : undefined;
}

/** @throws UserError where something in it is not ours */
function takeStock(top: Directory, name: string): Stock {
  const directory = top.enter(name);
  try {
    const [inside, outside] = [directory.status(), top.status()];
    if (inside.dev !== outside.dev || inside.uid !== outside.uid) throw foreign(directory.path);
    const pins = directory.names();
    for (const pin of pins) {
      const ours = MAPS.includes(pin) || pin === SCOPE_MAP || OURS.test(pin);
      if (!ours || !lstatSync(directory.at(pin)).isFile()) throw foreign(join(directory.path, pin));
    }
    return { directory, name, pins };
  } catch (error) {
    directory.close();
    throw error;
  }
}

/**
 * Removes the pins that were found, and returns their paths. The links go first, so that
 * nothing half removed counts. The slots are emptied, so that the kernel keeps none of them. The directory takes the name that the next start removes.
 */
function remove(top: Directory, { directory, name, pins }: Stock, native: Native): string[] {
  if (name !== UNFINISHED) renameSync(top.at(name), top.at(UNFINISHED));
  const isLink = (pin: string) => Number(pin.startsWith("link_"));
  const sorted = pins.sort((a, b) => isLink(b) - isLink(a));
  for (const pin of sorted) {
    if (pin.startsWith("next_")) native.emptySlot(directory.at(pin));
    unlinkSync(directory.at(pin));
  }
  rmdirSync(top.at(UNFINISHED));
  return [...sorted.map((pin) => join(directory.path, pin)), directory.path];
}

/** The programs whose entries are pinned; @throws UserError where pins are missing or foreign */
function programsIn(directory: Directory): string[] {
  const pins = directory.names();
  if (pins.length === 0 && directory.path.endsWith(UNFINISHED)) return [];
  const found = pins.flatMap((name) => OURS.exec(name)?.[1] ?? []);
  const programs = [...new Set(found)];
  const expected = [
    ...MAPS,
    ...(found.includes("end_scope") ? [SCOPE_MAP] : []),
    ...programs.flatMap((program) => ["enter", "next", "link"].map((each) => `${each}_${program}`)),
  ];
  const odd = pins.find((name) => !expected.includes(name));
  if (odd) throw foreign(join(directory.path, odd));
  const missing = expected.find((name) => !pins.includes(name));
  if (missing) {
    throw new UnfitPins(
      `${directory.path} is damaged: ${missing} is gone`,
      beginAnew(dirname(directory.path)),
      ExitCode.failed,
    );
  }
  return programs;
}

/** Whether the machine's first process sees this bpffs, too; undefined where that is not known. */
function outlive(top: Directory, mounted: boolean): boolean | undefined {
  // The number of the initial PID namespace: in another, /proc/1 is another process.
  const isHost = readlinkSync("/proc/self/ns/pid") === "pid:[4026531836]";
  // As mountinfo has it: bpffs is on no device, whose major number is 0.
  const { dev } = top.status();
  const device = ` 0:${(dev & 0xff) | ((dev >> 12) & 0xfff00)} `;
  try {
    if (isHost) return readFileSync("/proc/1/mountinfo", "utf8").includes(device);
  } catch {
    // hidden from this user
  }
  return mounted ? false : undefined;
}

function foreign(path: string): UserError {
  return new UserError(
    `${path} does not belong to execve-counter: nothing is pinned or removed there`,
    "see what it is, and move it away, or choose another directory",
    ExitCode.failed,
  );
}
