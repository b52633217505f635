import { expect, test } from "vitest";
import { plain, type Result, signalName, table } from "../../../src/stat/report.ts";
import { doubtsOf } from "../../../src/stat/stat.ts";
import { snapshot } from "../../support/snapshot.ts";

const EXITED = { code: 3, signal: 0, milliseconds: 1500 };

const result = (changes: Partial<Result> = {}): Result => ({
  words: ["make", "-j8"],
  outcome: EXITED,
  snapshot: snapshot(),
  left: 0,
  ...changes,
});

const row = (command: string, count: bigint) => ({ labels: { command }, count });

test("the table has a column for each label, and totals below", () => {
  expect(table(result(), 20)).toEqual([
    "execve-counter: make -j8",
    "",
    "  execs  command  user   container",
    "     12  sh       root   -",
    "      6  other    other  other",
    `      3  nc       4242   ${"0123456789abcdef".repeat(4)}`,
    "",
    "     21  execs in 1.500 s, 14.0/s",
    "     25  attempts: 23 execve, 2 execveat",
    "      4  failures: 4 ENOENT",
    ...["", "exit code 3"],
  ]);
});

test("rows are in one order, the most first, and what is left out is summed up", () => {
  const execsBy = [row("b", 2n), row("c", 9n), row("a", 2n), row("d", 1n)];
  const counted = snapshot({
    ...{ by: ["command"], execsBy, execs: 14n },
    ...{ attempts: undefined, failures: undefined },
  });
  const lines = (top: number) => table(result({ snapshot: counted }), top).slice(3, -4);
  expect(lines(4)).toEqual(["      9  c", "      2  a", "      2  b", "      1  d"]);
  expect(lines(2)).toEqual(["      9  c", "      2  a", "      3  and 2 more"]);
});

test("a name can do nothing to a terminal, and keeps its width", () => {
  const execsBy = [row("\x1b[31m", 2n), row("日本", 1n), row("a b", 1n)];
  const counted = snapshot({ by: ["command"], execsBy });
  const lines = table(result({ words: ["sh", "-c", "a\nb"], snapshot: counted }), 20);
  expect(lines[0]).toBe("execve-counter: sh -c a\\u{a}b");
  expect(lines.slice(3, 6)).toEqual(["      2  \\u{1b}[31m", '      1  "a b"', "      1  日本"]);
});

test("what ended it, and what is left, is said", () => {
  const ends = (changes: Partial<Result>) => table(result(changes), 20).slice(10);
  expect(ends({ outcome: { ...EXITED, code: 0 } })).toEqual([]);
  expect(ends({ outcome: { ...EXITED, code: 0, signal: 15 }, left: 1 })).toEqual([
    ...["", "ended by SIGTERM", "1 process of it still runs, and counts no more"],
  ]);
  expect(ends({ left: 2 })).toEqual([
    ...["", "exit code 3", "2 processes of it still run, and count no more"],
  ]);
  expect([signalName(9), signalName(40)]).toEqual(["SIGKILL", "signal 40"]);
});

test("the JSON has all rows, and numbers", () => {
  const { execs_by, ...rest } = plain(result());
  expect(execs_by.map(({ execs }) => execs)).toEqual([12n, 6n, 3n]);
  expect(rest).toEqual({
    ...{ format: 1, command: ["make", "-j8"], exit_code: 3, signal: null, seconds: 1.5 },
    by: ["command", "user", "container"],
    ...{ attempts: { execve: 23n, execveat: 2n }, missed: 0n, execs: 21n, execs_per_second: 14 },
    failures: { execve: { ENOENT: 3n }, execveat: { ENOENT: 1n } },
    ...{ checks: 2n, unfollowed: 0n, left_running: 0 },
  });
  expect(plain(result({ outcome: { ...EXITED, signal: 9 } }))).toMatchObject({
    exit_code: null,
    signal: "SIGKILL",
  });
});

const compared = snapshot({
  ...{ by: ["command"], execs: 14n, attempts: undefined, failures: undefined },
  execsBy: [row("same", 2n), row("more", 9n), row("new", 2n), row("less", 1n)],
});
const baseline = {
  ...{ by: ["command"] as const, execs: 13n },
  rows: [row("same", 2n), row("more", 6n), row("gone", 2n), row("less", 3n)],
};

test("only what differs from an earlier run is shown, the most first", () => {
  const lines = (top: number) => table(result({ snapshot: compared, baseline }), top).slice(2, -2);
  expect(lines(20)).toEqual([
    "  execs  before  change  command",
    "      9       6      +3  more",
    "      0       2      -2  gone",
    "      1       3      -2  less",
    "      2       0      +2  new",
    "",
    "     14  execs in 1.500 s, 9.3/s; 13 before (+1)",
  ]);
  expect(lines(1).slice(2, 3)).toEqual(["         and 3 more that differ"]);
  const same = { ...baseline, execs: 14n, rows: compared.execsBy };
  const unchanged = table(result({ snapshot: compared, baseline: same }), 20);
  expect(unchanged.slice(2, 5)).toEqual([
    "      every command has as many as before",
    "",
    "  14  execs in 1.500 s, 9.3/s; 14 before (+0)",
  ]);
  expect(plain(result({ snapshot: compared, baseline, budget: 13 }))).toMatchObject({
    budget: 13,
    compared: {
      ...{ before: 13n, change: 1n },
      rows: [
        { command: "more", execs: 9n, before: 6n, change: 3n },
        { command: "gone", execs: 0n, before: 2n, change: -2n },
        { command: "less", execs: 1n, before: 3n, change: -2n },
        { command: "new", execs: 2n, before: 0n, change: 2n },
      ],
    },
  });
});

test("skipped runs are those of the host: it says by how much a count may be too low", () => {
  expect(doubtsOf(snapshot())).toEqual([]);
  const programs = snapshot().programs.map((each) => ({
    ...each,
    misses: each.name === "count_exec" ? 7n : 0n,
  }));
  expect(doubtsOf(snapshot({ programs, noRoom: 2n, unfollowed: 1n }))).toEqual([
    "the kernel skipped 7 runs of count_exec on this host: counts may be too low by up to as many",
    "1 calls could not be followed: their failures may be counted under the other call",
    "2 execs found no room for a row, and count as other (--max-series)",
  ]);
});
