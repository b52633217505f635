/**
 * The directory in bpffs where a meter is pinned, so that it counts on while no agent
 * runs. What is in it has its final name only when it is complete:
 *
 *   <directory>/v1           what PIN_VERSION in bpf/execve_counter.h lists
 *   <directory>/unfinished   the same, on its way there
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmdirSync,
  statfsSync,
  statSync,
  unlinkSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { ExitCode, MORE_FILES, UserError } from "./errors.ts";
import { COUNTERS_MAP, EXECS_MAP, FAILURES_MAP, PIN_VERSION, STATE_MAP } from "./keys.ts";

const BPFFS = "/sys/fs/bpf";
const BPFFS_MAGIC = 0xcafe4a11;
/** Else everybody may write to it. */
const MOUNT = "mount -t bpf -o mode=700 bpf";
const UNFINISHED = "unfinished";
const MAPS = [COUNTERS_MAP, EXECS_MAP, FAILURES_MAP, STATE_MAP];

/** What this needs of the addon. */
export interface Native {
  mountBpffs(directory: string): void;
  /** Throws a NativeError with EWOULDBLOCK where somebody else has the lock. */
  lock(directory: string): void;
}

export interface Pins {
  /** Where the maps, programs and links are, or are to be pinned. */
  readonly path: string;
  /** Whether they are there. */
  readonly adopt: boolean;
  /** Gives what was pinned its final name. */
  commit(): void;
  /** Removes what was pinned by this start. */
  discard(): void;
}

/**
 * Makes the directory ready to pin in, or finds what is pinned there.
 *
 * @param programs the programs whose entries are pinned
 * @throws UserError where that is not possible; nothing that was there is changed
 */
export function preparePins(directory: string, programs: readonly string[], native: Native): Pins {
  const top = resolve(directory);
  return usable(top, () => prepare(top, programs, native));
}

function prepare(top: string, programs: readonly string[], native: Native): Pins {
  const [path, unfinished] = [join(top, PIN_VERSION), join(top, UNFINISHED)];
  ensureBpffs(top, native);
  const made = mkdirSync(top, { recursive: true, mode: 0o700 }) !== undefined;
  let found: string[];
  try {
    lock(top, native);
    found = readdirSync(top);
  } catch (error) {
    if (made) rmdirSync(top);
    throw error;
  }
  for (const name of found) {
    if (name === UNFINISHED) throw unusable(unfinished, "is half-written: a start was cut short");
    if (name === PIN_VERSION) continue;
    const why = /^v\d+$/.test(name) ? "was pinned by another version" : "is not ours";
    throw unusable(join(top, name), why);
  }
  if (found.length === 0) {
    mkdirSync(unfinished, { mode: 0o700 });
    let pinned = unfinished;
    return {
      path: unfinished,
      adopt: false,
      commit() {
        renameSync(unfinished, path);
        pinned = path;
      },
      discard: () => {
        remove(pinned);
        rmdirSync(top);
      },
    };
  }
  const expected = [
    ...MAPS,
    ...programs.flatMap((program) => ["enter", "next", "link"].map((each) => `${each}_${program}`)),
  ];
  const pinned = readdirSync(path);
  const odd = [
    ...pinned.filter((name) => !expected.includes(name)),
    ...expected.filter((name) => !pinned.includes(name)),
  ];
  if (odd.length > 0) {
    throw unusable(path, `was pinned with other flags, or is damaged: look at ${odd[0]}`);
  }
  return { path, adopt: true, commit() {}, discard() {} };
}

/**
 * Removes what is pinned, which ends its counting, and returns the paths.
 *
 * @throws UserError where something there is not ours; nothing is removed then
 */
export function unpin(directory: string, native: Native): string[] {
  const top = resolve(directory);
  return usable(top, () => {
    // Throws where it may not be looked at, which is not the same as not there.
    if (!statSync(top, { throwIfNoEntry: false })) return [];
    return removeAll(top, native);
  });
}

function removeAll(top: string, native: Native): string[] {
  lock(top, native, true);
  const versions = readdirSync(top);
  for (const version of versions) {
    const path = join(top, version);
    if (!/^(v\d+|unfinished)$/.test(version)) throw foreign(path);
    for (const name of readdirSync(path)) {
      const ours = MAPS.includes(name) || /^(enter|next|link)_count_\w+$/.test(name);
      if (!ours) throw foreign(join(path, name));
    }
  }
  const removed = versions.flatMap((version) => remove(join(top, version)));
  rmdirSync(top);
  return [...removed, top];
}

/** Does work on the directory; what the file system refuses becomes a UserError. */
function usable<Result>(top: string, work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (error instanceof UserError || code === undefined || syscall === undefined) throw error;
    const denied = code === "EACCES" || code === "EPERM";
    throw new UserError(
      `cannot use ${top} for pins (${syscall}: ${code})`,
      denied
        ? "run it as the user who owns it: root, as a rule"
        : code === "EMFILE"
          ? MORE_FILES
          : "choose another directory",
      denied ? ExitCode.unable : ExitCode.failed,
    );
  }
}

/** The links first: what is half removed does not count. */
function remove(path: string): string[] {
  const names = readdirSync(path).sort(
    (a, b) => Number(b.startsWith("link_")) - Number(a.startsWith("link_")),
  );
  for (const name of names) unlinkSync(join(path, name));
  rmdirSync(path);
  return [...names.map((name) => join(path, name)), path];
}

function ensureBpffs(top: string, native: Native): void {
  let existing = top;
  while (!existsSync(existing)) existing = dirname(existing);
  if (statfsSync(existing).type === BPFFS_MAGIC) return;
  if (top !== BPFFS && !top.startsWith(`${BPFFS}/`)) {
    throw new UserError(
      `${top} is not in a bpffs`,
      `choose a directory below ${BPFFS}, or mount one there: ${MOUNT} <directory>`,
      ExitCode.failed,
    );
  }
  try {
    native.mountBpffs(BPFFS);
  } catch (error) {
    throw new UserError(
      `bpffs is not mounted, and cannot be (${(error as Error).message})`,
      `mount it: sudo ${MOUNT} ${BPFFS}`,
      ExitCode.unable,
    );
  }
}

/** One agent at a time, in a directory that is the owner's alone: this user's, or, to root, anybody's. */
function lock(top: string, native: Native, ofAnybody = false): void {
  const { uid, mode } = statSync(top);
  const user = process.geteuid?.();
  if ((uid !== user && !(ofAnybody && user === 0)) || (mode & 0o077) !== 0) {
    throw new UserError(
      `${top} is not private: others may change what is in it`,
      `make it yours alone (chown, chmod 700), or choose another directory`,
      ExitCode.failed,
    );
  }
  try {
    native.lock(top);
  } catch (error) {
    throw new UserError(
      `another execve-counter uses the pins in ${top} (${(error as Error).message})`,
      "stop it first, or choose another directory",
      ExitCode.failed,
    );
  }
}

function unusable(path: string, why: string): UserError {
  return new UserError(
    `${path} ${why}`,
    `start with the flags and the version that pinned it, or give its counts up: execve-counter unpin ${dirname(path)}`,
    ExitCode.failed,
  );
}

function foreign(path: string): UserError {
  return new UserError(
    `${path} is not ours, so nothing was removed`,
    "see what it is, and move it away",
    ExitCode.failed,
  );
}
