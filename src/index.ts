/**
 * The library: a meter in the kernel, for programs of your own. Everything but the edits of the
 * watch list is synchronous; a read takes microseconds. docs/api.md has an example.
 */
import { wrong } from "./base/errors.ts";
import type { Log } from "./base/log.ts";
import { requireLabels, requireName, requireRows } from "./counts/choices.ts";
import type { Label } from "./counts/labels.ts";
import type { Snapshot } from "./counts/snapshot.ts";
import {
  type Attempts,
  type Meter as KernelMeter,
  noticesOf,
  type OwnMeter,
  openOwnMeter,
} from "./kernel/meter.ts";
import { read } from "./kernel/reader.ts";
import { chooseMeter, findMeters, openRunningMeter } from "./kernel/running.ts";
import { add, remove } from "./kernel/watchlist.ts";

export { ExitCode, UserError } from "./base/errors.ts";
export type { Label } from "./counts/labels.ts";
export type {
  ExecsRow,
  FailureCounts,
  ProgramStats,
  Snapshot,
  TableFill,
} from "./counts/snapshot.ts";
export type { Attempts } from "./kernel/meter.ts";
export { findMeters };

/** How a meter of your own counts. Each option is the flag of the same name. */
export interface MeterOptions {
  /** How to count attempts: "tracepoint" by default, "raw", or "off". */
  attempts?: Attempts;
  /** Labels to break execs down by; none by default. */
  by?: readonly Label[];
  /** Whether to count failures by errno; false by default. */
  failures?: boolean;
  /** Room for rows in the breakdown, 16 to 65536; 1024 by default. */
  maxSeries?: number;
  /** A directory in bpffs to pin everything in, to keep counting when this process ends. */
  pin?: string;
  /** Whether to begin anew where what is pinned there does not fit; false by default. */
  pinReplace?: boolean;
  /** Names of commands to count one by one, of at most 15 bytes. */
  watch?: readonly string[];
  /** Receives libbpf's messages, a line each. */
  log?: (line: string) => void;
}

/** A meter that another process runs. */
export interface RunningMeterOptions {
  /** The id of its map of counters: one of findMeters(). */
  map: number;
  /** Receives libbpf's messages, a line each. */
  log?: (line: string) => void;
}

/** An open meter. */
export interface Meter {
  /** The id of its map of counters, as bpftool shows it. */
  readonly map: number;
  /** When its counts began. */
  readonly startTime: Date;
  /** How it counts otherwise than asked for, or may not be exact: a sentence each. */
  readonly notices: readonly string[];
  /** Whether another process ran it and has ended; then read() returns its last counts. */
  readonly ended: boolean;
  /** The counts at this moment; @throws UserError where the kernel refuses */
  read(): Snapshot;
  /** Counts these commands one by one too, from 0; one that is watched already keeps its count. */
  watch(...names: string[]): Promise<void>;
  /**
   * Makes room: rows of containers and units that ended so many milliseconds ago count as retired
   * from then on. Returns how many rows that were. Call it now and then, on a meter of your own;
   * @throws Error where it is another's, UserError where the kernel refuses
   */
  retire(after: number): number;
  /** Stops watching these commands; rejects with a UserError where one is not watched. */
  unwatch(...names: string[]): Promise<void>;
  /**
   * Ends the counting of a meter of your own that is not pinned; only closes any other. Every
   * other method fails from then on; closing again does nothing.
   */
  close(): void;
}

const OPTIONS = ["attempts", "by", "failures", "maxSeries", "pin", "pinReplace", "watch", "log"];
const ATTEMPTS: readonly unknown[] = ["tracepoint", "raw", "off"] satisfies Attempts[];

/**
 * Loads the programs and counts from now on; or, given a map, opens a meter that another process
 * runs. Needs root, or the capabilities that docs/security.md names.
 *
 * @throws UserError where an option is not allowed, or the kernel refuses; nothing stays loaded
 */
export function openMeter(options: MeterOptions | RunningMeterOptions = {}): Meter {
  const { log = () => {} } = options;
  if (typeof log !== "function") throw wrong("log", log, "give a function, or leave it out");
  if ("map" in options) {
    requireKnown(options, ["map", "log"]);
    const { map } = options;
    if (!Number.isInteger(map)) throw wrong("map", map, "give one of findMeters()");
    return opened(openRunningMeter(chooseMeter(findMeters(), map), log), [], log);
  }
  requireKnown(options, OPTIONS);
  const { attempts = "tracepoint", by = [], failures = false, maxSeries = 1024 } = options;
  const { pin, pinReplace = false } = options;
  if (!ATTEMPTS.includes(attempts)) {
    throw wrong("attempts", attempts, `give any of ${ATTEMPTS.join(", ")}`);
  }
  if (typeof failures !== "boolean") throw wrong("failures", failures, "give true or false");
  if (pin !== undefined && (typeof pin !== "string" || pin === "")) {
    throw wrong("pin", pin, "give a directory, or leave it out");
  }
  if (typeof pinReplace !== "boolean" || (pinReplace && pin === undefined)) {
    throw wrong("pinReplace", pinReplace, "give true or false, and true only with pin");
  }
  const meter = openOwnMeter({
    ...{ attempts, failures, pin, pinReplace, log },
    by: requireLabels("by", requireStrings("by", by)),
    maxSeries: requireRows("maxSeries", maxSeries),
    watch: requireStrings("watch", options.watch ?? []).map(requireName),
  });
  try {
    if (meter.replaces) meter.replace();
  } catch (error) {
    meter.discard();
    throw error;
  }
  return opened(meter, noticesOf(meter), log);
}

function requireStrings(choice: string, given: unknown): string[] {
  if (Array.isArray(given) && given.every((each) => typeof each === "string")) return given;
  throw wrong(choice, given, "give an array of strings");
}

function requireKnown(options: object, known: readonly string[]): void {
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown) throw wrong("an option", unknown, `give any of ${known.join(", ")}`);
}

function opened(
  meter: KernelMeter & Partial<OwnMeter> & { ended?: boolean },
  notices: readonly string[],
  log: (line: string) => void,
): Meter {
  const map = meter.countersMap.id;
  const all: Log = { debug: log, info: log, warn: log, error: log };
  let open = true;
  const whileOpen = <Result>(work: () => Result): Result => {
    if (!open) throw new Error("the meter is closed");
    return work();
  };
  const names = (given: unknown) => requireStrings("names", given).map(requireName);
  return {
    map,
    startTime: meter.startTime,
    notices,
    get ended() {
      return meter.ended ?? false;
    },
    read: () => whileOpen(() => read(meter)),
    watch: async (...given) => whileOpen(() => add(names(given), map, all)),
    retire: (after) =>
      whileOpen(() => {
        if (!meter.retire || !meter.bootTime) throw new Error("another process runs this meter");
        if (!(after >= 0)) throw wrong("after", after, "give milliseconds, 0 or more");
        // The clock's milliseconds are whole: what ended in this one has ended 0 ago.
        return meter.retire(Math.max(0, meter.bootTime() + 1 - after));
      }),
    unwatch: async (...given) => whileOpen(() => remove(names(given), map, all)),
    close() {
      if (open) meter.close();
      open = false;
    },
  };
}
