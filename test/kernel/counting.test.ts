import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  BPFTOOL,
  CLI,
  type Counts,
  DENY,
  has32Bit,
  inMountNamespace,
  Meter,
  MOUNT_TRACEFS,
  PERF,
  result,
  STORM,
  sample,
  sh,
  uniqueName,
  until,
} from "../support/meter.ts";

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
  // With the storm's own start, and whatever else the host does.
  expect(after.execs - before.execs).toBeGreaterThanOrEqual(23 + 1);
  expect(attempts(after).execve - attempts(before).execve).toBeGreaterThanOrEqual(23 + 1);
});

test("two CPUs that start the same watched program at once lose none", async () => {
  const before = await meter.counts();
  sh(STORM, ["spawn", "2", "2000", join(directory, program)]);
  const after = await meter.counts();
  expect((after.watched[program] ?? 0) - (before.watched[program] ?? 0)).toBe(4000);
});

// The host is never quiet, so what it does is let through, but not a call counted twice.
test("a storm of 2,000,000 failing calls on two threads loses none", async () => {
  const before = await meter.counts();
  sh(STORM, ["execve", "2", "1000000"]);
  const after = await meter.counts();
  const counted = attempts(after).execve - attempts(before).execve;
  expect(counted + missed(after) - missed(before)).toBeGreaterThanOrEqual(2_000_000 + 1);
  expect(counted).toBeLessThan(4_000_000);
  expect(after.execs - before.execs).toBeLessThan(1_000_000);
});

// Hardly any other program calls execveat, so this can be almost exact.
test("a storm of 2,000,000 calls of execveat on two threads is counted once each", async () => {
  const before = await meter.counts();
  sh(STORM, ["execveat", "2", "1000000"]);
  const after = await meter.counts();
  const counted = attempts(after).execveat - attempts(before).execveat;
  expect(counted).toBeGreaterThanOrEqual(2_000_000);
  expect(counted).toBeLessThan(2_000_000 + 100);
  expect(attempts(after).execve - attempts(before).execve).toBeLessThan(1_000_000);
});

test("a call that a seccomp filter stops is no attempt", async () => {
  const before = await meter.counts();
  sh(DENY, ["execveat", String(constants.errno.ENOENT), STORM, "execveat", "1", "100000"]);
  const after = await meter.counts();
  expect(attempts(after).execveat - attempts(before).execveat).toBeLessThan(100);
});

test.runIf(has32Bit)("a 32-bit caller makes execs without attempts", async () => {
  const before = await meter.counts();
  sh(STORM, ["int80", "1", "1000000"]);
  sh(STORM, ["spawn32", "1", "23", join(directory, program)]);
  const after = await meter.counts();
  expect((after.watched[program] ?? 0) - (before.watched[program] ?? 0)).toBe(23);
  expect(attempts(after).execve - attempts(before).execve).toBeLessThan(500_000);
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

test("bpftool, /metrics and the printed line show the same numbers", async () => {
  sh(STORM, ["spawn", "2", "500", join(directory, program)]);
  const total = 'execve_counter_attempts_total{syscall="execve"}';
  const watched = `execve_counter_watched_total{command="${program}"}`;

  const before = await meter.metrics();
  const { length } = meter.lines;
  await until("a line that is read and printed after that", () => meter.lines.length > length + 1);
  const printed = JSON.parse(meter.lines.at(-1) as string) as Counts;
  const shown = bpftoolCounters(meter.mapId);
  const after = await meter.metrics();

  // Only this test runs the program: equal to the digit, four times.
  const exact = sample(before, watched);
  expect(exact).toBeGreaterThanOrEqual(1000);
  expect(printed.watched[program]).toBe(exact);
  expect(shown[`comm:${program}`]).toBe(exact);
  expect(sample(after, watched)).toBe(exact);
  // Every process moves the total, bpftool by its own start: each reading fits between the others.
  const readings = [
    sample(before, total),
    printed.execve_counter,
    shown.execve_counter as number,
    sample(after, total),
  ];
  expect(readings).toEqual(readings.toSorted((a, b) => a - b));
  expect(readings[2]).toBeGreaterThan(readings[1] as number);
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
  try {
    await until("the first line, at once", () => text.lines[0]);
    expect(text.lines[0]).toMatch(
      /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z execve_counter: \d+ \(\+\d+, \d+\.\d\/s\)$/,
    );
  } finally {
    expect(await text.stop("SIGINT")).toBe(0);
  }
});

test("with --attempts off execs are counted and no system call is touched", async () => {
  const off = await Meter.start(["--attempts", "off", "--watch", program]);
  try {
    sh(STORM, ["spawn", "1", "23", join(directory, program)]);
    sh(STORM, ["execve", "1", "1000000"]);
    const counts = await off.counts();
    expect(counts.watched).toEqual({ [program]: 23 });
    expect(counts.attempts).toBeUndefined();
    expect(counts.execve_counter).toBe(counts.execs);
    expect(counts.execs).toBeGreaterThanOrEqual(25);
    expect(counts.execs).toBeLessThan(500_000);
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

test.each(["execve", "execveat"])(
  "others who record the tracepoint of %s with perf still see every event",
  (syscall) => {
    const [unshare = "", ...args] = inMountNamespace(`${MOUNT_TRACEFS} && exec "$0" "$@"`);
    expect(sh(unshare, [...args, PERF, syscall, "1000"])).toBe("1000\n");
  },
);

test("the counts say when they began", async () => {
  const fresh = await Meter.start();
  try {
    const started = Date.parse((await fresh.counts()).start_time);
    expect(Date.now() - started).toBeGreaterThanOrEqual(0);
    expect(Date.now() - started).toBeLessThan(10_000);
    const exported = sample(await fresh.metrics(), "execve_counter_start_time_seconds");
    expect(exported).toBe(started / 1000);
  } finally {
    await fresh.stop();
  }
});

test("libbpf's messages are shown at the level debug, and only errors at the level error", async () => {
  for (const [level, libbpf, info] of [
    ["debug", true, true],
    ["info", false, true],
    ["error", false, false],
  ] as const) {
    const { stderr, status } = result(process.execPath, [
      CLI,
      ...["--log.level", level, "--web.listen-address", "192.0.2.1:0"],
    ]);
    expect(status).toBe(1);
    expect(stderr.includes("libbpf: ")).toBe(libbpf);
    expect(stderr.includes(" counts attempts")).toBe(info);
    expect(stderr).toContain("cannot listen");
  }
});

function attempts(counts: Counts): { execve: number; execveat: number } {
  if (!counts.attempts) throw new Error("attempts are not counted");
  return counts.attempts;
}

function missed(counts: Counts): number {
  if (counts.missed === null) throw new Error("this kernel does not say what it skips");
  return counts.missed;
}

interface Row {
  formatted: { key: string; value: number };
}

function bpftoolCounters(id: number): Record<string, number> {
  const rows = JSON.parse(sh(BPFTOOL, ["-j", "map", "dump", "id", String(id)])) as Row[];
  return Object.fromEntries(rows.map(({ formatted: { key, value } }) => [key, value]));
}
