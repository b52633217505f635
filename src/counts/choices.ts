/**
 * Checks what a flag, or an option of the library, chooses for counting. Each function returns
 * the choice, or throws a UserError where it is not allowed.
 */
import { wrong } from "../base/errors.ts";
import { MAX_COMMAND_BYTES } from "./abi.ts";
import { LABELS, type Label } from "./labels.ts";

const MIN_ROWS = 16;
const MAX_ROWS = 65_536;

/** Labels in the order of LABELS. */
export function requireLabels(choice: string, names: readonly string[]): Label[] {
  const known: readonly string[] = LABELS;
  if (names.some((name) => !known.includes(name))) {
    throw wrong(choice, names.join(), `give any of ${LABELS.join(",")}`);
  }
  const twice = names.find((name, i) => names.indexOf(name) < i);
  if (twice !== undefined) throw wrong(choice, names.join(), `name ${twice} once`);
  return LABELS.filter((label) => names.includes(label));
}

/** Rows of the table of execs. */
export function requireRows(choice: string, rows: unknown): number {
  if (typeof rows !== "number" || !Number.isInteger(rows) || rows < MIN_ROWS || rows > MAX_ROWS) {
    throw wrong(choice, rows, `give a number from ${MIN_ROWS} to ${MAX_ROWS}`);
  }
  return rows;
}

/**
 * The name of a command to watch. The kernel knows a program by the first bytes of its
 * file's name: a name that can never match is refused.
 */
export function requireName(name: string): string {
  const refuse = (remedy: string) => wrong("a watched name", name, remedy);
  if (name === "") throw refuse("give command names, separated by commas, like nc,curl");
  if (name.includes("/")) {
    const base = name.slice(name.lastIndexOf("/") + 1) || "nc";
    throw refuse(`the kernel matches the file's name without its directory: give ${base}`);
  }
  if (name.includes("\0")) throw refuse("a file's name has no NUL: leave it out");
  if (name.includes("\ufffd")) throw refuse("give a name that is valid UTF-8");
  const bytes = Buffer.from(name);
  if (bytes.length > MAX_COMMAND_BYTES) {
    const start = bytes.subarray(0, MAX_COMMAND_BYTES).toString();
    const example = start.includes("\ufffd") ? "those" : start;
    throw refuse(
      `the kernel keeps ${MAX_COMMAND_BYTES} bytes of the file's name and matches those: give ${example}`,
    );
  }
  return name;
}
