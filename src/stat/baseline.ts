/** The counts of an earlier run of stat, from the JSON that it has printed. */
import { readFileSync } from "node:fs";
import { ExitCode, UserError } from "../base/errors.ts";
import { LABELS, type Label } from "../counts/labels.ts";
import { distinct, type Snapshot } from "../counts/snapshot.ts";

/** The number of the JSON's format: it grows where a field that is read here changes. */
export const FORMAT = 1;

interface Row {
  labels: Partial<Record<Label, string>>;
  count: bigint;
}

export interface Baseline {
  by: readonly Label[];
  execs: bigint;
  rows: readonly Row[];
}

/** A row that has more execs than before, or fewer. */
export interface Difference extends Row {
  before: bigint;
}

/**
 * Reads the last line of a file, where stat prints its object.
 *
 * @param by the labels asked for; undefined for those of the file
 * @throws UserError where the file is no such object, or of other labels or another format
 */
export function readBaseline(path: string, by: readonly Label[] | undefined): Baseline {
  const baseline = parse(contentOf(path));
  if (baseline === undefined) {
    throw new UserError(
      `${path} is not what this version of stat prints as JSON`,
      "make it anew: execve-counter stat -o json -- <command>, with stderr into a file",
      ExitCode.usage,
    );
  }
  const theirs = baseline.by.join();
  if (by && by.join() !== theirs) {
    throw new UserError(
      `${path} has counts by ${theirs}; this start asks for ${by.join()}`,
      `give --by ${theirs}, or leave --by out`,
      ExitCode.usage,
    );
  }
  return baseline;
}

function contentOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new UserError(
      `cannot read ${path} (${(error as NodeJS.ErrnoException).code})`,
      "give a file that stat -o json has made",
      ExitCode.failed,
    );
  }
}

/** Undefined where the text has another form. */
function parse(text: string): Baseline | undefined {
  try {
    const object = JSON.parse(text.trimEnd().split("\n").at(-1) ?? "");
    if (object.format !== FORMAT) return undefined;
    const named: string[] = object.by;
    const by = LABELS.filter((label) => named.includes(label));
    if (by.length === 0 || by.length < named.length) return undefined;
    const rows = (object.execs_by as Record<string, unknown>[]).map((row): Row => {
      const labels = Object.fromEntries(by.map((label) => [label, textOf(row[label])]));
      return { labels, count: countOf(row.execs) };
    });
    return { by, execs: countOf(object.execs), rows };
  } catch {
    return undefined;
  }
}

function textOf(value: unknown): string {
  if (typeof value !== "string") throw new TypeError();
  return value;
}

function countOf(value: unknown): bigint {
  if (typeof value !== "number" || value < 0) throw new TypeError();
  return BigInt(value);
}

/** The rows that differ, those by the most first, and for equal differences by their labels. */
export function differences(baseline: Baseline, now: Snapshot): Difference[] {
  const keyOf = ({ labels }: Row) => now.by.map((label) => labels[label]).join("\0");
  const rows = new Map<string, Difference>();
  for (const { labels, count } of baseline.rows) {
    rows.set(keyOf({ labels, count }), { labels, before: count, count: 0n });
  }
  for (const { labels, count } of distinct(now)) {
    const key = keyOf({ labels, count });
    rows.set(key, { labels, count, before: rows.get(key)?.before ?? 0n });
  }
  const size = ({ count, before }: Difference) =>
    count > before ? count - before : before - count;
  return [...rows]
    .filter(([, { count, before }]) => count !== before)
    .sort(([a, one], [b, other]) => {
      const [first, second] = [size(one), size(other)];
      return first === second ? (a < b ? -1 : 1) : first < second ? 1 : -1;
    })
    .map(([, row]) => row);
}
