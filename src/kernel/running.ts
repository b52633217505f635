/** Finds and reads the meters that other processes run. */
import { existsSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { ExitCode, UserError } from "../base/errors.ts";
import { LABELS } from "../counts/labels.ts";
import type { ProgramStats } from "../counts/snapshot.ts";
import { type Addon, type Follower, isNativeError, loadAddon } from "./addon.ts";
import { type Meter, PROGRAMS, programsOf, reading } from "./meter.ts";
import { OBJECT, translate, translated, withFollower } from "./session.ts";

let objectRead: Uint8Array | undefined;

/** The ids of the maps of counters of all running meters; @throws UserError */
export function findMeters(): number[] {
  const { findCounters } = loadAddon();
  return translated([], findCounters);
}

/**
 * Chooses a meter of those that were found.
 *
 * @param mapId of its map of counters; undefined for the only meter
 * @throws UserError where there is none, or more than one
 */
export function chooseMeter(found: readonly number[], mapId: number | undefined): number {
  const id = mapId ?? found[0];
  if (id === undefined || !found.includes(id)) {
    const which = mapId === undefined ? "no meter is running" : `no meter has the map ${mapId}`;
    const others = found.length > 0 ? `choose one of --map ${found.join(", ")}` : undefined;
    throw new UserError(which, others ?? "start one: sudo execve-counter", ExitCode.failed);
  }
  if (mapId === undefined && found.length > 1) {
    throw new UserError(
      `${found.length} meters are running`,
      `choose one by the map that its first line names: --map ${found.join(" or ")}`,
      ExitCode.failed,
    );
  }
  return id;
}

/** A meter that another process runs. */
export interface RunningMeter extends Meter {
  /** Whether it was gone at the last look at its programs: then its counts are the last ones. */
  readonly ended: boolean;
}

/**
 * Opens the meter of another process to read it; loads, attaches and changes nothing.
 *
 * @throws UserError where it cannot be read
 */
export function openRunningMeter(mapId: number, log: (line: string) => void): RunningMeter {
  const follow = (follower: Follower, addon: Addon): RunningMeter => {
    follower.follow();
    const flags = follower.flags();
    let programs = programsOf(follower);
    let ended = false;
    const attempts = Object.values(PROGRAMS)
      .map((hook) => hook.attempts[0])
      .find((name) => programs.some((program) => program.name === name));
    const counted = flags.includes("no_attempts") ? undefined : attempts;
    const by = LABELS.filter((label) => flags.includes(label));
    return {
      ...reading(follower, addon, by, flags.includes("failures"), counted),
      startTime: new Date(follower.begin(Date.now())),
      get ended() {
        return ended;
      },
      programs: () => {
        try {
          programs = followed(follower);
          ended = false;
        } catch (error) {
          if (!isFollow(error, "ESRCH")) throw isNativeError(error) ? translate(error, []) : error;
          ended = true;
        }
        return programs;
      },
    };
  };
  // Kept for the next meter: by then this process may not be able to read the file.
  if (!objectRead && existsSync(OBJECT)) objectRead = readFileSync(OBJECT);
  return withFollower(mapId, log, follow, objectRead);
}

/** The programs of a followed meter; an agent that starts replaces them. */
function followed(follower: Follower): ProgramStats[] {
  try {
    return programsOf(follower);
  } catch (error) {
    if (!isFollow(error, "ESTALE")) throw error;
    follower.follow();
    return programsOf(follower);
  }
}

function isFollow(error: unknown, code: "ESRCH" | "ESTALE"): boolean {
  return isNativeError(error) && error.step === "follow" && error.errno === constants.errno[code];
}
