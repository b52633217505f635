import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  unlinkSync,
} from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { PIN_VERSION } from "../../src/counts/abi.ts";
import { type Meter as Counts, openMeter } from "../../src/index.ts";
import {
  BPFTOOL,
  CLI,
  DENY,
  inMountNamespace,
  loadedBy,
  Meter,
  result,
  STORM,
  sh,
  uniqueName,
  until,
  untilGone,
} from "../support/meter.ts";
import { killAt, stepsOf, UNTIL_LINE } from "../support/steps.ts";

let directory: string;
let program: string;
let mounted = false;
let pins: string;
let running: Meter[] = [];
let opened: Counts[] = [];
let foreign: number[] = [];

beforeAll(() => {
  mounted = result("mountpoint", ["-q", "/sys/fs/bpf"]).status === 0;
  if (!mounted) sh("mount", ["-t", "bpf", "bpf", "/sys/fs/bpf"]);
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  program = uniqueName();
  copyFileSync("/bin/true", join(directory, program));
});

beforeEach(() => {
  pins = `/sys/fs/bpf/${uniqueName()}`;
  foreign = [];
  foreign = loadedPrograms();
});

afterEach(async () => {
  for (const meter of running) await meter.stop("SIGKILL");
  for (const meter of opened) meter.close();
  running = [];
  opened = [];
  if (existsSync(pins)) sh("rm", ["-r", pins]);
});

afterAll(() => {
  if (!mounted) sh("umount", ["/sys/fs/bpf"]);
  rmSync(directory, { recursive: true });
});

const OLD = ["--by", "command"];
const OTHER = ["--by", "command,user"];
const NEW = [...OTHER, "--pin-replace"];

async function start(flags: readonly string[]): Promise<Meter> {
  const meter = await Meter.start(["--pin", pins, ...flags]);
  running.push(meter);
  await until("a word of pins", () => / pinned in .*; counts since/.test(meter.stderr));
  return meter;
}

const wordsOf = (flags: readonly string[], ...more: string[]) => [
  ...[process.execPath, CLI, "--pin", pins, "--web.listen-address", "127.0.0.1:0"],
  ...[...flags, ...more],
];

/** The message of a start that fails. */
function refused([command = "", ...words]: readonly string[], exitCode = 1): string {
  const { status, stdout, stderr } = result(command, words);
  expect(stderr).toMatch(/execve-counter: error: .+\nexecve-counter: error: to do: .+\n$/);
  expect({ status, stdout }).toEqual({ status: exitCode, stdout: "" });
  return stderr;
}

const runTimes = (times: number) => sh(STORM, ["spawn", "1", `${times}`, join(directory, program)]);

async function countsOf(meter: Meter) {
  const { start_time, execs_by = [] } = await meter.counts();
  const rows = execs_by.filter(({ command }) => command === program);
  return { start_time, runs: rows.reduce((sum, { execs }) => sum + execs, 0) };
}

/** Everything pinned, by path. */
const contents = () => readdirSync(pins, { recursive: true, encoding: "utf8" }).sort();
const versions = () => readdirSync(pins).sort();
const replacedBy = (meter: Meter) =>
  /counts begin anew, in the place of those pinned at (\S+): (.*)\n/.exec(meter.stderr);

/** The programs of meters that are loaded, of any process; without those from before the test. */
function loadedPrograms(): number[] {
  const all = JSON.parse(sh(BPFTOOL, ["-j", "prog", "list"])) as { id: number; name?: string }[];
  const ours = all.filter(({ name }) => /^(count|enter)_/.test(name ?? ""));
  return ours.map(({ id }) => id).filter((id) => !foreign.includes(id));
}

/** Waits until no other programs are loaded than this meter's. */
async function expectOneSet(meter: Meter): Promise<void> {
  expect(versions()).toEqual([PIN_VERSION]);
  const own = loadedBy(meter.pid).prog.sort((a, b) => a - b);
  await until("the end of the others", () => `${loadedPrograms()}` === `${own}`);
}

const lost = (pin: string) => () => unlinkSync(join(pins, PIN_VERSION, pin));
const isOther = (version: string) => () => renameSync(join(pins, PIN_VERSION), join(pins, version));
function isUnfit(): void {
  const path = join(pins, PIN_VERSION, "execve_counter");
  unlinkSync(path);
  const shape = ["type", "hash", "key", "64", "value", "8", "entries", "10", "name", "x"];
  sh(BPFTOOL, ["map", "create", path, ...shape]);
}

test.each<[string, string[], string, (() => void)?]>([
  ["another label", OTHER, "--by command; this start asks for --by command,user"],
  ["no label", [], "--by command; this start asks for no --by"],
  ["failures", [...OLD, "--failures"], "no --failures; this start asks for --failures"],
  ["another size", [...OLD, "--max-series", "16"], "this start asks for --max-series 16"],
  ["another hook", [...OLD, "--attempts", "raw"], "this start asks for --attempts raw"],
  ["no attempts", [...OLD, "--attempts", "off"], "this start asks for --attempts off"],
  ["an older version", OLD, "/v1 was pinned by another version", isOther("v1")],
  ["a newer version", OLD, "/v99 was pinned by another version", isOther("v99")],
  ["a lost link", OLD, "is damaged: link_count_exec is gone", lost("link_count_exec")],
  ["a lost map", OLD, "is damaged: execs is gone", lost("execs")],
  ["another kind of map", OLD, "the pin execve_counter does not match this version", isUnfit],
])(
  "with --pin-replace counts begin anew for %s, and it says why",
  async (_, flags, why, change) => {
    const old = await start(OLD);
    const loaded = loadedBy(old.pid);
    const { start_time } = await countsOf(old);
    runTimes(23);
    await old.stop();
    change?.();
    const before = contents();
    const stderr = refused(wordsOf(flags));
    expect(stderr).toContain(why);
    expect(stderr).toContain(
      `begin anew: give --pin-replace, or run execve-counter unpin ${pins}\n`,
    );
    expect(contents()).toEqual(before);

    const meter = await start([...flags, "--pin-replace"]);
    const [, pinned = "", said] = replacedBy(meter) ?? [];
    expect(said).toContain(why);
    // The pins were made between the start of the agent and its first answer.
    expect(Math.abs(Date.parse(pinned) - Date.parse(start_time))).toBeLessThan(5000);
    expect(meter.stderr).toContain(` pinned in ${pins}; counts since `);
    expect(meter.stderr).not.toContain("reuses");
    const anew = await countsOf(meter);
    expect(Date.parse(anew.start_time)).toBeGreaterThan(Date.parse(start_time));
    await untilGone(loaded);
    await expectOneSet(meter);
    if (flags.includes("--by")) {
      runTimes(19);
      expect(await countsOf(meter)).toEqual({ ...anew, runs: 19 });
    }
    // What has begun anew stays, with the flag and without.
    await meter.stop();
    for (const same of [flags, [...flags, "--pin-replace"]]) {
      const next = await start(same);
      expect(next.stderr).toContain(`reuses the counts pinned in ${pins}`);
      expect(replacedBy(next)).toBeNull();
      expect((await countsOf(next)).start_time).toBe(anew.start_time);
      await next.stop();
    }
  },
);

test("with --pin-replace, counts that fell back to the raw hook stay with it", async () => {
  await (await start([...OLD, "--attempts", "raw"])).stop();
  const next = await start([...OLD, "--pin-replace"]);
  expect(next.stderr).toContain("reuses the counts");
});

test("--pin-replace removes nothing where something is not ours, or where an agent runs", async () => {
  const first = await start(OLD);
  const { start_time } = await countsOf(first);
  expect(refused(wordsOf(NEW))).toContain(`another execve-counter uses the pins in ${pins}`);
  runTimes(23);
  expect(await countsOf(first)).toEqual({ start_time, runs: 23 });
  await first.stop();
  for (const name of ["foreign", `${PIN_VERSION}/foreign`, "v1", "v1/foreign"]) {
    const foreign = join(pins, name);
    mkdirSync(foreign, { mode: 0o700 });
    if (name === "v1") continue;
    const before = contents();
    expect(refused(wordsOf(NEW))).toContain(`${foreign} does not belong to execve-counter`);
    expect(contents()).toEqual(before);
    rmdirSync(foreign);
  }
  rmdirSync(join(pins, "v1"));
  runTimes(19);
  expect(await countsOf(await start(OLD))).toEqual({ start_time, runs: 42 });
});

test("a start with --pin-replace that fails leaves the old counts as they were", async () => {
  const other = await Meter.start();
  running.push(other);
  const { host } = new URL(other.origin);
  const old = await start(OLD);
  const { start_time } = await countsOf(old);
  await old.stop();
  const before = contents();
  const loaded = loadedPrograms();
  const readOnly = inMountNamespace('mount -o remount,bind,ro /sys/fs/bpf && exec "$0" "$@"');
  let runs = 0;
  for (const [words, why, exitCode] of [
    [wordsOf(NEW, "--web.listen-address", host), "cannot listen on"],
    [[DENY, "bpf", `${constants.errno.EPERM}`, ...wordsOf(NEW)], "not permitted to use BPF", 3],
    [["prlimit", "--nofile=60", ...wordsOf(NEW)], "out of file descriptors"],
    [[...readOnly, ...wordsOf(NEW)], "is mounted read-only", 3],
    // Once it has loaded its programs, and pinned some of them.
    [wordsOf(NEW, ...Array.from({ length: 4095 }, (_, i) => `--watch=${i}`)), "no room", 2],
  ] as [string[], string, number?][]) {
    expect(refused(words, exitCode)).toContain(why);
    expect(contents()).toEqual(before);
    await until("the end of its programs", () => `${loadedPrograms()}` === `${loaded}`);
    runTimes(23);
    runs += 23;
  }
  expect(await countsOf(await start(OLD))).toEqual({ start_time, runs });
});

test("counts that fit are not replaced, though the start fails for what is in them", async () => {
  const names = Array.from({ length: 4094 }, (_, i) => `--watch=${i}`);
  await (await start([...OLD, ...names])).stop();
  const before = contents();
  // They have room for no more names; counts that begin anew would have it.
  const stderr = refused(wordsOf(OLD, "--watch=one", "--watch=two", "--pin-replace"), 2);
  expect(stderr).toContain("no room for that many watched names");
  expect(contents()).toEqual(before);
});

test("in a storm, no exec falls between the old counts and the new", async () => {
  const total = 6000;
  let meter = await start(OLD);
  const open = () => opened.push(openMeter({ map: meter.mapId }));
  open();
  const storm = spawn(STORM, ["spawn", "2", `${total / 2}`, join(directory, program)]);
  const end = once(storm, "exit");
  for (let i = 0; storm.exitCode === null || i < 3; i++) {
    await sleep(100);
    await meter.stop(i % 2 === 0 ? "SIGKILL" : "SIGTERM");
    meter = await start([...(i % 2 === 0 ? OTHER : OLD), "--pin-replace"]);
    expect(replacedBy(meter)).not.toBeNull();
    open();
  }
  expect(await end).toEqual([0, null]);
  // What is pinned no more stays readable where it is open, except while its programs go.
  const ended = (each: Counts) => {
    try {
      each.read();
    } catch {
      return false;
    }
    return each.ended;
  };
  for (const each of opened.slice(0, -1)) await until("the end of the old", () => ended(each));
  const counted = opened.map((each) =>
    each
      .read()
      .execsBy.filter(({ labels }) => labels.command === program)
      .reduce((sum, { count }) => sum + Number(count), 0),
  );
  const sum = counted.reduce((all, each) => all + each, 0);
  expect(counted.filter((count) => count > 0).length).toBeGreaterThan(1);
  // Both count what falls into the time in which both are attached.
  expect(sum).toBeGreaterThanOrEqual(total);
  for (const count of counted) expect(count).toBeLessThan(total);
  expect(await countsOf(meter)).toMatchObject({ runs: counted.at(-1) });
});

test("killed at any step of a replacement, either the old counts go on or the new ones", async () => {
  const words = wordsOf(NEW, "--interval", "100ms");
  const first = async () => {
    const meter = await start(OLD);
    const counts = await countsOf(meter);
    await meter.stop();
    return counts.start_time;
  };
  await first();
  const all = stepsOf(words, UNTIL_LINE);
  const kinds = all.map(({ call }) => call);
  expect(kinds.filter((call) => call === "rename")).toHaveLength(3);
  expect(kinds).toEqual(expect.arrayContaining(["mkdir", "bpf", "unlink", "rmdir"]));
  // All steps around those that decide, and some of the others.
  const decides = (i: number) => kinds.slice(Math.max(i - 2, 0), i + 3).includes("rename");
  const steps = all.filter(
    ({ call }, i) => decides(i) || !["bpf", "unlink"].includes(call) || i % 6 === 0,
  );
  const unpin = () => {
    expect(result(process.execPath, [CLI, "unpin", pins]).status).toBe(0);
    expect(existsSync(pins)).toBe(false);
  };
  const outcomes: string[] = [];
  for (const [i, step] of steps.entries()) {
    unpin();
    const began = await first();
    killAt(step, words);
    // Which of the two it is, the start says that does not replace.
    const once = ["-c", UNTIL_LINE, ...wordsOf(OTHER, "--interval", "100ms")];
    const isNew = !result("sh", once).stderr.includes("were started with --by command;");
    outcomes.push(isNew ? "new" : "old");
    const next = await start(isNew ? OTHER : OLD);
    expect(next.stderr).toContain("reuses the counts");
    const { start_time } = await countsOf(next);
    if (isNew) expect(Date.parse(start_time)).toBeGreaterThan(Date.parse(began));
    else expect(start_time).toBe(began);
    await expectOneSet(next);
    await next.stop();

    // The same step of the next replacement.
    unpin();
    await first();
    killAt(step, words);
    if (i % 2 === 0) continue;
    const other = await start(NEW);
    await expectOneSet(other);
    await other.stop();
  }
  expect(outcomes.indexOf("new")).toBe(outcomes.lastIndexOf("old") + 1);
  expect(outcomes.indexOf("new")).toBeGreaterThan(0);
});
