/** Talk, on stderr; stdout is for data. */
import { visible } from "./text.ts";

export const LEVELS = ["debug", "info", "warn", "error"] as const;
export type Level = (typeof LEVELS)[number];
export type Log = Record<Level, (message: string) => void>;

/** How much talk may wait for who reads it: more than libbpf says of any program. */
const MAX_WAITING_BYTES = 1 << 25;

/** A log that drops what is below `threshold`. A message is a line, whatever is in it. */
export function createLog(threshold: Level): Log {
  const at = (level: Level) => (message: string) => {
    if (LEVELS.indexOf(level) < LEVELS.indexOf(threshold)) return;
    if (process.stderr.writableLength > MAX_WAITING_BYTES) return;
    const line = `execve-counter: ${level === "info" ? "" : `${level}: `}${message}`;
    process.stderr.write(`${visible(line)}\n`);
  };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}
