import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { describe, expect, test } from "vitest";
import { clip, clipStart, width } from "../../../src/base/width.ts";
import { LABELS, type Label } from "../../../src/counts/labels.ts";
import type { Sample } from "../../../src/counts/rates.ts";
import { frame, type Moment, plain } from "../../../src/top/frame.ts";
import { styleOf } from "../../../src/top/terminal.ts";
import {
  filtered,
  firstOf,
  press,
  type Row,
  sumRows,
  type View,
  viewBy,
} from "../../../src/top/view.ts";
import { snapshot } from "../../support/snapshot.ts";

const ALL: readonly Label[] = ["command", "user", "container"];
const SET_COLUMN = new RegExp(`${"\x1b"}\\[\\d+G`, "g");
const COLOR = new RegExp(`${"\x1b"}\\[[\\d;]*3\\dm`);
const STYLE = { color: true, unicode: true };

/** The rows that a view shows, in order. */
function arrange(rows: readonly Row[], view: View): Row[] {
  return firstOf(filtered(rows, view), rows.length, view);
}

function row(labels: Row["labels"], count: number, second: number | undefined = count): Row {
  return { labels, count: BigInt(count), second, minute: second, start: count };
}

const ROWS = [
  row({ command: "sh", user: "root", container: "" }, 12, 1),
  row({ command: "nc", user: "root", container: "" }, 3, 7),
  row({ command: "sh", user: "daemon", container: "ab".repeat(32) }, 5, 2),
];

const samples: Sample[] = [0n, 10n, 10n, 15n].map((execs, i) => ({
  ...{ clock: i * 1000, attempts: undefined, execs, failures: BigInt(i) },
}));

function moment(changes: Partial<Moment> = {}): Moment {
  return {
    ...{ host: "host", snapshot: snapshot(), rows: ROWS, samples },
    ...{ source: "meter of map 123", notice: "" },
    ...changes,
  };
}

/** The screen as text, each line without the spaces at its end. */
function screen(view: View, columns = 80, rows = 24, changes: Partial<Moment> = {}): string[] {
  const { lines } = frame(view, moment(changes), { columns, rows }, STYLE);
  return lines.map((line) => stripVTControlCharacters(line).trimEnd());
}

/** The view after these keys. */
function typed(view: View, ...keys: string[]): View {
  let now = view;
  for (const key of keys) {
    const names: Record<string, string> = { "\r": "return", "\x7f": "backspace", "\x1b": "escape" };
    const arrow = /^<(\w+)>$/.exec(key)?.[1];
    const pressed = press(now, { name: arrow ?? names[key] ?? key, sequence: key }, ALL);
    if (typeof pressed === "string") throw new Error(pressed);
    now = pressed;
  }
  return now;
}

describe("the width of text", () => {
  test.each([
    ["sh", 2],
    ["漢字", 4],
    ["🚀", 2],
    ["e\u0301", 1],
    ["\u0301", 0],
    ["ｱ", 1],
    ["שלום", 4],
    ["▁█", 2],
    ["", 0],
  ])("%j", (text, columns) => {
    expect(width(text)).toBe(columns);
  });

  test("text without room is cut between characters, and marked", () => {
    expect(clip("command", 7, "…")).toBe("command");
    expect(clip("command", 6, "…")).toBe("comma…");
    expect(clip("漢字漢字", 6, "…")).toBe("漢字…");
    expect(clip("e\u0301e\u0301e\u0301", 2, "…")).toBe("e\u0301…");
    expect(clip("command", 0, "…")).toBe("");
  });

  test("of a path the end is kept", () => {
    expect(clipStart("/usr/bin/foo", 12, "…")).toBe("/usr/bin/foo");
    expect(clipStart("/usr/bin/foo", 9, "…")).toBe("…/bin/foo");
    expect(clipStart("/漢字漢字", 6, "…")).toBe("…漢字");
    expect(clipStart("e\u0301e\u0301e\u0301", 2, "…")).toBe("…e\u0301");
    expect(clipStart("/usr", 1, "…")).toBe("…");
    expect(clipStart("/usr", 0, "…")).toBe("");
  });
});

describe("rows by fewer labels", () => {
  test("are summed, and the total stays", () => {
    expect(sumRows(ROWS, ["command"])).toEqual([
      { labels: { command: "sh" }, count: 17n, second: 3, minute: 3, start: 17 },
      { labels: { command: "nc" }, count: 3n, second: 7, minute: 7, start: 3 },
    ]);
    expect(sumRows(ROWS, [])).toEqual([
      { labels: {}, count: 20n, second: 10, minute: 10, start: 20 },
    ]);
    expect(sumRows(ROWS, ALL)).toEqual(ROWS);
    expect(ROWS[0]?.count).toBe(12n);
  });

  test("have no rate where one of them has none yet", () => {
    const rows = [row({ command: "sh" }, 1), row({ command: "sh" }, 2)];
    expect(sumRows(rows, ["command"])[0]?.second).toBe(3);
    const unknown = { ...row({ command: "sh" }, 2), second: undefined, minute: undefined };
    expect(sumRows([...rows, unknown], ["command"])[0]).toMatchObject({
      second: undefined,
      count: 5n,
    });
  });
});

describe("the order", () => {
  const order = (view: View) => arrange(ROWS, view).map(({ count }) => Number(count));

  test("is that of the rate of now at first, and of what a key chooses", () => {
    const view = viewBy(ALL);
    expect(order(view)).toEqual([3, 5, 12]);
    expect(order(typed(view, "r"))).toEqual([12, 5, 3]);
    expect(order(typed(view, "<right>", ">", ">"))).toEqual([12, 5, 3]);
    expect(typed(view, "<").sort).toBe("container");
    expect(typed(view, "<", "<left>").sort).toBe("user");
    expect(typed(view, "<", ">").sort).toBe("second");
    expect(order({ ...view, sort: "command" })).toEqual([3, 5, 12]);
    expect(order({ ...view, sort: "user" })).toEqual([5, 3, 12]);
  });

  test("counts of 64 bits are told apart to the last digit", () => {
    const rows = [2n ** 64n - 2n, 2n ** 64n - 1n, 2n ** 64n - 3n].map((count) => ({
      ...row({ command: `${count}` }, 0),
      count,
    }));
    const counts = arrange(rows, { ...viewBy(ALL), sort: "count" }).map(({ count }) => count);
    expect(counts).toEqual([2n ** 64n - 1n, 2n ** 64n - 2n, 2n ** 64n - 3n]);
  });

  test("is the same for the same rows, however they come", () => {
    const alike = ["b", "a", "c"].map((command) => row({ command }, 1));
    const names = (rows: Row[]) => rows.map(({ labels }) => labels.command).join("");
    expect(names(arrange(alike, viewBy(ALL)))).toBe("abc");
    expect(names(arrange(alike.toReversed(), viewBy(ALL)))).toBe("abc");
  });
});

test("the first of many rows are those that are first when all are sorted", () => {
  const rows = Array.from({ length: 300 }, (_, i) => row({ command: `${i}` }, (i * 7919) % 50));
  for (const view of [viewBy(ALL), typed(viewBy(ALL), "r"), typed(viewBy(ALL), "<", "<", "<")]) {
    const sorted = arrange(rows, view);
    for (const most of [0, 1, 17, 299, 300, 301]) {
      expect(firstOf(rows, most, view)).toEqual(sorted.slice(0, most));
    }
  }
});

describe("keys", () => {
  const view = { ...viewBy(ALL), page: 10 };

  test("a filter is typed live, kept by Enter and cleared by Escape", () => {
    const typing = typed(view, "/", "s", "q", "\x7f", "h");
    expect(typing).toMatchObject({ typing: true, filter: "sh" });
    expect(arrange(ROWS, typing)).toHaveLength(2);
    const kept = typed(typing, "\r");
    expect(kept).toMatchObject({ typing: false, filter: "sh" });
    expect(typed(kept, "/", "x").filter).toBe("shx");
    expect(typed(kept, "\x1b")).toMatchObject({ typing: false, filter: "" });
    expect(typed(typing, "\x1b")).toMatchObject({ typing: false, filter: "" });
    expect(press(typing, { name: "u", ctrl: true }, ALL)).toMatchObject({
      typing: true,
      filter: "",
    });
    expect(typed(view, "/", "漢", "🚀", "\x7f", "\x01").filter).toBe("漢");
  });

  test("a filter finds what any label has in it, in capitals or not", () => {
    const found = (filter: string) => arrange(ROWS, { ...view, filter }).length;
    expect([found("SH"), found("daem"), found("abababababababab"), found("x")]).toEqual([
      2, 1, 1, 0,
    ]);
  });

  test("scroll, by lines and pages, to the first row and the last", () => {
    expect(typed(view, "<down>", "j", "<up>").scroll).toBe(1);
    expect(typed(view, "<up>").scroll).toBe(0);
    expect(typed(view, "<pagedown>", "<pagedown>", "<pageup>").scroll).toBe(10);
    expect(typed(view, "<end>").scroll).toBe(Number.POSITIVE_INFINITY);
    expect(typed(view, "<end>", "<home>").scroll).toBe(0);
  });

  test("choose of the labels that are counted, one choice after the other", () => {
    const choices = new Set<string>();
    let now = view;
    for (let i = 0; i < 7; i++) {
      choices.add(now.by.join());
      now = typed(now, "b");
    }
    expect(choices.size).toBe(7);
    expect(now.by).toEqual(ALL);
    const pressed = press(viewBy(["user"]), { name: "b", sequence: "b" }, ["user"]) as View;
    expect(pressed.by).toEqual(["user"]);
    expect(typed({ ...view, sort: "command" }, "b").sort).toBe("second");
  });

  test("pause, help, and what is done at once", () => {
    expect(typed(view, " ").paused).toBe(true);
    expect(typed(view, "p", "p").paused).toBe(false);
    expect(typed(view, "h").help).toBe(true);
    expect(typed(view, "?", "x").help).toBe(false);
    expect(press(view, { name: "q", sequence: "q" }, ALL)).toBe("quit");
    expect(press(typed(view, "/"), { name: "q", sequence: "q" }, ALL)).toMatchObject({
      filter: "q",
    });
    for (const state of [view, typed(view, "/"), typed(view, "h")]) {
      expect(press(state, { name: "c", ctrl: true, sequence: "\x03" }, ALL)).toBe("quit");
      expect(press(state, { name: "l", ctrl: true, sequence: "\x0c" }, ALL)).toBe("redraw");
      expect(press(state, { name: "z", ctrl: true, sequence: "\x1a" }, ALL)).toBe("suspend");
    }
    expect(press(view, { sequence: undefined, name: undefined }, ALL)).toEqual(view);
  });
});

describe("the screen", () => {
  test("of 80 columns has it all", () => {
    expect(screen(viewBy(ALL))).toEqual([
      "host 04:50:00Z  meter of map 123  since 04:00:00Z",
      "execs 21  attempts 25  none missed",
      "failures 4, 1.0/s  ENOENT 4",
      "█▁▅ execs/s, at most 10.0",
      "    1 s↓   1 min   start    count COMMAND             USER          CONTAINER",
      "    10.0    10.0    20.0       20 (all)",
      "     7.0     7.0     3.0        3 nc                  root          -",
      "     2.0     2.0     5.0        5 sh                  daemon        abababababab",
      "     1.0     1.0    12.0       12 sh                  root          -",
      ...Array(14).fill(""),
      "3  q quit  h help  <> sort  / filter  space pause  b by  r reverse",
    ]);
  });

  test("of 40 by 10 has what matters most", () => {
    expect(screen(viewBy(["command"]), 40, 10)).toEqual([
      "host 04:50:00Z  meter of map 123",
      "execs 21  attempts 25  none missed",
      "█▁▅ execs/s, at most 10.0",
      "    1 s↓   1 min    count COMMAND",
      "    10.0    10.0       20 (all)",
      "     7.0     7.0        3 nc",
      "     3.0     3.0       17 sh",
      ...["", ""],
      "2  q quit  h help  <> sort  / filter",
    ]);
  });

  test("says what is not exact, or not as asked", () => {
    const lines = (changes: Parameters<typeof snapshot>[0], notice = "") =>
      screen(viewBy(ALL), 120, 24, { snapshot: snapshot(changes), notice }).slice(0, 5);
    const skipping = (misses: bigint | undefined) => ({
      programs: snapshot().programs.map((each) =>
        each.name === "count_execveat" ? { ...each, misses } : each,
      ),
    });
    expect(lines(skipping(2n))[1]).toBe("execs 21  attempts 25  2 missed");
    expect(lines(skipping(2n))[4]).toContain("attempts by execveat are too low by as many");
    expect(lines(skipping(undefined))[1]).toBe("execs 21  attempts 25");
    expect(lines(skipping(undefined))[4]).toContain("does not report missed runs");
    expect(lines({ attempts: undefined, failures: undefined }).slice(1, 3)).toEqual([
      "execs 21  none missed",
      "█▁▅ execs/s, at most 10.0",
    ]);
    expect(lines({}, "the meter has ended")[4]).toBe("the meter has ended");
    const filtered = screen({ ...viewBy(ALL), filter: "nc" });
    expect(filtered[4]).toBe("only rows with nc");
    expect(filtered.filter((line) => line.includes(" root "))).toHaveLength(1);
    expect(screen({ ...viewBy(ALL), paused: true })[0]).toContain("paused, meter of map 123");
    const yesterday = { startTime: new Date("2026-11-22T04:00:00Z") };
    expect(lines(yesterday)[0]).toContain("since 2026-11-22 04:00:00Z");
  });

  test("has what retired in a line of its own, and in the sum, but not among the rows", () => {
    const retired = row({ command: "retired", user: "retired", container: "retired" }, 1234, 0);
    const changes = { snapshot: snapshot({ retired: 4n }), retired };
    const lines = screen(viewBy(ALL), 80, 24, changes);
    expect(lines[4]).toBe("4 rows of ended containers and units retired, with 1234 execs");
    expect(lines[6]).toMatch(/^ +10\.0 +10\.0 +1254\.0 +1254 \(all\)$/);
    expect(lines.slice(7).join()).not.toContain("retired");
    expect(lines.at(-1)).toMatch(/^3 /);
    const one = screen(viewBy(ALL), 80, 24, { ...changes, snapshot: snapshot({ retired: 1n }) });
    expect(one[4]).toMatch(/^1 row of /);
    expect(plain(viewBy(ALL), moment(changes), true)).toContain(`${lines[4]}\n`);
    expect(screen(viewBy(ALL)).join()).not.toContain("retired");
  });

  test("of 65 columns has all six labels, and of a path the end", () => {
    const labels = {
      ...{ command: "execve-counter", user: "www-data", container: "ab".repeat(32) },
      ...{ parent: "bash", unit: "docker-abcdef.scope", path: "/usr/local/lib/some/where/foo" },
    };
    const view = viewBy(Object.keys(labels) as Label[]);
    const rows = [row(labels, 1)];
    const [head, , line] = screen(view, 65, 24, { rows }).slice(4);
    expect(head).toMatch(/ COMMAND USER +CONTAI… PARENT +UNIT +PATH$/);
    expect(line).toMatch(/ execve… www-da… ababab… bash +docker-… \S+$/);
    expect(line).toMatch(/ …\S*\/where\/foo$/);
    // With room, the path has all of itself.
    expect(screen(view, 160, 24, { rows })[6]).toMatch(/ docker-abcdef.scope +\/usr\S+\/foo$/);
  });

  test("of any size has that many lines, each that wide", () => {
    const views = [
      viewBy(LABELS),
      viewBy(ALL),
      { ...viewBy(ALL), help: true },
      typed(viewBy(ALL), "/", "漢"),
    ];
    for (const view of views) {
      for (let columns = 1; columns < 100; columns += 3) {
        for (let rows = 1; rows < 30; rows++) {
          const { lines } = frame(view, moment({ notice: "漢字" }), { columns, rows }, STYLE);
          expect(lines).toHaveLength(rows);
          for (const line of lines) expect(width(stripVTControlCharacters(line))).toBe(columns);
        }
      }
    }
  });

  test("scrolls no further than there are rows", () => {
    const many = Array.from({ length: 100 }, (_, i) =>
      row({ command: `c${`${i}`.padStart(2, "0")}` }, 1),
    );
    const at = (scroll: number) => {
      const size = { columns: 80, rows: 24 };
      const drawn = frame({ ...viewBy(["command"]), scroll }, moment({ rows: many }), size, STYLE);
      const shown = drawn.lines
        .map(stripVTControlCharacters)
        .filter((line) => / c\d\d /.test(line));
      return { view: drawn.view, shown, last: stripVTControlCharacters(drawn.lines[23] as string) };
    };
    expect(at(0).shown[0]).toContain("c00");
    expect(at(0).last).toContain("1-17 of 100");
    expect(at(0).view.page).toBe(17);
    expect(at(Number.POSITIVE_INFINITY).shown.at(-1)).toContain("c99");
    expect(at(Number.POSITIVE_INFINITY).view.scroll).toBe(83);
    expect(at(Number.POSITIVE_INFINITY).last).toContain("84-100 of 100");
  });

  test("is not disturbed by names, whatever they are", () => {
    const names = [
      "\x1b[2J\x1b[31m",
      "a\nb",
      "漢字🚀",
      "e\u0301\u0301x",
      "שלום",
      "\u202eabc",
      "\ufffd",
      "",
    ];
    const rows = names.map((command) => row({ command, user: "root", container: "" }, 1));
    const { lines } = frame(viewBy(ALL), moment({ rows }), { columns: 80, rows: 24 }, STYLE);
    const shown = lines.slice(6, 6 + names.length);
    for (const line of shown) {
      // Nothing but the setting of columns.
      expect(line.replaceAll(SET_COLUMN, "")).not.toMatch(/[\p{C}]/u);
      const text = stripVTControlCharacters(line);
      expect(width(text)).toBe(80);
      // What comes after it stands where it always does.
      expect(width(text.slice(0, text.indexOf("root")))).toBe(54);
    }
    expect(stripVTControlCharacters(shown.join("\n"))).toContain("漢字🚀");
    const wide = shown.find((line) => line.includes("漢字🚀"));
    expect(wide).toContain("\x1b[54G root");
  });

  test("without colours it has none, and without UTF-8 nothing but ASCII", () => {
    const rows = [row({ command: "漢", user: "root", container: "" }, 1)];
    const size = { columns: 80, rows: 24 };
    const { lines } = frame(viewBy(ALL), moment({ rows }), size, { color: false, unicode: false });
    const text = stripVTControlCharacters(lines.join(""));
    expect(text).toContain("\\u{6f22}");
    expect(text).toMatch(/^[\x20-\x7e]*$/);
    expect(text).toContain("#_= execs/s");
    const colored = (shown: readonly string[]) => shown.some((line) => COLOR.test(line));
    expect(colored(lines)).toBe(false);
    expect(colored(frame(viewBy(ALL), moment(), size, STYLE).lines)).toBe(true);
  });
});

test("printed, it is all rows and no escape sequences", () => {
  const long = row({ command: "\x1b[2J".repeat(4), user: "root", container: "" }, 1);
  const text = plain(viewBy(ALL), moment({ rows: [...ROWS, long], notice: "a notice" }), true);
  const escaped = "\\u{1b}[2J".repeat(4);
  expect(text.split("\n")).toEqual([
    "host 2026-11-23T04:50:00.000Z  meter of map 123  since 04:00:00Z",
    "execs 21  attempts 25  none missed",
    "failures 4, 1.0/s  ENOENT 4",
    "a notice",
    `    1 s↓   1 min   start    count ${"COMMAND".padEnd(36)} USER          CONTAINER`,
    "    11.0    11.0    21.0       21 (all)",
    `     7.0     7.0     3.0        3 ${"nc".padEnd(36)} root          -`,
    `     2.0     2.0     5.0        5 ${"sh".padEnd(36)} daemon        abababababab`,
    `     1.0     1.0    12.0       12 ${"sh".padEnd(36)} root          -`,
    `     1.0     1.0     1.0        1 ${escaped} root          -`,
    ...["", ""],
  ]);
});

describe("the terminal", () => {
  test.each([
    [{ TERM: "xterm-256color", LANG: "C.UTF-8" }, true, true],
    [{ TERM: "xterm-256color", LANG: "en_US.utf8", NO_COLOR: "1" }, false, true],
    [{ TERM: "xterm-256color", NO_COLOR: "" }, true, false],
    [{ TERM: "vt100", LANG: "C" }, false, false],
    [{ TERM: "xterm-mono", LANG: "en_US.UTF-8", LC_ALL: "C" }, false, false],
    [{ TERM: "linux", LC_CTYPE: "C.UTF-8", LANG: "C" }, true, true],
    [{ TERM: "no-such-terminal" }, true, false],
    [{ TERM: "../xterm" }, true, false],
  ])("by the environment %j", (env, color, unicode) => {
    expect(styleOf(env)).toEqual({ color, unicode });
  });

  test("a terminfo entry that is none says nothing", () => {
    const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
    try {
      mkdirSync(join(directory, "x"));
      for (const content of [
        Buffer.alloc(0),
        Buffer.from([0x1a, 1, 255, 127, 255, 127, 255, 127]),
      ]) {
        writeFileSync(join(directory, "x", "x-broken"), content);
        expect(styleOf({ TERM: "x-broken", TERMINFO: directory }).color).toBe(true);
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
