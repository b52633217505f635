/** How much room text takes in a terminal. */
import { createInterface } from "node:readline";
import { PassThrough } from "node:stream";

// Asked where its cursor would be: Node.js has the widths of Unicode, and no other way to them.
const line = createInterface({ input: new PassThrough() });

/** Columns that a text takes which has no control characters. */
export function width(text: string): number {
  if (isAscii(text)) return text.length;
  line.setPrompt(text);
  return line.getCursorPos().cols;
}

/** The text, or as much of it as `columns` have room for, with `mark` at its end. */
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

export function isAscii(text: string): boolean {
  return /^[\x20-\x7e]*$/.test(text);
}
