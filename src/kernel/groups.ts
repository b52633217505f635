/** Control groups of the unified hierarchy, and where they are mounted. */
import { readFileSync, readlinkSync, statfsSync, statSync } from "node:fs";
import { join, posix, relative } from "node:path";
import { ExitCode, UserError } from "../base/errors.ts";
import { MAX_SCOPE_BYTES } from "../counts/abi.ts";
import { loadAddon } from "./addon.ts";
import { translated } from "./session.ts";

/** A control group outside of which nothing counts. */
export interface Scope {
  /** From the root of the unified hierarchy; "" for one that is never made again. */
  path: string;
  /** Where it is found. */
  directory: string;
}

/** A hierarchy that is mounted, or a part of it. */
interface Mount {
  type: "cgroup" | "cgroup2";
  /** What of it is mounted. */
  root: string;
  point: string;
  readOnly: boolean;
}

const CGROUP2_MAGIC = 0x63677270;
/** The number of the initial namespace: PROC_CGROUP_INIT_INO in the kernel. */
const INITIAL_NAMESPACE = "cgroup:[4026531835]";

/** The mounts of control groups that /proc/self/mountinfo lists; see proc(5). */
export function mountsIn(mountinfo: string): Mount[] {
  return mountinfo.split("\n").flatMap((line) => {
    const [mount = "", source = ""] = line.split(" - ");
    const [, , , root = "", point = "", flags = ""] = mount.split(" ");
    const [type, , superFlags = ""] = source.split(" ");
    if (type !== "cgroup" && type !== "cgroup2") return [];
    const readOnly = isReadOnly(flags) || isReadOnly(superFlags);
    return [{ type, root: unescaped(root), point: unescaped(point), readOnly }];
  });
}

const isReadOnly = (flags: string) => flags.split(",").includes("ro");

/** A path in mountinfo: blanks are three octal digits. */
const unescaped = (path: string) =>
  path.replaceAll(/\\([0-7]{3})/g, (_, digits) => String.fromCharCode(Number.parseInt(digits, 8)));

/** The directory of a group where a mount shows it; undefined where that one does not. */
export function directoryIn({ root, point }: Mount, path: string): string | undefined {
  const below = relative(root, path);
  return below === ".." || below.startsWith("../") ? undefined : join(point, below);
}

/** Mounts the unified hierarchy for this process alone; returns the root's directory. */
export function mountAlone(): string {
  return `/proc/self/fd/${translated([], () => loadAddon().mountAlone("cgroup2"))}`;
}

/**
 * The group that a user names: by its path below a mount, or from the root of the unified
 * hierarchy, as /proc/<pid>/cgroup has it. It need not be there: see requireGroup().
 *
 * @throws UserError where no group can have that path
 */
export function findScope(text: string): Scope {
  if (readlinkSync("/proc/self/ns/cgroup") !== INITIAL_NAMESPACE) {
    throw new UserError(
      "--cgroup needs the host's namespace of control groups, and this is another one",
      "start it there: nsenter --target 1 --cgroup, or with Docker's --cgroupns=host",
      ExitCode.unable,
    );
  }
  const mounts = mountsIn(readFileSync("/proc/self/mountinfo", "utf8"));
  const path = pathOf(text, mounts);
  return { path, directory: directoryOf(path, mounts) };
}

/** @throws UserError where the group is not there */
export function requireGroup(scope: Scope): void {
  if (groupNumber(scope) !== undefined) return;
  throw new UserError(
    `there is no control group ${scope.path} in the unified hierarchy`,
    "start what runs in it, or give the path that /proc/<pid>/cgroup has after 0::",
    ExitCode.failed,
  );
}

/** The path from the root of the unified hierarchy. */
export function pathOf(text: string, mounts: readonly Mount[]): string {
  const refuse = (remedy: string) =>
    new UserError(`--cgroup cannot be ${JSON.stringify(text)}`, remedy, ExitCode.usage);
  if (text === "") throw refuse("give a control group, like /system.slice/cron.service");
  const given = posix.resolve("/", text);
  const isBelow = ({ point }: Mount) => given === point || given.startsWith(`${point}/`);
  const deepest = mounts.filter(isBelow).reduce<Mount | undefined>((best, mount) => {
    return best && best.point.length > mount.point.length ? best : mount;
  }, undefined);
  if (deepest?.type === "cgroup") {
    throw refuse(
      "that is in a hierarchy of version 1: give the path that /proc/<pid>/cgroup has after 0::",
    );
  }
  const path = deepest ? join(deepest.root, relative(deepest.point, given)) : given;
  if (Buffer.byteLength(path) > MAX_SCOPE_BYTES) {
    throw refuse(`give a path of at most ${MAX_SCOPE_BYTES} bytes`);
  }
  return path;
}

function directoryOf(path: string, mounts: readonly Mount[]): string {
  for (const mount of mounts) {
    const directory = mount.type === "cgroup2" ? directoryIn(mount, path) : undefined;
    if (directory !== undefined) return directory;
  }
  return join(mountAlone(), path);
}

/** The number that the kernel gives a group, once; undefined where it is gone, or no group. */
export function groupNumber({ directory }: Scope): bigint | undefined {
  try {
    const { ino } = statSync(`${directory}/.`, { bigint: true });
    return statfsSync(directory).type === CGROUP2_MAGIC ? ino : undefined;
  } catch {
    return undefined;
  }
}
