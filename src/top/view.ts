/** Which rows top shows, and how keys change that. */

import { finder, visible } from "../base/text.ts";
import { LABELS, type Label } from "../counts/labels.ts";
import type { Rated } from "../counts/rates.ts";

/** Rates and the count, in the order of the screen. */
export const NUMBERS = ["second", "minute", "start", "count"] as const;
export type Column = (typeof NUMBERS)[number] | Label;

/** A line of the table: the sum of the rows that have the same labels. */
export interface Row extends Pick<Rated, "second" | "minute" | "start" | "count"> {
  labels: Partial<Record<Label, string>>;
}

export interface View {
  /** The labels that break the rows down, of those that are counted. */
  by: readonly Label[];
  sort: Column;
  /** Whether the lowest number, or the last name, comes first. */
  reverse: boolean;
  /** A text that one of the labels of every row shown contains. */
  filter: string;
  /** Whether keys are letters of the filter. */
  typing: boolean;
  paused: boolean;
  help: boolean;
  /** Rows above the first one shown, and how many are shown. */
  scroll: number;
  page: number;
}

/** The view at the start. */
export function viewBy(by: readonly Label[]): View {
  return {
    ...{ by, sort: "second", reverse: false, filter: "", typing: false },
    ...{ paused: false, help: false, scroll: 0, page: 0 },
  };
}

/** A key, as node:readline reports it. */
export interface Key {
  name?: string | undefined;
  sequence?: string | undefined;
  ctrl?: boolean | undefined;
}

export type Act = "quit" | "redraw" | "suspend";

/**
 * The view after a key, or what the key asks for.
 *
 * @param counted the labels that are counted
 */
export function press(view: View, key: Key, counted: readonly Label[]): View | Act {
  const { name = "", sequence = "" } = key;
  if (key.ctrl) {
    const acts: Record<string, Act> = { c: "quit", l: "redraw", z: "suspend" };
    if (view.typing && name === "u") return { ...view, filter: "" };
    return acts[name] ?? view;
  }
  if (view.help) return sequence === "q" ? "quit" : { ...view, help: false };
  const moved = move(view, name);
  if (moved !== undefined) return { ...view, scroll: moved };
  if (name === "escape") return { ...view, filter: "", typing: false };
  if (view.typing) return { ...view, ...type(view.filter, name, sequence), scroll: 0 };
  const columns: readonly Column[] = [...NUMBERS, ...view.by];
  const at = columns.indexOf(view.sort);
  const sort = (index: number) => ({ ...view, sort: columns.at(index % columns.length) as Column });
  switch (name === "left" || name === "right" ? name : sequence) {
    case "q":
      return "quit";
    case " ":
    case "p":
      return { ...view, paused: !view.paused };
    case "h":
    case "?":
      return { ...view, help: true };
    case "/":
      return { ...view, typing: true };
    case "r":
      return { ...view, reverse: !view.reverse };
    case "<":
    case "left":
      return sort(at - 1);
    case ">":
    case "right":
      return sort(at + 1);
    case "b": {
      const by = nextBy(view.by, counted);
      return { ...view, by, sort: at < NUMBERS.length ? view.sort : "second", scroll: 0 };
    }
  }
  return view;
}

/** Where a key scrolls to; drawing finds the last page. */
function move({ scroll, page, typing }: View, name: string): number | undefined {
  const letters: Record<string, string> = typing ? {} : { k: "up", j: "down", g: "home" };
  switch (letters[name] ?? name) {
    case "up":
      return Math.max(0, scroll - 1);
    case "down":
      return scroll + 1;
    case "pageup":
      return Math.max(0, scroll - page);
    case "pagedown":
      return scroll + page;
    case "home":
      return 0;
    case "end":
      return Number.POSITIVE_INFINITY;
    default:
      return undefined;
  }
}

function type(filter: string, name: string, sequence: string): Pick<View, "filter" | "typing"> {
  if (name === "return" || name === "enter") return { filter, typing: false };
  if (name === "backspace") return { filter: [...filter].slice(0, -1).join(""), typing: true };
  const isText = sequence !== "" && sequence === visible(sequence);
  return { filter: isText ? filter + sequence : filter, typing: true };
}

/** The choice of counted labels after this one; the first choice has all of them. */
function nextBy(by: readonly Label[], counted: readonly Label[]): readonly Label[] {
  const bit = (label: Label) => 1 << LABELS.indexOf(label);
  const all = counted.reduce((bits, label) => bits | bit(label), 0);
  let bits = by.reduce((sum, label) => sum | bit(label), 0);
  do bits = bits === 0 ? all : bits - 1;
  while ((bits & all) !== bits || bits === 0);
  return counted.filter((label) => bits & bit(label));
}

/** The rows by fewer labels: those that no longer differ become one, and the sums stay. */
export function sumRows(rows: readonly Row[], by: readonly Label[]): readonly Row[] {
  const sums = new Map<string, Row>();
  for (const row of rows) {
    const key = by.map((label) => row.labels[label]).join("\0");
    const sum = sums.get(key);
    if (sum) {
      sum.second = add(sum.second, row.second);
      sum.minute = add(sum.minute, row.minute);
      sum.start += row.start;
      sum.count += row.count;
    } else {
      const labels = Object.fromEntries(by.map((label) => [label, row.labels[label]]));
      const { second, minute, start, count } = row;
      sums.set(key, { labels, second, minute, start, count });
    }
  }
  return [...sums.values()];
}

function add(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a + b;
}

/** The rows that contain the filter's text. */
export function filtered(rows: readonly Row[], { filter }: View): readonly Row[] {
  if (filter === "") return rows;
  const has = finder(filter);
  return rows.filter(({ labels }) => has(labels));
}

/**
 * The first rows in order: the highest numbers first, names from A on. For a few rows of many
 * it takes a tenth of the time that sorting them all would.
 */
export function firstOf(rows: readonly Row[], most: number, { sort, reverse }: View): Row[] {
  const columns = [sort, ...NUMBERS, ...LABELS];
  const compare = (a: Row, b: Row) => {
    for (const column of columns) {
      const order = compareBy(column, a, b);
      if (order !== 0) return reverse && column === sort ? -order : order;
    }
    return 0;
  };
  if (most >= rows.length) return rows.toSorted(compare);
  const first: Row[] = [];
  for (const row of rows) {
    const last = first[most - 1];
    if (last && compare(row, last) >= 0) continue;
    let [low, high] = [0, first.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compare(row, first[middle] as Row) < 0) high = middle;
      else low = middle + 1;
    }
    first.splice(low, 0, row);
    if (first.length > most) first.pop();
  }
  return first;
}

function isNumber(column: Column): column is (typeof NUMBERS)[number] {
  return (NUMBERS as readonly Column[]).includes(column);
}

function compareBy(column: Column, a: Row, b: Row): number {
  if (!isNumber(column)) {
    const [first = "", second = ""] = [a.labels[column], b.labels[column]];
    return first < second ? -1 : first > second ? 1 : 0;
  }
  const [first = -1, second = -1] = [a[column], b[column]];
  return first > second ? -1 : first < second ? 1 : 0;
}
