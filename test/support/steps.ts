/** Ends a command at any of the steps that change pins, by strace. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { result } from "./meter.ts";

const CALLS = "bpf,mkdir,rename,unlink,rmdir";

export interface Step {
  call: string;
  /** How many of its kind. */
  when: number;
}

function traced(words: readonly string[]) {
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  const log = join(directory, "trace");
  try {
    const trace = ["-f", "-qq", "-o", log, `--trace=${CALLS}`];
    const { status } = result("strace", [...trace, ...words]);
    return { status, lines: readFileSync(log, "utf8").split("\n") };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** What a command calls on its way, but for what only asks. */
export function stepsOf(command: readonly string[], script = 'exec "$0" "$@"'): Step[] {
  const { status, lines } = traced(["sh", "-c", script, ...command]);
  expect(status).toBe(0);
  const seen: Record<string, number> = {};
  return lines.flatMap((line) => {
    const call = /^\d+ +(\w+)\(/.exec(line)?.[1];
    if (!call) return [];
    seen[call] = (seen[call] ?? 0) + 1;
    return call !== "bpf" || /BPF_OBJ_PIN|BPF_LINK_CREATE/.test(line)
      ? [{ call, when: seen[call] }]
      : [];
  });
}

/** Runs a command, and kills it instead of this step. */
export function killAt({ call, when }: Step, command: readonly string[]): void {
  const { status } = traced([`--inject=${call}:signal=KILL:when=${when}`, ...command]);
  expect(status).not.toBe(0);
}

/** Ends an agent after its first line: it has no reader then. */
export const UNTIL_LINE = '"$0" "$@" | { read line; }';
