/** Counts what one command and all its descendants execute. */
import { readFileSync } from "node:fs";
import { ExitCode } from "../base/errors.ts";
import { createLog, type Level } from "../base/log.ts";
import type { Label } from "../counts/labels.ts";
import type { Snapshot } from "../counts/snapshot.ts";
import { isNativeError } from "../kernel/addon.ts";
import { runCommand } from "../kernel/command.ts";
import type { Scope } from "../kernel/groups.ts";
import { type Attempts, noticesOf, openOwnMeter } from "../kernel/meter.ts";
import { read } from "../kernel/reader.ts";
import { readBaseline } from "./baseline.ts";
import { caller } from "./caller.ts";
import { makeGroup } from "./group.ts";
import type { Result } from "./report.ts";

export interface StatOptions {
  attempts: Attempts;
  failures: boolean;
  /** Undefined for those of the earlier run, or for the command. */
  by: readonly Label[] | undefined;
  /** The file of an earlier run to compare with. */
  compare?: string;
  /** How many programs may be started. */
  budget?: number;
  /** The control group to count in meanwhile; undefined for the command's own. */
  cgroup?: Scope;
  maxSeries: number;
  output: "text" | "json";
  /** Rows of the table that are printed. */
  top: number;
  logLevel: Level;
}

/** What to print, and how to end. */
export interface Report {
  lines: readonly string[];
  code: number;
  /** The signal to end by; 0 for none. */
  signal: number;
}

/** What shells answer where a command cannot be executed, or is not there. */
const NOT_EXECUTABLE = 126;
const NOT_FOUND = 127;

/**
 * Runs the command that these words, the last ones of this process's command line, name.
 *
 * @throws UserError where it cannot be counted; then it was not run
 */
export async function stat(words: readonly string[], options: StatOptions): Promise<Report> {
  const log = createLog(options.logLevel);
  const { compare, budget } = options;
  const baseline = compare === undefined ? undefined : readBaseline(compare, options.by);
  const by = options.by ?? baseline?.by ?? ["command"];
  const command = { words: lastWords(words.length), ...caller(process.env) };
  const group = makeGroup();
  try {
    const meter = openOwnMeter({
      ...options,
      by,
      ...{ watch: [], pin: undefined, log: log.debug },
      scope: options.cgroup ?? { path: "", directory: group.path },
    });
    try {
      for (const notice of noticesOf(meter)) log.warn(notice);
      const outcome = runCommand(command, group.path);
      const snapshot = read(meter);
      const left = group.processes().length;
      for (const doubt of doubtsOf(snapshot)) log.warn(doubt);
      const over = budget !== undefined && snapshot.execs > budget;
      if (over) {
        log.error(
          `${snapshot.execs} programs were started, and the budget is ${budget}: ${snapshot.execs - BigInt(budget)} too many`,
        );
      }
      const lines = await linesOf({ words, outcome, snapshot, left, baseline, budget }, options);
      const { code, signal } = outcome;
      // The command's own failure comes first: it may be why more was started, or less.
      return { lines, code: over && code === 0 ? ExitCode.overBudget : code, signal };
    } finally {
      meter.close();
    }
  } catch (error) {
    const { cause, message, remedy } = error as Error & { remedy?: string };
    if (!isNativeError(cause) || cause.step !== "command") throw error;
    log.error(message);
    log.error(`to do: ${remedy}`);
    const missing = ["ENOENT", "ENOTDIR"].some((name) => message.includes(`(${name})`));
    return { lines: [], code: missing ? NOT_FOUND : NOT_EXECUTABLE, signal: 0 };
  } finally {
    if (!group.remove()) log.warn(`the control group ${group.path} stays: it is in use`);
  }
}

async function linesOf(result: Result, { output, top }: StatOptions): Promise<string[]> {
  // Loaded only now: the command does not wait for it.
  const { plain, table } = await import("./report.ts");
  const { toJson } = await import("../base/json.ts");
  return output === "json" ? [toJson(plain(result))] : table(result, top);
}

/** Why the counts may be too low, in sentences. Skipped runs are those of the whole host. */
export function doubtsOf({ cgroup, programs, unfollowed, noRoom }: Snapshot): string[] {
  return [
    ...(cgroup && !cgroup.present
      ? [`the control group ${cgroup.path} is gone: nothing counted from then on`]
      : []),
    ...programs
      .filter(({ misses }) => misses)
      .map(
        ({ name, misses }) =>
          `the kernel skipped ${misses} runs of ${name} on this host: counts may be too low by up to as many`,
      ),
    ...(unfollowed
      ? [
          `${unfollowed} calls could not be followed: their failures may be counted under the other call`,
        ]
      : []),
    ...(noRoom > 0n
      ? [`${noRoom} execs found no room for a row, and count as other (--max-series)`]
      : []),
  ];
}

/** The last words of the command line as bytes: they need not be text. */
function lastWords(count: number): Uint8Array {
  const line = readFileSync("/proc/self/cmdline");
  let start = line.length;
  for (let words = 0; words <= count && start > 0; words++) {
    // Of the NUL before it; the first one found ends the last word.
    start = line.lastIndexOf(0, start - 1);
    if (words === count) return line.subarray(start + 1);
  }
  return line.subarray(0, 0);
}
