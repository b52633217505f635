import { chmodSync, copyFileSync, linkSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  type Counts,
  Meter,
  SLOW_NAMES,
  STORM,
  sample,
  sh,
  steady,
  uniqueName,
  until,
} from "../support/meter.ts";
import { changeSetting } from "../support/settings.mjs";

let directory: string;
let witness: Meter;
const prefix = `ec${uniqueName().slice(-4)}`;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  chmodSync(directory, 0o755);
  copyFileSync("/bin/true", join(directory, prefix));
  witness = await Meter.start(["--by", "command", "--max-series", "65536"]);
});

afterAll(async () => {
  await witness?.stop();
  rmSync(directory, { recursive: true });
});

/** A program that does nothing, under a name of its own. */
function program(name: string | Buffer): string {
  const path = Buffer.concat([Buffer.from(`${directory}/`), Buffer.from(name)]);
  linkSync(join(directory, prefix), path);
  return path.toString();
}

function programs(count: number, tag: string): string[] {
  return Array.from({ length: count }, (_, i) => program(`${prefix}${tag}${i}`));
}

type Row = NonNullable<Counts["execs_by"]>[number];

async function rows(meter: Meter): Promise<Row[]> {
  return (await meter.counts()).execs_by ?? [];
}

/** The rows of the programs that these tests made, by command. */
function ours(all: readonly Row[]): Row[] {
  const mine = all.filter(({ command }) => command?.startsWith(prefix));
  return mine.sort((a, b) => (`${a.command}` < `${b.command}` ? -1 : 1));
}

const total = (all: readonly Row[]) => all.reduce((sum, { execs }) => sum + execs, 0);
const other = (all: readonly Row[]) => all.find(({ command }) => command === "other")?.execs;

test.each([0, 1, 10, 11, 12, 13, 16, 128])(
  "a table of 16 rows, %i distinct commands: what fits is exact, and the rest is other",
  async (distinct) => {
    const RUNS = 23;
    const run = programs(distinct, `-${distinct}-`);
    // What others start meanwhile takes rows, or is other too. A meter with a large
    // table knows how much that is; on a quiet machine it is nothing.
    const before = await rows(witness);
    const meter = await Meter.start(["--by", "command", "--max-series", "16"]);
    try {
      if (distinct > 0) sh(STORM, ["spawn", "2", `${RUNS}`, ...run]);
      const all = await rows(meter);
      const exposition = await meter.metrics();
      const seen = (await rows(witness)).filter(({ command, execs }) => {
        const known = before.find((row) => row.command === command)?.execs ?? 0;
        return execs > known && !command?.startsWith(prefix);
      });
      // Less the meter itself, which was started before it counted, and the storm.
      const starts =
        total(seen) -
        total(before.filter(({ command }) => seen.some((row) => row.command === command)));
      const foreign = starts - 1 - (distinct > 0 ? 1 : 0);

      const kept = ours(all);
      for (const row of kept) expect(row.execs).toBe(2 * RUNS);
      const overflow = (distinct - kept.length) * 2 * RUNS;
      expect(other(all)).toBeGreaterThanOrEqual(overflow);
      expect(other(all)).toBeLessThanOrEqual(overflow + foreign);
      // One user gets 12 rows beside that for all others; one of them is the storm's.
      expect(kept.length).toBeGreaterThanOrEqual(Math.min(distinct, 11 - foreign));
      expect(kept.length).toBeLessThanOrEqual(Math.min(distinct, 11));
      if (kept.length < distinct) expect(all.length).toBeGreaterThanOrEqual(13);
      expect(total(all)).toBeGreaterThanOrEqual(2 * RUNS * distinct);
      expect(total(all)).toBeLessThanOrEqual(2 * RUNS * distinct + 1 + foreign);

      const entries = sample(exposition, 'execve_counter_table_entries{table="execs"}');
      expect(entries).toBeGreaterThanOrEqual(all.length);
      expect(sample(exposition, 'execve_counter_table_capacity{table="execs"}')).toBe(16);
      expect(meter.stderr.includes("find no room in the table by command")).toBe(
        (other(all) ?? 0) > 0,
      );
    } finally {
      await meter.stop();
    }
  },
);

test("that the table has no room is said once", async () => {
  const meter = await Meter.start([
    ...["--by", "command", "--max-series", "16", "--interval", "100ms"],
  ]);
  try {
    sh(STORM, ["spawn", "1", "1", ...programs(20, "+")]);
    await until("the word", () => meter.stderr.includes("larger --max-series"));
    const { length } = meter.lines;
    await until("more lines", () => meter.lines.length > length + 10);
    expect(meter.stderr.match(/find no room/g)).toHaveLength(1);
    expect(meter.stderr).toContain("and count as other");
  } finally {
    await meter.stop();
  }
});

test("users that start programs under ever new names leave room for the next", async () => {
  const [ROWS, NAMES, UID] = [256, 300, 71_000];
  const run = programs(NAMES, "n");
  const meter = await Meter.start(["--by", "command,user", "--max-series", `${ROWS}`]);
  try {
    let [taken, kept] = [1, 0];
    for (let user = 0; user < 3; user++) {
      sh(STORM, ["spawnas", "1", "1", `${UID + user}`, ...run]);
      const all = await rows(meter);
      const own = all.filter(({ user: name }) => name === `${UID + user}`);
      for (const { execs } of own) expect(execs).toBe(1);
      // Three times as many as are left, once it has them.
      const foreign = all.length - 1 - kept - own.length;
      const most = Math.ceil((3 * (ROWS - taken)) / 4);
      expect(own.length).toBeLessThanOrEqual(most);
      expect(own.length).toBeGreaterThanOrEqual(most - 3 * foreign);
      kept += own.length;
      taken = all.length;
      const rest = (user + 1) * NAMES - kept;
      expect(other(all)).toBeGreaterThanOrEqual(rest);
      expect(other(all)).toBeLessThanOrEqual(rest + foreign);
      const { execs } = await meter.counts();
      expect(total(all)).toBeLessThanOrEqual(execs);
    }
    sh(STORM, ["spawnas", "1", "23", `${UID + 3}`, run[0] as string]);
    const last = (await rows(meter)).filter(({ user }) => user === `${UID + 3}`);
    expect(last.map(({ execs }) => execs)).toEqual([23]);
  } finally {
    await meter.stop();
  }
});

test("two CPUs that make many rows at once lose none, user by user", async () => {
  const [RUNS, THREADS, UID] = [20, 2, 70_000];
  const run = programs(60, "x");
  const meter = await Meter.start(["--by", "command,user"]);
  try {
    sh(STORM, ["spawnas", `${THREADS}`, `${RUNS}`, `${UID}`, ...run]);
    const { execs_by = [] } = await meter.counts();
    const mine = ours(execs_by);
    expect(mine).toHaveLength(60 * THREADS);
    for (const { command, user, execs } of mine) {
      expect([command, `${UID}`, `${UID + 1}`]).toContain(user);
      expect(execs).toBe(RUNS);
    }
    expect(other(execs_by)).toBe(0);
  } finally {
    await meter.stop();
  }
});

test("two CPUs that make the same row at once count both, again and again", async () => {
  const meter = await Meter.start(["--by", "command", "--max-series", "65536"]);
  try {
    const run = programs(500, "r");
    sh(STORM, ["spawn", "2", "1", ...run]);
    expect(ours(await rows(meter)).map(({ execs }) => execs)).toEqual(run.map(() => 2));
  } finally {
    await meter.stop();
  }
});

test("the sum over all rows is the number of runs of the program, at every moment", async () => {
  // The kernel's own count of them, where it is asked to keep one.
  const meter = await Meter.start(["--by", "command,user,container", "--max-series", "16"]);
  const putBack = changeSetting("/proc/sys/kernel/bpf_stats_enabled", "1");
  const runs = async () => {
    const exposition = await meter.metrics();
    const lines = exposition
      .split("\n")
      .filter((line) => /^execve_counter_execs_total\{/.test(line));
    const sum = lines.reduce((before, line) => before + Number(line.split(" ").at(-1)), 0);
    return [
      sum,
      sample(exposition, 'execve_counter_program_run_count_total{program="count_exec"}'),
    ] as const;
  };
  try {
    const difference = async () => {
      const [sum, count] = await runs();
      return sum - count;
    };
    const before = await steady(difference);
    const [first] = await runs();
    sh(STORM, ["spawn", "2", "20", ...programs(40, "s")]);
    // A program that starts between the reads of the map and of the count is in one alone.
    await until("an equal increase of both", async () => {
      const [sum] = await runs();
      expect(sum - first).toBeGreaterThanOrEqual(1600);
      return (await difference()) === before;
    });
  } finally {
    await putBack();
    await meter.stop();
  }
});

test("a user has the account's name, and the number where there is none", async () => {
  const meter = await Meter.start(["--by", "user"]);
  try {
    const run = program(`${prefix}u`);
    const before = await rows(meter);
    sh(STORM, ["spawnas", "1", "23", "65534", run]);
    sh(STORM, ["spawnas", "1", "23", "70000", run]);
    const after = await rows(meter);
    const grown = (name: string) =>
      (after.find(({ user }) => user === name)?.execs ?? 0) -
      (before.find(({ user }) => user === name)?.execs ?? 0);
    expect(grown("nobody")).toBeGreaterThanOrEqual(23);
    expect(grown("nobody")).toBeLessThan(30);
    expect(grown("70000")).toBe(23);
    expect(grown("root")).toBeGreaterThanOrEqual(2);
    expect(Object.keys(after[0] as Row)).toEqual(["user", "execs"]);
  } finally {
    await meter.stop();
  }
});

test("a directory service that hangs holds up nothing: users are numbers until it answers", async () => {
  const env = { ...process.env, ...SLOW_NAMES, SLOW_NAMES: "12" };
  const meter = await Meter.start(["--by", "user", "-i", "100ms"], { env });
  try {
    const users = async () => (await rows(meter)).map(({ user }) => user);
    const begin = performance.now();
    let lines = 0;
    while (performance.now() < begin + 7000) {
      const before = performance.now();
      expect((await meter.get("/-/healthy")).status).toBe(200);
      expect(performance.now() - before).toBeLessThan(1000);
      expect(await users()).not.toContain("root");
      await sleep(500);
      expect(meter.lines.length).toBeGreaterThan(lines);
      lines = meter.lines.length;
    }
    sh(STORM, ["spawnas", "1", "1", "70000", "/bin/true"]);
    expect(await users()).toContain("0");
    expect(await users()).toContain("70000");
    await until("the name", async () => (await users()).includes("root"));
    expect(await users()).not.toContain("0");
    // It is asking for 70000 now.
    const before = performance.now();
    expect(await meter.stop()).toBe(0);
    expect(performance.now() - before).toBeLessThan(5000);
  } finally {
    await meter.stop();
  }
});

test("scripts, threads, file descriptors and long names are each counted once, by name", async () => {
  const script = `${prefix}.sh`;
  const [fifteen, sixteen, sixtyFour] = [15, 16, 64].map((length) => prefix.padEnd(length, "n"));
  writeFileSync(join(directory, script), "#!/bin/sh\nexit 0\n", { mode: 0o755 });
  const meter = await Meter.start(["--by", "command", "--output", "json"]);
  try {
    sh(STORM, ["spawn", "2", "23", join(directory, script)]);
    for (let i = 0; i < 23; i++) sh(STORM, ["thread", "1", "1", program(`${prefix}t${i}`)]);
    sh(STORM, ["spawnfd", "1", "23", program(`${prefix}fd`)]);
    const long = [fifteen, sixteen, sixtyFour].map((name) => program(name as string));
    sh(STORM, ["spawn", "1", "23", ...long]);
    const counts = new Map((await rows(meter)).map(({ command, execs }) => [command, execs]));
    expect(counts.get(script)).toBe(46);
    for (let i = 0; i < 23; i++) expect(counts.get(`${prefix}t${i}`)).toBe(1);
    // All three are one to the kernel.
    expect(counts.get(fifteen)).toBe(69);
    const [major = 0, minor = 0] = release().split(".").map(Number);
    const namesDescriptors = major > 6 || (major === 6 && minor >= 14);
    if (namesDescriptors) expect(counts.get(`${prefix}fd`)).toBe(23);
    else expect(counts.get("3")).toBeGreaterThanOrEqual(23);
  } finally {
    await meter.stop();
  }
});

test("a command may be called anything: it is in no other series, and whole in its own", async () => {
  const names = [
    ...['a"b', "a\\b", "a\nb", "{}=,", "#", " ", "\x1b[31m", "ä".repeat(7), "🐚🐚🐚"],
    Buffer.from([0x61, 0xff, 0xfe]), // no UTF-8
    `${"x".repeat(14)}ä`, // cut in the middle of a character
  ];
  const meter = await Meter.start(["--by", "command", "--interval", "100ms"]);
  try {
    for (const [i, name] of names.entries()) {
      // By a shell, because Node.js cannot pass a path that is no UTF-8.
      const octal = [...Buffer.from(name)].map((byte) => `\\${byte.toString(8).padStart(3, "0")}`);
      program(name);
      sh("sh", [
        "-c",
        `cd ${directory}; n=$(printf '${octal.join("")}.'); for i in $(seq ${i + 1}); do "./\${n%.}"; done`,
      ]);
    }
    const shown = new Map((await rows(meter)).map(({ command, execs }) => [command, execs]));
    const kept = names.map((name) => Buffer.from(name).subarray(0, 15).toString());
    for (const [i, name] of kept.entries()) expect(shown.get(name)).toBe(i + 1);
    await until("their lines", () => meter.stdout.includes("🐚🐚🐚"));
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
    expect(meter.stdout).not.toMatch(/[\x00-\x09\x0b-\x1f]/);
  } finally {
    await meter.stop();
  }
});
