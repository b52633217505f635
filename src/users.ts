/** Names of accounts, asked for once in a while rather than at every read. */

const KEEP = 600_000;

/**
 * A function from a user's number to the account's name, or to the number in
 * digits where there is no account. An answer is kept for ten minutes: asking can
 * mean to ask a directory service.
 *
 * @param look asks for a name
 * @param now milliseconds, monotonic
 */
export function userNames(
  look: (uid: number) => string | undefined,
  now: () => number = () => performance.now(),
): (uid: number) => string {
  const known = new Map<number, { name: string; until: number }>();
  return (uid) => {
    const entry = known.get(uid);
    if (entry && now() < entry.until) return entry.name;
    const name = look(uid) ?? `${uid}`;
    known.set(uid, { name, until: now() + KEEP });
    return name;
  };
}
