import fc from "fast-check";
import { afterEach, expect, test, vi } from "vitest";
import { format } from "../../../src/agent/lines.ts";
import { toJson } from "../../../src/base/json.ts";
import { createLog } from "../../../src/base/log.ts";
import { printable, visible } from "../../../src/base/text.ts";
import { frame, type Moment, plain } from "../../../src/top/frame.ts";
import { press, viewBy } from "../../../src/top/view.ts";
import { snapshot } from "../../support/snapshot.ts";

/** Of each kind one or two; the last four are no text, for private use, or not assigned yet. */
const UNSEEN = [
  ...["\0", "\x07", "\t", "\n", "\r", "\x1b", "\x7f", "\u0085", "\u009b", "\u009d"],
  ...["\u00ad", "\u061c", "\u200b", "\u200f", "\u202a", "\u202e", "\u2066", "\u2069", "\ufeff"],
  ...["\u034f", "\u115f", "\u180b", "\u3164", "\ufe0f", "\u{e0001}", "\u{e0100}"],
  ...["\u2028", "\u2029", "\ud800", "\udc00", "\ue000", "\u0378"],
];
const HOSTILE = UNSEEN.join("x");

function expectSeen(text: string): void {
  for (const each of UNSEEN) {
    // A surrogate that is half of a character is none.
    if ([...text].includes(each)) expect.unreachable(`U+${each.codePointAt(0)?.toString(16)}`);
  }
}

afterEach(() => {
  vi.restoreAllMocks();
});

test.each([
  ["sh", "sh"],
  ["", '""'],
  ["a b", '"a b"'],
  ["a\u3000b", '"a\u3000b"'],
  ["\x1b[2J", "\\u{1b}[2J"],
  ['"\\', "\\u{22}\\u{5c}"],
  ["\u009b\u202e\u2028\n", "\\u{9b}\\u{202e}\\u{2028}\\u{a}"],
  ["\u{e0001}\ud800", "\\u{e0001}\\u{d800}"],
  ["ä🐚שלום", "ä🐚שלום"],
])("%j as a name is %s", (name, shown) => {
  expect(printable(name)).toBe(shown);
});

test("a line keeps what has a look, and nothing else", () => {
  const line = `a "b" \\ {}: é 漢字 🐚`;
  expect(visible(line)).toBe(line);
  for (const each of UNSEEN) {
    expect(visible(`a${each}b`)).toBe(`a\\u{${each.codePointAt(0)?.toString(16)}}b`);
  }
  expectSeen(visible(HOSTILE));
  expectSeen(printable(HOSTILE));
});

test("JSON has the same value, and nothing without a look", () => {
  const json = toJson({ [HOSTILE]: [HOSTILE], "é🐚": 2n ** 64n });
  expectSeen(json);
  expect(json).toContain('"é🐚":18446744073709551616');
  expect(JSON.parse(json)[HOSTILE]).toEqual([HOSTILE]);
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (text) => {
      expect(JSON.parse(toJson({ text }))).toEqual({ text });
    }),
  );
});

const labels = { command: HOSTILE, user: HOSTILE, container: HOSTILE };
const hostile = snapshot({
  execsBy: [{ labels, count: 21n }],
  watched: new Map([[HOSTILE, 3n]]),
});

test("printed lines do nothing but show", () => {
  for (const line of format("text", undefined, hostile).split("\n")) expectSeen(line);
  const json = format("json", undefined, hostile);
  expectSeen(json);
  expect(JSON.parse(json)).toMatchObject({
    execs_by: [{ ...labels, execs: 21 }],
    watched: { [HOSTILE]: 3 },
  });
});

test("a message is one line, and does nothing but show", () => {
  const write = vi.spyOn(process.stderr, "write").mockReturnValue(true);
  const log = createLog("debug");
  for (const level of ["debug", "info", "warn", "error"] as const) log[level](HOSTILE);
  expect(write).toHaveBeenCalledTimes(4);
  for (const [text] of write.mock.calls) {
    expect(text).toMatch(/^execve-counter: .*\n$/);
    expectSeen(`${text}`.slice(0, -1));
  }
});

test("top does nothing but draw, whatever names, the host and notices are", () => {
  const moment: Moment = {
    ...{ host: HOSTILE, snapshot: hostile, source: HOSTILE, notice: HOSTILE, samples: [] },
    rows: [{ labels, count: 1n, second: 1, minute: 1, start: 1 }],
  };
  const view = { ...viewBy(["command", "user", "container"]), filter: HOSTILE, typing: true };
  for (const unicode of [true, false]) {
    for (const columns of [80, 4000]) {
      for (const typing of [true, false]) {
        const style = { color: false, unicode };
        const { lines } = frame({ ...view, typing }, moment, { columns, rows: 24 }, style);
        // Its own: bold and the like, and the setting of columns.
        const own = new RegExp(`${"\x1b"}\\[\\d*[mG]`, "g");
        for (const line of lines) expectSeen(line.replaceAll(own, ""));
      }
    }
    for (const line of plain(view, moment, unicode).split("\n")) expectSeen(line);
  }
});

test("what is typed into top's filter is text", () => {
  const view = { ...viewBy(["command"]), typing: true };
  for (const sequence of UNSEEN)
    expect(press(view, { sequence }, [])).toMatchObject({ filter: "" });
  expect(press(view, { sequence: "é" }, [])).toMatchObject({ filter: "é" });
});
