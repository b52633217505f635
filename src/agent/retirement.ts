/**
 * Lets rows retire whose container or unit has ended, once every reader has had their last
 * counts: a table that is full would count the next container as "other".
 */
import type { Log } from "../base/log.ts";
import { EXECS_MAP } from "../counts/abi.ts";
import type { Snapshot } from "../counts/snapshot.ts";
import type { OwnMeter } from "../kernel/meter.ts";

const MIN_PERIOD_MS = 250;
const MAX_PERIOD_MS = 10_000;

export class Retirement {
  readonly #meter: Pick<OwnMeter, "bootTime" | "retire">;
  /** Milliseconds. */
  readonly #after: number;
  readonly #log: Log;
  /** In ms since boot. */
  readonly #started: number;
  #scraped: number | undefined;
  #failure: string | undefined;

  /** @param after milliseconds that rows are kept after the end of their container or unit */
  constructor(meter: Pick<OwnMeter, "bootTime" | "retire">, after: number | "never", log: Log) {
    this.#meter = meter;
    this.#after = after === "never" ? Number.POSITIVE_INFINITY : after;
    this.#log = log;
    this.#started = meter.bootTime();
  }

  /** Milliseconds between two calls of retire(). */
  get period(): number {
    return Math.min(Math.max(this.#after / 4, MIN_PERIOD_MS), MAX_PERIOD_MS);
  }

  /** A scrape has read the counts, not before that time in ms since boot. */
  noteScrape(before: number): void {
    this.#scraped = before;
  }

  /**
   * Lets rows retire; units that were started again share their rows, whatever their age.
   *
   * @param read reads the counts
   */
  retire(read: () => Snapshot | undefined): void {
    try {
      const rows = this.#meter.retire(Math.max(0, this.#endedBefore(read)));
      if (rows > 0) this.#log.debug(`${rows} rows retired`);
      this.#failure = undefined;
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#failure) this.#log.warn(`rows cannot retire: ${message}`);
      this.#failure = message;
    }
  }

  /**
   * What ended before may retire. Whoever scrapes has had its last counts, unless half of the
   * table is taken and no scrape has come for so long. A scraper has the same time to come back
   * when an agent has just reused pins.
   */
  #endedBefore(read: () => Snapshot | undefined): number {
    const aged = this.#meter.bootTime() - this.#after;
    const had = this.#scraped;
    if (had === undefined) return aged > this.#started ? aged : 0;
    return aged <= had || isCrowded(read()) ? aged : had;
  }
}

function isCrowded(snapshot: Snapshot | undefined): boolean {
  const table = snapshot?.tables.find(({ name }) => name === EXECS_MAP);
  return table !== undefined && table.entries > table.capacity / 2;
}
