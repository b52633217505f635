/** What is printed at each interval: text for people, a line of JSON for programs. */
import { toJson } from "../base/json.ts";
import { printable } from "../base/text.ts";
import { change, headline, moved, type Snapshot, toPlain } from "../counts/snapshot.ts";

export type Format = "text" | "json";

/** How many of the series that grew follow a line of text. */
const MAX_DETAILS = 10;

/**
 * What to print for `now`, without the last line feed.
 *
 * @param previous the snapshot that was printed before
 */
export function format(as: Format, previous: Snapshot | undefined, now: Snapshot): string {
  const { delta, rate } = change(previous, now);
  if (as === "json") {
    const { time, start_time, execve_counter, ...rest } = toPlain(now);
    return toJson({ time, start_time, execve_counter, delta, rate: round(rate), ...rest });
  }
  const sign = delta < 0n ? "" : "+";
  const note = now.missed ? `, ${now.missed} missed` : "";
  const difference = `(${sign}${delta}, ${rate.toFixed(1)}/s${note})`;
  const line = `${now.time.toISOString()} execve_counter: ${headline(now)} ${difference}`;

  const series = moved(previous, now);
  const width = Math.max(...series.slice(0, MAX_DETAILS).map((each) => `${each.delta}`.length));
  const details = series
    .slice(0, MAX_DETAILS)
    .map(({ name, labels, delta }) => `  +${`${delta}`.padEnd(width)} ${name}${show(labels)}`);
  if (series.length > MAX_DETAILS) details.push(`  and ${series.length - MAX_DETAILS} more`);
  return [line, ...details].join("\n");
}

function show(labels: Record<string, string>): string {
  return Object.entries(labels)
    .map(([label, value]) => {
      // As short as container runtimes show it.
      const text = /^[0-9a-f]{64}$/.test(value) ? value.slice(0, 12) : printable(value);
      return ` ${label}=${text}`;
    })
    .join("");
}

function round(rate: number): number {
  return Math.round(rate * 10) / 10;
}
