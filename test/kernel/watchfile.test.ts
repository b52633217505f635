import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { isAtLeast } from "../../src/kernel/release.ts";
import { CLI, Meter, result, STORM, sample, sh, uniqueName, until } from "../support/meter.ts";

const RELOAD = "execve_counter_watch_file_last_reload";
const ONE = uniqueName();
const TWO = `${ONE.slice(0, -1)}_`;

let directory: string;
let path: string;
let version = 0;
let running: Meter[] = [];

/** As kubelet writes a ConfigMap: a directory with a new name, which a link is renamed to. */
function swap(...names: string[]): void {
  const name = `..${++version}`;
  mkdirSync(join(directory, name));
  writeFileSync(join(directory, name, "commands"), `# a list\n${names.join("\n")}\n`);
  symlinkSync(name, join(directory, "..data_tmp"));
  renameSync(join(directory, "..data_tmp"), join(directory, "..data"));
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  chmodSync(directory, 0o755);
  for (const name of [ONE, TWO]) copyFileSync("/bin/true", join(directory, name));
  path = join(directory, "commands");
  swap(ONE);
  symlinkSync("..data/commands", path);
});
afterEach(async () => {
  for (const meter of running) await meter.stop("SIGKILL");
  running = [];
  rmSync(directory, { recursive: true });
});

/** A meter that has become nobody, and so has given up what it does not need. */
async function start(...flags: string[]): Promise<Meter> {
  const meter = await Meter.start(["--watch-file", path, ...flags]);
  running.push(meter);
  await until("the first line", () => meter.lines[0]);
  return meter;
}

const run = (times: number, ...names: string[]) =>
  sh(STORM, ["spawn", "1", `${times}`, ...names.map((name) => join(directory, name))]);
const watched = async (meter: Meter) => (await meter.counts()).watched;
const namesOf = async (meter: Meter) => Object.keys(await watched(meter)).sort();
const said = (meter: Meter, text: string | RegExp) =>
  meter.stderr.split("\n").filter((line) => line.match(text)).length;

/** Resolves once the names are watched, at most two seconds from now. */
const within2s = (meter: Meter, ...names: string[]) =>
  until(
    `the list ${names}`,
    async () => `${await namesOf(meter)}` === `${[...names].sort()}`,
    2000,
  );

test("a change is taken over within 2 s, by nobody; who stays keeps the count", async () => {
  const meter = await start();
  expect(meter.stderr).toContain(`watches 1 command by ${path}: 1 added, 0 removed\n`);
  const status = readFileSync(`/proc/${meter.pid}/status`, "utf8");
  expect(status).toMatch(/^Uid:\t65534\t65534\t65534\t65534$/m);
  if (isAtLeast(release(), 5, 19)) expect(status).toMatch(/^CapEff:\t0{16}$/m);
  run(3, ONE, TWO);
  expect(await watched(meter)).toEqual({ [ONE]: 3 });

  const before = sample(await meter.metrics(), `${RELOAD}_success_timestamp_seconds`);
  swap(ONE, TWO);
  await within2s(meter, ONE, TWO);
  expect(await watched(meter)).toEqual({ [ONE]: 3, [TWO]: 0 });
  run(23, ONE, TWO);
  expect(await watched(meter)).toEqual({ [ONE]: 26, [TWO]: 23 });
  await until(
    "the line",
    () => said(meter, `watches 2 commands by ${path}: 1 added, 0 removed`) > 0,
  );
  const metrics = await meter.metrics();
  expect(sample(metrics, `${RELOAD}_successful`)).toBe(1);
  expect(sample(metrics, `${RELOAD}_success_timestamp_seconds`)).toBeGreaterThan(before);

  // A file that another is renamed over.
  writeFileSync(join(directory, "other"), TWO);
  renameSync(join(directory, "other"), path);
  await within2s(meter, TWO);
  expect(await watched(meter)).toEqual({ [TWO]: 23 });
  // Who was away starts from 0.
  writeFileSync(path, `${ONE}\r\n${TWO}\r\n`);
  await within2s(meter, ONE, TWO);
  expect(await watched(meter)).toEqual({ [ONE]: 0, [TWO]: 23 });
});

test("a file that is written slowly, in place, is not taken half", async () => {
  const meter = await start();
  writeFileSync(path, TWO);
  for (let i = 0; i < 12; i++) {
    await sleep(250);
    expect(await namesOf(meter)).toEqual([ONE]);
    appendFileSync(path, `\nname${i}`);
  }
  await within2s(meter, TWO, ...Array.from({ length: 12 }, (_, i) => `name${i}`));
  expect(said(meter, "watches ")).toBe(2);
});

test("a list that is wrong changes nothing, and that is said once, and again when it is good", async () => {
  const meter = await start();
  run(3, ONE);
  swap(TWO, "/bin/sh");
  await until("the complaint", () => said(meter, "to do: ") > 0);
  expect(meter.stderr).toContain(
    `warn: the old list of watched commands stays in force: ${path}: line 3: a watched name cannot be "/bin/sh"\n`,
  );
  expect(sample(await meter.metrics(), `${RELOAD}_successful`)).toBe(0);
  await sleep(3000);
  expect(said(meter, "warn: ")).toBe(2);
  expect(await watched(meter)).toEqual({ [ONE]: 3 });
  swap(ONE, TWO);
  await within2s(meter, ONE, TWO);
  await until("the line", () => said(meter, `${path} is good again: watches 2 commands`) > 0);
  expect(await watched(meter)).toEqual({ [ONE]: 3, [TWO]: 0 });
  expect(sample(await meter.metrics(), `${RELOAD}_successful`)).toBe(1);
});

test("a file that nobody cannot read is said at the start, and taken once it can be", async () => {
  chmodSync(directory, 0o700);
  const meter = await start();
  expect(meter.stderr).toContain(
    `warn: ${path} cannot be read again (EACCES), so changes to it are ignored: `,
  );
  expect(sample(await meter.metrics(), `${RELOAD}_successful`)).toBe(0);
  swap(ONE, TWO);
  await sleep(3000);
  expect(said(meter, "warn: ")).toBe(1);
  expect(await namesOf(meter)).toEqual([ONE]);
  chmodSync(directory, 0o755);
  await within2s(meter, ONE, TWO);
  await until("the line", () => said(meter, `${path} is good again`) > 0);

  chmodSync(directory, 0o700);
  expect((await start("--run-as", "root")).stderr).not.toContain("cannot be read again");
});

test.each([
  ["/bin/sh", /: line 1: a watched name cannot be "\/bin\/sh"$/m, 2],
  [undefined, /cannot read --watch-file .* \(ENOENT\)$/m, 1],
])("at the start, a file of %j is an error, before anything is loaded", (text, message, code) => {
  rmSync(path);
  if (text) writeFileSync(path, text);
  for (const more of [[], ["--check"]]) {
    const { status, stdout, stderr } = result(process.execPath, [
      ...[CLI, "--watch-file", path, "--web.listen-address", "127.0.0.1:0", ...more],
    ]);
    expect(stderr).toMatch(/^execve-counter: error: .+\nexecve-counter: error: to do: .+\n$/);
    expect(stderr).toMatch(message);
    expect({ status, stdout }).toEqual({ status: code, stdout: "" });
  }
});

test("the list is the file's: nobody else edits it, and everybody reads it", async () => {
  const meter = await start();
  const watch = (...words: string[]) =>
    result(process.execPath, [CLI, "watch", ...words, "--map", `${meter.mapId}`]);
  for (const words of [
    ["add", TWO],
    ["remove", ONE],
  ]) {
    expect(watch(...words)).toEqual({
      status: 1,
      stdout: "",
      stderr: `execve-counter: error: the watch list of the map ${meter.mapId} is that of a file (--watch-file)
execve-counter: error: to do: edit that file: its agent takes the change over within 2 seconds\n`,
    });
  }
  expect(watch("list").stdout).toBe(`${ONE} 0\n`);
  expect(result(process.execPath, [CLI, "--check", "--watch-file", path]).stdout).toContain(
    `watch     ${ONE}\n`,
  );
});

test("the whole list can be another, though there is no room for both at once", async () => {
  const list = (start: string) => Array.from({ length: 4092 }, (_, i) => `${start}${i}`);
  swap(ONE, ...list("a"));
  const meter = await start();
  run(3, ONE);
  swap(ONE, ...list("b"));
  await within2s(meter, ONE, ...list("b"));
  expect((await watched(meter))[ONE]).toBe(3);
  await until(
    "the line",
    () => said(meter, "watches 4093 commands by .*: 4092 added, 4092 removed") > 0,
  );
});

test("changes under a storm disturb no count by even one", async () => {
  // Names without a process come and go beside one that has some: a run of it that lands on an
  // element which is removed and used again would show as theirs.
  const unborn = Array.from({ length: 40 }, (_, i) => `${ONE.slice(0, 11)}%${i}`);
  const meter = await start();
  const attempts = (await meter.counts()).attempts?.execveat ?? Number.NaN;
  const RUNS = 20_000;
  const starts = spawn(STORM, [
    ...["spawn", "2", `${RUNS}`, join(directory, ONE), join(directory, TWO)],
  ]);
  const failures = spawn(STORM, ["execveat", "1", "3000000"]);
  const ends = [once(starts, "exit"), once(failures, "exit")];
  const disturbed: unknown[] = [];
  let changes = 0;
  while (starts.exitCode === null) {
    const list = [[ONE, TWO], [ONE, ...unborn], [ONE]][changes % 3] as string[];
    swap(...list);
    await until(`the list ${list.length}`, async () => {
      const now = await watched(meter);
      for (const name of unborn) if (now[name]) disturbed.push([name, now[name]]);
      return Object.keys(now).length === list.length;
    });
    changes++;
  }
  for (const [status] of await Promise.all(ends)) expect(status).toBe(0);
  expect(changes).toBeGreaterThanOrEqual(3);
  expect(disturbed).toEqual([]);
  expect((await watched(meter))[ONE]).toBe(2 * RUNS);
  const { attempts: now } = await meter.counts();
  expect((now?.execveat ?? 0) - attempts).toBe(3_000_000);
}, 180_000);

// The race that this prevents is too rare to wait for.
test("programs that run are waited for between a removal and an insertion", async () => {
  const meter = await start();
  const log = join(directory, "strace");
  const strace = spawn("strace", ["--trace=bpf", "-o", log, "-p", `${meter.pid}`]);
  await once(strace.stderr, "data");
  swap(TWO);
  await within2s(meter, TWO);
  strace.kill("SIGINT");
  await once(strace, "exit");
  const insert = "MAP_UPDATE_ELEM[^\\n]*flags=BPF_NOEXIST";
  const wait = "MAP_UPDATE_ELEM[^\\n]*flags=BPF_ANY";
  expect(readFileSync(log, "utf8")).toMatch(
    new RegExp(`${wait}.*${insert}.*MAP_DELETE_ELEM.*${wait}`, "s"),
  );
});

test("pinned counts stay; names that the file does not have any more are removed at the start", async () => {
  const mounted = result("mountpoint", ["-q", "/sys/fs/bpf"]).status === 0;
  if (!mounted) sh("mount", ["-t", "bpf", "bpf", "/sys/fs/bpf"]);
  const pins = `/sys/fs/bpf/${uniqueName()}`;
  const watch = (meter: Meter, ...words: string[]) =>
    result(process.execPath, [CLI, "watch", ...words, "--map", `${meter.mapId}`]);
  try {
    swap(ONE, "gone");
    const first = await start("--pin", pins);
    run(3, ONE);
    expect(await watched(first)).toEqual({ [ONE]: 3, gone: 0 });
    await first.stop();
    run(4, ONE);
    // The list is the file's while no agent runs, too.
    expect(watch(first, "add", "sh").stderr).toContain("is that of a file");

    swap(ONE, TWO);
    // A start that fails changes no list: this address is not one of this machine.
    const failed = ["--pin", pins, "--watch-file", path, "--web.listen-address", "192.0.2.1:1"];
    expect(result(process.execPath, [CLI, ...failed]).status).toBe(1);
    expect(watch(first, "list").stdout.split("\n").sort()).toEqual(
      ["", `${ONE} 7`, "gone 0"].sort(),
    );

    // The agent takes its turn among the editors.
    const holder = spawn("flock", ["/run/execve-counter.lock", "sh", "-c", "echo held; read word"]);
    await once(holder.stdout, "data");
    const starting = start("--pin", pins);
    await sleep(1500);
    expect(watch(first, "list").stdout).toContain("gone 0");
    holder.stdin.end("\n");
    const second = await starting;
    expect(second.stderr).toContain(`watches 2 commands by ${path}: 1 added, 1 removed\n`);
    expect(await watched(second)).toEqual({ [ONE]: 7, [TWO]: 0 });
    swap(TWO);
    await within2s(second, TWO);
    await second.stop();

    const third = await Meter.start(["--pin", pins, "--watch", "sh"]);
    running.push(third);
    expect(await namesOf(third)).toEqual([TWO, "sh"].sort());
    expect(watch(third, "add", ONE).status).toBe(0);
  } finally {
    for (const meter of running) await meter.stop("SIGKILL");
    if (existsSync(pins)) sh("rm", ["-r", pins]);
    if (!mounted) sh("umount", ["/sys/fs/bpf"]);
  }
});
