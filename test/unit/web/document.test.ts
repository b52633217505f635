import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { toJson } from "../../../src/base/json.ts";
import { History } from "../../../src/counts/rates.ts";
import { doubts } from "../../../src/counts/snapshot.ts";
import { past, statuses } from "../../../src/web/status.ts";
import { projectPath } from "../../support/files.ts";
import { snapshot } from "../../support/snapshot.ts";

// As it is built: what it puts together lies beside it.
const { readPage } = (await import(
  projectPath("dist/web/document.js")
)) as typeof import("../../../src/web/document.ts");

const sha256 = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

test("the page may run and look like what is in it, and nothing else", () => {
  const { html, policy } = readPage("/metrics");
  const directives = new Map(
    policy.split("; ").map((directive) => {
      const [name = "", ...sources] = directive.split(" ");
      return [name, sources];
    }),
  );
  const inside = (tag: string) =>
    [...html.matchAll(new RegExp(`<${tag}[^>]*>(.*?)</${tag}>`, "gs"))].map(([, text]) =>
      sha256(text as string),
    );
  expect(inside("script")).toHaveLength(1);
  expect(directives.get("script-src")).toEqual(inside("script"));
  expect(inside("style")).toHaveLength(1);
  expect(directives.get("style-src")).toEqual(inside("style"));
  const rest = [...directives].filter(([name]) => !/^(script|style)-src$/.test(name));
  expect(rest.map((directive) => directive.flat().join(" "))).toEqual([
    "default-src 'none'",
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ]);
});

test("the page is one document under 100 kB that names no other host", () => {
  const { html } = readPage("/metrics");
  expect(Buffer.byteLength(html)).toBeLessThan(100_000);
  const hosts = [...html.matchAll(/\bhttps?:\/\/[\w.-]+/g)].map(([url]) => url);
  // The name of a language.
  expect(new Set(hosts)).toEqual(new Set(["http://www.w3.org"]));
  expect(html).not.toMatch(/\ssrc=|\{\{/);
});

test("the page links to wherever the metrics are", () => {
  expect(readPage("/a/b").html).toContain('<a href="a/b">a/b</a>');
});

const rows = (count: number) =>
  Array.from({ length: count }, (_, i) => ({
    labels: { command: `c${i}` },
    count: BigInt(i),
  }));

test("of a table of any size the page gets the rows that grow most and those with the most", () => {
  const status = statuses("1.2.3", "host", () => undefined);
  const many = { by: ["command"] as const, execsBy: rows(65_536) };
  status(snapshot(many));
  const grown = many.execsBy.map((row, i) => (i === 7 ? { ...row, count: 1000n } : row));
  const { rows: got, all_rows } = status(snapshot({ ...many, execsBy: grown, clock: 1000 }));
  expect(all_rows).toBe(65_536);
  expect(got.length).toBeLessThanOrEqual(75);
  expect(got.find(({ labels }) => labels.command === "c7")).toMatchObject({
    ...{ count: 1000n, second: 993, minute: 993 },
  });
  expect(got.map(({ labels }) => labels.command)).toContain("c65535");
  expect(toJson(got).length).toBeLessThan(10_000);
});

test("of all rows the page gets those with the text that it asks for, and as many as it asks for", () => {
  const status = statuses("1.2.3", "host", () => undefined);
  const watched = new Map(rows(1000).map(({ labels, count }) => [labels.command, count]));
  const many = snapshot({ by: ["command"], execsBy: rows(65_536), watched });
  const names = (found: { labels: Record<string, string> }[]) =>
    found.map(({ labels }) => labels.command).sort();
  // No row that would be shown without it.
  const some = status(many, "filter=C777");
  expect(some).toMatchObject({ filter: "C777", found_rows: 11, all_rows: 65_536 });
  expect(names(some.rows)).toEqual(["c777", ...[..."0123456789"].map((last) => `c777${last}`)]);
  expect(some).toMatchObject({ found_watched: 1, all_watched: 1000 });
  expect(names(some.watched)).toEqual(["c777"]);
  expect(status(many, "filter=%26+%2B%25").filter).toBe("& +%");
  expect(status(many, "filter=nothing").rows).toEqual([]);

  const sizes = (query: string) => {
    const { rows: shown, watched: names } = status(many, query);
    return [shown.length, names.length];
  };
  const usual = sizes("");
  const all = sizes("rows=250&watched=250");
  expect(all).toEqual([expect.closeTo(10 * (usual[0] ?? 0)), expect.closeTo(10 * (usual[1] ?? 0))]);
  expect(sizes("rows=100")).toEqual([expect.closeTo(4 * (usual[0] ?? 0)), usual[1]]);
  expect(sizes("rows=1000000&watched=1e300")).toEqual(all);
  for (const odd of [
    "rows=",
    "rows=x",
    "rows=NaN",
    "rows=2.5",
    "&&=",
    "%",
    "filter",
    "__proto__=1",
  ])
    expect(sizes(odd)[1]).toBe(usual[1]);
  expect(sizes("rows=-1")[0]).toBeGreaterThan(0);
  expect(status(many, `filter=${"c".repeat(1e6)}`).filter).toHaveLength(256);
});

test("what has retired is no row, but a sum of its own", () => {
  const status = statuses("", "", () => undefined);
  const execsBy = [
    ...rows(3),
    { labels: { command: "retired" }, count: 1234n, of: "retired" as const },
  ];
  const now = { by: ["command"] as const, execsBy, retired: 4n };
  expect(status(snapshot(now))).toMatchObject({
    ...{ all_rows: 3, found_rows: 3, retired: { rows: 4n, execs: 1234n } },
  });
  expect(status(snapshot(now)).rows.map(({ labels }) => labels.command)).not.toContain("retired");
  expect(status(snapshot({ retired: undefined })).retired).toBeNull();
});

test("a status says what is counted, and null for what is not", () => {
  const status = statuses("1.2.3", "host", () => undefined);
  const { seconds, ...rest } = status(snapshot());
  expect(seconds).toBeGreaterThan(0.000025);
  expect(rest).toMatchObject({
    ...{ version: "1.2.3", host: "host", time: "2026-11-23T04:50:00.000Z" },
    ...{ execve_counter: 23n, attempts: { execve: 23n, execveat: 2n }, execs: 21n, failures: 4n },
    ...{ doubts: [], by: ["command", "user", "container"], all_rows: 3, all_watched: 1 },
  });
  expect(rest.failed.map(({ labels, count }) => [labels.errno, count])).toEqual([
    ["ENOENT", 3n],
    ["ENOENT", 1n],
  ]);
  const none = { attempts: undefined, failures: undefined, by: [], watched: new Map() };
  expect(status(snapshot(none))).toMatchObject({
    ...{ attempts: null, failures: null, rows: [], failed: [], watched: [], all_rows: 0 },
  });
});

const { programs } = snapshot();
const skipping = (name: string, misses: bigint | undefined) => ({
  programs: [...programs, { ...programs[0], name, misses } as (typeof programs)[number]],
});

test.each([
  [{}, []],
  [
    skipping("count_execve", 7n),
    [/skipped 7 runs of count_execve: attempts by execve are too low/],
  ],
  [skipping("count_execveat", 7n), [/7 runs of count_execveat: attempts by execveat are too low/]],
  [skipping("count_attempts", 7n), [/7 runs of count_attempts: attempts are too low by up to/]],
  [skipping("count_execve_failure", 7n), [/up to as many failures of execve have an unknown/]],
  [skipping("count_execveat_failure", 7n), [/up to as many failures of execveat have an unknown/]],
  [skipping("count_failures", 7n), [/up to as many failures have an unknown errno/]],
  [skipping("count_killed", 7n), [/failures of tasks that ended are too low by up to/]],
  [{ unfollowed: 7n }, [/^7 calls could not be followed/]],
  [skipping("count_exec", 7n), [/7 runs of count_exec: these execs count as other/]],
  [skipping("count_failures", undefined), [/does not report missed runs/]],
  [{ noRoom: 7n }, [/7 execs found no room for a row/]],
  // Without labels it has two rows, and is always full.
  [{ by: [], tables: [{ name: "execs", entries: 2, capacity: 2 }] }, []],
])("the page says why counts may be inexact: %#", (changes, expected) => {
  expect(doubts(snapshot(changes))).toEqual(expected.map((word) => expect.stringMatching(word)));
});

test("the history has times of a clock that is never set", () => {
  const history = new History();
  history.add(snapshot({ clock: 1000, attempts: undefined }));
  history.add(snapshot({ clock: 3000, failures: undefined }));
  const now = snapshot({ clock: 4000 });
  expect(past(history, now)).toEqual({
    start_time: now.startTime.toISOString(),
    samples: [
      { clock: performance.timeOrigin + 1000, attempts: null, execs: 21n, failures: 4n },
      { clock: performance.timeOrigin + 3000, attempts: 25n, execs: 21n, failures: null },
    ],
  });
  const { clock } = statuses("", "", () => undefined)(now);
  expect(clock).toBe(performance.timeOrigin + 4000);
});

test("of rows that grow no more the page gets those with the highest counts", () => {
  const status = statuses("", "", () => undefined);
  // The clock was set before the meter's start.
  const time = new Date(0);
  const { rows: got } = status(snapshot({ time, by: ["command"], execsBy: rows(1000) }));
  const most = Array.from({ length: 25 }, (_, i) => BigInt(975 + i));
  expect(got.map(({ count }) => count)).toEqual(expect.arrayContaining(most));
  const watched = new Map(Array.from({ length: 1000 }, (_, i) => [`w${i}`, BigInt(i)]));
  const all = status(snapshot({ watched }));
  const names = Array.from({ length: 25 }, (_, i) => `w${975 + i}`);
  expect(all.watched.map(({ labels }) => labels.command)).toEqual(expect.arrayContaining(names));
  expect(all.watched.length).toBeLessThan(1000);
  expect(all.all_watched).toBe(1000);
});
