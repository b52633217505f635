/**
 * Makes text safe to show. Any user can choose the name of a process, a file or a user, and a
 * terminal obeys the control characters in it.
 */

/**
 * Characters that have no look of their own: control characters, others that a terminal obeys,
 * leaves out or takes for an order to write from right to left, and code points that are no
 * characters.
 */
const UNSEEN = String.raw`\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}`;
const IN_LINES = new RegExp(`[${UNSEEN}]`, "gu");
const IN_NAMES = new RegExp(`[${UNSEEN}\\\\"]`, "gu");

/** A line in which characters without a look of their own are \u{…}. */
export function visible(line: string): string {
  return escaped(line, IN_LINES);
}

/**
 * A name among other text. The backslash and the quote are \u{…} too, so that no two names
 * look the same; a name that is empty or has spaces is quoted.
 */
export function printable(name: string): string {
  const text = escaped(name, IN_NAMES);
  return /^$|\s/u.test(text) ? `"${text}"` : text;
}

/** The text with every match of the pattern as \u{…}. */
export function escaped(text: string, pattern: RegExp): string {
  return text.replaceAll(pattern, (each) => `\\u{${each.codePointAt(0)?.toString(16)}}`);
}

/** JSON of the same value, in which characters without a look of their own are \u…. */
export function visibleJson(json: string): string {
  return json.replaceAll(IN_LINES, (each) =>
    Array.from(
      { length: each.length },
      (_, i) => `\\u${each.charCodeAt(i).toString(16).padStart(4, "0")}`,
    ).join(""),
  );
}

/** Finds what contains a text in any of its values, in capitals or not; the empty text is in all. */
export function finder(wanted: string): (labels: Readonly<Record<string, string>>) => boolean {
  const text = wanted.toLowerCase();
  return (labels) => {
    if (text === "") return true;
    for (const name in labels) if (labels[name]?.toLowerCase().includes(text)) return true;
    return false;
  };
}
