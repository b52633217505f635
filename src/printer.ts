/** One line for each interval: text for people, JSON for programs. */
import { toJson } from "./json.ts";
import { change, headline, type Snapshot, toPlain } from "./snapshot.ts";

export type Format = "text" | "json";

/**
 * The line for `now`, without a line feed.
 *
 * @param previous the snapshot of the line before
 */
export function formatLine(format: Format, previous: Snapshot | undefined, now: Snapshot): string {
  const { delta, rate } = change(previous, now);
  if (format === "json") {
    const { time, start_time, execve_counter, ...rest } = toPlain(now);
    return toJson({ time, start_time, execve_counter, delta, rate: round(rate), ...rest });
  }
  const sign = delta < 0n ? "" : "+";
  const note = now.missed ? `, ${now.missed} missed` : "";
  const difference = `(${sign}${delta}, ${rate.toFixed(1)}/s${note})`;
  return `${now.time.toISOString()} execve_counter: ${headline(now)} ${difference}`;
}

function round(rate: number): number {
  return Math.round(rate * 10) / 10;
}
