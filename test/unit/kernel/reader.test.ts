import { expect, test } from "vitest";
import type { Label } from "../../../src/counts/labels.ts";
import { distinct } from "../../../src/counts/snapshot.ts";
import { type Execs, type Failures, OTHER_ROW, RETIRED_ROW } from "../../../src/kernel/addon.ts";
import type { OwnMeter } from "../../../src/kernel/meter.ts";
import { read } from "../../../src/kernel/reader.ts";

type Row = [command: string, uid: number, container: string, count: bigint, kind?: number];

/** A meter that has counted these execs. */
function meter(
  by: readonly Label[],
  rows: Row[],
  { retired = 0n, ...changes }: Partial<OwnMeter & Execs> = {},
): OwnMeter {
  const column = <Value>(label: Label, value: (row: Row) => Value) =>
    by.includes(label) ? { [label]: rows.map(value) } : {};
  const execs: Execs = {
    kinds: Uint8Array.from(rows.map(([, , , , kind = 0]) => kind)),
    uids: Uint32Array.from(by.includes("user") ? rows.map(([, uid]) => uid) : []),
    labels: {
      ...column("command", ([command]) => command),
      ...column("container", ([, , container]) => container),
    },
    counts: BigUint64Array.from(rows.map(([, , , count]) => count)),
    numbers: Uint32Array.from(rows.keys()),
    fresh: Uint32Array.from(rows.keys()),
    total: rows.reduce((sum, [, , , count]) => sum + count, 0n),
    ...{ serial: 1, anew: true, retired },
  };
  const map = { name: "", id: 1, capacity: 4096 };
  return {
    ...{
      libbpfVersion: "1.1",
      startTime: new Date(0),
      attempts: true,
      scope: undefined,
      by,
      reportsMisses: true,
      fallback: undefined,
      pin: undefined,
    },
    ...{ headlineProgram: "count_execve", maps: [map], countersMap: map, execsMap: map },
    readCounters: () => [
      ["execve_counter", 1n],
      ["execveat_counter", 2n],
    ],
    retires: by.includes("container"),
    bootTime: () => 0,
    retire: () => 0,
    readExecs: () => execs,
    readScope: () => undefined,
    readFailures: () => undefined,
    userName: (uid) => (uid === 0 ? "root" : uid < 1000 ? "daemon" : `${uid}`),
    programs: () => [],
    reused: false,
    pinsOutlive: undefined,
    replaces: undefined,
    replace: () => {},
    close: () => {},
    watchOnly: () => ({ added: 0, removed: 0 }),
    discard: () => {},
    ...changes,
  };
}

const ended = (...failed: Failures["failed"]) => ({ failed, checks: 0n, unfollowed: 0n });

const OTHER: Row = ["", 0, "", 5n, OTHER_ROW];
const RETIRED: Row = ["", 0, "", 7n, RETIRED_ROW];

test("rows get names, and the rows of many are called that in every label", () => {
  const rows: Row[] = [["sh", 0, "", 2n], OTHER, ["sh", 4242, "ab", 3n], RETIRED];
  const { execs, execsBy, noRoom, retired } = read(
    meter(["command", "user", "container"], rows, { retired: 4n }),
  );
  expect({ execs, noRoom, retired }).toEqual({ execs: 17n, noRoom: 5n, retired: 4n });
  expect(execsBy).toEqual([
    { labels: { command: "sh", user: "root", container: "" }, uid: 0, count: 2n },
    {
      labels: { command: "other", user: "other", container: "other" },
      ...{ of: "other", count: 5n },
    },
    { labels: { command: "sh", user: "4242", container: "ab" }, uid: 4242, count: 3n },
    {
      labels: { command: "retired", user: "retired", container: "retired" },
      ...{ of: "retired", count: 7n },
    },
  ]);
});

test("rows retire only where a label ends with its control group", () => {
  expect(read(meter(["command", "user"], [OTHER])).retired).toBeUndefined();
});

test("rows that are alike are merged: those of a unit that was started again", () => {
  const rows: Row[] = [["sh", 0, "ab", 2n], ["sh", 0, "ab", 3n], OTHER];
  const by: readonly Label[] = ["command", "container"];
  expect(read(meter(by, rows)).execsBy.map(({ count }) => count)).toEqual([5n, 5n]);
});

test("rows that look the same are one, and their sum stays", () => {
  // Two users of one name, a program called other, and a name that is no UTF-8, twice.
  const rows: Row[] = [["\ufffd", 1, "", 1n], ["\ufffd", 2, "", 2n], OTHER, ["other", 0, "", 4n]];
  const byCommand = read(meter(["command"], rows));
  expect(byCommand.execsBy).toEqual([
    { labels: { command: "\ufffd" }, count: 3n },
    { labels: { command: "other" }, of: "other", count: 9n },
  ]);
  // To be found again by their numbers, users stay apart until they are shown.
  const users = read(meter(["command", "user"], rows));
  const byUser = users.execsBy;
  expect(byUser.map(({ uid }) => uid)).toEqual([1, 2, undefined, 0]);
  expect(distinct(users)).toEqual([
    { labels: { command: "\ufffd", user: "daemon" }, uid: 1, count: 3n },
    byUser[2],
    byUser[3],
  ]);
  const alike: Row[] = [["\ufffd", 1, "", 1n], OTHER, ["\ufffd", 1, "", 2n]];
  expect(read(meter(["command", "user"], alike)).execsBy.map(({ count }) => count)).toEqual([
    3n,
    5n,
  ]);
});

test("without labels all rows are one", () => {
  const rows: Row[] = [OTHER, ["", 0, "", 7n]];
  expect(read(meter([], rows)).execsBy).toEqual([{ labels: {}, count: 12n }]);
});

test("a count is exact beyond 2^53, and names are asked for only where they are shown", () => {
  const rows: Row[] = [OTHER, ["sh", 0, "", 2n ** 63n]];
  const never = () => {
    throw new Error("nobody wants names");
  };
  expect(read(meter(["command"], rows, { userName: never })).execs).toBe(2n ** 63n + 5n);
});

test("execs that the kernel skipped are in the total, and in the row of all others", () => {
  const count_exec = { name: "count_exec", hook: "", id: 1, runCount: 0n, runTime: 0n, misses: 4n };
  const rows: Row[] = [["sh", 0, "", 2n], OTHER];
  const { execs, execsBy } = read(meter(["command"], rows, { programs: () => [count_exec] }));
  expect(execs).toBe(11n);
  expect(execsBy.map(({ count }) => count)).toEqual([2n, 9n]);
});

test("missed runs that the total of execs includes are not shown as missed too", () => {
  const count_exec = { name: "count_exec", hook: "", id: 1, runCount: 0n, runTime: 0n, misses: 4n };
  const off = { attempts: false, headlineProgram: "count_exec", programs: () => [count_exec] };
  const { execs, missed } = read(meter([], [OTHER], off));
  expect({ execs, missed }).toEqual({ execs: 9n, missed: 0n });
});

test("it is an error when a key or the row of all others is gone", () => {
  expect(() => read(meter(["user"], [["sh", 0, "", 2n]]))).toThrow("gone from the map execs");
  const gone = { readCounters: (): [string, bigint][] => [["execve_counter", 1n]] };
  expect(() => read(meter([], [OTHER], gone))).toThrow("execveat_counter is gone");
});

test("failures have every errno that the manual names, and those that happened", () => {
  const { failures } = read(
    meter([], [OTHER], {
      readFailures: () => ended(["execve", 2, 3n], ["execveat", 513, 1n], ["execve", 0, 4n]),
    }),
  );
  expect(failures?.execve.get("ENOENT")).toBe(3n);
  expect(failures?.execve.get("unknown")).toBe(4n);
  expect(failures?.execve.get("ETXTBSY")).toBe(0n);
  expect(failures?.execve.has("ERESTARTNOINTR")).toBe(false);
  expect(failures?.execveat.get("ERESTARTNOINTR")).toBe(1n);
});

test("calls that end in the middle of a read are among its attempts", () => {
  // Between two looks at the kernel a call is made, and fails.
  let calls = 0n;
  const { execs, failures, attempts } = read(
    meter([], [["", 0, "", 0n, OTHER_ROW]], {
      readFailures: () => ended(["execve", 2, ++calls]),
      readCounters: () => [
        ["execve_counter", ++calls],
        ["execveat_counter", 0n],
      ],
    }),
  );
  const over = execs + (failures?.execve.get("ENOENT") ?? 0n);
  expect(over).toBeLessThanOrEqual(attempts?.execve ?? 0n);
});
