import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { findMeters } from "../../src/kernel/running.ts";
import {
  CLI,
  type Counts,
  Meter,
  result,
  STORM,
  sample,
  sh,
  uniqueName,
  until,
} from "../support/meter.ts";
import { mountPoint } from "../support/runc.ts";

interface Scoped extends Counts {
  cgroup?: { path: string; present: boolean; recreated: number };
}

let directory: string;
let program: string;
let top: string;
let running: Meter[] = [];

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  program = join(directory, uniqueName());
  copyFileSync("/bin/true", program);
});

beforeEach(() => {
  top = uniqueName();
  mkdirSync(place(), { recursive: true });
});

afterEach(async () => {
  for (const meter of running) await meter.stop();
  running = [];
  for (const path of [place("/inner"), place(), join(mountPoint(), top)]) {
    if (existsSync(path)) rmdirSync(path);
  }
});

afterAll(() => rmSync(directory, { recursive: true }));

/** The group that is counted, from the root of the hierarchy, and its directory. */
const group = () => `/${top}/a b.service`;
const place = (below = "") => join(mountPoint(), group(), below);

/** Runs a program so many times in a group; the shell that does makes no exec there. */
function runIn(path: string, times: number, ...words: string[]): void {
  const script = `echo $$ >"$0/cgroup.procs" || exit; n=$1; shift
    while [ $n -gt 0 ]; do "$@" || exit; n=$((n - 1)); done`;
  sh("/bin/sh", ["-c", script, path, `${times}`, ...words]);
}

async function start(...args: string[]): Promise<Meter> {
  const meter = await Meter.start(args);
  running.push(meter);
  return meter;
}

const counts = (meter: Meter) => meter.counts() as Promise<Scoped>;

test.each(["tracepoint", "raw"])(
  "attempts, failures, execs and watched names are those of the group, by %s",
  async (hook) => {
    const name = program.slice(directory.length + 1);
    const meter = await start(
      ...["--cgroup", group(), "--attempts", hook, "--by", "command", "--failures"],
      ...["--watch", name],
    );
    mkdirSync(place("/inner"));
    runIn(place("/inner"), 23, program);
    runIn(place(), 1, STORM, "execveat", "1", "1000");
    // What others do is not counted.
    sh(STORM, ["spawn", "2", "100", program]);
    sh(STORM, ["execve", "2", "10000"]);
    const { cgroup, attempts, execs, execs_by, failures, watched } = await counts(meter);
    expect(cgroup).toEqual({ path: group(), present: true, recreated: 0 });
    expect([attempts, execs]).toEqual([{ execve: 24, execveat: 1000 }, 24]);
    expect(execs_by).toEqual(
      expect.arrayContaining([
        { command: name, execs: 23 },
        { command: "storm", execs: 1 },
      ]),
    );
    expect(failures).toEqual({ execve: {}, execveat: { ENOENT: 1000 } });
    expect(watched).toEqual({ [name]: 23 });
    expect(meter.stderr).toContain(` in control group ${group()}; map `);
  },
);

test("a group that is made again is counted from its first exec, and it is said", async () => {
  const meter = await start("--cgroup", place(), "--interval", "100ms");
  for (let life = 1; life <= 30; life++) {
    runIn(place(), 3, program);
    rmdirSync(place());
    // Its parent goes, too, as a slice does without services.
    if (life % 2) rmdirSync(join(mountPoint(), top));
    mkdirSync(place(), { recursive: true });
  }
  runIn(place(), 3, program);
  const { cgroup, execs } = await counts(meter);
  expect(execs).toBe(93);
  expect(cgroup).toEqual({ path: group(), present: true, recreated: 30 });
  const metrics = await meter.metrics();
  expect(sample(metrics, `execve_counter_cgroup_present{cgroup="${group()}"}`)).toBe(1);
  expect(sample(metrics, `execve_counter_cgroup_recreated_total{cgroup="${group()}"}`)).toBe(30);
  await until("the line", () => meter.stderr.includes(`group ${group()} was made again`));

  rmdirSync(place());
  await until("the warning", () =>
    meter.stderr.includes(`warn: the control group ${group()} is gone: nothing counts until`),
  );
  const gone = await meter.metrics();
  expect(sample(gone, `execve_counter_cgroup_present{cgroup="${group()}"}`)).toBe(0);
  // One of another path, and a subgroup of that name, are others.
  for (const other of [`/${top}/a b.servic`, `/${top}/a b.service2`]) {
    mkdirSync(join(mountPoint(), other));
    runIn(join(mountPoint(), other), 1, program);
    rmdirSync(join(mountPoint(), other));
  }
  expect(await counts(meter)).toMatchObject({ execs: 93, cgroup: { present: false } });
});

test("a group of that path in a version 1 hierarchy changes nothing", async (context) => {
  let first: string;
  try {
    first = join(mountPoint("pids"), group());
  } catch {
    return context.skip("no hierarchy of version 1 is mounted");
  }
  const meter = await start("--cgroup", group());
  mkdirSync(first, { recursive: true });
  rmdirSync(first);
  rmdirSync(join(first, ".."));
  runIn(place(), 3, program);
  expect(await counts(meter)).toMatchObject({
    execs: 3,
    cgroup: { present: true, recreated: 0 },
  });
});

test("pinned counts go on in a group that was made again while no agent ran", async () => {
  if (result("mountpoint", ["-q", "/sys/fs/bpf"]).status !== 0) {
    sh("mount", ["-t", "bpf", "bpf", "/sys/fs/bpf"]);
  }
  const pins = `/sys/fs/bpf/${uniqueName()}`;
  const flags = ["--cgroup", group(), "--pin", pins, "--attempts", "raw"];
  try {
    await (await start(...flags)).stop();
    runIn(place(), 3, program);
    rmdirSync(place());
    // An agent may come while the group is away.
    const between = await start(...flags);
    expect(await counts(between)).toMatchObject({ execs: 3, cgroup: { present: false } });
    await until("the warning", () => between.stderr.includes(`group ${group()} is gone`));
    await between.stop();
    mkdirSync(place());
    runIn(place(), 3, program);
    const refused = (...args: string[]) =>
      result(process.execPath, [CLI, "--no-web", "--pin", pins, "--attempts", "raw", ...args]);
    expect(refused()).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(
        `started with --cgroup ${group()}; this start asks for no --cgroup\n.*to do: .*\n$`,
      ),
    });
    expect(refused("--cgroup", `/${top}`).stderr).toContain(
      `started with --cgroup ${group()}; this start asks for --cgroup /${top}\n`,
    );
    const last = await start(...flags);
    expect(await counts(last)).toMatchObject({
      execs: 6,
      cgroup: { path: group(), present: true, recreated: 1 },
    });
    await last.stop();
    const replaced = await start(...flags.toSpliced(1, 1, `/${top}`), "--pin-replace");
    await until("the line", () => replaced.stderr.includes("counts begin anew"));
    runIn(place(), 3, program);
    expect(await counts(replaced)).toMatchObject({ execs: 3, cgroup: { path: `/${top}` } });
  } finally {
    for (const meter of running) await meter.stop();
    sh(process.execPath, [CLI, "unpin", pins]);
  }
});

test("watch and top find it, and top counts in another group by a meter of its own", async () => {
  const before = findMeters();
  const meter = await start("--cgroup", group(), "--by", "command");
  expect(findMeters()).toEqual([...before, meter.mapId].sort((a, b) => a - b));
  const name = program.slice(directory.length + 1);
  sh(process.execPath, [CLI, "watch", "add", "--map", `${meter.mapId}`, name]);
  runIn(place(), 3, program);
  const list = sh(process.execPath, [CLI, "watch", "list", "--map", `${meter.mapId}`]);
  expect(list).toBe(`${name} 3\n`);

  const shown = async (...args: string[]) => {
    const child = spawn(process.execPath, [CLI, "top", "-i", "200ms", ...args]);
    let text = "";
    child.stdout.on("data", (data) => {
      text += data;
    });
    await until("a table", () => text.includes("COMMAND"));
    runIn(place(), 3, program);
    const grown = new RegExp(`^.* ${name}$`, "m");
    if (args.length > 2) await until("the row", () => grown.test(text));
    child.kill();
    await once(child, "exit");
    return text;
  };
  expect(await shown("--map", `${meter.mapId}`)).toContain(
    `meter of map ${meter.mapId} in "${group()}"`,
  );
  const one = before.length === 0 ? [] : ["--map", `${meter.mapId}`];
  expect(await shown("--cgroup", group(), ...one)).toContain(`meter of map ${meter.mapId} in`);
  if (before.length > 0) return;
  const own = await shown("--cgroup", `/${top}`, "--by", "command");
  expect(own).toContain(`own meter in /${top}`);
  expect(own).toContain(`the meter of map ${meter.mapId} does not count in /${top} alone`);
});

test("stat counts in a group while its command runs, and the command only there", () => {
  const inside = `n=3; while [ $n -gt 0 ]; do "$1"; n=$((n - 1)); done`;
  const script = `"$1"; sh -c 'echo $$ >"$0/cgroup.procs"; ${inside}' "$0" "$1"`;
  const words = [CLI, "stat", "-o", "json", "--cgroup", group(), "--", "/bin/sh", "-c", script];
  const json = JSON.parse(result(process.execPath, [...words, place(), program]).stderr);
  expect(json).toMatchObject({ execs: 3, cgroup: { path: group(), present: true, recreated: 0 } });
  const text = result(process.execPath, [CLI, "stat", "--cgroup", group(), "--", "/bin/true"]);
  expect(text.stderr).toMatch(
    new RegExp(`^execve-counter: /bin/true, in control group ${group()}\n`),
  );
});

test("a group that is not there, and one of version 1, are one line and one remedy", () => {
  const refused = (...args: string[]) =>
    result(process.execPath, [CLI, ...args, ...(args[0] === "stat" ? ["--", "/bin/true"] : [])]);
  for (const command of ["run", "top", "stat"]) {
    const { status, stderr } = refused(command, "--cgroup", `/${top}/none`);
    expect([command, status]).toEqual([command, 1]);
    expect(stderr).toMatch(
      new RegExp(`^.*error: there is no control group /${top}/none in .*\n.*error: to do: .*\n$`),
    );
  }
  // A file of a group is none.
  expect(refused("run", "--cgroup", `${place()}/cgroup.procs`).status).toBe(1);
  const elsewhere = ["unshare", "--cgroup", process.execPath, CLI, "run", "--cgroup", "/"];
  const { status, stderr } = result(elsewhere[0] as string, elsewhere.slice(1));
  expect(status).toBe(3);
  expect(stderr).toMatch(/^.*needs the host's namespace of control groups.*\n.*to do: .*\n$/);
});

test("it works where no unified hierarchy is mounted", async () => {
  const script = `mount --make-rprivate / && umount -a -t cgroup2 && exec "$0" "$@"`;
  const meter = await Meter.start(["--cgroup", group()], {
    wrap: ["unshare", "--mount", "sh", "-c", script],
  });
  running.push(meter);
  runIn(place(), 3, program);
  expect((await counts(meter)).execs).toBe(3);
});
