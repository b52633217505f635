import { beforeEach, expect, test } from "vitest";
import { Retirement } from "../../../src/agent/retirement.ts";
import type { Log } from "../../../src/base/log.ts";
import { snapshot } from "../../support/snapshot.ts";

const MINUTE = 60_000;
let clock: number;
let asked: number[];
let warned: string[];
let fail: string | undefined;
let reads: number;

const meter = {
  bootTime: () => clock,
  retire: (endedBefore: number) => {
    asked.push(endedBefore);
    if (fail) throw new Error(fail);
    return 1;
  },
};
const log: Log = {
  debug: () => {},
  info: () => {},
  warn: (line) => warned.push(line),
  error: () => {},
};
const table = (entries: number) =>
  snapshot({ tables: [{ name: "execs", entries, capacity: 100 }] });

/** What may retire at that time: what ended before. */
function retiredAt(retirement: Retirement, time: number, entries = 10): number | undefined {
  clock = time;
  asked = [];
  retirement.retire(() => {
    reads++;
    return table(entries);
  });
  return asked[0];
}

beforeEach(() => {
  clock = 100 * MINUTE;
  asked = [];
  warned = [];
  fail = undefined;
  reads = 0;
});

test("without scrapes, rows are kept for their time, counted from the agent's start at the earliest", () => {
  const retirement = new Retirement(meter, 15 * MINUTE, log);
  expect(retiredAt(retirement, 100 * MINUTE)).toBe(0);
  expect(retiredAt(retirement, 115 * MINUTE)).toBe(0);
  expect(retiredAt(retirement, 116 * MINUTE)).toBe(101 * MINUTE);
});

test("what no scrape has had stays, however old", () => {
  const retirement = new Retirement(meter, 15 * MINUTE, log);
  retirement.noteScrape(102 * MINUTE);
  expect(retiredAt(retirement, 110 * MINUTE)).toBe(95 * MINUTE);
  expect(reads).toBe(0);
  expect(retiredAt(retirement, 500 * MINUTE)).toBe(102 * MINUTE);
  retirement.noteScrape(499 * MINUTE);
  expect(retiredAt(retirement, 500 * MINUTE)).toBe(485 * MINUTE);
});

test("where more than half of the rows are taken, no row waits for a scrape", () => {
  const retirement = new Retirement(meter, 15 * MINUTE, log);
  retirement.noteScrape(102 * MINUTE);
  expect(retiredAt(retirement, 500 * MINUTE, 50)).toBe(102 * MINUTE);
  expect(retiredAt(retirement, 500 * MINUTE, 51)).toBe(485 * MINUTE);
});

test("but a scraper has that time to come back to an agent that has just started", () => {
  const retirement = new Retirement(meter, 15 * MINUTE, log);
  expect(retiredAt(retirement, 114 * MINUTE, 90)).toBe(0);
  expect(retiredAt(retirement, 116 * MINUTE, 90)).toBe(101 * MINUTE);
});

test("soon after boot nothing is old enough", () => {
  clock = MINUTE;
  const retirement = new Retirement(meter, 15 * MINUTE, log);
  expect(retiredAt(retirement, 2 * MINUTE, 90)).toBe(0);
});

test("with never, no row retires, and units that were started again share theirs", () => {
  const retirement = new Retirement(meter, "never", log);
  retirement.noteScrape(499 * MINUTE);
  expect(retiredAt(retirement, 500 * MINUTE, 90)).toBe(0);
  expect(retirement.period).toBe(10_000);
});

test("a long watch list crowds no row out", () => {
  const retirement = new Retirement(meter, 15 * MINUTE, log);
  retirement.noteScrape(102 * MINUTE);
  clock = 500 * MINUTE;
  const watched = { name: "execve_counter", entries: 4000, capacity: 4096 };
  const execs = { name: "execs", entries: 10, capacity: 100 };
  retirement.retire(() => snapshot({ tables: [watched, execs] }));
  expect(asked).toEqual([102 * MINUTE]);
});

test("a failure is reported once, and again once it was gone", () => {
  const retirement = new Retirement(meter, 1000, log);
  for (const message of ["EPERM", "EPERM", undefined, "EPERM"]) {
    fail = message;
    retiredAt(retirement, 200 * MINUTE);
  }
  expect(warned).toEqual(["rows cannot retire: EPERM", "rows cannot retire: EPERM"]);
});

test("it looks four times in the time that rows are kept, and at least every ten seconds", () => {
  const period = (after: number) => new Retirement(meter, after, log).period;
  expect([1000, 8000, 15 * MINUTE].map(period)).toEqual([250, 2000, 10_000]);
});
