/** What top draws: lines of text, for a terminal or for a pipe. */

import { escaped, printable, visible } from "../base/text.ts";
import { clip, clipStart, isAscii, width } from "../base/width.ts";
import type { Label } from "../counts/labels.ts";
import type { Sample } from "../counts/rates.ts";
import { doubts, type Snapshot, totalsOf } from "../counts/snapshot.ts";
import { type Column, filtered, firstOf, NUMBERS, type Row, sumRows, type View } from "./view.ts";

/** Everything that a frame shows. */
export interface Moment {
  host: string;
  snapshot: Snapshot;
  rows: readonly Row[];
  /** The sum of the rows that are no more; the rows and it are all execs. */
  retired?: Row | undefined;
  samples: readonly Sample[];
  /** What is counting: "meter of map 123". */
  source: string;
  /** What the user should know about it. */
  notice: string;
}

/** What the terminal can show. */
export interface Style {
  color: boolean;
  unicode: boolean;
}

export interface Size {
  columns: number;
  rows: number;
}

const PAINTS = { bold: "1", reverse: "7", red: "31", green: "32", yellow: "33" } as const;
type Paint = keyof typeof PAINTS;
const COLORS: readonly Paint[] = ["red", "green", "yellow"];
type Span = readonly [text: string, ...paints: Paint[]];

const TITLES = { second: "1 s", minute: "1 min", start: "start", count: "count" };
/** Columns of each label, where there is room; the path, or the first label, gets what is left. */
const LABEL_WIDTH = 16;
const LABEL_WIDTHS: Partial<Record<Label, number>> = {
  user: 13,
  container: 12,
  unit: 24,
  path: 24,
};
/** The columns that are dropped first where there is not. */
const DROPPED_FIRST = ["start", "minute", "count"] as const;
const RATE_WIDTH = 8;
/** Columns that each label keeps before a number is dropped. */
const MIN_LABEL_WIDTH = 12;
/** Columns by which the path is wider than the other labels where there is no room for all. */
const MORE_PATH_WIDTH = 6;
/** Rows of the table that matter more than another line above it. */
const MIN_TABLE_ROWS = 4;

/** The keys that the line below the table names. */
const KEYS = [
  ["q", "quit"],
  ["h", "help"],
  ["<>", "sort"],
  ["/", "filter"],
  ["space", "pause"],
  ["b", "by"],
  ["r", "reverse"],
] as const;

const HELP: readonly (readonly [key: string, text: string])[] = [
  ["< >", "sort by the column to the left or right (arrows, too)"],
  ["r", "sort the other way round"],
  ["/", "show only rows that contain a text: Enter keeps it, Esc clears it"],
  ["b", "break down by other labels, of those that are counted"],
  ["space p", "pause, resume"],
  ["up down", "scroll; PageUp, PageDown, Home and End, too"],
  ["Ctrl-L", "draw again"],
  ["Ctrl-Z", "suspend; fg resumes"],
  ["q Ctrl-C", "quit"],
  ["h ?", "this help; any key closes it"],
];

/**
 * The screen, a line for each of its rows.
 *
 * @returns the lines, and the view with the scrolling that there is room for
 */
export function frame(view: View, moment: Moment, size: Size, style: Style) {
  const { columns, rows: height } = size;
  const draw = (...spans: Span[]) => paint(spans, columns, style);
  if (view.help) {
    const rows = HELP.map(([key, text]) => draw([key.padEnd(10), "bold"], [text]));
    return { lines: fill([draw(["Keys", "bold"]), ...rows], height, draw([""])), view };
  }
  const head = height > 1 ? 1 : 0;
  const foot = height > 2 ? 1 : 0;
  const sum = height > MIN_TABLE_ROWS + 2 ? 1 : 0;
  const above = header(view, moment, columns, height - head - foot - sum - MIN_TABLE_ROWS, style);
  const rows = rowsOf(view, moment);
  const page = Math.max(0, height - above.length - head - foot - sum);
  const scroll = Math.max(0, Math.min(view.scroll, rows.length - page));
  const shown = firstOf(rows, scroll + page, view).slice(scroll);
  const table = tableOf(view, columns, sumOf(moment), style);
  const lines = [
    ...above.map((spans) => draw(...spans)),
    ...(head ? [draw([table.head, "reverse"])] : []),
    ...(sum ? [draw([table.sum, "bold"])] : []),
    ...shown.map((row) => draw(...table.line(row))),
  ];
  const all = rows.length;
  const position = all > page ? `${scroll + 1}-${scroll + shown.length} of ${all}` : `${all}`;
  const last = draw(...footer(view, position, columns));
  return {
    lines: [...fill(lines, height - foot, draw([""])), ...(foot ? [last] : [])],
    view: { ...view, scroll, page },
  };
}

/** The same without a terminal: all rows, as wide as they are. */
export function plain(view: View, moment: Moment, unicode: boolean): string {
  const style = { color: false, unicode };
  const columns = Number.POSITIVE_INFINITY;
  const text = (spans: readonly Span[]) => visible(spans.map(([part]) => part).join(""));
  const unsorted = rowsOf(view, moment);
  const rows = firstOf(unsorted, unsorted.length, view);
  const table = tableOf(view, columns, sumOf(moment), style, rows);
  const lines = [
    ...header(view, moment, columns, columns, style).map(text),
    ...[table.head, table.sum],
    ...rows.map((row) => text(table.line(row))),
  ];
  return `${lines.map((line) => line.trimEnd()).join("\n")}\n\n`;
}

function rowsOf(view: View, { rows, snapshot }: Moment): readonly Row[] {
  const isAll = view.by.length === snapshot.by.length;
  return filtered(isAll ? rows : sumRows(rows, view.by), view);
}

/** All execs: those of the rows, and of those that have retired. */
function sumOf({ rows, retired }: Moment): Row | undefined {
  return sumRows(retired ? [...rows, retired] : rows, [])[0];
}

/** The lines above the table; where there is no room for all, those that matter most. */
function header(view: View, moment: Moment, columns: number, most: number, style: Style) {
  const { snapshot, notice, samples } = moment;
  const state = view.paused ? "paused, " : "";
  const since = clock(snapshot.startTime, snapshot.time);
  const now = Number.isFinite(columns) ? clock(snapshot.time) : snapshot.time.toISOString();
  const source = [`${now}  ${state}${moment.source}`, `since ${since}`];
  const title: Span[] = [
    [`${moment.host} `, "bold"],
    [fitted(source, columns - width(moment.host) - 1)],
  ];
  const wave = Number.isFinite(columns) ? history(samples, columns, style) : "";
  const filter =
    view.filter === "" || view.typing ? "" : `only rows with ${printable(view.filter)}`;
  const said = [notice, ...doubts(snapshot), filter].filter((text) => text !== "").join("; ");
  const parts: [importance: number, spans: Span[] | undefined][] = [
    [2, title],
    [3, [[fitted(counts(snapshot), columns)]]],
    [0, snapshot.failures && failures(snapshot, samples, columns)],
    [1, wave ? [[wave, "green"]] : undefined],
    [4, said ? [[said, "yellow"]] : undefined],
    [1.5, snapshot.retired ? [[retirement(moment)]] : undefined],
  ];
  const kept = parts
    .filter(([, spans]) => spans)
    .sort(([a], [b]) => b - a)
    .slice(0, Math.max(0, most));
  return parts.filter((part) => kept.includes(part)).map(([, spans]) => spans as Span[]);
}

/** The totals, and how many runs were missed; the notices say why counts may be inexact. */
function counts(snapshot: Snapshot): string[] {
  const { attempts, execs } = totalsOf(snapshot);
  const misses = snapshot.programs.map((program) => program.misses);
  const missed = misses.reduce((sum = 0n, each = 0n) => sum + each, 0n);
  return [
    `execs ${execs}`,
    ...(attempts === undefined ? [] : [`attempts ${attempts}`]),
    ...(misses.includes(undefined) ? [] : [missed ? `${missed} missed` : "none missed"]),
  ];
}

/** The rows that are no more; their execs are in the sum below. */
function retirement({ snapshot: { retired }, retired: sum }: Moment): string {
  const rows = retired === 1n ? "1 row" : `${retired} rows`;
  return `${rows} of ended containers and units retired, with ${sum?.count ?? 0n} execs`;
}

/** Failures by errno, the most first. */
function failures(
  { failures: failed }: Snapshot,
  samples: readonly Sample[],
  columns: number,
): Span[] {
  const sums = new Map<string, bigint>();
  for (const [errno, count] of Object.values(failed ?? {}).flatMap((counts) => [...counts])) {
    if (count > 0n) sums.set(errno, (sums.get(errno) ?? 0n) + count);
  }
  const total = [...sums.values()].reduce((sum, count) => sum + count, 0n);
  const rate = since(samples.at(-2), samples.at(-1), "failures");
  const most = [...sums].sort(([, a], [, b]) => (a < b ? 1 : a > b ? -1 : 0));
  const start = `failures ${total}${rate === undefined ? "" : `, ${showRate(rate)}/s`}`;
  const rest = most.map(([errno, count]) => `${errno} ${count}`);
  const all = fitted([start, ...rest], columns);
  return rate ? [[all, "red"]] : [[all]];
}

/** Execs per second, a character for each sample, the last one to the right. */
function history(samples: readonly Sample[], columns: number, { unicode }: Style): string {
  const levels = unicode ? "▁▂▃▄▅▆▇█" : "_.-~=+*#";
  const rates = samples.slice(1).map((sample, i) => since(samples[i], sample, "execs") ?? 0);
  const text = (most: number) => ` execs/s, at most ${showRate(most)}`;
  const room = Math.max(0, columns - text(Math.max(0, ...rates)).length);
  const shown = room > 0 ? rates.slice(-room) : [];
  const most = Math.max(0, ...shown);
  const level = (rate: number) =>
    rate > 0 ? 1 + Math.floor((rate / most) * (levels.length - 1.001)) : 0;
  return shown.map((rate) => levels[level(rate)]).join("") + text(most);
}

/** Counts per second from one sample to the next. */
function since(before: Sample | undefined, now: Sample | undefined, what: "execs" | "failures") {
  const [first, last] = [before?.[what], now?.[what]];
  if (!before || !now || first === undefined || last === undefined) return undefined;
  return Math.max(0, (Number(last - first) * 1000) / (now.clock - before.clock));
}

/** How the table is laid out, for this many columns. */
function tableOf(
  view: View,
  columns: number,
  total: Row | undefined,
  style: Style,
  all: readonly Row[] = [],
) {
  const count = Math.max(RATE_WIDTH, `${total?.count ?? 0}`.length) + 1;
  const room = { second: RATE_WIDTH, minute: RATE_WIDTH, start: RATE_WIDTH, count };
  const sum = (parts: readonly number[]) => parts.reduce((all, part) => all + part, 0);
  const natural = (label: Label) =>
    Math.max(
      LABEL_WIDTHS[label] ?? LABEL_WIDTH,
      ...all.map((row) => width(show(row.labels[label], label, style))),
    );
  const labels = view.by.map(natural);
  let numbers = [...NUMBERS];
  const needed = (texts: readonly number[]) =>
    sum(numbers.map((each) => room[each])) + sum(texts) + texts.length;
  for (const each of DROPPED_FIRST) {
    const tight = labels.map((label) => Math.min(label, MIN_LABEL_WIDTH));
    if (needed(tight) > columns && view.sort !== each) {
      numbers = numbers.filter((kept) => kept !== each);
    }
  }
  while (needed(labels) > columns && Math.max(...labels) > 1) {
    const more = (i: number) => (view.by[i] === "path" ? MORE_PATH_WIDTH : 0);
    const widths = labels.map((label, i) =>
      label > 1 ? label - more(i) : Number.NEGATIVE_INFINITY,
    );
    const widest = widths.indexOf(Math.max(...widths));
    labels[widest] = (labels[widest] as number) - 1;
  }
  if (Number.isFinite(columns)) {
    const longest = Math.max(0, view.by.indexOf("path"));
    labels[longest] = (labels[longest] ?? 0) + Math.max(0, columns - needed(labels));
  }
  const mark = style.unicode ? "…" : "~";
  const arrow = style.unicode ? (view.reverse ? "↑" : "↓") : view.reverse ? "^" : "v";
  const title = (column: Column) => {
    const name = column in TITLES ? TITLES[column as keyof typeof TITLES] : column.toUpperCase();
    return column === view.sort ? name + arrow : name;
  };
  const cell = (text: string, i: number): Span => {
    const cut = view.by[i] === "path" ? clipStart : clip;
    const clipped = cut(text, labels[i] as number, mark);
    return [` ${clipped}${" ".repeat((labels[i] as number) - width(clipped))}`];
  };
  const figures = (row: Row) =>
    numbers
      .map((each) => (each === "count" ? `${row.count}` : showRate(row[each])).padStart(room[each]))
      .join("");
  const none: Row = { labels: {}, second: undefined, minute: undefined, start: 0, count: 0n };
  return {
    head:
      numbers.map((each) => title(each).padStart(room[each])).join("") +
      view.by.map((label, i) => cell(title(label), i)[0]).join(""),
    sum: `${figures(total ?? none)} (all)`,
    line: (row: Row): Span[] => [
      [figures(row)],
      ...view.by.map((label, i) => cell(show(row.labels[label], label, style), i)),
    ],
  };
}

/** A label's value as it can be shown; a container as short as runtimes show it. */
function show(value = "", label: Label, { unicode }: Style): string {
  if (value === "" && label !== "command") return "-";
  if (/^[0-9a-f]{64}$/.test(value)) return value.slice(0, 12);
  const text = printable(value);
  return unicode || isAscii(text) ? text : escaped(text, /[^\x20-\x7e]/gu);
}

/** The keys that matter most, as far as there is room; or the filter while it is typed. */
function footer({ typing, filter }: View, position: string, columns: number): Span[] {
  if (typing) return [["/", "bold"], [`${filter === "" ? "" : printable(filter)}_`]];
  let room = columns - position.length - 1;
  const keys = KEYS.filter(([key, what]) => {
    room -= key.length + what.length + 3;
    return room >= -1;
  });
  return [
    [`${position} `],
    ...keys.flatMap(([key, what]): Span[] => [[` ${key}`, "bold"], [` ${what} `]]),
  ];
}

function showRate(rate: number | undefined): string {
  if (rate === undefined) return "-";
  return rate < 10_000 ? rate.toFixed(1) : `${Math.round(rate)}`;
}

/** The time in UTC; with its date where `from` is on another day. */
function clock(time: Date, from = time): string {
  const [day, hours] = time.toISOString().slice(0, 19).split("T");
  return from.toISOString().startsWith(day as string) ? `${hours}Z` : `${day} ${hours}Z`;
}

/** The first of the parts, and the others as far as there is room. */
function fitted(parts: readonly string[], columns: number): string {
  let text = parts[0] ?? "";
  for (const part of parts.slice(1)) {
    if (text.length + 2 + part.length > columns) break;
    text += `  ${part}`;
  }
  return text;
}

function fill(lines: readonly string[], height: number, empty: string): string[] {
  return Array.from({ length: height }, (_, i) => lines[i] ?? empty);
}

/**
 * A line of exactly that many columns. After text that is not ASCII it sets the column, because
 * terminals do not agree on that text's width.
 */
function paint(spans: readonly Span[], columns: number, style: Style): string {
  let line = "";
  let used = 0;
  for (const [text, ...paints] of spans) {
    const clipped = clip(visible(text), columns - used, "");
    used += width(clipped);
    const codes = paints
      .filter((each) => style.color || !COLORS.includes(each))
      .map((each) => PAINTS[each]);
    line += codes.length > 0 ? `\x1b[${codes.join(";")}m${clipped}\x1b[m` : clipped;
    if (!isAscii(clipped)) line += `\x1b[${used + 1}G`;
  }
  return line + " ".repeat(columns - used);
}
