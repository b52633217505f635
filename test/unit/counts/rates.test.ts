import { expect, test } from "vitest";
import { History, Rates } from "../../../src/counts/rates.ts";
import type { Snapshot } from "../../../src/counts/snapshot.ts";
import { snapshot } from "../../support/snapshot.ts";

const START = snapshot().startTime.getTime();

/** A snapshot `seconds` after the start, with execs by command. */
function at(seconds: number, counts: Record<string, bigint>, more: Partial<Snapshot> = {}) {
  const clock = 5_000 + seconds * 1000;
  const rows = Object.entries(counts).map(([command, count]) => ({ labels: { command }, count }));
  const execs = Object.values(counts).reduce((sum, count) => sum + count, 0n);
  return snapshot({
    ...{ clock, time: new Date(START + seconds * 1000), by: ["command"], execsBy: rows, execs },
    ...{ failures: undefined, watched: new Map() },
    ...more,
  });
}

function rate(rates: Rates, command: string) {
  const found = rates.series.find(({ labels }) => labels.command === command);
  return found && [found.second, found.minute, found.start];
}

test("a rate is of the last second, of the last minute, and since the start", () => {
  const rates = new Rates();
  for (let second = 100; second <= 200; second++) {
    // 2 a second, and in the last second 50.
    rates.add(at(second, { sh: BigInt(second * 2 + (second === 200 ? 48 : 0)) }));
  }
  expect(rate(rates, "sh")).toEqual([50, (2 * 60 + 48) / 60, 448 / 200]);
});

test("the first snapshot gives only the rate since the start, a few give the rate over their time", () => {
  const rates = new Rates();
  expect(rates.series).toEqual([]);
  rates.add(at(10, { sh: 20n }));
  expect(rate(rates, "sh")).toEqual([undefined, undefined, 2]);
  rates.add(at(14, { sh: 60n }));
  expect(rate(rates, "sh")).toEqual([10, 10, 60 / 14]);
});

test("however often it is asked, the rate of a second is of a second or so", () => {
  const rates = new Rates();
  for (let i = 0; i <= 300; i++) rates.add(at(i / 100, { sh: BigInt(i) }));
  expect(rate(rates, "sh")?.[0]).toBeCloseTo(100);
  // The count is the last one all the same.
  expect(rates.series[0]?.count).toBe(300n);
});

test("a row that comes later began at 0", () => {
  const rates = new Rates();
  rates.add(at(1, { sh: 1n }));
  rates.add(at(2, { sh: 1n, nc: 5n }));
  expect(rate(rates, "nc")).toEqual([5, 5, 2.5]);
  expect(rate(rates, "sh")).toEqual([0, 0, 0.5]);
});

test("a row of a snapshot that came too soon has rates of 0 until the next one", () => {
  const rates = new Rates();
  rates.add(at(1, { sh: 1n }));
  rates.add(at(2, { sh: 1n }));
  rates.add(at(2.1, { sh: 1n, nc: 5n }));
  expect(rate(rates, "nc")?.slice(0, 2)).toEqual([0, 0]);
});

test("a row under a new name has no rate before it was seen under it", () => {
  const rates = new Rates();
  rates.add(at(1, { "4242": 1_000_000n }));
  rates.add(at(2, { alice: 1_000_001n }));
  expect(rate(rates, "alice")?.slice(0, 2)).toEqual([undefined, undefined]);
  rates.add(at(3, { alice: 1_000_003n }));
  expect(rate(rates, "alice")?.slice(0, 2)).toEqual([2, undefined]);
  for (let second = 4; second < 70; second++) rates.add(at(second, { alice: 1_000_003n }));
  expect(rate(rates, "alice")?.slice(0, 2)).toEqual([0, 0]);
});

test("a user whose name becomes known keeps its rates", () => {
  const rates = new Rates();
  const by = ["user"] as const;
  const row = (user: string, count: bigint) => ({ labels: { user }, uid: 4242, count });
  rates.add(at(1, {}, { by, execsBy: [row("4242", 7n)] }));
  rates.add(at(2, {}, { by, execsBy: [row("alice", 9n)] }));
  expect(rates.series.map(({ labels, second }) => ({ ...labels, second }))).toEqual([
    { user: "alice", second: 2 },
  ]);
});

test("where the clock was before the start no rate is made of that", () => {
  const rates = new Rates();
  rates.add(at(-5, { sh: 1n }));
  expect(rate(rates, "sh")?.[2]).toBe(0);
});

test("a count that falls, or is gone and comes again, makes no negative rate", () => {
  const rates = new Rates();
  rates.add(at(1, { sh: 100n }));
  rates.add(at(2, { sh: 3n }));
  expect(rate(rates, "sh")?.[0]).toBe(0);
  rates.add(at(3, {}));
  rates.add(at(4, { sh: 7n }));
  expect(rate(rates, "sh")?.[0]).toBe(7);
});

test("after a long pause there is no rate of now", () => {
  const rates = new Rates();
  rates.add(at(1, { sh: 1n }));
  rates.add(at(2, { sh: 2n }));
  rates.add(at(48, { sh: 1000n }));
  expect(rate(rates, "sh")?.slice(0, 2)).toEqual([undefined, undefined]);
  rates.add(at(49, { sh: 1010n }));
  expect(rate(rates, "sh")?.slice(0, 2)).toEqual([10, 10]);
});

test("failures and watched names have rates too, each its own", () => {
  const rates = new Rates();
  const counts = (n: bigint): Partial<Snapshot> => ({
    failures: { execve: new Map([["ENOENT", n]]), execveat: new Map([["ENOENT", 3n * n]]) },
    watched: new Map([["sh", 5n * n]]),
  });
  rates.add(at(1, { sh: 0n }, counts(0n)));
  rates.add(at(2, { sh: 7n }, counts(1n)));
  expect(rates.series.map(({ name, second }) => [name, second])).toEqual([
    ["exec", 7],
    ["failed", 1],
    ["failed", 3],
    ["watched", 5],
  ]);
});

test("names watched one after another, for ever, do not pile up", () => {
  const rates = new Rates();
  for (let i = 0; i < 20_000; i++) {
    rates.add(at(i, { sh: BigInt(i) }, { watched: new Map([[`name ${i}`, 1n]]) }));
  }
  expect(rates.width).toBeLessThan(1100);
});

test("the history keeps the last ten minutes of seconds, and no more", () => {
  const history = new History();
  for (let i = 0; i <= 4 * (History.MOST + 100); i++) {
    history.add(at(i / 4, {}, { execs: BigInt(i) }));
  }
  expect(history.samples).toHaveLength(History.MOST);
  const last = { clock: 5000 + 700_000, attempts: 25n, execs: 2800n, failures: undefined };
  expect(history.samples.at(-1)).toEqual(last);
  expect(history.samples[0]?.clock).toBe(last.clock - (History.MOST - 1) * 1000);
});

test("snapshots an hour apart give the rate of the hour", () => {
  const rates = new Rates(2 * 3_600_000);
  rates.add(at(1, { sh: 0n }));
  rates.add(at(3601, { sh: 7200n }));
  expect(rate(rates, "sh")?.slice(0, 2)).toEqual([2, 2]);
});
