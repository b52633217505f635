import { spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import {
  type Counts,
  DENY,
  has32Bit,
  Meter,
  result,
  STORM,
  sample,
  sh,
  steady,
  until,
} from "../support/meter.ts";
import { changeSetting } from "../support/settings.mjs";

let directory: string;
let meter: Meter;
let before: Counts;
let unaccountedBefore: number;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  meter = await Meter.start(["--failures"]);
});

beforeEach(async () => {
  before = await meter.counts();
  unaccountedBefore = await steady(async () => unaccounted(await meter.counts()));
});

afterAll(async () => {
  await meter?.stop();
  rmSync(directory, { recursive: true });
});

function file(name: string, content: string | Buffer, mode = 0o755): string {
  const path = join(directory, name);
  writeFileSync(path, content, { mode });
  return path;
}

type Call = "execve" | "execveat";

function failed(counts: Counts, call: Call, errno: string): number {
  if (!counts.failures) throw new Error("failures are not counted");
  return counts.failures[call][errno] ?? 0;
}

async function growth(call: Call, errno: string): Promise<number> {
  return failed(await meter.counts(), call, errno) - failed(before, call, errno);
}

/** Attempts less execs and failures; calls under way are in neither. */
function unaccounted({ attempts, execs, failures }: Counts): number {
  const sum = (counts: Record<string, number>) => Object.values(counts).reduce((a, b) => a + b, 0);
  if (!attempts || !failures) throw new Error("not everything is counted");
  const { execve, execveat } = attempts;
  return execve + execveat - execs - sum(failures.execve) - sum(failures.execveat);
}

/** Waits until that many calls lack their outcome (or, where negative, their attempt). */
async function untilUnaccounted(expected: number): Promise<void> {
  await until(`${expected} calls unaccounted for`, async () => {
    return unaccounted(await meter.counts()) - unaccountedBefore === expected;
  });
}

test.each([
  ["ENOENT", () => "/nonexistent"],
  ["EACCES", () => file("no-program", "", 0o644)],
  ["ENOEXEC", () => file("nonsense", "nonsense")],
  ["ENOTDIR", () => join(file("file", ""), "below")],
  ["ENAMETOOLONG", () => `/${"x".repeat(256)}`],
  ["EISDIR or EACCES", () => directory],
  [
    "ELOOP",
    () => {
      symlinkSync("loop", join(directory, "loop"));
      return join(directory, "loop");
    },
  ],
])("a call that fails with %s is counted as that, for either call", async (names, make) => {
  const path = make();
  const errno = names.split(" ").at(-1) as string;
  sh(STORM, ["execveat", "2", "10000", path]);
  expect(await growth("execveat", errno)).toBe(20_000);
  sh(STORM, ["execve", "2", "10000", path]);
  // Shells that look along $PATH make such calls too.
  expect(await growth("execve", errno)).toBeGreaterThanOrEqual(20_000);
  expect(await growth("execve", errno)).toBeLessThan(30_000);
  const series = `execve_counter_failures_total{syscall="execveat",errno="${errno}"}`;
  expect(sample(await meter.metrics(), series)).toBe(
    failed(await meter.counts(), "execveat", errno),
  );
});

test("a program that is being written is ETXTBSY, arguments that are too long are E2BIG", async () => {
  const path = join(directory, "busy");
  copyFileSync("/bin/true", path);
  const fd = openSync(path, "r+");
  sh(STORM, ["execve", "1", "23", path]);
  closeSync(fd);
  expect(await growth("execve", "ETXTBSY")).toBe(23);
  for (let i = 0; i < 23; i++) spawnSync("/bin/true", ["x".repeat(1 << 18)]);
  expect(await growth("execve", "E2BIG")).toBe(23);
});

test("attempts are execs and failures, after a storm of each", async () => {
  sh(STORM, ["execve", "2", "200000"]);
  sh(STORM, ["execveat", "2", "200000"]);
  sh(STORM, ["spawn", "2", "500", "/bin/true"]);
  sh(STORM, ["spawnfd", "2", "500", "/bin/true"]);
  await untilUnaccounted(0);
});

test("a call by a thread other than the first is accounted for", async () => {
  for (let i = 0; i < 23; i++) sh(STORM, ["thread", "1", "1", "/bin/true"]);
  await untilUnaccounted(0);
});

// A program that cannot be put in the place of the old one, which is gone by then.
test("a program killed past the point of no return is a failed call", async () => {
  const elf = readFileSync(STORM);
  const [offset, size, count] = [
    elf.readBigUInt64LE(32),
    elf.readUInt16LE(54),
    elf.readUInt16LE(56),
  ];
  for (let i = 0; i < count; i++) {
    const header = Number(offset) + i * size;
    // Its segments would lie where no user's memory can.
    if (elf.readUInt32LE(header) === 1) elf.writeBigUInt64LE(0xffff_8000_0000_0000n, header + 16);
  }
  elf.writeUInt16LE(2, 16); // not relocatable: at these addresses, and no others
  const path = file("killed", elf);
  for (let i = 0; i < 23; i++) expect(spawnSync(path).signal).toBe("SIGSEGV");
  await untilUnaccounted(0);
  const { execve } = (await meter.counts()).failures ?? {};
  const grown = Object.entries(execve ?? {}).filter(
    ([errno, count]) => count - failed(before, "execve", errno) >= 23,
  );
  expect(grown).toHaveLength(1);
});

test("a call that a seccomp filter stops is a failure without an attempt", async () => {
  const { ENOENT } = constants.errno;
  sh(DENY, ["execveat", `${ENOENT}`, STORM, "execveat", "1", "100000"]);
  expect(await growth("execveat", "ENOENT")).toBe(100_000);
  await untilUnaccounted(-100_000);
});

test.runIf(has32Bit)("a 32-bit caller's failures are not seen, as its attempts", async () => {
  sh(STORM, ["int80", "1", "100000"]);
  await untilUnaccounted(0);
  sh(STORM, ["spawn32", "1", "23", "/bin/true"]);
  await untilUnaccounted(-23);
});

test("a program that the kernel starts is an exec without an attempt", async () => {
  const handler = file("handler", "#!/bin/sh\ncat >/dev/null\n");
  chmodSync(directory, 0o755);
  // The kernel looks for it from its own root, which may not be that of this process.
  const path = `|/proc/${process.pid}/root${handler}`;
  const putBack = changeSetting("/proc/sys/kernel/core_pattern", path);
  try {
    for (let i = 0; i < 3; i++) {
      const { signal } = spawnSync("/bin/sh", ["-c", "ulimit -c unlimited; kill -SEGV $$"]);
      expect(signal).toBe("SIGSEGV");
    }
  } finally {
    await putBack();
  }
  await untilUnaccounted(-3);
});

test("without --failures nothing of them is shown, and nothing is attached", async () => {
  const plain = await Meter.start();
  try {
    expect((await plain.counts()).failures).toBeUndefined();
    const exposition = await plain.metrics();
    expect(exposition).not.toContain("execve_counter_failures_total{");
    expect(exposition).not.toContain("sys_exit");
  } finally {
    await plain.stop();
  }
});

test("failures can be counted without attempts", async () => {
  const alone = await Meter.start(["--failures", "--attempts", "off"]);
  try {
    expect(alone.stderr).toContain("counts failures and execs");
    sh(STORM, ["execveat", "2", "10000"]);
    const counts = await alone.counts();
    expect(failed(counts, "execveat", "ENOENT")).toBe(20_000);
    expect(counts.attempts).toBeUndefined();
    const { status, stdout } = result(process.execPath, ["dist/cli.js", "--failures", "--check"]);
    expect(status).toBe(0);
    expect(stdout).toContain("attached to tracepoint/syscalls/sys_exit_execveat");
  } finally {
    await alone.stop();
  }
});
