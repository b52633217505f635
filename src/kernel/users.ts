/** Names of accounts: asked for once in a while, not at every read. */

const KEEP_MS = 600_000;
// The answer may come from a directory service that hangs. So waiting may take a twentieth of
// the time, and no more than this at once, in milliseconds.
const WAIT_MAX_MS = 100;
const MAX_WAIT_SHARE = 1 / 20;

/**
 * Returns a function from a user's number to the account's name, or to the number in digits
 * where there is no account. An answer is kept for ten minutes. Where the service fails, or
 * has not answered yet, the function returns the last answer, or digits.
 *
 * @param look asks for a name, null where there is none, and waits for it for so many
 *   milliseconds; undefined where it has to be asked again; throws where the service fails
 * @param now milliseconds, monotonic
 */
export function userNames(
  look: (uid: number, patience: number) => string | null | undefined,
  now: () => number = () => performance.now(),
): (uid: number) => string {
  const known = new Map<number, { name: string; until: number }>();
  let credit = WAIT_MAX_MS;
  let last = now();
  return (uid) => {
    const start = now();
    const entry = known.get(uid);
    if (entry && start < entry.until) return entry.name;
    credit = Math.min(WAIT_MAX_MS, credit + (start - last) * MAX_WAIT_SHARE);
    last = start;
    const before = entry?.name ?? `${uid}`;
    try {
      // Where there is a name to show, it need not wait for the next one.
      const found = look(uid, entry ? 0 : Math.max(0, Math.floor(credit)));
      if (found === undefined) return before;
      const name = found ?? `${uid}`;
      known.set(uid, { name, until: now() + KEEP_MS });
      return name;
    } catch {
      return before;
    } finally {
      credit -= now() - start;
      last = now();
    }
  };
}
