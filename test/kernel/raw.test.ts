import { constants } from "node:os";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  type Counts,
  DENY,
  has32Bit,
  Meter,
  result,
  STORM,
  sh,
  steady,
  until,
} from "../support/meter.ts";

let raw: Meter;
let tracepoint: Meter;

beforeAll(async () => {
  raw = await Meter.start(["--attempts", "raw", "--failures"]);
  tracepoint = await Meter.start(["--failures"]);
});

afterAll(async () => {
  await raw?.stop();
  await tracepoint?.stop();
});

/** What a storm adds to the counts. */
async function growth(meter: Meter, storm: readonly string[], command = STORM) {
  const before = await meter.counts();
  sh(command, storm);
  const after = await meter.counts();
  const failed = ({ failures }: Counts, call: "execve" | "execveat") =>
    failures?.[call].ENOENT ?? 0;
  return {
    execve: (after.attempts?.execve ?? 0) - (before.attempts?.execve ?? 0),
    execveat: (after.attempts?.execveat ?? 0) - (before.attempts?.execveat ?? 0),
    failedExecve: failed(after, "execve") - failed(before, "execve"),
    failedExecveat: failed(after, "execveat") - failed(before, "execveat"),
    execs: after.execs - before.execs,
  };
}

test("a storm on two threads is counted once each", async () => {
  const execveat = await growth(raw, ["execveat", "2", "1000000"]);
  expect(execveat.execveat).toBe(2_000_000);
  expect(execveat.failedExecveat).toBe(2_000_000);
  const execve = await growth(raw, ["execve", "2", "1000000"]);
  expect(execve.execve).toBeGreaterThanOrEqual(2_000_001);
  expect(execve.execve).toBeLessThan(2_100_000);
  expect(execve.failedExecve).toBeGreaterThanOrEqual(2_000_000);
  expect(execve.failedExecve).toBeLessThan(2_100_000);
});

test.runIf(has32Bit)("32-bit callers are counted too, and accounted for", async () => {
  const failing = await growth(raw, ["int80", "1", "200000"]);
  expect(failing.execve).toBeGreaterThanOrEqual(200_001);
  expect(failing.execve).toBeLessThan(300_000);
  expect(failing.failedExecve).toBeGreaterThanOrEqual(200_000);
  const starting = await growth(raw, ["spawn32", "1", "23", "/bin/true"]);
  expect(starting.execve).toBeGreaterThanOrEqual(24);
  expect(starting.execs).toBeGreaterThanOrEqual(24);
});

test("other system calls are none of them, whatever their numbers are", async () => {
  const other = await growth(raw, ["getppid", "2", "1000000"]);
  expect(other.execve).toBeLessThan(100_000);
  // 64-bit munmap has the number of 32-bit execve: each thread unmaps a page so often.
  const unmapping = await growth(raw, ["munmap", "2", "200000"]);
  expect(unmapping.execve).toBeLessThan(100_000);
  expect(unmapping.execveat).toBe(0);
});

test("attempts are execs and failures, with 32-bit callers too", async () => {
  const unaccounted = async () => {
    const { attempts, execs, failures } = await raw.counts();
    if (!attempts || !failures) throw new Error("not everything is counted");
    const failed = [failures.execve, failures.execveat].flatMap((each) => Object.values(each));
    return attempts.execve + attempts.execveat - execs - failed.reduce((a, b) => a + b, 0);
  };
  const before = await steady(unaccounted);
  sh(STORM, ["spawn", "2", "200", "/bin/true"]);
  sh(STORM, ["execveat", "2", "100000"]);
  if (has32Bit) sh(STORM, ["spawn32", "1", "23", "/bin/true"]);
  await until("an even account", async () => (await unaccounted()) === before);
});

test("a call that a seccomp filter stops is no attempt", async () => {
  const { ENOENT } = constants.errno;
  const stopped = ["execveat", `${ENOENT}`, STORM, "execveat", "1", "100000"];
  const { execveat, failedExecveat } = await growth(raw, stopped, DENY);
  expect({ execveat, failedExecveat }).toEqual({ execveat: 0, failedExecveat: 100_000 });
});

test("both hooks count the same", async () => {
  const sum = async (meter: Meter) => (await meter.counts()).attempts?.execveat ?? Number.NaN;
  const [first, second] = [await sum(raw), await sum(tracepoint)];
  sh(STORM, ["execveat", "2", "500000"]);
  expect((await sum(raw)) - first).toBe(1_000_000);
  expect((await sum(tracepoint)) - second).toBe(1_000_000);
});

test("it attaches to nothing that needs tracefs or perf events", () => {
  const args = ["dist/cli.js", "--check", "--attempts", "raw", "--failures"];
  const { status, stdout, stderr } = result("strace", [
    ...["--follow-forks", "--trace=perf_event_open,fsopen,openat", process.execPath, ...args],
  ]);
  expect(status).toBe(0);
  expect(stderr).toContain("execve_counter.bpf.o");
  expect(stderr).not.toMatch(/perf_event_open|fsopen|tracing/);
  expect(stdout).toContain("count_attempts");
  expect(stdout).toContain("count_failures");
});
