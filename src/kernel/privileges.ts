/** The privileges that the agent keeps once it has attached and listens. */
import { readdirSync, readFileSync } from "node:fs";
import { release } from "node:os";
import { getSystemErrorName } from "node:util";
import { ExitCode, UserError } from "../base/errors.ts";
import { type Account, isNativeError, loadAddon } from "./addon.ts";
import {
  capabilityNumber,
  effectiveCapabilities,
  hasCapabilities,
  statusOfSelf,
} from "./capabilities.ts";
import { isAtLeast } from "./release.ts";

const DEFAULT_USER = "nobody";
// The user nobody where /etc/passwd has none: the kernel shows this number for users that it
// cannot show (/proc/sys/kernel/overflowuid).
const NOBODY: Account = { uid: 65534, gid: 65534 };
// setresuid(2) takes the next number, -1, as "no change".
const MAX_ID = 2 ** 32 - 2;

/**
 * Finds out which user the agent can become, and returns a function that makes the change. Call
 * it once, when nothing needs privileges any more; it returns a line that says what it did.
 *
 * @param user a name or a number; root keeps everything. Undefined for nobody where the
 *   process may change its user, else for its present user
 * @param need what it goes on to do: to read and edit its own maps, or to find programs
 * @throws UserError where there is no such user, or where privileges could be regained
 */
export function planRestriction(
  user: string | undefined,
  need: "read" | "find" = "read",
): () => string {
  const { restrict, ...look } = loadAddon();
  const account = (who: string | number) => explained(() => look.account(who));
  const find = (name: string) => {
    const number = /^\d{1,10}$/.test(name) && Number(name) <= MAX_ID ? Number(name) : undefined;
    const byNumber = (uid: number) => account(uid) ?? { uid, gid: uid };
    if (name === "") return undefined;
    return account(name) ?? (number === undefined ? undefined : byNumber(number));
  };
  let become: Account | undefined;
  if (user !== undefined) {
    become = find(user);
    if (!become) {
      throw new UserError(
        `there is no user ${JSON.stringify(user)}`,
        "give --run-as the name or the number of an account, or root to keep all privileges",
        ExitCode.usage,
      );
    }
    if (become.uid === 0 && process.geteuid?.() === 0) return () => "keeps all privileges";
  } else if (mayChangeUser()) {
    become = find(DEFAULT_USER) ?? NOBODY;
  }
  if (Number.parseInt(process.env.UV_USE_IO_URING ?? "", 10) || hasRing()) {
    throw new UserError(
      `Node.js ${process.versions.node} uses io_uring, through which the kernel reads files with the privileges of its start`,
      "start it with UV_USE_IO_URING=0, or use Node.js 20.11.1, 21.6.2 or newer",
      ExitCode.unable,
    );
  }

  // Before Linux 5.19 reading a map needs it, unless the sysctl
  // kernel.unprivileged_bpf_disabled is 0, which can change (c8644cd0efe7 in Linux).
  const reads = isAtLeast(release(), 5, 19) ? [] : ["CAP_BPF" as const];
  const keep = {
    read: reads,
    find: ["CAP_SYS_ADMIN" as const],
  }[need];
  return () => {
    try {
      restrict(keep.map(capabilityNumber), become?.uid, become?.gid);
    } catch (error) {
      if (!isNativeError(error)) throw error;
      throw new UserError(
        `cannot give up privileges (${error.step}: ${getSystemErrorName(-error.errno)})`,
        error.step === "threads"
          ? "mount /proc, and load nothing into Node.js that starts threads of its own (LD_PRELOAD)"
          : become && !mayChangeUser()
            ? "leave out --run-as, or add CAP_SETUID and CAP_SETGID"
            : "allow the call, or keep all privileges: --run-as root",
        ExitCode.unable,
      );
    }
    const { uid, gid } = become ?? { uid: process.getuid?.(), gid: process.getgid?.() };
    return `runs as uid ${uid}, gid ${gid}, ${keep.length > 0 ? `with ${keep} only` : "without capabilities"}`;
  };
}

function mayChangeUser(): boolean {
  const set = effectiveCapabilities(statusOfSelf());
  return hasCapabilities(set, "CAP_SETUID", "CAP_SETGID");
}

/** Asks for an account. Where there is no answer, the agent must not go on as another user. */
function explained<Result>(ask: () => Result): Result {
  try {
    return ask();
  } catch (error) {
    if (!isNativeError(error)) throw error;
    throw new UserError(
      `cannot look for the user to become (${getSystemErrorName(-error.errno)})`,
      "repair the services that /etc/nsswitch.conf names for passwd, or keep all privileges: --run-as root",
      ExitCode.failed,
    );
  }
}

/**
 * Whether libuv has made an io_uring with a thread in the kernel, as some releases of Node.js 20
 * and 21 let it (CVE-2024-22017). The rings of newer ones have none, and do nothing by themselves.
 */
function hasRing(): boolean {
  const infos = "/proc/self/fdinfo";
  try {
    return readdirSync(infos).some((fd) => {
      try {
        return /^SqThread:\s*\d+$/m.test(readFileSync(`${infos}/${fd}`, "utf8"));
      } catch {
        return false; // closed since it was listed
      }
    });
  } catch {
    return false; // without /proc nothing is given up
  }
}
