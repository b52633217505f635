/** Names of accounts, asked for once in a while rather than at every read. */

const KEEP = 600_000;
// Asking can mean to ask a directory service that does not answer. So it may take a
// twentieth of the time, and at once no more than this, in milliseconds.
const MOST = 50;
const SHARE = 1 / 20;

/**
 * A function from a user's number to the account's name, or to the number in digits
 * where there is no account. An answer is kept for ten minutes. Where nobody can tell, or
 * asking has taken too long, it is the last answer, or digits.
 *
 * @param look asks for a name; throws where nobody can tell
 * @param now milliseconds, monotonic
 */
export function userNames(
  look: (uid: number) => string | undefined,
  now: () => number = () => performance.now(),
): (uid: number) => string {
  const known = new Map<number, { name: string; until: number }>();
  let credit = MOST;
  let last = now();
  return (uid) => {
    const start = now();
    const entry = known.get(uid);
    if (entry && start < entry.until) return entry.name;
    credit = Math.min(MOST, credit + (start - last) * SHARE);
    last = start;
    const before = entry?.name ?? `${uid}`;
    if (credit <= 0) return before;
    try {
      const name = look(uid) ?? `${uid}`;
      known.set(uid, { name, until: now() + KEEP });
      return name;
    } catch {
      return before;
    } finally {
      credit -= now() - start;
      last = now();
    }
  };
}
