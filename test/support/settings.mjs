import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";

/**
 * Changes a setting of the whole machine. It is put back by what this returns, and by whatever
 * ends this process: a child waits for that.
 *
 * @param {string} path
 * @param {string} value
 */
export function changeSetting(path, value) {
  const before = readFileSync(path, "utf8");
  const script = 'read -r end; printf %s "$1" >"$2"';
  const keeper = spawn("/bin/sh", ["-c", script, "sh", before, path], {
    stdio: ["pipe", "inherit", "inherit"],
    detached: true, // no key of the terminal ends it
  });
  writeFileSync(path, value);
  return async () => {
    keeper.stdin.end();
    const [status] = await once(keeper, "exit");
    if (status !== 0) throw new Error(`${path} is not what it was: ${before}`);
  };
}
