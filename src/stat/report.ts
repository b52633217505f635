/** What stat prints: a table for a terminal, or one JSON object. */
import { constants } from "node:os";
import { printable, visible } from "../base/text.ts";
import { width } from "../base/width.ts";
import type { Label } from "../counts/labels.ts";
import { distinct, type ExecsRow, type Snapshot, toPlain, totalsOf } from "../counts/snapshot.ts";
import type { Outcome } from "../kernel/command.ts";
import { type Baseline, differences, FORMAT } from "./baseline.ts";

/** Everything that stat has seen. */
export interface Result {
  words: readonly string[];
  outcome: Outcome;
  snapshot: Snapshot;
  /** Processes that the command has left behind. */
  left: number;
  /** An earlier run to compare with. */
  baseline?: Baseline | undefined;
  /** How many programs may be started. */
  budget?: number | undefined;
}

/** A line of the table: a number, and what follows it. */
type Line = [count: string, text: string];

/** Rows of a breakdown, the most first, and for equal counts by their labels. */
function sorted(snapshot: Snapshot) {
  const text = (labels: Partial<Record<Label, string>>) =>
    snapshot.by.map((label) => labels[label] ?? "").join("\0");
  return distinct(snapshot)
    .filter(({ count }) => count > 0n)
    .toSorted((a, b) =>
      a.count === b.count ? (text(a.labels) < text(b.labels) ? -1 : 1) : a.count < b.count ? 1 : -1,
    );
}

/** A head and rows of labels, as wide as each other. */
function columns(by: readonly Label[], rows: readonly { labels: ExecsRow["labels"] }[]): string[] {
  const cells = [
    [...by],
    ...rows.map(({ labels }) => by.map((label) => shownAs(labels[label] ?? ""))),
  ];
  const widths = by.map((_, i) => Math.max(...cells.map((row) => width(row[i] as string))));
  return cells.map((row) =>
    row.map((cell, i) => cell + " ".repeat((widths[i] as number) - width(cell))).join("  "),
  );
}

function ranking(snapshot: Snapshot, top: number): Line[] {
  const rows = sorted(snapshot);
  const shown = rows.slice(0, top);
  const rest = rows.slice(top).reduce((sum, { count }) => sum + count, 0n);
  const [head = "", ...labels] = columns(snapshot.by, shown);
  return [
    ["execs", head],
    ...shown.map(({ count }, i): Line => [`${count}`, labels[i] as string]),
    ...(rest > 0n ? [[`${rest}`, `and ${rows.length - top} more`] as Line] : []),
  ];
}

/** The rows that differ from those before. */
function comparison(snapshot: Snapshot, baseline: Baseline, top: number): Line[] {
  const rows = differences(baseline, snapshot);
  const shown = rows.slice(0, top);
  const [head = "", ...labels] = columns(snapshot.by, shown);
  const figures = [
    ["before", "change"],
    ...shown.map(({ count, before }) => [`${before}`, signed(count - before)]),
  ];
  const widths = [0, 1].map((i) => Math.max(...figures.map((row) => (row[i] as string).length)));
  const [first = "", ...rest] = figures.map((row) =>
    row.map((cell, i) => cell.padStart(widths[i] as number)).join("  "),
  );
  if (rows.length === 0) return [["", `every ${snapshot.by.join(" and ")} has as many as before`]];
  return [
    ["execs", `${first}  ${head}`],
    ...shown.map(({ count }, i): Line => [`${count}`, `${rest[i]}  ${labels[i]}`]),
    ...(rows.length > top ? [["", `and ${rows.length - top} more that differ`] as Line] : []),
  ];
}

const signed = (change: bigint) => (change >= 0n ? `+${change}` : `${change}`);

/** The table, as lines. */
export function table(result: Result, top: number): string[] {
  const { words, outcome, snapshot, left, baseline } = result;
  const { attempts, execs, failures } = snapshot;
  const totals = totalsOf(snapshot);
  const than = baseline ? `; ${baseline.execs} before (${signed(execs - baseline.execs)})` : "";
  const failed = byCount(failures);
  const lines: Line[] = [
    ...(baseline ? comparison(snapshot, baseline, top) : ranking(snapshot, top)),
    ["", ""],
    [`${execs}`, `execs in ${seconds(outcome)} s, ${rate(execs, outcome)}/s${than}`],
    ...(attempts
      ? ([
          [
            `${totals.attempts}`,
            `attempts: ${attempts.execve} execve, ${attempts.execveat} execveat`,
          ],
        ] as Line[])
      : []),
    ...(failures
      ? ([
          [
            `${totals.failures}`,
            `failures${failed.length > 0 ? ": " : ""}${failed.map(([name, count]) => `${count} ${name}`).join(", ")}`,
          ],
        ] as Line[])
      : []),
  ];
  const number = Math.max(...lines.map(([count]) => count.length));
  const end = outcome.signal
    ? [`ended by ${signalName(outcome.signal)}`]
    : outcome.code
      ? [`exit code ${outcome.code}`]
      : [];
  const outlive =
    left === 1
      ? ["1 process of it still runs, and counts no more"]
      : left > 1
        ? [`${left} processes of it still run, and count no more`]
        : [];
  const { cgroup } = snapshot;
  const again = cgroup?.recreated
    ? [`the control group was made again, ${cgroup.recreated} times, and counted on`]
    : [];
  const notes = [...end, ...outlive, ...again];
  const scope = cgroup ? `, in control group ${cgroup.path}` : "";
  return [
    visible(`execve-counter: ${words.join(" ")}${scope}`),
    "",
    ...lines.map(([count, text]) => visible(`${count.padStart(number + 2)}  ${text}`).trimEnd()),
    ...(notes.length > 0 ? ["", ...notes] : []),
  ];
}

const shownAs = (value: string) => (value === "" ? "-" : printable(value));

export function signalName(signal: number): string {
  const known = Object.entries(constants.signals).find(([, number]) => number === signal);
  return known?.[0] ?? `signal ${signal}`;
}

const seconds = ({ milliseconds }: Outcome) => (milliseconds / 1000).toFixed(3);

const rate = (count: bigint, { milliseconds }: Outcome) =>
  ((Number(count) * 1000) / milliseconds).toFixed(1);

/** Failures of either call by errno, the most first. */
function byCount(failures: Snapshot["failures"]): [name: string, count: bigint][] {
  const sums = new Map<string, bigint>();
  for (const counts of failures ? Object.values(failures) : []) {
    for (const [name, count] of counts) sums.set(name, (sums.get(name) ?? 0n) + count);
  }
  return [...sums]
    .filter(([, count]) => count > 0n)
    .sort(([a, one], [b, other]) => (one === other ? (a < b ? -1 : 1) : one < other ? 1 : -1));
}

/** The same as one object; all rows are in it. */
export function plain({ words, outcome, snapshot, left, baseline, budget }: Result) {
  const { cgroup, attempts, missed, execs, failures, checks, unfollowed } = toPlain(snapshot);
  return {
    format: FORMAT,
    command: words,
    exit_code: outcome.signal === 0 ? outcome.code : null,
    signal: outcome.signal === 0 ? null : signalName(outcome.signal),
    seconds: Number(seconds(outcome)),
    ...{ cgroup, attempts, missed, execs },
    execs_per_second: Number(rate(execs, outcome)),
    by: snapshot.by,
    execs_by: sorted(snapshot).map(({ labels, count }) => ({ ...labels, execs: count })),
    compared: baseline && {
      ...{ before: baseline.execs, change: snapshot.execs - baseline.execs },
      rows: differences(baseline, snapshot).map(({ labels, count, before }) => ({
        ...labels,
        ...{ execs: count, before, change: count - before },
      })),
    },
    budget,
    ...{ failures, checks, unfollowed },
    left_running: left,
  };
}
