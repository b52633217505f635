/** The answers that the page at / asks for: a snapshot with rates, cut to the rows that it shows. */
import { type History, type Rated, Rates } from "../counts/rates.ts";
import { doubts, headline, type Snapshot, type TableFill, totalsOf } from "../counts/snapshot.ts";

/** How many rows the page gets by each of its orders, and how many watched commands. */
const MAX_ROWS = 25;
const MAX_WATCHED = 250;

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
  /** The rows that grow most and those with the highest counts, in no order. */
  rows: Row<Count>[];
  /** How many rows there are. */
  all_rows: number;
  failed: Row<Count>[];
  watched: Row<Count>[];
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

/**
 * Returns a function that makes a Status of each snapshot. It keeps what rates are made of.
 *
 * @param fallen says which count another process has set back
 */
export function statuses(
  version: string,
  host: string,
  fallen: () => string | undefined,
): (snapshot: Snapshot) => Status {
  const rates = new Rates();
  return (snapshot) => {
    const begin = performance.now();
    rates.add(snapshot);
    const { series } = rates;
    const named = (name: Rated["name"]) => series.filter((each) => each.name === name);
    const rows = [...named("exec"), ...named("retired")];
    const [failed, watched] = [named("failed"), named("watched")];
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
      rows: most(rows, MAX_ROWS),
      all_rows: rows.length,
      failed: most(
        failed.filter(({ count }) => count > 0n),
        MAX_ROWS,
      ),
      watched: most(watched, MAX_WATCHED),
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
