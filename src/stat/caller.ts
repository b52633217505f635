/** The user who called: under sudo not the one that this process runs as. */
import { type Command, findLogin } from "../kernel/command.ts";

/**
 * Whom a command runs as, and what of the environment is theirs. Started by sudo that is the
 * caller, else nothing changes.
 */
export function caller(
  environment: NodeJS.ProcessEnv,
  user = process.geteuid?.(),
  find = findLogin,
): Pick<Command, "identity" | "environment"> {
  const uid = idOf(environment.SUDO_UID);
  const gid = idOf(environment.SUDO_GID);
  if (user !== 0 || !uid || gid === undefined) return { identity: undefined, environment: [] };
  const login = find(uid, gid);
  const name = login?.name ?? environment.SUDO_USER;
  return {
    identity: { uid, gid, groups: login?.groups ?? [gid] },
    environment: [
      ...(login ? [`HOME=${login.home}`, `SHELL=${login.shell}`] : []),
      ...(name ? [`USER=${name}`, `LOGNAME=${name}`] : []),
      // Root's: the command would take them for its user's.
      ...["MAIL", "SUDO_COMMAND", "SUDO_GID", "SUDO_HOME", "SUDO_UID", "SUDO_USER"],
    ],
  };
}

/** Undefined for what is no number of a user or group: 2^32 - 1 would mean "no change". */
function idOf(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id < 2 ** 32 - 1 ? id : undefined;
}
