// Calls are followed from their entry, where it is known which call it is, to their end.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isAtLeast } from "../../src/kernel/release.ts";
import { lateFile } from "../support/late.mjs";
import {
  BPFTOOL,
  type Counts,
  has32Bit,
  loadedBy,
  Meter,
  result,
  STORM,
  sample,
  sh,
  steady,
  uniqueName,
  until,
} from "../support/meter.ts";

const HOOKS = ["tracepoint", "raw"] as const;
type Hook = (typeof HOOKS)[number];
type Call = "execve" | "execveat";

let directory: string;
const files: Record<32 | 64, string> = { 32: "", 64: "" };
const pins = `/sys/fs/bpf/${uniqueName()}`;
const meters: Partial<Record<Hook, Meter>> = {};

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  for (const bits of [32, 64] as const) {
    files[bits] = join(directory, `late${bits}`);
    writeFileSync(files[bits], lateFile(bits), { mode: 0o755 });
  }
  for (const hook of HOOKS) meters[hook] = await start(hook);
});

afterAll(async () => {
  for (const meter of Object.values(meters)) await meter.stop();
  rmSync(directory, { recursive: true });
});

const start = (hook: Hook, ...flags: string[]) =>
  Meter.start(["--failures", "--attempts", hook, ...flags]);

function sums({ attempts, execs, failures, checks = 0 }: Counts) {
  const sum = (counts: Record<string, number> = {}) =>
    Object.values(counts).reduce((total, count) => total + count, 0);
  return {
    unaccounted: sum(attempts) - execs - sum(failures?.execve) - sum(failures?.execveat) - checks,
    ...{ execve: attempts?.execve ?? 0, execveat: attempts?.execveat ?? 0, checks, execs },
    invalid: failures?.execve.EINVAL ?? 0,
    invalidAt: failures?.execveat.EINVAL ?? 0,
    unknown: (failures?.execve.unknown ?? 0) + (failures?.execveat.unknown ?? 0),
    noCall: (failures?.execve.ENOSYS ?? 0) + (failures?.execve.ENOENT ?? 0),
    noCallAt: (failures?.execveat.ENOSYS ?? 0) + (failures?.execveat.ENOENT ?? 0),
  };
}

/**
 * What the work adds to the counts, once every attempt's end is known. Execs while the programs
 * are attached, and those of the kernel itself, have no attempt: before is not always even.
 */
async function growth(meter: Meter, work: () => void) {
  const even = (reference: number) =>
    until("an even account", async () => {
      const now = sums(await meter.counts());
      return now.unaccounted === reference && now;
    });
  const unaccounted = async () => sums(await meter.counts()).unaccounted;
  const before = await even(await steady(unaccounted));
  work();
  const after = await even(before.unaccounted);
  const grown = { ...after };
  for (const name of Object.keys(before) as (keyof typeof before)[]) grown[name] -= before[name];
  return grown;
}

const CASES = HOOKS.flatMap((hook) =>
  ([64, 32] as const).flatMap((bits) =>
    (["execve", "execveat"] as const).map((call): [Hook, 32 | 64, Call] => [hook, bits, call]),
  ),
);

test.each(CASES)(
  "%s: a %i-bit program refused late is a failure of %s, by its errno",
  async (hook, bits, call) => {
    const [mode, thread] = call === "execve" ? ["killed", "thread"] : ["killedfd", "threadfd"];
    const grown = await growth(meters[hook] as Meter, () => {
      sh(STORM, [mode, "2", "500", files[bits]]);
      for (let i = 0; i < 23; i++) result(STORM, [thread, "1", "1", files[bits]]);
    });
    const [execve, execveat] = call === "execve" ? [1023, 0] : [0, 1023];
    expect(grown).toMatchObject({ execveat, invalid: execve, invalidAt: execveat, unknown: 0 });
    // The storms themselves are 24.
    expect(grown.execve).toBeGreaterThanOrEqual(execve + 24);
    expect(grown.execve).toBeLessThan(execve + 900);
  },
);

test.runIf(has32Bit).each(CASES)(
  "%s: of a %i-bit program refused late, %s by int $0x80 is counted whole, or not at all",
  async (hook, bits, call) => {
    const grown = await growth(meters[hook] as Meter, () => {
      sh(STORM, [call === "execve" ? "killed32" : "killed32fd", "1", "1000", files[bits]]);
    });
    const seen = hook === "raw" ? 1000 : 0;
    const [execve, execveat] = call === "execve" ? [seen, 0] : [0, seen];
    expect(grown).toMatchObject({ execveat, invalid: execve, invalidAt: execveat, unknown: 0 });
    expect(grown.execve).toBeGreaterThan(execve);
    expect(grown.execve).toBeLessThan(execve + 900);
  },
);

// A kernel without x32 says ENOSYS, which is a failed call too.
test.runIf(process.arch === "x64").each(HOOKS)("%s: an x32 program's calls", async (hook) => {
  const grown = await growth(meters[hook] as Meter, () => {
    sh(STORM, ["x32", "1", "10000"]);
    sh(STORM, ["x32at", "1", "20000"]);
  });
  const seen = hook === "raw" ? 10_000 : 0;
  expect(grown).toMatchObject({ execveat: 2 * seen, noCallAt: 2 * seen, unknown: 0 });
  expect(grown.noCall).toBeGreaterThanOrEqual(seen);
  expect(grown.noCall).toBeLessThan(seen + 1000);
});

test.runIf(isAtLeast(release(), 6, 14)).each(HOOKS)(
  "%s: a call that only asks is neither an exec nor a failure, and counted as that",
  async (hook) => {
    const meter = meters[hook] as Meter;
    const grown = await growth(meter, () => sh(STORM, ["check", "2", "10000", STORM]));
    expect(grown).toMatchObject({ execveat: 20_000, checks: 20_000, unknown: 0 });
    expect(grown.execs).toBeLessThan(100);
    const checks = sample(await meter.metrics(), "execve_counter_checks_total");
    expect(checks).toBe((await meter.counts()).checks);
    const refused = await growth(meter, () => result(STORM, ["check", "1", "1", directory]));
    expect(refused).toMatchObject({ execveat: 1, checks: 0 });
  },
);

test.each(HOOKS)("%s: what has no room to be followed is said, and counted", async (hook) => {
  const meter = await start(hook);
  try {
    expect(sample(await meter.metrics(), "execve_counter_unfollowed_total")).toBe(0);
    const ids = loadedBy(meter.pid).map.map(
      (id) =>
        JSON.parse(sh(BPFTOOL, ["-j", "map", "show", "id", `${id}`])) as Record<string, unknown>,
    );
    const calls = ids.find(({ name }) => name === "calls") as { id: number; max_entries: number };
    const entries = Array.from({ length: calls.max_entries }, (_, i) => {
      const key = [i & 255, i >> 8, 0, 0, 0, 0, 0, 0].join(" ");
      return `map update id ${calls.id} key ${key} value 0 0 0 0 0 0 0 0 noexist\n`;
    });
    const batch = join(directory, "batch");
    writeFileSync(batch, entries.join(""));
    // The last of them find the map full if another process makes a call meanwhile.
    result(BPFTOOL, ["batch", "file", batch]);
    const before = await meter.counts();
    sh(STORM, ["execveat", "1", "10000"]);
    const after = await meter.counts();
    expect(after.unfollowed).toBeGreaterThanOrEqual((before.unfollowed ?? 0) + 10_000);
    expect(sample(await meter.metrics(), "execve_counter_unfollowed_total")).toBeGreaterThan(9_999);
    expect(sums(after).noCallAt - sums(before).noCallAt).toBe(10_000);
  } finally {
    await meter.stop();
  }
});

test.each(HOOKS)("%s: while no agent runs, pinned programs follow calls too", async (hook) => {
  try {
    await (await start(hook, "--pin", pins)).stop();
    for (const bits of [32, 64] as const) sh(STORM, ["killedfd", "1", "500", files[bits]]);
    const meter = await start(hook, "--pin", pins);
    const { execveat, invalidAt, unknown } = sums(await meter.counts());
    expect({ execveat, invalidAt, unknown }).toEqual({
      execveat: 1000,
      invalidAt: 1000,
      unknown: 0,
    });

    // An end that is not seen, here because the test empties a slot: the errno is lost, no call is.
    await meter.stop();
    const exit = hook === "raw" ? "count_failures" : "count_execveat_failure";
    sh(BPFTOOL, ["map", "delete", "pinned", `${pins}/v3/next_${exit}`, "key", "0", "0", "0", "0"]);
    sh(STORM, ["execveat", "1", "500"]);
    const next = await start(hook, "--pin", pins);
    const after = sums(await next.counts());
    expect(after).toMatchObject({ execveat: 1500, invalidAt: 1000, noCallAt: 0, unaccounted: 0 });
    expect((await next.counts()).failures?.execveat.unknown).toBe(500);
    await next.stop();
  } finally {
    result(process.execPath, ["dist/cli.js", "unpin", pins]);
  }
});

test("without attempts failures are followed too, and the flags are not those of a meter with", async () => {
  try {
    const flags = ["--failures", "--attempts", "off", "--pin", pins];
    const meter = await Meter.start(flags);
    const storm = () => sh(STORM, ["killedfd", "1", "500", files[32]]);
    const before = sums(await meter.counts());
    storm();
    await until("failures", async () => {
      return sums(await meter.counts()).invalidAt - before.invalidAt === 500;
    });
    expect((await meter.counts()).attempts).toBeUndefined();
    await meter.stop();
    const other = result(process.execPath, ["dist/cli.js", "--failures", "--pin", pins]);
    expect(other.status).toBe(1);
    expect(other.stderr).toContain(
      "were started with --attempts off; this start asks for --attempts tracepoint",
    );
  } finally {
    result(process.execPath, ["dist/cli.js", "unpin", pins]);
  }
});
