/** Runs native work, and turns its failures into messages for the user. */
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import type { UserError } from "../base/errors.ts";
import { errnoName } from "../counts/errnos.ts";
import {
  type Addon,
  type Follower,
  isNativeError,
  loadAddon,
  type NativeError,
  type NativeLog,
  type Session,
  type Tables,
} from "./addon.ts";
import {
  effectiveCapabilities,
  fileOrNothing,
  inUserNamespace,
  statusOfSelf,
} from "./capabilities.ts";
import { explain } from "./explain.ts";

export const OBJECT = join(__dirname, "../../dist/execve_counter.bpf.o");

/** Opens a session for `use`; closes it where that fails. */
export function withSession<Result>(
  log: (line: string) => void,
  use: (session: Session, addon: Addon) => Result,
  pins?: string,
): Result {
  const open = (addon: Addon, log: NativeLog) => new addon.Session(OBJECT, log);
  return withOpen(log, open, use, pins);
}

/** The same with a follower of the meter that has this map of counters. */
export function withFollower<Result>(
  mapId: number,
  log: (line: string) => void,
  use: (follower: Follower, addon: Addon) => Result,
  object: string | Uint8Array = OBJECT,
): Result {
  return withOpen(log, (addon, log) => new addon.Follower(object, log, mapId), use);
}

function withOpen<Opened extends Tables, Result>(
  log: (line: string) => void,
  open: (addon: Addon, log: NativeLog) => Opened,
  use: (opened: Opened, addon: Addon) => Result,
  pins?: string,
): Result {
  const addon = loadAddon();
  const complaints: string[] = [];
  const work = () => {
    const opened = open(addon, (level, message) => {
      const lines = message.trimEnd().split("\n");
      if (level === "warn") complaints.push(...lines);
      for (const line of lines) log(line);
    });
    try {
      return use(opened, addon);
    } catch (error) {
      opened.close();
      throw error;
    }
  };
  return translated(complaints, work, pins);
}

/** False where another process has the lock. */
export function lock(tables: Tables, path: string): boolean {
  try {
    tables.lock(path);
    return true;
  } catch (error) {
    if (isNativeError(error) && error.errno === constants.errno.EWOULDBLOCK) return false;
    throw error;
  }
}

/** Does native work; a refusal of the kernel becomes a UserError. */
export function translated<Result>(
  complaints: readonly string[],
  work: () => Result,
  pins?: string,
): Result {
  try {
    return work();
  } catch (error) {
    throw isNativeError(error) ? translate(error, complaints, pins) : error;
  }
}

/** Mounts bpffs; returns the errno's name where it cannot. */
export function mountBpffs(addon: Addon, directory: string): string | undefined {
  try {
    addon.mountBpffs(directory);
    return undefined;
  } catch (error) {
    if (isNativeError(error)) return errnoName(error.errno);
    throw error;
  }
}

export function translate(
  error: NativeError,
  complaints: readonly string[],
  pins?: string,
): UserError {
  const verdict = verdictOf(complaints);
  // libbpf complains of the limit on locked memory whenever bpf(2) is refused.
  const first = complaints.find((line) => !line.includes("RLIMIT_MEMLOCK"));
  const explained = explain(
    {
      step: error.step,
      subject: error.subject,
      code: errnoName(error.errno),
      detail: (verdict ?? first)?.replace(/^libbpf: /, ""),
      verdict: verdict !== undefined,
    },
    {
      capabilities: effectiveCapabilities(statusOfSelf()),
      nested: inUserNamespace(fileOrNothing("/proc/self/uid_map")),
      sys: existsSync("/sys/kernel"),
      btf: existsSync("/sys/kernel/btf/vmlinux"),
      object: OBJECT,
      pins,
    },
  );
  explained.cause = error;
  return explained;
}

/** The verifier's last line among libbpf's warnings, where there is one. */
function verdictOf(complaints: readonly string[]): string | undefined {
  const end = complaints.findIndex((line) => line.includes("-- END PROG LOAD LOG --"));
  return complaints
    .slice(0, Math.max(end, 0))
    .findLast((line) => !/^($|processed \d+ insns|verification time|stack depth)/.test(line));
}
