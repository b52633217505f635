/** How fast counts grow, from snapshots: each row now and over a minute, the totals over minutes. */
import { type Series, type Snapshot, seriesOf, totalsOf } from "./snapshot.ts";

/** Milliseconds between two snapshots that count as two. Both views take one a second: this is a little less. */
const SNAPSHOT_MIN_MS = 900;
/** How often a snapshot is kept for the rates of a minute, and for how long. */
const STEP_MS = 5_000;
const MINUTE_MS = 60_000;
/** After a longer pause, what was seen before says nothing about the rate now. */
const PAUSE_MAX_MS = 45_000;

/** A series and how fast it grows, in counts per second; undefined until that is known. */
export interface Rated extends Series {
  /** Since the snapshot before the last, usually a second ago. */
  second: number | undefined;
  /** Over the last minute, or for as long as there are snapshots. */
  minute: number | undefined;
  /** Since the counts began. */
  start: number;
}

/** Every count at one moment, by the series' number. */
interface Column {
  clock: number;
  /** NaN, or none, for a series that was not there. */
  counts: Float64Array;
  execs: number;
}

/**
 * The rates of every series of a meter. It takes a snapshot a second, or as many as come. It
 * keeps the last one, and at most 16 numbers of 8 bytes for each count: for 65,536 rows 8 MiB,
 * and 20 MiB for their names.
 */
export class Rates {
  /** The series' numbers, by key; some may be gone by now. */
  readonly #numbers = new Map<string, number>();
  /** The last one, and the one before it. */
  #now: Column | undefined;
  #before: Column | undefined;
  /** One each STEP_MS; the first is a minute old. */
  #steps: Column[] = [];
  readonly #forgetAfter: number;
  /** The series of the last snapshot, and for how many seconds they have been counted. */
  #latest: Series[] = [];
  #age = 0;

  /** @param interval milliseconds between two snapshots, where it is known to be long */
  constructor(interval = 0) {
    this.#forgetAfter = Math.max(PAUSE_MAX_MS, interval);
  }

  add(snapshot: Snapshot): void {
    this.#latest = seriesOf(snapshot);
    this.#age = (snapshot.time.getTime() - snapshot.startTime.getTime()) / 1000;
    const age = this.#now ? snapshot.clock - this.#now.clock : 0;
    if (this.#now && age < SNAPSHOT_MIN_MS) return;
    if (age > this.#forgetAfter || this.#numbers.size > 2 * this.#latest.length + 1000)
      this.#forget();

    const numbers = this.#numbers;
    const counts = new Float64Array(numbers.size + this.#latest.length).fill(Number.NaN);
    for (const { key, count } of this.#latest) {
      let number = numbers.get(key);
      if (number === undefined) {
        number = numbers.size;
        numbers.set(key, number);
      }
      counts[number] = Number(count);
    }
    this.#before = this.#now;
    const { clock, execs } = snapshot;
    this.#now = { clock, counts: counts.slice(0, numbers.size), execs: Number(execs) };
    if (snapshot.clock - (this.#steps.at(-1)?.clock ?? -STEP_MS) >= STEP_MS)
      this.#steps.push(this.#now);
    const enough = (column: Column | undefined) =>
      column && column.clock <= snapshot.clock - MINUTE_MS;
    while (enough(this.#steps[1])) this.#steps.shift();
  }

  /** Every series of the last snapshot, in its order. */
  get series(): Rated[] {
    return this.#latest.map(({ name, labels, count, key }) => {
      const number = this.#numbers.get(key) ?? Number.POSITIVE_INFINITY;
      const second = this.#since(this.#before, number, name);
      const minute = this.#since(this.#steps[0], number, name);
      const start = this.#age > 0 ? Number(count) / this.#age : 0;
      return { name, labels, count, key, second, minute, start };
    });
  }

  /** Seconds that the rates of a minute cover. */
  get window(): number {
    return ((this.#now?.clock ?? 0) - (this.#steps[0]?.clock ?? 0)) / 1000;
  }

  /** How many series it knows. */
  get width(): number {
    return this.#numbers.size;
  }

  /**
   * The rate from a column to the last one. A row that was not there was 0, unless its count
   * exceeds all execs since then: a user whose name was not known before. A count that falls
   * was set back by another process.
   */
  #since(column: Column | undefined, number: number, name: Series["name"]): number | undefined {
    const now = this.#now;
    if (!column || !now || column === now) return undefined;
    if (name === "retired") return 0; // these execs were counted before
    const count = now.counts[number] ?? 0;
    let before = column.counts[number] ?? Number.NaN;
    if (Number.isNaN(before)) {
      if (name === "exec" && count > now.execs - column.execs) return undefined;
      before = 0;
    }
    return count > before ? ((count - before) * 1000) / (now.clock - column.clock) : 0;
  }

  #forget(): void {
    this.#numbers.clear();
    this.#now = undefined;
    this.#steps = [];
  }
}

/** The totals at one moment; undefined for what is not counted. */
export interface Sample {
  /** Monotonic time in milliseconds. */
  clock: number;
  attempts: bigint | undefined;
  execs: bigint;
  failures: bigint | undefined;
}

/** The totals of the last minutes: the last MOST snapshots that are at least a second apart. */
export class History {
  /** 10 minutes at one a second, 50 at one in five; in memory less than 300 KiB. */
  static readonly MOST = 600;
  readonly samples: Sample[] = [];

  add(snapshot: Snapshot): void {
    const last = this.samples.at(-1);
    if (last && snapshot.clock - last.clock < SNAPSHOT_MIN_MS) return;
    this.samples.push({ clock: snapshot.clock, ...totalsOf(snapshot) });
    if (this.samples.length > History.MOST) this.samples.shift();
  }
}
