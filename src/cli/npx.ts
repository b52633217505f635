/**
 * npx runs its command below a shell that passes no signal on: when npx is stopped,
 * the command would stay behind.
 */
import { readFileSync } from "node:fs";

/** Resolves once the npx that started this process is gone; without one, never. */
export function npxGone(): Promise<void> {
  return new Promise((resolve) => {
    if (process.env.npm_command !== "exec") return;
    const parent = process.ppid;
    if (!isOfNpx(parent)) return resolve(); // it went while this process was starting
    setInterval(() => process.ppid !== parent && resolve(), 200).unref();
  });
}

/** Whether a process is npx, or descends from it: its environment tells. */
function isOfNpx(pid: number): boolean {
  try {
    const environment = readFileSync(`/proc/${pid}/environ`, "latin1").split("\0");
    const title = readFileSync(`/proc/${pid}/cmdline`, "latin1");
    return environment.includes("npm_command=exec") || title.startsWith("npm ");
  } catch {
    // It cannot be read. Init hides its environment; the npx of a container does not.
    return pid !== 1;
  }
}
