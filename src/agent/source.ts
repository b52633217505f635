/** The counts that the agent shows: one source for lines, scrapes and pages. */
import type { Log } from "../base/log.ts";
import { EXECS_MAP } from "../counts/abi.ts";
import { OTHER } from "../counts/labels.ts";
import { History } from "../counts/rates.ts";
import type { Snapshot } from "../counts/snapshot.ts";
import type { OwnMeter } from "../kernel/meter.ts";
import { read } from "../kernel/reader.ts";
import type { Retirement } from "./retirement.ts";

const RECENT_MS = 100;

/** Reads the meter for all of them, and remembers whether the last read worked. */
export class Source {
  /** Of every read, whatever it was for. */
  readonly history = new History();
  readErrors = 0;
  /** Why the last read failed. */
  failure: string | undefined;
  /** Which count fell last, though counts only grow. */
  fallen: string | undefined;
  /** Whether it has warned that execs found no room for a row. */
  #full = false;
  /** The last read, unless it failed. */
  #last: Snapshot | undefined;
  /** The totals of the last read. */
  #totals: Record<string, bigint> = {};
  /** The control group that alone is counted, at the last read. */
  #cgroup: Snapshot["cgroup"];
  readonly #meter: OwnMeter;
  readonly #log: Log;
  readonly #pins: string | undefined;

  readonly #retirement: Retirement | undefined;

  constructor(
    meter: OwnMeter,
    log: Log,
    pins: string | undefined,
    retirement: Retirement | undefined,
  ) {
    this.#meter = meter;
    this.#log = log;
    this.#pins = pins;
    this.#retirement = retirement;
  }

  /** Reads for a scrape, which then has had the last counts of all that has ended. */
  tryScrape(): Snapshot | undefined {
    const before = this.#meter.bootTime();
    const snapshot = this.tryRead();
    if (snapshot) this.#retirement?.noteScrape(before);
    return snapshot;
  }

  /** Lets rows retire that every reader has had. */
  retire(): void {
    this.#retirement?.retire(() => this.tryRead());
  }

  /**
   * The counts of the last read where that is not `previous` and a moment ago at most, else of
   * now: so requests do not wait for two reads of a large table in a row.
   */
  recent(previous: Snapshot | undefined): Snapshot | undefined {
    const last = this.#last;
    const isNew = last && last !== previous && performance.now() - last.clock < RECENT_MS;
    return isNew ? last : this.tryRead();
  }

  tryRead(): Snapshot | undefined {
    this.#last = undefined;
    try {
      const snapshot = read(this.#meter);
      this.#last = snapshot;
      this.failure = undefined;
      this.history.add(snapshot);
      this.#noteFull(snapshot);
      this.#noteFallen(snapshot);
      this.#noteCgroup(snapshot);
      return snapshot;
    } catch (error) {
      this.readErrors++;
      this.failure = (error as Error).message;
      this.#log.error(`cannot read the counters: ${this.failure}`);
      return undefined;
    }
  }

  /** The kernel only adds: a count that falls was changed by another process. */
  #noteFallen({ attempts, execs }: Snapshot): void {
    const totals = { ...attempts, execs };
    for (const [name, count] of Object.entries(totals)) {
      const last = this.#totals[name] ?? 0n;
      if (count >= last) continue;
      this.fallen = `${name} fell from ${last} to ${count}: another process edits the maps`;
      this.#log.warn(this.fallen);
    }
    this.#totals = totals;
  }

  /** A service that is started again has a new control group. */
  #noteCgroup({ cgroup }: Snapshot): void {
    const before = this.#cgroup;
    this.#cgroup = cgroup;
    if (!cgroup) return;
    const again = cgroup.recreated - (before?.recreated ?? cgroup.recreated);
    if (again > 0n) {
      const times = again > 1n ? `, ${again} times` : "";
      this.#log.info(`the control group ${cgroup.path} was made again${times}: it is counted on`);
    }
    if (!cgroup.present && (before?.present !== false || again > 0n)) {
      this.#log.warn(
        `the control group ${cgroup.path} is gone: nothing counts until it is made again`,
      );
    }
  }

  #noteFull({ by, tables, noRoom }: Snapshot): void {
    const table = tables.find(({ name }) => name === EXECS_MAP);
    if (this.#full || noRoom === 0n || !table) return;
    this.#full = true;
    const more = this.#pins
      ? `end these counts (execve-counter unpin ${this.#pins}), and start again`
      : "start again";
    this.#log.warn(
      `some execs find no room in the table by ${by.join()} (${table.entries} of ${table.capacity} rows are taken), and count as ${OTHER}; for more rows than ${table.capacity}, ${more} with a larger --max-series`,
    );
  }
}
