import { spawn } from "node:child_process";

/**
 * A line of a shell's that runs these words, whatever is in them: a checkout's path may have a
 * space.
 *
 * @param {...(string | number)} words
 */
export function shellLine(...words) {
  const quoted = (/** @type {string} */ word) =>
    /^[\w./:=,@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
  return words.map((word) => quoted(`${word}`)).join(" ");
}

/**
 * Runs a line of a shell's in a terminal of its own, which script(1) copies to and from. Neither
 * the user's shell nor the user's locale matters there.
 *
 * @param {string} line
 */
export function inTerminal(line) {
  const own = { SHELL: "/bin/sh", LC_ALL: "C.UTF-8", TERM: "xterm-256color" };
  return spawn("script", ["-qefc", line, "/dev/null"], { env: { ...process.env, ...own } });
}
