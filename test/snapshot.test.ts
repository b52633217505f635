import { expect, test } from "vitest";
import { formatLine } from "../src/printer.ts";
import { change, headline, toPlain } from "../src/snapshot.ts";
import { snapshot } from "./support/snapshot.ts";

const before = snapshot({ clock: 1000, attempts: { execve: 14n, execveat: 0n } });
const now = snapshot({ clock: 6000, attempts: { execve: 23n, execveat: 0n } });

test("the line is the one the interface shows", () => {
  expect(formatLine("text", before, now)).toBe(
    "2026-11-23T04:50:00.000Z execve_counter: 23 (+9, 1.8/s)",
  );
});

test("the first line is about the time since the start, when all counts were 0", () => {
  const early = { ...now, startTime: new Date(now.time.getTime() - 2000) };
  expect(formatLine("text", undefined, early)).toContain(" execve_counter: 23 (+23, 11.5/s)");
  const atOnce = { ...now, startTime: now.time };
  expect(formatLine("text", undefined, atOnce)).toContain(" execve_counter: 23 (+23, 0.0/s)");
});

test("a count that somebody has set back is shown as it is", () => {
  expect(formatLine("text", now, { ...before, clock: 11_000 })).toContain(": 14 (-9, -1.8/s)");
});

test("skipped runs are shown once there are any", () => {
  const skipped = snapshot({ clock: 6000, missed: 2n });
  expect(formatLine("text", before, skipped)).toMatch(/\/s, 2 missed\)$/);
  expect(formatLine("json", before, skipped)).toContain('"missed":2,');
  // Where the kernel does not say, neither do we.
  const unknown = snapshot({ clock: 6000, missed: undefined });
  expect(formatLine("text", before, unknown)).not.toContain("missed");
  expect(formatLine("json", before, unknown)).toContain('"missed":null,');
});

test("JSON carries counts digit for digit", () => {
  const huge = snapshot({ attempts: { execve: 2n ** 64n - 1n, execveat: 2n ** 53n + 1n } });
  expect(formatLine("json", undefined, huge)).toBe(
    '{"time":"2026-11-23T04:50:00.000Z","start_time":"2026-11-23T04:00:00.000Z",' +
      '"execve_counter":18446744073709551615,"delta":18446744073709551615,"rate":6148914691236517,' +
      '"attempts":{"execve":18446744073709551615,"execveat":9007199254740993},' +
      '"missed":0,"execs":21,"watched":{"nc":3}}',
  );
});

test("without attempts the number is that of successes", () => {
  const off = snapshot({ attempts: undefined });
  expect(headline(off)).toBe(21n);
  expect(formatLine("json", undefined, off)).not.toContain("attempts");
});

test("a rate is 0 where no time has passed", () => {
  expect(change(now, now)).toEqual({ delta: 0n, rate: 0 });
  expect(change(now, { ...before, clock: now.clock })).toEqual({ delta: -9n, rate: 0 });
});

test("a watched command may have any name", () => {
  const names = ["__proto__", "constructor", 'a"b', "a\nb"];
  const odd = snapshot({ watched: new Map(names.map((name) => [name, 1n])) });
  expect(Object.keys(toPlain(odd).watched)).toEqual(names);
  expect(JSON.parse(formatLine("json", undefined, odd)).watched.constructor).toBe(1);
});
