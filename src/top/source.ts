/** The meter that top shows: a running one, the next one once it has ended, or one of its own. */
import { hostname } from "node:os";
import { ExitCode, UserError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { printable } from "../base/text.ts";
import type { Label } from "../counts/labels.ts";
import { History, Rates } from "../counts/rates.ts";
import type { Series, Snapshot } from "../counts/snapshot.ts";
import type { Scope } from "../kernel/groups.ts";
import { type Attempts, type Meter, openOwnMeter } from "../kernel/meter.ts";
import { read } from "../kernel/reader.ts";
import { chooseMeter, findMeters, openRunningMeter, type RunningMeter } from "../kernel/running.ts";
import type { Moment } from "./frame.ts";

export interface SourceOptions {
  /** Undefined for the labels of the running meter, or for the command. */
  by: readonly Label[] | undefined;
  /** The control group to count in; undefined for that of the running meter, or for none. */
  cgroup: Scope | undefined;
  /** The map of the running meter; undefined for the only meter, or none. */
  map: number | undefined;
  /** How to count attempts, and room for rows, where no meter runs. */
  attempts: Attempts;
  maxSeries: number;
  /** Milliseconds between two reads. */
  interval: number;
}

/** A meter, and what was read of it. */
interface Seen {
  meter: Meter | RunningMeter;
  snapshot: Snapshot;
  rates: Rates;
  history: History;
}

export class Source {
  #seen: Seen;
  #log: (line: string) => void;
  readonly #notices: readonly string[];
  readonly #wanted: Wanted;
  readonly #interval: number;
  /** The maps of running meters that are not the next one. */
  readonly #known: number[];

  /**
   * Finds the running meter, or loads programs where no meter counts by the labels asked for.
   *
   * @throws UserError
   */
  constructor({ by, cgroup, map, attempts, maxSeries, interval }: SourceOptions, log: Log) {
    this.#wanted = { by, cgroup };
    this.#interval = interval;
    this.#log = log.debug;
    const notices: string[] = [];
    this.#notices = notices;
    this.#known = [];
    try {
      this.#known = findMeters();
    } catch (error) {
      const denied = error instanceof UserError && error.exitCode === ExitCode.unable;
      if (map !== undefined || !denied) throw error;
      notices.push("only root can find a running meter");
    }
    if (map !== undefined || this.#known.length > 0) {
      const seen = this.#openAtStart(chooseMeter(this.#known, map));
      if (typeof seen !== "string") {
        this.#seen = seen;
        return;
      }
      if (map !== undefined) {
        const remedy =
          "leave out --map to count with top's own meter, or start the meter with those options";
        throw new UserError(seen, remedy, ExitCode.failed);
      }
      notices.push(seen);
    }
    const meter = openOwnMeter({
      attempts,
      // With --attempts off no other system call may take longer.
      failures: attempts !== "off",
      ...{ by: by ?? ["command"], maxSeries, watch: [], scope: cgroup },
      ...{ pin: undefined, log: log.debug },
    });
    if (meter.fallback) notices.push(`${meter.fallback}: the raw hook counts`);
    this.#seen = this.#see(meter);
  }

  /** Whether the meter is another process's. */
  get isRunning(): boolean {
    return "ended" in this.#seen.meter;
  }

  /** The labels that are counted. */
  get by(): readonly Label[] {
    return this.#seen.meter.by;
  }

  /** Writes nothing more to stderr, where that is the terminal that top draws on. */
  quiet(): void {
    if (process.stderr.isTTY) this.#log = () => {};
  }

  /** The counts now; where they cannot be read, the last ones. */
  look(): Moment {
    const trouble: string[] = [];
    try {
      this.#seen = { ...this.#seen, snapshot: read(this.#seen.meter) };
    } catch (error) {
      trouble.push(`cannot read the counters: ${(error as Error).message}`);
    }
    const { meter } = this.#seen;
    if ("ended" in meter && meter.ended) {
      try {
        if (!this.#takeNext()) {
          trouble.push("the meter has ended: these are its last counts, until another starts");
        }
      } catch (error) {
        trouble.push(`the meter has ended; ${(error as Error).message}`);
      }
    }
    const { snapshot, rates, history } = this.#seen;
    rates.add(snapshot);
    history.add(snapshot);
    const { series } = rates;
    const named = (name: Series["name"]) => series.filter((each) => each.name === name);
    return {
      host: printable(hostname()),
      snapshot,
      ...{ rows: named("exec"), retired: named("retired")[0] },
      samples: [...history.samples],
      source: this.#name(),
      notice: [...this.#notices, ...trouble].join("; "),
    };
  }

  #name(): string {
    const { scope, countersMap } = this.#seen.meter;
    const name = this.isRunning ? `meter of map ${countersMap.id}` : "own meter";
    return scope === undefined ? name : `${name} in ${printable(scope)}`;
  }

  close(): void {
    this.#seen.meter.close();
  }

  /** Goes on with a meter that has started since, where there is one. */
  #takeNext(): boolean {
    const id = findMeters().find((each) => !this.#known.includes(each));
    if (id === undefined) return false;
    const next = this.#open(id);
    if (typeof next === "string") throw new Error(next);
    this.#known.push(id);
    this.#seen.meter.close();
    this.#seen = next;
    return true;
  }

  /** Opens a running meter, and reads it; or returns why it is not the right one. */
  #open(id: number): Seen | string {
    const meter = openRunningMeter(id, this.#log);
    const lacking = lack(meter, this.#wanted);
    if (lacking === undefined) return this.#see(meter);
    meter.close();
    return lacking;
  }

  /** The same for a meter that may just be starting, or be reused by another agent. */
  #openAtStart(id: number): Seen | string {
    for (let attempt = 0; ; attempt++) {
      try {
        return this.#open(id);
      } catch (error) {
        const final = error instanceof UserError && error.exitCode === ExitCode.unable;
        if (final) throw error;
        if (attempt === 20) {
          throw new UserError(
            `cannot read the meter of map ${id}: ${(error as Error).message}`,
            "start that meter again",
            ExitCode.failed,
          );
        }
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
      }
    }
  }

  /** Reads a meter for the first time; closes it where that fails. */
  #see(meter: Meter): Seen {
    try {
      const rates = new Rates(2 * this.#interval);
      return { meter, snapshot: read(meter), rates, history: new History() };
    } catch (error) {
      meter.close();
      throw error;
    }
  }
}

type Wanted = Pick<SourceOptions, "by" | "cgroup">;

/** Why a running meter is not the right one: it counts elsewhere, or not by the labels asked for. */
function lack({ by, scope, countersMap }: Meter, { by: labels, cgroup }: Wanted) {
  const name = `the meter of map ${countersMap.id}`;
  if (cgroup && cgroup.path !== scope) return `${name} does not count in ${cgroup.path} alone`;
  if (by.length === 0) return `${name} counts by no label`;
  const missing = labels?.filter((label) => !by.includes(label)) ?? [];
  return missing.length > 0 ? `${name} does not count by ${missing.join(" or ")}` : undefined;
}
