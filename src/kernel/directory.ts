/**
 * Directories that root reaches safely. Root works in directories of other users, who may
 * replace anything in them at any moment. So a directory is checked once it is open, and its
 * entries are reached through its descriptor: by then its path may lead elsewhere.
 */
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  type Stats,
  statfsSync,
} from "node:fs";
import { join } from "node:path";
import { ExitCode, MORE_FILES, UserError } from "../base/errors.ts";
import { readOnly } from "./explain.ts";

/** Mounts bpffs there, for all processes; returns the errno's name where it cannot: "EPERM". */
export type MountBpffs = (directory: string) => string | undefined;

export const BPFFS = "/sys/fs/bpf";

const BPFFS_MAGIC = 0xcafe4a11;
/** Without the mode, every user may write to it. */
const MOUNT = "mount -t bpf -o mode=700 bpf";

/** An open directory: its entries are reached through it, wherever its path leads by now. */
export class Directory {
  // O_PATH, for which Node.js has no name: passing through takes no permission to list it.
  static readonly #FLAGS = 0o10000000 | constants.O_DIRECTORY | constants.O_NOFOLLOW;
  /** For messages only. */
  readonly path: string;
  readonly #fd: number;
  #open = true;

  constructor(path: string, at: string = path) {
    this.path = path;
    this.#fd = openSync(at, Directory.#FLAGS);
  }

  /** A path to an entry, or to the directory itself, that no link can redirect. */
  at(name = "."): string {
    return `/proc/self/fd/${this.#fd}/${name}`;
  }

  enter(name: string): Directory {
    const path = join(this.path, name);
    try {
      return new Directory(path, this.at(name));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOTDIR") throw error;
      const isLink = lstatSync(this.at(name)).isSymbolicLink();
      throw new UserError(
        isLink ? `${path} is a symbolic link, which is not followed` : `${path} is not a directory`,
        isLink
          ? `give the path that it leads to: ${readlinkSync(this.at(name))}`
          : "choose another directory",
        ExitCode.failed,
      );
    }
  }

  names(): string[] {
    return readdirSync(this.at());
  }

  status(): Stats {
    return fstatSync(this.#fd);
  }

  isBpffs(): boolean {
    return statfsSync(this.at()).type === BPFFS_MAGIC;
  }

  /** Once: by a second time the number may belong to another file. */
  close(): void {
    if (this.#open) closeSync(this.#fd);
    this.#open = false;
  }
}

/** A directory, its parent, and its name there. */
export interface Place {
  parent: Directory;
  top: Directory;
  name: string;
}

export function close({ parent, top }: Place): void {
  parent.close();
  top.close();
}

/** The kernel refuses such a name in a bpffs, with EPERM. */
const hasDot = (names: readonly string[]) => names.some((name) => name.includes("."));

/** Opens a directory, or the last one on the way to it that exists. */
export function descend(path: string): Place & { missing: string[] } {
  if (!existsSync("/proc/self/fd")) {
    throw new UserError(
      "/proc is not mounted: pins cannot be reached safely without it",
      "mount it: sudo mount -t proc proc /proc",
      ExitCode.unable,
    );
  }
  const root = new Directory("/");
  const place: Place = { parent: root, top: root, name: "." };
  const missing = path.split("/").filter((name) => name !== "");
  try {
    for (let name = missing[0]; name !== undefined; name = missing[0]) {
      const next = place.top.enter(name);
      if (place.parent !== place.top) place.parent.close();
      Object.assign(place, { parent: place.top, top: next, name });
      missing.shift();
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const dotted = code === "EPERM" && hasDot(missing) && place.top.isBpffs();
    if (code === "ENOENT" || dotted) return { ...place, missing };
    close(place);
    throw error;
  }
  return { ...place, missing };
}

/**
 * Opens the directory in a bpffs. Where they are missing, it mounts bpffs and makes the directory.
 *
 * @returns also whether the directory was made, and whether bpffs was mounted
 */
export function makePlace(
  path: string,
  mountBpffs: MountBpffs,
): Place & { made: boolean; mounted: boolean } {
  let found = descend(path);
  const mounted = !found.top.isBpffs();
  if (mounted) {
    close(found);
    mountFor(path, mountBpffs);
    found = descend(path);
  }
  const { missing } = found;
  if (hasDot(missing)) {
    close(found);
    throw new UserError(
      `${path} cannot be in a bpffs: the kernel allows no dot in a name there`,
      "choose a name without one",
      ExitCode.failed,
    );
  }
  let place: Place = found;
  try {
    for (const name of missing) {
      mkdirSync(place.top.at(name), { mode: 0o700 });
      const next = place.top.enter(name);
      if (place.parent !== place.top) place.parent.close();
      place = { parent: place.top, top: next, name };
    }
    return { ...place, made: missing.length > 0, mounted };
  } catch (error) {
    close(place);
    throw error;
  }
}

function mountFor(path: string, mountBpffs: MountBpffs): void {
  if (path !== BPFFS && !path.startsWith(`${BPFFS}/`)) {
    throw new UserError(
      `${path} is not in a bpffs`,
      `choose a directory below ${BPFFS}, or mount one there: ${MOUNT} <directory>`,
      ExitCode.failed,
    );
  }
  const code = mountBpffs(BPFFS);
  if (code === undefined) return;
  throw new UserError(
    `bpffs is not mounted, and the agent cannot mount it (${code})`,
    existsSync(BPFFS)
      ? `mount it: sudo ${MOUNT} ${BPFFS}`
      : "mount /sys first: sudo mount -t sysfs sysfs /sys",
    ExitCode.unable,
  );
}

/** Does work on the directory; a refusal of the file system becomes a UserError. */
export function usable<Result>(path: string, work: () => Result): Result {
  try {
    return work();
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (error instanceof UserError || code === undefined || syscall === undefined) throw error;
    if (code === "EROFS") throw readOnly(path);
    const denied = code === "EACCES" || code === "EPERM";
    throw new UserError(
      `cannot use ${path} for pins (${syscall}: ${code})`,
      denied
        ? "run it as the owner of the directory: root, as a rule"
        : code === "EMFILE"
          ? MORE_FILES
          : "choose another directory",
      denied ? ExitCode.unable : ExitCode.failed,
    );
  }
}
