import { randomBytes, randomInt } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import {
  type Execs,
  loadAddon,
  OTHER_ROW,
  RETIRED_ROW,
  type Session,
} from "../../src/kernel/addon.ts";
import { projectPath } from "../support/files.ts";
import { Groups } from "../support/groups.ts";
import { Meter, result, sample, sh, uniqueName, until } from "../support/meter.ts";
import { Runc, version1 } from "../support/runc.ts";

const OBJECT = projectPath("dist/execve_counter.bpf.o");
const PROGRAMS = ["count_exec", "end_group"];
const FLAGS = ["command", "container", "unit", ...(version1 ? ["cgroup_v1"] : [])];
const addon = loadAddon();

let mounted = false;
let groups: Groups;
let program: string;
let pins: string;
const open = new Set<{ close(): void }>();

beforeAll(() => {
  mounted = result("mountpoint", ["-q", "/sys/fs/bpf"]).status === 0;
  if (!mounted) sh("mount", ["-t", "bpf", "bpf", "/sys/fs/bpf"]);
});

beforeEach(() => {
  groups = new Groups();
  program = groups.program(uniqueName());
  pins = `/sys/fs/bpf/${uniqueName()}`;
});

afterEach(() => {
  for (const each of open) each.close();
  open.clear();
  if (existsSync(pins)) sh("rm", ["-r", pins]);
  groups.remove();
});

afterAll(() => {
  if (!mounted) sh("umount", ["/sys/fs/bpf"]);
});

function counting(options: object = {}): Session {
  const session = opened(new addon.Session(OBJECT, () => {}));
  session.load({ programs: PROGRAMS, flags: FLAGS, rows: 1024, ...options });
  session.begin(Date.now());
  for (const name of PROGRAMS.toReversed()) session.attach(name);
  return session;
}

function opened<Opened extends { close(): void }>(each: Opened): Opened {
  open.add(each);
  return each;
}

function close(each: { close(): void }): void {
  open.delete(each);
  each.close();
}

/** The counts by label, of these commands and of what has retired: "command container unit". */
function countsOf(execs: Execs, commands: readonly string[] = [program]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const [i, kind] of execs.kinds.entries()) {
    const at = (label: "command" | "container" | "unit") => execs.labels[label]?.[i] ?? "";
    if (kind === OTHER_ROW) continue;
    if (kind !== RETIRED_ROW && !commands.includes(at("command"))) continue;
    const key =
      kind === RETIRED_ROW
        ? "retired"
        : `${at("command")} ${at("container").slice(0, 4)} ${at("unit")}`.trim();
    counts[key] = (counts[key] ?? 0) + Number(execs.counts[i]);
  }
  return counts;
}

/** In the next millisecond: what has just ended has ended before. */
const now = () => addon.bootTime() + 1;

const id = (start: string) => start.padEnd(64, "0");

test("a row retires when its container has ended, and not before", () => {
  const session = counting();
  groups.run(program, 3, id("a1"), id("b2"));
  groups.end(id("a1"));
  const counts = { [`${program} a100`]: 3, [`${program} b200`]: 3, retired: 0 };
  expect(countsOf(session.readExecs())).toEqual(counts);
  expect(session.retire(addon.bootTime() - 60_000)).toBe(0);
  expect(countsOf(session.readExecs())).toEqual(counts);
  expect(session.retire(now())).toBe(1);
  expect(countsOf(session.readExecs())).toEqual({ [`${program} b200`]: 3, retired: 3 });
  expect(session.readExecs().retired).toBe(1n);
  expect(session.retire(now())).toBe(0);
  groups.end(id("b2"));
  expect(session.retire(now())).toBe(1);
  expect(countsOf(session.readExecs())).toEqual({ retired: 6 });
});

test("a container's own groups end without it", () => {
  const session = counting();
  const inner = join(id("a1"), "app.service");
  groups.run(program, 2, id("a1"), inner);
  groups.end(inner);
  expect(session.retire(now())).toBe(1);
  expect(countsOf(session.readExecs())).toEqual({ [`${program} a100`]: 2, retired: 2 });
});

test("a unit that is started again goes on, whatever ended before", () => {
  const session = counting();
  for (let i = 1; i <= 5; i++) {
    groups.run(program, 2, "timer.service");
    groups.end("timer.service");
    // Its rows may be added to each other, and stay.
    expect(session.retire(0)).toBe(0);
    const counts = countsOf(session.readExecs());
    expect(counts).toEqual({ [`${program}  timer.service`]: 2 * i, retired: 0 });
  }
  const rows = () => countsOfRows(session);
  expect(rows()).toBe(1);
  groups.run(program, 1, "timer.service");
  expect(session.retire(now())).toBe(0);
  expect(countsOf(session.readExecs())).toEqual({ [`${program}  timer.service`]: 11, retired: 0 });
  expect(rows()).toBe(2);
  groups.end("timer.service");
  expect(session.retire(now())).toBeGreaterThan(0);
  expect(countsOf(session.readExecs())).toEqual({ retired: 11 });
});

test("a unit whose name systemd has escaped is that unit, and one of seven letters is one", () => {
  const session = counting();
  groups.run(program, 2, "_x.service", "a.scope");
  groups.run(program, 1, "x.service");
  groups.end("_x.service");
  const counts = { [`${program}  x.service`]: 3, [`${program}  a.scope`]: 2, retired: 0 };
  expect(countsOf(session.readExecs())).toEqual(counts);
  session.retire(now());
  expect(countsOf(session.readExecs())).toEqual(counts);
  groups.end("x.service");
  session.retire(now());
  expect(countsOf(session.readExecs())).toEqual({ [`${program}  a.scope`]: 2, retired: 3 });
});

test("a user who makes groups with names of containers has one share", async () => {
  const [ROWS, UID] = [32, 72_000];
  const session = counting({ rows: ROWS, flags: FLAGS.filter((flag) => flag !== "command") });
  const names = Array.from({ length: 40 }, (_, i) => id(`c${i.toString(16).padStart(2, "0")}`));
  for (const name of names) await groups.runAs(UID, "/bin/true", name);
  const { labels, counts, kinds } = session.readExecs();
  const own = names.filter((name) => labels.container?.includes(name));
  // Beside the rows of all others and of what retires, and that outside containers.
  expect(own.length).toBeLessThanOrEqual((3 * (ROWS - 2)) / 4 + 1);
  expect(own.length).toBeGreaterThan(16);
  expect(counts[kinds.indexOf(OTHER_ROW)]).toBe(BigInt(names.length - own.length));
  groups.run(program, 3, id("d1"));
  const after = session.readExecs();
  expect(after.counts[after.labels.container?.indexOf(id("d1")) ?? -1]).toBe(3n);
});

test("a container without an id stays unknown when its unit is started again", () => {
  const session = counting();
  const wrapper = groups.program(
    `${program.slice(0, 11)}-u`,
    `exec unshare --pid --fork ${groups.path(program)}`,
  );
  for (let i = 0; i < 3; i++) {
    groups.run(wrapper, 2, "x.service");
    groups.end("x.service");
    session.retire(0);
  }
  const counts = { [`${program} unkn x.service`]: 6, retired: 0 };
  expect(countsOf(session.readExecs())).toEqual(counts);
  expect(session.retire(now())).toBeGreaterThan(0);
  expect(countsOf(session.readExecs()).retired).toBeGreaterThanOrEqual(6);
});

/** Rows of the program in the kernel. */
function countsOfRows(session: Session): number {
  return (session.readExecs().labels.command ?? []).filter((name) => name === program).length;
}

test("a table of 16 rows has room for 100 containers, one after the other", () => {
  // By container alone, so that other programs of this machine take one row.
  const session = counting({ rows: 16, flags: FLAGS.filter((flag) => flag !== "command") });
  for (let i = 0; i < 100; i++) {
    const name = id(`f${i.toString(16).padStart(3, "0")}`);
    groups.run(program, 2, name);
    groups.end(name);
    const { labels, counts, kinds } = session.readExecs();
    expect(counts[labels.container?.indexOf(name) ?? -1], `container ${i}`).toBe(2n);
    expect(counts[kinds.indexOf(OTHER_ROW)]).toBe(0n);
    session.retire(now());
  }
  const { counts, kinds, retired } = session.readExecs();
  expect(counts[kinds.indexOf(RETIRED_ROW)]).toBe(200n);
  expect(retired).toBe(100n);
});

test("a container that starts programs under ever new names leaves room for the next", () => {
  const session = counting({ rows: 64 });
  const many = Array.from({ length: 80 }, (_, i) => groups.program(`${program.slice(0, 11)}-${i}`));
  for (const each of many) groups.run(each, 1, id("a1"));
  // Groups of its own are no container's.
  for (const [i, each] of many.entries()) groups.run(each, 1, join(id("a1"), `${i}.service`));
  groups.run(program, 5, id("b2"));
  const execs = session.readExecs();
  const own = countsOf(execs, many);
  expect(Object.keys(own).length - 1).toBeLessThanOrEqual((64 * 3) / 4);
  expect(countsOf(execs)).toEqual({ [`${program} b200`]: 5, retired: 0 });
  const rest = Object.values(own).reduce((sum, count) => sum - count, 160);
  expect(execs.counts[execs.kinds.indexOf(OTHER_ROW)]).toBeGreaterThanOrEqual(rest);
  // What has found no room has taken none.
  for (let i = 0; i < 80; i++) groups.end(join(id("a1"), `${i}.service`));
  groups.end(id("a1"));
  session.retire(now());
  expect(countsOf(session.readExecs(), many)).toEqual({ retired: 160 - rest });
});

test("in any order, every exec is in one row, and rows retire as a model says", () => {
  const seed = Number(process.env.SEED ?? randomInt(2 ** 31));
  const random = generator(seed);
  const pick = <Value>(all: readonly Value[]) => all[Math.floor(random() * all.length)] as Value;
  const programs = [program, groups.program(`${program.slice(0, 11)}-b`)];
  const names = [
    ...[id("a1"), id("b2"), `docker-${id("c3")}.scope`],
    ...["x.service", "y.service", `${id("d4")}/x.service`],
  ];
  const labelsOf = (name: string) => {
    const container = /[0-9a-f]{64}/.exec(name)?.[0].slice(0, 4) ?? "";
    return `${container} ${/[^/]+\.(service|scope)$/.exec(name)?.[0] ?? ""}`;
  };
  // By group, what has been counted in it, and whether it lives.
  const model = new Map<string, { counts: Map<string, number>; lives: boolean; was: boolean }>();
  for (const name of names) model.set(name, { counts: new Map(), lives: false, was: false });
  let retired = 0;
  let session = counting({ pins: pinsDirectory() });
  const steps: string[] = [];
  for (let i = 0; i < 150; i++) {
    const name = pick(names);
    const entry = model.get(name) as NonNullable<ReturnType<typeof model.get>>;
    const step = pick(["exec", "exec", "end", "end", "retire", "merge", "restart"]);
    steps.push(`${step} ${name}`);
    if (step === "exec") {
      const [which, times] = [pick(programs), 1 + Math.floor(random() * 3)];
      groups.run(which, times, name);
      entry.lives = true;
      entry.counts.set(which, (entry.counts.get(which) ?? 0) + times);
    } else if (step === "end" && entry.lives) {
      groups.end(name);
      entry.lives = false;
    } else if (step === "retire") {
      session.retire(now());
      for (const each of model.values()) {
        if (each.lives) continue;
        for (const count of each.counts.values()) retired += count;
        each.counts.clear();
      }
    } else if (step === "merge") {
      session.retire(0);
    } else if (step === "restart") {
      close(session);
      session = counting({ pins: join(pins, "v"), reuse: true });
    }
    const expected: Record<string, number> = { retired };
    for (const [group, { counts }] of model) {
      for (const [which, count] of counts) {
        expected[`${which} ${labelsOf(group)}`.trim()] = count;
      }
    }
    expect(countsOf(session.readExecs(), programs), `SEED=${seed}: ${steps.join(", ")}`).toEqual(
      expected,
    );
  }
});

test.each([
  ["killed at", "signal=KILL"],
  ["refused", "error=ENOMEM"],
])("%s any step, no exec is lost or counted twice, whoever reads", (_, injected) => {
  const options = { programs: PROGRAMS, flags: FLAGS, rows: 1024 };
  close(counting({ pins: pinsDirectory() }));
  const [trace, child] = [
    join(pinsLog(), "trace"),
    [process.execPath, projectPath("test/support/retire.mjs"), join(pins, "v")],
  ];
  const other = groups.program(`${program.slice(0, 11)}-b`);
  const fill = () => {
    for (const name of [id("a1"), "x.service", "x.service"]) {
      groups.run(program, 2, name);
      groups.run(other, 1, name);
      groups.end(name);
    }
  };
  const run = (mode: "in steps" | "at once", ...inject: string[]) => {
    const strace = ["-f", "-qq", "-o", trace, "--trace=bpf,write", ...inject];
    return result("strace", [...strace, ...child, JSON.stringify(options), mode]);
  };
  const sumOf = (execs: Execs) =>
    Object.values(countsOf(execs, [program, other])).reduce((sum, count) => sum + count, 0);
  const sums = () => {
    const follower = opened(new addon.Follower(OBJECT, () => {}, mapOf(pins)));
    follower.follow();
    const sum = sumOf(follower.readExecs());
    close(follower);
    return sum;
  };
  fill();
  let execs = 9;
  expect(run("in steps")).toMatchObject({ status: 0, stdout: "began\n4\n" });
  expect(sums()).toBe(execs);
  // The calls of bpf(2) from the first one after "began" on.
  const calls = readFileSync(trace, "utf8")
    .split("\n")
    .filter((line) => /^\d+ +(bpf\(|write\(1, "began)/.test(line));
  const began = calls.findIndex((line) => line.includes("began"));
  const all = calls.length - began - 1;
  expect(all).toBeGreaterThan(6 * 4);
  // Each of the first two rows' calls, and every fourth one of those that repeat them.
  for (let call = 1; call <= all; call += call < 20 ? 1 : 4) {
    fill();
    execs += 9;
    const { stdout } = run("in steps", `--inject=bpf:${injected}:when=${began + call}`);
    // The last step of a move says that it is over: where it is refused, the next one says so.
    if (injected.startsWith("signal")) expect(stdout, `call ${call} of ${all}`).toBe("began\n");
    else
      expect(readFileSync(trace, "utf8")).toContain("ENOMEM (Cannot allocate memory) (INJECTED)");
    expect(sums(), `call ${call} of ${all}`).toBe(execs);
    expect(run(call % 8 < 4 ? "in steps" : "at once")).toMatchObject({ status: 0 });
    expect(sums(), `after call ${call} of ${all}`).toBe(execs);
    const session = counting({ pins: join(pins, "v"), reuse: true });
    session.retire(now());
    expect(countsOf(session.readExecs(), [program, other])).toEqual({ retired: execs });
    close(session);
  }
});

/** The directory to pin in, below one that is removed. */
function pinsDirectory(): string {
  mkdirSync(join(pins, "v"), { recursive: true });
  return join(pins, "v");
}

const logs: string[] = [];
function pinsLog(): string {
  const path = `/tmp/${uniqueName()}`;
  mkdirSync(path);
  logs.push(path);
  return path;
}
afterAll(() => {
  for (const path of logs) rmSync(path, { recursive: true });
});

function mapOf(directory: string): number {
  const path = join(directory, "v/execve_counter");
  const map = JSON.parse(sh("/usr/sbin/bpftool", ["-j", "map", "show", "pinned", path]));
  return (map as { id: number }).id;
}

/** A sequence of numbers below 1 that depends on the seed alone (mulberry32). */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

test("an agent keeps ended rows until a scrape has had them", async () => {
  const meter = await Meter.start(["--by", "command,container", "--retire-after", "1s"]);
  try {
    const name = id("e5");
    const series = `execve_counter_execs_total{command="${program}",container="${name}"}`;
    await meter.metrics();
    groups.run(program, 4, name);
    groups.end(name);
    await sleep(3500);
    expect(sample(await meter.metrics(), series)).toBe(4);
    const retired = 'execve_counter_execs_total{command="retired",container="retired"}';
    await until("the row's end", async () => {
      const exposition = await meter.metrics();
      return !exposition.includes(series) && sample(exposition, retired) >= 4;
    });
    expect(sample(await meter.metrics(), "execve_counter_retired_rows_total")).toBeGreaterThan(0);
  } finally {
    await meter.stop();
  }
});

// CONTAINERS=2000 for a longer run.
test("of real containers, each one's last count is scraped, though the agent is killed", async () => {
  const CONTAINERS = Number(process.env.CONTAINERS ?? 150);
  const [ROWS, AT_ONCE, KILLED_AFTER] = [64, 2, 40];
  const runc = new Runc();
  const flags = ["--by", "container", "--max-series", `${ROWS}`, "--retire-after", "1s"];
  const start = () => Meter.start(["--pin", pins, ...flags, "--interval", "1h"]);
  let meter = await start();
  // It keeps all rows: a runtime adds an exec of its own here and there.
  const witness = await Meter.start([
    "--by",
    "container",
    "--max-series",
    "65536",
    "--retire-after",
    "never",
    "--interval",
    "1h",
  ]);
  /** The last count of each container, those that are there, and the highest number of rows. */
  const counts = new Map<string, number>();
  let present = new Set<string>();
  let [most, ended, scrapes] = [0, 0, 0];
  const scrape = async () => {
    const exposition = await meter.metrics();
    const [sum, rows] = [totalOf(exposition), entriesOf(exposition)];
    present = new Set();
    for (const [, container = "", count] of exposition.matchAll(
      /^execve_counter_execs_total\{container="([^"]*)"\} (\d+)$/gm,
    )) {
      // None falls, but for those that have ended.
      expect(Number(count)).toBeGreaterThanOrEqual(counts.get(container) ?? 0);
      counts.set(container, Number(count));
      present.add(container);
    }
    expect(counts.get("other")).toBe(0);
    most = Math.max(most, rows);
    scrapes++;
    return sum;
  };
  const execs = new Map<string, number>();
  let failed = false;
  const run = async () => {
    for (;;) {
      const number = execs.size;
      if (failed || number === CONTAINERS) return;
      const [name, times] = [randomBytes(32).toString("hex"), 1 + (number % 5)];
      execs.set(name, times);
      const loop = `i=0; while [ $i -lt ${times} ]; do /bin/busybox true; i=$((i + 1)); done`;
      const config = { process: { args: ["/bin/sh", "-c", loop] } };
      const { child } = runc.start(`docker/${name}`, config);
      // Slowly enough that what ends in a second and a half has room.
      const [[status]] = await Promise.all([once(child, "exit"), sleep(100)]);
      expect(status).toBe(0);
      ended++;
    }
  };
  const running = Array.from({ length: AT_ONCE }, run);
  try {
    let last = 0n;
    for (let killed = KILLED_AFTER; ended < CONTAINERS; ) {
      const sum = await scrape();
      expect(sum).toBeGreaterThanOrEqual(last);
      last = sum;
      if (ended > killed) {
        await meter.stop("SIGKILL");
        killed += KILLED_AFTER;
        meter = await start();
      }
      await sleep(100);
    }
    await Promise.all(running);
    await until("the end of all rows", async () => {
      await scrape();
      return ![...execs.keys()].some((container) => present.has(container));
    });
    const { execs_by: rows = [] } = await witness.counts();
    const own = rows.filter(({ container = "" }) => execs.has(container));
    expect(own).toHaveLength(CONTAINERS);
    for (const { container = "", execs: count } of own) {
      expect(counts.get(container), container).toBe(count);
      // The shell, and what it runs.
      expect(count).toBeGreaterThan(execs.get(container) ?? 0);
    }
    // Other containers of the host may have ended, too.
    const gone = [...counts].filter(([container]) => !present.has(container));
    expect(counts.get("retired")).toBe(gone.reduce((sum, [, count]) => sum + count, 0));
    expect(most).toBeLessThan(ROWS);
    expect(scrapes).toBeGreaterThan(10);
  } finally {
    failed = true;
    await Promise.allSettled(running);
    await meter.stop();
    await witness.stop();
    await runc.remove();
  }
});

const totalOf = (exposition: string) =>
  [...exposition.matchAll(/^execve_counter_execs_total\{.*\} (\d+)$/gm)].reduce(
    (sum, [, count]) => sum + BigInt(count ?? 0),
    0n,
  );

const entriesOf = (exposition: string) =>
  sample(exposition, 'execve_counter_table_entries{table="execs"}');
