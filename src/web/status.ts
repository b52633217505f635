/** The answers that the page at / asks for: a snapshot with rates, cut to the rows that it shows. */
import { finder } from "../base/text.ts";
import { type History, type Rated, Rates } from "../counts/rates.ts";
import { doubts, headline, type Snapshot, type TableFill, totalsOf } from "../counts/snapshot.ts";

/** How many rows of a table the page gets by each of its orders, and where it asks for more. */
const ROWS = 25;
const MAX_ROWS = 250;
/** What is longer is no part of any label. */
const MAX_FILTER_CHARS = 256;

/** A series in JSON; a count beyond the safe integers has all its digits, too. */
export interface Row<Count> {
  labels: Record<string, string>;
  count: Count;
  /** Per second; null until that is known. */
  second: number | null;
  minute: number | null;
}

export interface Status<Count = bigint> {
  version: string;
  host: string;
  time: string;
  /** The same in ms since 1970, by a clock that is not set while the agent runs. */
  clock: number;
  start_time: string;
  execve_counter: Count;
  attempts: { execve: Count; execveat: Count } | null;
  execs: Count;
  /** Of both calls together; null where they are not counted. */
  failures: Count | null;
  /** Why the counts may be inexact; empty where they are exact. */
  doubts: string[];
  by: readonly string[];
  /** Seconds that the rates of a minute cover: fewer until a page has asked for a minute. */
  minute: number;
  /** The text that rows and watched commands contain, in any label; empty for all. */
  filter: string;
  /** The rows that grow most and those with the highest counts, in no order. */
  rows: Row<Count>[];
  /** How many rows contain the filter's text, and how many there are. */
  found_rows: number;
  all_rows: number;
  /** The rows that are no more, because their groups have ended; null where none can. */
  retired: { rows: Count; execs: Count } | null;
  failed: Row<Count>[];
  watched: Row<Count>[];
  found_watched: number;
  all_watched: number;
  programs: { name: string; hook: string; id: number }[];
  tables: readonly TableFill[];
  /** Seconds of the agent's time that this took. */
  seconds: number;
}

/** The totals of the last minutes, the oldest first. */
export interface Past<Count = bigint> {
  start_time: string;
  /** `clock` as in a Status. */
  samples: { clock: number; attempts: Count | null; execs: Count; failures: Count | null }[];
}

/** What a page can ask for: rows with a text in them, and more of each table. */
function wishes(query: string) {
  const asked = new URLSearchParams(query);
  const most = (name: string) => {
    const number = Number(asked.get(name) ?? ROWS);
    return Number.isInteger(number) ? Math.min(MAX_ROWS, Math.max(1, number)) : ROWS;
  };
  const filter = (asked.get("filter") ?? "").slice(0, MAX_FILTER_CHARS);
  return { filter, rows: most("rows"), watched: most("watched") };
}

/**
 * Returns a function that makes a Status of each snapshot, as a query asks for it: `filter`,
 * `rows` and `watched`. It keeps what rates are made of.
 *
 * @param fallen says which count another process has set back
 */
export function statuses(
  version: string,
  host: string,
  fallen: () => string | undefined,
): (snapshot: Snapshot, query?: string) => Status {
  const rates = new Rates();
  return (snapshot, query = "") => {
    const begin = performance.now();
    rates.add(snapshot);
    const { series } = rates;
    const named = (name: Rated["name"]) => series.filter((each) => each.name === name);
    const [all, failed, watched] = [named("exec"), named("failed"), named("watched")];
    const wish = wishes(query);
    const has = finder(wish.filter);
    const found = ({ labels }: Rated) => has(labels);
    const [rows, names] = [all.filter(found), watched.filter(found)];
    const { retired } = snapshot;
    const { time, clock, startTime, attempts, execs, by, programs, tables } = snapshot;
    return {
      ...{ version, host, time: time.toISOString(), clock: performance.timeOrigin + clock },
      start_time: startTime.toISOString(),
      execve_counter: headline(snapshot),
      attempts: attempts ?? null,
      execs,
      failures: totalsOf(snapshot).failures ?? null,
      doubts: [fallen() ?? [], doubts(snapshot)].flat(),
      by,
      minute: rates.window,
      filter: wish.filter,
      rows: most(rows, wish.rows),
      found_rows: rows.length,
      all_rows: all.length,
      retired:
        retired === undefined ? null : { rows: retired, execs: named("retired")[0]?.count ?? 0n },
      failed: most(
        failed.filter(({ count }) => count > 0n),
        ROWS,
      ),
      watched: most(names, wish.watched),
      found_watched: names.length,
      all_watched: watched.length,
      programs: programs.map(({ name, hook, id }) => ({ name, hook, id })),
      tables,
      seconds: snapshot.readDuration + (performance.now() - begin) / 1000,
    };
  };
}

export function past(history: History, now: Snapshot): Past {
  return {
    start_time: now.startTime.toISOString(),
    samples: history.samples.map(({ clock, attempts, execs, failures }) => ({
      clock: performance.timeOrigin + clock,
      attempts: attempts ?? null,
      execs,
      failures: failures ?? null,
    })),
  };
}

/** The first rows by each of the page's orders. */
function most(series: readonly Rated[], limit: number): Row<bigint>[] {
  const chosen = new Set([
    ...first(series, limit, ({ second }) => second ?? 0),
    ...first(series, limit, ({ minute }) => minute ?? 0),
    ...first(series, limit, ({ count }) => Number(count)),
  ]);
  return [...chosen].map(({ labels, count, second, minute }) => ({
    ...{ labels, count, second: second ?? null, minute: minute ?? null },
  }));
}

/** The series with the highest figures; numbers alone are sorted far faster than series. */
function first(series: readonly Rated[], limit: number, figure: (each: Rated) => number): Rated[] {
  const least = Float64Array.from(series, figure).sort().at(-limit) ?? 0;
  const above = series.filter((each) => figure(each) > least);
  const same = series.filter((each) => figure(each) === least);
  return [...above, ...same.slice(0, limit - above.length)];
}
