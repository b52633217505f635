import { expect, test } from "vitest";
import type { Label } from "../../../src/counts/labels.ts";
import { distinct, rowsOf } from "../../../src/counts/snapshot.ts";
import { type Execs, OTHER_ROW } from "../../../src/kernel/addon.ts";
import type { Meter } from "../../../src/kernel/meter.ts";
import { Names } from "../../../src/kernel/names.ts";
import { snapshot } from "../../support/snapshot.ts";

type Row = [
  number: number,
  count: bigint,
  command?: string | undefined,
  uid?: number,
  kind?: number | undefined,
];

/** What the addon reads: of rows that have a command the labels are told. */
function execs(serial: number, rows: Row[], anew = false): Execs {
  const fresh = [...rows.keys()].filter((i) => rows[i]?.[2] !== undefined);
  const told = fresh.map((i) => rows[i] as Row);
  return {
    kinds: Uint8Array.from(rows, ([, , , , kind = 0]) => kind),
    counts: BigUint64Array.from(rows, ([, count]) => count),
    numbers: Uint32Array.from(rows, ([number]) => number),
    fresh: Uint32Array.from(fresh),
    uids: Uint32Array.from(told, ([, , , uid = 0]) => uid),
    labels: { command: told.map(([, , command = ""]) => command) },
    ...{ total: 0n, retired: 0n, serial, anew },
  };
}

const BOTH: readonly Label[] = ["command", "user"];
/** What a breakdown asks a meter for. */
const meter = (userName = (uid: number) => `u${uid}`, by = BOTH) => ({ by, userName }) as Meter;

test("labels are told once, and then known by the rows' numbers", () => {
  const names = new Names();
  const first = names.breakdown(
    execs(
      7,
      [
        [0, 1n, "sh"],
        [1, 2n, "nc", 5],
      ],
      true,
    ),
    meter(),
  );
  expect(names.serial).toBe(7);
  const next = names.breakdown(
    execs(8, [
      [1, 3n],
      [2, 1n, "cat"],
      [0, 1n],
    ]),
    meter(),
  );
  expect(names.serial).toBe(8);
  expect(next.names[0]).toBe(first.names[1]);
  expect(next.names[2]).toBe(first.names[0]);
  expect(rowsOf(next)).toEqual([
    { labels: { command: "nc", user: "u5" }, uid: 5, count: 3n },
    { labels: { command: "cat", user: "u0" }, uid: 0, count: 1n },
    { labels: { command: "sh", user: "u0" }, uid: 0, count: 1n },
  ]);
});

test("once all numbers are new, the old ones mean nothing, and a row keeps its key", () => {
  const names = new Names();
  const [before] = names.breakdown(
    execs(
      1,
      [
        [0, 1n, "sh"],
        [1, 2n, "nc"],
      ],
      true,
    ),
    meter(),
  ).names;
  const rows = names.breakdown(
    execs(
      2,
      [
        [0, 2n, "nc"],
        [1, 1n, "sh"],
      ],
      true,
    ),
    meter(),
  );
  expect(rows.names.map(({ labels }) => labels.command)).toEqual(["nc", "sh"]);
  expect(rows.names[1]?.key).toBe(before?.key);
});

test("a number that is given anew has the labels that are told with it", () => {
  const names = new Names();
  names.breakdown(execs(1, [[0, 1n, "sh"]], true), meter());
  const rows = names.breakdown(execs(2, [[0, 1n, "nc"]]), meter());
  expect(rows.names[0]?.labels.command).toBe("nc");
});

test("a read that fails half-way is not the last one", () => {
  const names = new Names();
  const broken = meter(() => {
    throw new Error("no names");
  });
  names.breakdown(execs(1, [[0, 1n, "sh"]], true), meter());
  expect(() =>
    names.breakdown(
      execs(2, [
        [0, 1n],
        [1, 1n, "nc", 7],
      ]),
      broken,
    ),
  ).toThrow();
  expect(names.serial).toBeUndefined();
});

test("a user's new name is in all its rows, the text of their labels goes, their keys stay", () => {
  const names = new Names();
  const all: Row[] = [
    [0, 1n, "sh", 5],
    [1, 2n, "nc", 5],
    [2, 3n, "sh", 6],
  ];
  const before = names.breakdown(execs(1, all, true), meter());
  for (const name of before.names) name.text = "made";
  const renamed = meter((uid) => (uid === 5 ? "alice" : `u${uid}`));
  const after = names.breakdown(
    execs(2, [
      [0, 1n],
      [1, 2n],
      [2, 3n],
    ]),
    renamed,
  );
  expect(after.names.map(({ labels }) => labels.user)).toEqual(["alice", "alice", "u6"]);
  expect(after.names.map(({ text }) => text)).toEqual([undefined, undefined, "made"]);
  expect(after.names.map(({ key }) => key)).toEqual(before.names.map(({ key }) => key));
  // The snapshot of before is as it was.
  expect(before.names[0]?.labels.user).toBe("u5");
});

test("rows that look the same are one in every read, and their sum stays", () => {
  const names = new Names();
  const by: readonly Label[] = ["command"];
  const all: Row[] = [
    [0, 1n, "\ufffd"],
    [1, 2n, "\ufffd"],
    [2, 4n, "other"],
    [3, 8n, "", 0, OTHER_ROW],
  ];
  const look = (rows: Row[], serial: number) =>
    rowsOf(names.breakdown(execs(serial, rows, serial === 1), meter(undefined, by)));
  expect(look(all, 1)).toEqual([
    { labels: { command: "\ufffd" }, count: 3n },
    { labels: { command: "other" }, of: "other", count: 12n },
  ]);
  expect(
    look(
      all.map(([number, count, , , kind]) => [number, count + 1n, undefined, 0, kind]),
      2,
    ),
  ).toEqual([
    { labels: { command: "\ufffd" }, count: 5n },
    { labels: { command: "other" }, of: "other", count: 14n },
  ]);
});

test("users with the same name are namesakes, and so is one called other", () => {
  const of = (userName: (uid: number) => string) =>
    new Names().breakdown(
      execs(
        1,
        [
          [0, 1n, "sh", 5],
          [1, 2n, "sh", 6],
        ],
        true,
      ),
      meter(userName),
    );
  expect(of((uid) => `${uid}`).namesakes).toBe(false);
  expect(of(() => "alice").namesakes).toBe(true);
  expect(of((uid) => (uid === 5 ? "other" : "alice")).namesakes).toBe(true);
  const breakdown = of(() => "alice");
  expect(distinct({ ...snapshot(), breakdown, execsBy: rowsOf(breakdown) })).toEqual([
    { labels: { command: "sh", user: "alice" }, uid: 5, count: 3n },
  ]);
});

test("once all numbers are new, what is gone is forgotten: nobody asks for its user", () => {
  const names = new Names();
  names.breakdown(execs(1, [[0, 1n, "sh", 5]], true), meter());
  const asked = new Set<number>();
  const noting = meter((uid) => {
    asked.add(uid);
    return `u${uid}`;
  });
  names.breakdown(execs(2, [[0, 1n, "sh", 6]], true), noting);
  expect([...asked]).toEqual([6]);
});
