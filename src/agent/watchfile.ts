/** --watch-file: a file that is the whole list of watched commands, a name a line. */
import {
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  openSync,
  readSync,
  statSync,
} from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ExitCode, MORE_FILES, UserError } from "../base/errors.ts";
import { requireName } from "../counts/choices.ts";

const MAX_BYTES = 1 << 20;
/** The map has room for 4096 counters; three are not those of names. */
export const MAX_NAMES = 4093;
/** Milliseconds for which a file must not change before it is read: it may be half written. */
export const QUIET_MS = 500;
/** The same for a file that has just become empty, as most writers begin. */
export const EMPTY_QUIET_MS = 3000;
/** Looks at the start, at a file that does not stay the same. */
const MAX_LOOKS = 20;
/** Else opening a pipe would wait, and a terminal would become this process's. */
const AT_ONCE = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** The names in a file's text, each once. @throws UserError where one is not allowed */
export function parseNames(text: string, path: string): string[] {
  const names = new Set<string>();
  for (const [i, line] of text.split("\n").entries()) {
    const name = line.trim();
    if (name === "" || name.startsWith("#")) continue;
    try {
      names.add(requireName(name));
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      throw new UserError(`${path}: line ${i + 1}: ${error.message}`, error.remedy, error.exitCode);
    }
  }
  if (names.size <= MAX_NAMES) return [...names];
  throw new UserError(
    `${path} has ${names.size} names`,
    `leave at most ${MAX_NAMES}`,
    ExitCode.usage,
  );
}

/** What tells a file from another, and from itself once it has changed. */
export interface Look {
  /** The same as long as the file is. */
  stamp: string;
  /** Undefined where it cannot be looked at. */
  stats?: BigIntStats;
}

const lookOf = (stats: BigIntStats): Look => {
  const { dev, ino, size, mtimeNs, ctimeNs } = stats;
  return { stamp: [dev, ino, size, mtimeNs, ctimeNs].join(), stats };
};

/** Looks at the file that the path leads to now, without reading it. */
export function look(path: string): Look {
  try {
    return lookOf(statSync(path, { bigint: true }));
  } catch (error) {
    return { stamp: `${(error as NodeJS.ErrnoException).code}` };
  }
}

/** @throws UserError where the file cannot be read, or has what is not allowed */
export function readNames(path: string): { names: string[]; stamp: string } {
  let fd: number | undefined;
  try {
    fd = openSync(path, AT_ONCE);
    // Checked once it is open: by now the path may lead to another file.
    const stats = fstatSync(fd, { bigint: true });
    if (!stats.isFile() || stats.size > MAX_BYTES) {
      throw Object.assign(new Error(), { code: stats.isFile() ? "EFBIG" : "not a file" });
    }
    const bytes = Buffer.alloc(Number(stats.size));
    const text = bytes.subarray(0, readSync(fd, bytes)).toString();
    const { stamp } = lookOf(fstatSync(fd, { bigint: true }));
    return { names: parseNames(text, path), stamp };
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    const refused = new UserError(
      `cannot read --watch-file ${path} (${code})`,
      code === "EACCES" || code === "EPERM"
        ? "let the agent's user read it, with chgrp and chmod"
        : code === "EFBIG"
          ? "name a file of at most 1 MiB"
          : code === "EMFILE"
            ? MORE_FILES
            : "name a file that is there",
      ExitCode.failed,
    );
    refused.cause = error;
    throw refused;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Milliseconds for which the file must stay as it is before it is read. */
export function quietOf({ stats }: Look): number {
  return stats?.size === 0n ? EMPTY_QUIET_MS : QUIET_MS;
}

/** Reads the file for the first time; where it has just been written, it waits for its end. */
export async function readFirst(path: string): Promise<{ names: string[]; stamp: string }> {
  for (let looks = 0; looks < MAX_LOOKS; looks++) {
    const { stamp, stats } = look(path);
    const isNew = stats && Math.abs(Date.now() - Number(stats.mtimeMs)) < QUIET_MS;
    if (isNew) await sleep(QUIET_MS);
    if (!isNew || look(path).stamp === stamp) return readNames(path);
  }
  throw new UserError(
    `${path} changes all the time`,
    "write it elsewhere, and rename it to its place",
    ExitCode.failed,
  );
}
