import { expect, test } from "vitest";
import { format } from "../../../src/agent/lines.ts";
import { change, headline, moved, toPlain } from "../../../src/counts/snapshot.ts";
import { snapshot } from "../../support/snapshot.ts";

const before = snapshot({ clock: 1000, attempts: { execve: 14n, execveat: 0n } });
const now = snapshot({ clock: 6000, attempts: { execve: 23n, execveat: 0n } });

test("the line is the one the interface shows", () => {
  expect(format("text", before, now)).toBe(
    "2026-11-23T04:50:00.000Z execve_counter: 23 (+9, 1.8/s)",
  );
});

test("a count that another process set back is shown as it is, and no rate is made of it", () => {
  const less = snapshot({ clock: 11_000, attempts: { execve: 2n, execveat: 0n } });
  expect(change(now, less)).toEqual({ delta: -21n, rate: 0 });
  expect(format("text", now, less)).toContain(" execve_counter: 2 (-21, 0.0/s)");
});

test("what grew is found wherever its row is by now, and rows that retire have not grown", () => {
  const by = ["command"] as const;
  const row = (command: string, count: bigint) => ({ labels: { command }, count });
  const retired = (count: bigint) => ({ ...row("retired", count), of: "retired" as const });
  const first = snapshot({ by, execsBy: [row("a", 5n), retired(1n), row("b", 7n), row("c", 1n)] });
  const second = snapshot({
    by,
    execsBy: [row("new", 2n), row("b", 8n), row("a", 5n), retired(2n)],
  });
  expect(format("text", first, second).split("\n").slice(1)).toEqual([
    "  +2 exec command=new",
    "  +1 exec command=b",
  ]);
});

test("what grew follows the line, the most first, containers as short as elsewhere", () => {
  const text = format("text", { ...snapshot({ execsBy: [] }), watched: new Map() }, now);
  expect(text.split("\n").slice(1)).toEqual([
    '  +12 exec command=sh user=root container=""',
    "  +6  exec command=other user=other container=other",
    "  +3  exec command=nc user=4242 container=0123456789ab",
    "  +3  watched command=nc",
  ]);
});

test("of many that grew ten are shown, and how many are not", () => {
  const watched = new Map(Array.from({ length: 23 }, (_, i) => [`${i}`, BigInt(i)]));
  const lines = format("text", { ...now, watched: new Map() }, { ...now, watched }).split("\n");
  expect(lines).toHaveLength(1 + 10 + 1);
  expect(lines[1]).toBe("  +22 watched command=22");
  expect(lines.at(-1)).toBe("  and 12 more");
});

test("without labels, failures and watched names there is the line alone", () => {
  const plain = { by: [], execsBy: [{ labels: {}, count: 21n }], watched: new Map() };
  const text = format("text", undefined, snapshot({ ...plain, failures: undefined }));
  expect(text.split("\n")).toHaveLength(1);
  expect(JSON.parse(format("json", undefined, snapshot(plain))).execs_by).toBeUndefined();
});

test("a user whose name becomes known has grown by what came since, and under no other", () => {
  const row = (user: string, uid: number, count: bigint) => ({ labels: { user }, uid, count });
  const by = ["user"] as const;
  const first = snapshot({ by, execsBy: [row("1000", 1000, 7n), row("1001", 1001, 3n)] });
  // Both turn out to be called alice.
  const execsBy = [row("alice", 1000, 9n), row("alice", 1001, 3n)];
  const second = snapshot({ by, execsBy });
  expect(moved(first, second)).toEqual([{ name: "exec", labels: { user: "alice" }, delta: 2n }]);
  expect(toPlain(second).execs_by).toEqual([{ user: "alice", execs: 12n }]);
  expect(execsBy.map(({ count }) => count)).toEqual([9n, 3n]);
});

test("a watched name that is removed and added again has grown by nothing", () => {
  const less = snapshot({ watched: new Map([["nc", 1n]]) });
  expect(moved(now, less)).toEqual([]);
});

test("the first line is about the time since the start, when all counts were 0", () => {
  const early = { ...now, startTime: new Date(now.time.getTime() - 2000) };
  expect(format("text", undefined, early)).toContain(" execve_counter: 23 (+23, 11.5/s)");
  const atOnce = { ...now, startTime: now.time };
  expect(format("text", undefined, atOnce)).toContain(" execve_counter: 23 (+23, 0.0/s)");
});

test("skipped runs are shown once there are any", () => {
  const skipped = snapshot({ clock: 6000, missed: 2n });
  expect(format("text", before, skipped)).toMatch(/\/s, 2 missed\)$/m);
  expect(format("json", before, skipped)).toContain('"missed":2,');
  // Where the kernel does not report them, the line does not either.
  const unknown = snapshot({ clock: 6000, missed: undefined });
  expect(format("text", before, unknown)).not.toContain("missed");
  expect(format("json", before, unknown)).toContain('"missed":null,');
});

test("JSON carries counts digit for digit", () => {
  const huge = snapshot({ attempts: { execve: 2n ** 64n - 1n, execveat: 2n ** 53n + 1n } });
  expect(format("json", undefined, huge)).toBe(
    '{"time":"2026-11-23T04:50:00.000Z","start_time":"2026-11-23T04:00:00.000Z",' +
      '"execve_counter":18446744073709551615,"delta":18446744073709551615,"rate":6148914691236517,' +
      '"attempts":{"execve":18446744073709551615,"execveat":9007199254740993},' +
      '"missed":0,"execs":21,"execs_by":[{"command":"sh","user":"root","container":"","execs":12},' +
      `{"command":"nc","user":"4242","container":"${"0123456789abcdef".repeat(4)}","execs":3},` +
      '{"command":"other","user":"other","container":"other","execs":6}],"overflow":0,"retired_rows":0,' +
      '"failures":{"execve":{"ENOENT":3},"execveat":{"ENOENT":1}},' +
      '"checks":2,"unfollowed":0,"watched":{"nc":3}}',
  );
});

test("without attempts the number is that of execs", () => {
  const off = snapshot({ attempts: undefined });
  expect(headline(off)).toBe(21n);
  expect(format("json", undefined, off)).not.toContain("attempts");
});

test("a rate is 0 where no time has passed", () => {
  expect(change(now, now)).toEqual({ delta: 0n, rate: 0 });
  expect(change(now, { ...before, clock: now.clock })).toEqual({ delta: -9n, rate: 0 });
});

test("a watched command may have any name", () => {
  const names = ["__proto__", "constructor", 'a"b', "a\nb"];
  const odd = snapshot({ watched: new Map(names.map((name) => [name, 1n])) });
  expect(Object.keys(toPlain(odd).watched)).toEqual(names);
  expect(JSON.parse(format("json", undefined, odd)).watched.constructor).toBe(1);
});
