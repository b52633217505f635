/** Talk, on stderr; stdout is for data. */

export const LEVELS = ["debug", "info", "warn", "error"] as const;
export type Level = (typeof LEVELS)[number];
export type Log = Record<Level, (message: string) => void>;

/** A log that drops what is below `threshold`. */
export function createLog(threshold: Level): Log {
  const at = (level: Level) => (message: string) => {
    if (LEVELS.indexOf(level) < LEVELS.indexOf(threshold)) return;
    process.stderr.write(`execve-counter: ${level === "info" ? "" : `${level}: `}${message}\n`);
  };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}
