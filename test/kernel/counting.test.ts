import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  BPFTOOL,
  type Counts,
  DENY,
  inMountNamespace,
  Meter,
  PERF,
  STORM,
  sample,
  sh,
  uniqueName,
  until,
} from "../support/meter.ts";

/** What the rest of the host may do meanwhile; a plain `+= 1` loses more in a storm. */
const BYSTANDERS = 500;

let directory: string;
let meter: Meter;
const program = uniqueName();

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  copyFileSync("/bin/true", join(directory, program));
  meter = await Meter.start(["--watch", program, "--interval", "100ms", "--output", "json"]);
});

afterAll(async () => {
  await meter?.stop();
  rmSync(directory, { recursive: true });
});

test("23 runs of a watched program are counted as exactly 23", async () => {
  const before = await meter.counts();
  expect(before.watched).toEqual({ [program]: 0 });
  sh(STORM, ["spawn", "1", "23", join(directory, program)]);
  const after = await meter.counts();
  expect(after.watched).toEqual({ [program]: 23 });
  expect(after.execs - before.execs).toBeGreaterThanOrEqual(23 + 1);
  expect(after.execs - before.execs).toBeLessThan(23 + BYSTANDERS);
  expect(attempts(after).execve - attempts(before).execve).toBeGreaterThanOrEqual(23 + 1);
  expect(attempts(after).execve - attempts(before).execve).toBeLessThan(23 + BYSTANDERS);
});

test("two CPUs that start the same watched program at once lose none", async () => {
  const before = await meter.counts();
  sh(STORM, ["spawn", "2", "2000", join(directory, program)]);
  const after = await meter.counts();
  expect((after.watched[program] ?? 0) - (before.watched[program] ?? 0)).toBe(4000);
});

test("a storm of 2,000,000 failing calls on two threads loses none", async () => {
  const before = await meter.counts();
  sh(STORM, ["execve", "2", "1000000"]);
  const after = await meter.counts();
  const counted = attempts(after).execve - attempts(before).execve + after.missed - before.missed;
  expect(counted).toBeGreaterThanOrEqual(2_000_000 + 1);
  expect(counted).toBeLessThan(2_000_000 + BYSTANDERS);
  expect(after.execs - before.execs).toBeLessThan(BYSTANDERS);
});

test("execveat is seen, and told from execve", async () => {
  const before = await meter.counts();
  sh(STORM, ["execveat", "2", "500"]);
  const after = await meter.counts();
  expect(attempts(after).execveat - attempts(before).execveat).toBe(1000);
  expect(attempts(after).execve - attempts(before).execve).toBeLessThan(BYSTANDERS);
});

test("a call that a seccomp filter stops is no attempt", async () => {
  const before = await meter.counts();
  sh(DENY, ["execveat", String(constants.errno.ENOENT), STORM, "execveat", "1", "1000"]);
  const after = await meter.counts();
  expect(attempts(after).execveat).toBe(attempts(before).execveat);
});

test.runIf(process.arch === "x64")("a call by a 32-bit program is no attempt", async () => {
  const before = await meter.counts();
  sh(STORM, ["int80", "1", "1000"]);
  const after = await meter.counts();
  expect(attempts(after).execve - attempts(before).execve).toBeLessThan(BYSTANDERS);
});

test("a script is one exec, under its own name", async () => {
  const script = `${program.slice(0, 12)}.sh`;
  writeFileSync(join(directory, script), "#!/bin/sh\nexit 0\n", { mode: 0o755 });
  const other = await Meter.start(["--watch", `${script},sh`]);
  try {
    sh(STORM, ["spawn", "1", "23", join(directory, script)]);
    expect((await other.counts()).watched[script]).toBe(23);
  } finally {
    await other.stop();
  }
});

test("bpftool, /metrics and the printed line show the same number", async () => {
  const series = 'execve_counter_attempts_total{syscall="execve"}';
  await until("a quiet moment for bpftool", async () => {
    const before = sample(await meter.metrics(), series);
    const shown = bpftoolCounters(meter.mapId).execve_counter as number;
    const after = sample(await meter.metrics(), series);
    expect(shown).toBeGreaterThan(before);
    expect(shown).toBeLessThanOrEqual(after);
    // Nobody but bpftool itself was started: the two must be equal to the digit.
    return after === before + 1 && shown === after;
  });
  await until("a quiet moment for the printer", async () => {
    const before = sample(await meter.metrics(), series);
    const { length } = meter.lines;
    await until("a line", () => meter.lines.length > length + 1);
    const printed = (JSON.parse(meter.lines.at(-1) as string) as Counts).execve_counter;
    const after = sample(await meter.metrics(), series);
    expect(printed).toBeGreaterThanOrEqual(before);
    expect(printed).toBeLessThanOrEqual(after);
    return before === after && printed === after;
  });
});

test("bpftool shows the keys as text, and finds the map by its name", () => {
  expect(Object.keys(bpftoolCounters(meter.mapId)).sort()).toEqual(
    [`comm:${program}`, "execve_counter", "execveat_counter"].sort(),
  );
  const named = JSON.parse(sh(BPFTOOL, ["-j", "map", "show", "name", "execve_counter"]));
  const ids = [named].flat().map(({ id }: { id: number }) => id);
  expect(ids).toContain(meter.mapId);
});

test("printed rates and differences add up", async () => {
  const { length } = meter.lines;
  await until("lines", () => meter.lines.length > length + 3);
  const lines = meter.lines.map((line) => JSON.parse(line));
  expect(lines[0].delta).toBe(lines[0].execve_counter);
  for (const [i, line] of lines.entries()) {
    if (i > 0) expect(line.delta).toBe(line.execve_counter - lines[i - 1].execve_counter);
  }
});

test("a text line is what the README shows", async () => {
  const text = await Meter.start(["--no-web"]);
  await until("the first line, at once", () => text.lines[0]);
  expect(text.lines[0]).toMatch(
    /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z execve_counter: \d+ \(\+\d+, \d+\.\d\/s\)$/,
  );
  expect(await text.stop("SIGINT")).toBe(0);
});

test("with --attempts off successes are counted and no system call is touched", async () => {
  const off = await Meter.start(["--attempts", "off", "--watch", program]);
  try {
    sh(STORM, ["spawn", "1", "23", join(directory, program)]);
    sh(STORM, ["execve", "1", "1000"]);
    const counts = await off.counts();
    expect(counts.watched).toEqual({ [program]: 23 });
    expect(counts.attempts).toBeUndefined();
    expect(counts.execve_counter).toBe(counts.execs);
    expect(counts.execs).toBeGreaterThanOrEqual(25);
    expect(counts.execs).toBeLessThan(25 + BYSTANDERS);
    const exposition = await off.metrics();
    expect(exposition).not.toContain("execve_counter_attempts_total{");
    expect(exposition).not.toContain("sys_enter");
    expect(Object.keys(bpftoolCounters(off.mapId))).toEqual([`comm:${program}`]);
  } finally {
    await off.stop();
  }
});

test("two meters at once both count everything", async () => {
  const other = await Meter.start(["--watch", program]);
  try {
    const before = await meter.counts();
    sh(STORM, ["spawn", "1", "23", join(directory, program)]);
    expect((await other.counts()).watched).toEqual({ [program]: 23 });
    const after = await meter.counts();
    expect((after.watched[program] ?? 0) - (before.watched[program] ?? 0)).toBe(23);
  } finally {
    await other.stop();
  }
});

test("others who record the tracepoint with perf still see every event", () => {
  const script = 'mount -t tracefs tracefs /sys/kernel/tracing && exec "$0" 1000';
  const [unshare = "", ...args] = inMountNamespace(script);
  expect(sh(unshare, [...args, PERF])).toBe("1000\n");
});

function attempts(counts: Counts): { execve: number; execveat: number } {
  if (!counts.attempts) throw new Error("attempts are not counted");
  return counts.attempts;
}

interface Row {
  formatted: { key: string; value: number };
}

function bpftoolCounters(id: number): Record<string, number> {
  const rows = JSON.parse(sh(BPFTOOL, ["-j", "map", "dump", "id", String(id)])) as Row[];
  return Object.fromEntries(rows.map(({ formatted: { key, value } }) => [key, value]));
}
