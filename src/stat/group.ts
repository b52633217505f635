/**
 * The control group of one command, in the unified hierarchy, below this process's own: so the
 * limits of that one stay in force, and no service manager loses sight of the command.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ExitCode, UserError } from "../base/errors.ts";
import { directoryIn, mountAlone, mountsIn } from "../kernel/groups.ts";

const PREFIX = "execve-counter-stat-";

export interface Group {
  readonly path: string;
  /** The processes that are in it, or below it. */
  processes(): string[];
  /**
   * Puts what is still there where it would be without this group, and removes the group; false
   * where the command has put control groups of its own below it, which are in use.
   */
  remove(): boolean;
}

/** @throws UserError where none can be made */
export function makeGroup(): Group {
  const parent = ownGroup();
  sweep(parent);
  const path = join(parent, `${PREFIX}${process.pid}-${process.hrtime.bigint()}`);
  try {
    mkdirSync(path);
  } catch (error) {
    throw new UserError(
      `cannot make a control group in ${parent} (${(error as NodeJS.ErrnoException).code})`,
      "run it as root, where the unified hierarchy of control groups (cgroup2) is writable",
      ExitCode.unable,
    );
  }
  return {
    path,
    processes: () => processesIn(path),
    remove: () => {
      // What is there may just be making a child.
      for (let attempt = 0; attempt < 100; attempt++) {
        for (const pid of read(join(path, "cgroup.procs"))) move(pid, parent);
        if (removed(path)) return true;
      }
      return false;
    },
  };
}

/** The directory of this process's control group. */
function ownGroup(): string {
  const found = locate(contentOf("/proc/self/mountinfo"), contentOf("/proc/self/cgroup"));
  if (found !== undefined) return found;
  // The kernel lists the hierarchy once it has been mounted.
  return join(mountAlone(), unifiedPath(contentOf("/proc/self/cgroup")) ?? "/");
}

/**
 * The directory of a process's control group, by what /proc says about its mounts and its groups;
 * undefined where no mount shows it for writing.
 */
export function locate(mountinfo: string, cgroup: string): string | undefined {
  const own = unifiedPath(cgroup);
  if (own === undefined) return undefined;
  for (const mount of mountsIn(mountinfo)) {
    const directory =
      mount.type === "cgroup2" && !mount.readOnly ? directoryIn(mount, own) : undefined;
    if (directory !== undefined) return directory;
  }
  return undefined;
}

/** The path of the group in the unified hierarchy. */
const unifiedPath = (cgroup: string) => /^0::(\/.*)$/m.exec(cgroup)?.[1];

/** Removes what killed processes have left, where nothing is in it any more. */
function sweep(parent: string): void {
  for (const name of read(parent, readdirSync)) {
    const pid = name.startsWith(PREFIX) ? name.slice(PREFIX.length).split("-")[0] : undefined;
    // One that another process has just made is still empty.
    if (pid && contentOf(`/proc/${pid}/stat`) === "") removed(join(parent, name));
  }
}

function processesIn(path: string): string[] {
  const below = read(path, (directory) =>
    readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name),
  );
  return [
    ...read(join(path, "cgroup.procs")),
    ...below.flatMap((name) => processesIn(join(path, name))),
  ];
}

/** False where something is in it. */
function removed(path: string): boolean {
  try {
    rmdirSync(path);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT";
  }
}

function move(pid: string, group: string): void {
  try {
    writeFileSync(join(group, "cgroup.procs"), pid);
  } catch {
    // It has ended; or it stays, and so does the group.
  }
}

/** The lines of a file, or what `list` finds; nothing where it is gone. */
function read(path: string, list = (path: string) => contentOf(path).split("\n")): string[] {
  try {
    return list(path).filter((each) => each !== "");
  } catch {
    return [];
  }
}

/** "" where it cannot be read. */
function contentOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
