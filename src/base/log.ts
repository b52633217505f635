/** Messages, on stderr; stdout is for data. */
import { visible } from "./text.ts";

export const LEVELS = ["debug", "info", "warn", "error"] as const;
export type Level = (typeof LEVELS)[number];
export type Log = Record<Level, (message: string) => void>;

/** Bytes of messages that may wait to be read: more than libbpf writes about any program. */
const MAX_WAITING_BYTES = 1 << 25;

/** A log that drops messages below `threshold`. A message stays one line, whatever is in it. */
export function createLog(threshold: Level): Log {
  const at = (level: Level) => (message: string) => {
    if (LEVELS.indexOf(level) < LEVELS.indexOf(threshold)) return;
    if (process.stderr.writableLength > MAX_WAITING_BYTES) return;
    const line = `execve-counter: ${level === "info" ? "" : `${level}: `}${message}`;
    process.stderr.write(`${visible(line)}\n`);
  };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}
