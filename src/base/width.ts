/** How many columns text takes in a terminal. */
import { createInterface } from "node:readline";
import { PassThrough } from "node:stream";

// Node.js knows the widths of Unicode characters, but shows them only as a cursor's position.
const line = createInterface({ input: new PassThrough() });

/** Columns that a text without control characters takes. */
export function width(text: string): number {
  if (isAscii(text)) return text.length;
  line.setPrompt(text);
  return line.getCursorPos().cols;
}

/** The text; where it is wider than `columns`, as much of it as fits, with `mark` at its end. */
export function clip(text: string, columns: number, mark: string): string {
  if (width(text) <= columns) return text;
  const room = columns - width(mark);
  if (room < 0) return "";
  let taken = "";
  let used = 0;
  for (const character of text) {
    used += width(character);
    if (used > room) break;
    taken += character;
  }
  return taken + mark;
}

/** The same, cut at its start: of a path the end says more. */
export function clipStart(text: string, columns: number, mark: string): string {
  if (width(text) <= columns) return text;
  const room = columns - width(mark);
  if (room < 0) return "";
  let rest = text;
  // By whole characters: what combines with one that is cut goes with it.
  while (width(rest) > room) rest = rest.replace(/^.\p{M}*/su, "");
  return mark + rest;
}

export function isAscii(text: string): boolean {
  return /^[\x20-\x7e]*$/.test(text);
}
