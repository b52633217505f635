/** Names of the errors that execve and execveat return. */
import { constants } from "node:os";

// Node.js lists the errors of POSIX. ELIBBAD is Linux's own. The others never reach a
// program: a signal came, and the kernel makes the call again (linux/errno.h).
const NAMES = new Map<number, string>([
  [0, "unknown"],
  [80, "ELIBBAD"],
  [512, "ERESTARTSYS"],
  [513, "ERESTARTNOINTR"],
  [514, "ERESTARTNOHAND"],
  [516, "ERESTART_RESTARTBLOCK"],
]);
for (const [name, number] of Object.entries(constants.errno)) {
  if (!NAMES.has(number)) NAMES.set(number, name);
}

/** The name of a positive errno, or its digits where it has none; "unknown" for 0. */
export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? `${errno}`;
}

/** The errors that execve(2) and execveat(2) document. */
export const EXPECTED = [
  ...["E2BIG", "EACCES", "EAGAIN", "EBADF", "EFAULT", "EINVAL", "EIO", "EISDIR", "ELIBBAD"],
  ...["ELOOP", "EMFILE", "ENAMETOOLONG", "ENFILE", "ENOENT", "ENOEXEC", "ENOMEM", "ENOTDIR"],
  ...["EPERM", "ETXTBSY"],
] as const;
