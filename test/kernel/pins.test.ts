import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  unlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { UserError } from "../../src/base/errors.ts";
import { loadAddon } from "../../src/kernel/addon.ts";
import { unpin as removeAll } from "../../src/kernel/pins.ts";
import { projectPath } from "../support/files.ts";
import { Installation } from "../support/installation.ts";
import {
  BPFTOOL,
  CLI,
  hexKey,
  inMountNamespace,
  loadedBy,
  Meter,
  result,
  STORM,
  sample,
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

beforeAll(() => {
  mounted = result("mountpoint", ["-q", "/sys/fs/bpf"]).status === 0;
  if (!mounted) sh("mount", ["-t", "bpf", "bpf", "/sys/fs/bpf"]);
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  program = uniqueName();
  copyFileSync("/bin/true", join(directory, program));
});

beforeEach(() => {
  pins = `/sys/fs/bpf/${uniqueName()}`;
});

afterEach(async () => {
  for (const meter of running) await meter.stop("SIGKILL");
  running = [];
  // rm -r: what a test put there need not be what unpin takes for ours.
  if (existsSync(pins)) sh("rm", ["-r", pins]);
});

afterAll(() => {
  if (!mounted) sh("umount", ["/sys/fs/bpf"]);
  rmSync(directory, { recursive: true });
});

const FLAGS = ["--failures", "--by", "command"];

async function start(flags: readonly string[] = FLAGS, options = {}): Promise<Meter> {
  const meter = await Meter.start(["--pin", pins, ...flags], options);
  running.push(meter);
  return meter;
}

const wordsOf = (...flags: string[]) => [
  ...[process.execPath, CLI, "--pin", pins, "--web.listen-address", "127.0.0.1:0", ...flags],
];

/** The message of a start that is refused. */
const refused = (...flags: string[]) => failed(wordsOf(...flags));

/** The message of a command that fails. */
function failed([command = "", ...words]: string[], exitCode = 1): string {
  const { status, stdout, stderr } = result(command, words);
  expect(stderr).toMatch(/^execve-counter: error: .+\nexecve-counter: error: to do: .+\n$/);
  expect({ status, stdout }).toEqual({ status: exitCode, stdout: "" });
  return stderr;
}

const dump = (path: string) => ["map", "dump", "pinned", path];
const unpin = () => result(process.execPath, [CLI, "unpin", pins]);

/** Everything below a directory, by path. */
function contents(path: string): string[] {
  return readdirSync(path, { recursive: true, encoding: "utf8" }).sort();
}

async function counts(meter: Meter) {
  const { attempts, execs_by = [], failures, start_time, watched } = await meter.counts();
  return {
    execveat: attempts?.execveat,
    failed: failures?.execveat.ENOENT,
    runs: execs_by.find(({ command }) => command === program)?.execs,
    watched: watched[program],
    start_time,
  };
}

test("killed in the middle of a storm and started again, the meter has lost nothing", async () => {
  const flags = [...FLAGS, "--watch", program];
  const first = await start(flags);
  const { start_time } = await counts(first);
  const storms = [
    spawn(STORM, ["execveat", "1", "3000000"]),
    spawn(STORM, ["spawn", "1", "2000", join(directory, program)]),
  ];
  const ends = storms.map((storm) => once(storm, "exit"));
  await sleep(300);
  await first.stop("SIGKILL");
  await sleep(300);
  const second = await start(flags);
  await until("word of it", () => second.stderr.includes(`reuses the counts pinned in ${pins}`));
  await sleep(300);
  expect(await second.stop("SIGTERM")).toBe(0); // which does not end the counting either
  for (const [status] of await Promise.all(ends)) expect(status).toBe(0);

  const third = await start(FLAGS); // watching is pinned too
  const expected = {
    execveat: 3_000_000,
    failed: 3_000_000,
    runs: 2000,
    watched: 2000,
    start_time,
  };
  expect(await counts(third)).toEqual(expected);
  const seconds = sample(await third.metrics(), "execve_counter_start_time_seconds");
  expect(seconds).toBe(Date.parse(start_time) / 1000);
});

test.each([["tracepoint"], ["raw"]])(
  "builds of different programs take turns in a storm by --attempts %s, and none is lost or counted twice",
  async (attempts) => {
    const flags = [...FLAGS, "--attempts", attempts];
    const other = new Installation();
    try {
      copyFileSync(projectPath("build/test/other.bpf.o"), other.path("dist/execve_counter.bpf.o"));
      await (await start(flags)).stop();
      const storm = spawn(STORM, ["execveat", "2", "3000000"]);
      const starts = spawn(STORM, ["spawn", "1", "3000", join(directory, program)]);
      const ends = [once(storm, "exit"), once(starts, "exit")];
      const tags = new Set<string>();
      let turns = 0;
      while (storm.exitCode === null || starts.exitCode === null) {
        const cli = turns++ % 2 === 0 ? other.cli : CLI;
        const meter = await start(flags, { cli });
        for (const id of loadedBy(meter.pid).prog) {
          const { name, tag } = JSON.parse(sh(BPFTOOL, ["-j", "prog", "show", "id", `${id}`]));
          if (name === "count_exec") tags.add(tag);
        }
        await meter.stop("SIGKILL");
      }
      for (const [status] of await Promise.all(ends)) expect(status).toBe(0);
      expect(turns).toBeGreaterThanOrEqual(2);
      expect(tags.size).toBe(2);
      const { execveat, failed, runs } = await counts(await start(flags));
      expect({ execveat, failed, runs }).toEqual({
        ...{ execveat: 6_000_000, failed: 6_000_000, runs: 3000 },
      });
    } finally {
      other.remove();
    }
  },
);

test("only root can use the pins, and unpin removes and lists them", async () => {
  const meter = await start();
  const loaded = loadedBy(meter.pid);
  expect(sh("find", [pins, "-perm", "/077"])).toBe("");
  const busy = unpin();
  expect(busy.status).toBe(1);
  expect(busy.stderr).toContain(`another execve-counter uses the pins in ${pins}`);
  await meter.stop();
  const paths = contents(pins).map((path) => join(pins, path));
  const { status, stdout } = unpin();
  expect(status).toBe(0);
  expect(stdout.trimEnd().split("\n").sort()).toEqual(
    [...paths, pins].map((path) => `removed ${path}`).sort(),
  );
  expect(existsSync(pins)).toBe(false);
  await untilGone(loaded);
  const again = unpin();
  expect(again.status).toBe(0);
  expect(again.stderr).toContain(`nothing is pinned in ${pins}`);
});

test("unpin empties each slot before its pin goes, and follows no symbolic link", async () => {
  const meter = await start();
  const elsewhere = mkdtempSync("/sys/fs/bpf/execve-counter-");
  try {
    for (const { id, name } of JSON.parse(sh(BPFTOOL, ["-j", "map", "list"]))) {
      if (!loadedBy(meter.pid).map.includes(id) || !name?.startsWith("next_")) continue;
      sh(BPFTOOL, ["map", "pin", "id", `${id}`, join(elsewhere, `${id}`)]);
    }
    const slots = contents(elsewhere).map((id) => join(elsewhere, id));
    expect(slots).toHaveLength(6);
    const full = () => slots.filter((slot) => /value/.test(sh(BPFTOOL, dump(slot))));
    await meter.stop();
    symlinkSync(slots[0] ?? "", join(elsewhere, "link"));
    loadAddon().emptySlot(join(elsewhere, "link"));
    expect(full()).toEqual(slots);
    expect(unpin().status).toBe(0);
    expect(full()).toEqual([]);
  } finally {
    sh("rm", ["-r", elsewhere]);
  }
});

test("a second agent on the same pins is refused, and the first goes on", async () => {
  const meter = await start();
  expect(refused(...FLAGS)).toContain(`another execve-counter uses the pins in ${pins}`);
  sh(STORM, ["spawn", "1", "23", join(directory, program)]);
  expect((await counts(meter)).runs).toBe(23);
});

test.each([
  [["--failures", "--by", "user"], "--by command; this start asks for --by user"],
  [["--failures"], "--by command; this start asks for no --by"],
  [[...FLAGS, "--max-series", "16"], "--max-series 1024; this start asks for --max-series 16"],
  [
    ["--by", "command,user", "--max-series", "17"],
    "--failures, --by command, --max-series 1024; this start asks for no --failures, --by command,user, --max-series 17",
  ],
  [[...FLAGS, "--attempts", "raw"], "--attempts tracepoint; this start asks for --attempts raw"],
  [[...FLAGS, "--attempts", "off"], "--attempts tracepoint; this start asks for --attempts off"],
])("what was pinned with other flags is not reused, and it says which: %j", async (flags, said) => {
  await (await start()).stop();
  const before = contents(pins);
  const stderr = refused(...flags);
  expect(stderr).toContain(`the counts pinned in ${pins} were started with ${said}\n`);
  expect(stderr).toContain(
    `start with those flags, or begin anew: give --pin-replace, or run execve-counter unpin ${pins}\n`,
  );
  expect(contents(pins)).toEqual(before);
  sh(STORM, ["spawn", "1", "23", join(directory, program)]);
  expect((await counts(await start())).runs).toBe(23);
});

test("pins that fell back to the raw hook stay with it", async () => {
  await (await start([...FLAGS, "--attempts", "raw"])).stop();
  sh(STORM, ["execveat", "1", "23"]);
  const next = await start();
  expect(next.stderr).toContain(`${pins} was pinned by the raw hook: the raw hook counts instead`);
  expect((await counts(next)).execveat).toBeGreaterThanOrEqual(23);
});

test.each([
  ["v1", "was pinned by another version"],
  ["something", "does not belong to execve-counter"],
])("beside %s nothing is pinned, and it stays", (name, why) => {
  mkdirSync(pins, { mode: 0o700 });
  mkdirSync(join(pins, name));
  expect(refused()).toContain(`${join(pins, name)} ${why}`);
  expect(contents(pins)).toEqual([name]);
});

test("unpin removes nothing elsewhere, though links are swapped for what it looks at", async () => {
  // Another meter's, in the same bpffs and of the same owner.
  await (await start()).stop();
  const elsewhere = join(pins, "v3");
  const before = contents(elsewhere);
  const exchange = `
import ctypes, sys
libc = ctypes.CDLL(None)
one, other = [arg.encode() for arg in sys.argv[1:]]
while True: libc.renameat2(-100, one, -100, other, 2) # RENAME_EXCHANGE`;
  const top = `${pins}-top`;
  const aside = `${pins}-aside`;
  const paths = [join(top, "v3"), aside];
  const swap = spawn("python3", ["-c", exchange, ...paths], { stdio: "inherit" });
  /** Without following links itself. */
  const clear = () => {
    const all = [...paths, join(top, "unfinished"), top];
    while (all.some((path) => lstatSync(path, { throwIfNoEntry: false }))) {
      for (const path of all) {
        for (const remove of [rmdirSync, unlinkSync]) {
          try {
            remove(path);
          } catch {} // swapped, or gone
        }
      }
    }
  };
  let removed = 0;
  try {
    for (let i = 0; i < 2000; i++) {
      clear();
      mkdirSync(top, { mode: 0o700 });
      mkdirSync(join(top, "v3"), { mode: 0o700 });
      symlinkSync(elsewhere, aside);
      try {
        removeAll(top, {
          mountBpffs: () => undefined,
          lock: () => true,
          emptySlot: () => undefined,
        });
        removed++;
      } catch (error) {
        expect(error).toBeInstanceOf(UserError);
      }
      expect(contents(elsewhere)).toEqual(before);
    }
    expect(removed).toBeGreaterThan(0);
  } finally {
    swap.kill("SIGKILL");
    await once(swap, "exit");
    clear();
  }
});

test("no link on the way is followed, to pin or to unpin", async () => {
  await (await start()).stop();
  const link = `${pins}-link`;
  symlinkSync(pins, link);
  try {
    for (const words of [
      ["unpin", link],
      ["--no-web", "--pin", link],
    ]) {
      const stderr = failed([process.execPath, CLI, ...words]);
      expect(stderr).toContain(`${link} is a symbolic link, which is not followed`);
      expect(stderr).toContain(`give the path that it leads to: ${pins}`);
    }
  } finally {
    unlinkSync(link);
  }
  expect(contents(pins)).toContain("v3/execs");
});

test("a pinned map of another kind is not reused, whatever its name", async () => {
  await (await start()).stop();
  for (const [name, type, key, value, entries] of [
    ["execve_counter", "hash", 64, 8, 10],
    ["execve_counter", "lru_hash", 64, 8, 4096],
    ["execs", "hash", 24, 8, 1024],
    ["next_count_exec", "array", 4, 4, 1],
  ]) {
    const path = join(pins, "v3", `${name}`);
    sh("mv", [path, join(pins, "v3", "aside")]);
    const shape = ["type", type, "key", key, "value", value, "entries", entries, "name", "execs"];
    sh(BPFTOOL, ["map", "create", path, ...shape.map(String)]);
    inItsPlace(path, () => {
      expect(refused(...FLAGS)).toMatch(/does not match this version/);
    });
  }
  await start();

  function inItsPlace(path: string, check: () => void): void {
    const kept = `/sys/fs/bpf/${uniqueName()}`;
    sh("mv", [join(pins, "v3", "aside"), kept]);
    try {
      check();
    } finally {
      rmSync(path);
      sh("mv", [kept, path]);
    }
  }
});

test("an entry that calls another program's slot is not reused", async () => {
  await (await start()).stop();
  const [one, two] = ["enter_count_execve", "enter_count_execveat"].map((name) =>
    join(pins, "v3", name),
  ) as [string, string];
  sh("mv", [one, `${pins}-x`]);
  sh("mv", [two, one]);
  sh("mv", [`${pins}-x`, two]);
  expect(refused(...FLAGS)).toContain("the pin enter_count_execve does not match this version");
});

test("a directory that others can change is not used", () => {
  mkdirSync(pins);
  chmodSync(pins, 0o755);
  expect(refused()).toContain(`${pins} is not private`);
  expect(unpin().stderr).toContain(`${pins} is not private`);
  chmodSync(pins, 0o700);
  chownSync(pins, 65534, 65534);
  expect(refused()).toContain(`${pins} is not private`);
  expect(contents(pins)).toEqual([]);
});

test("root removes what another user pinned, but nothing that is not that user's", async () => {
  await (await start()).stop();
  chownSync(pins, 65534, 65534);
  const { status, stderr } = unpin();
  expect(status).toBe(1);
  expect(stderr).toContain(`${join(pins, "v3")} does not belong to execve-counter`);
  chownSync(join(pins, "v3"), 65534, 65534);
  expect(unpin().status).toBe(0);
  expect(existsSync(pins)).toBe(false);
});

test("a directory that is no bpffs is refused", () => {
  pins = join(directory, "pins");
  const stderr = refused();
  expect(stderr).toContain(`${pins} is not in a bpffs`);
  expect(stderr).toContain("mount -t bpf -o mode=700 bpf <directory>");
  expect(existsSync(pins)).toBe(false);
  expect(failed([process.execPath, CLI, "unpin", directory])).toContain(
    `${directory} is not in a bpffs: nothing is pinned there`,
  );
});

test("a name with a dot, which the kernel takes in no bpffs, is refused as such", () => {
  for (const dotted of [`${pins}.d`, `${pins}/a.b/c`]) {
    const stderr = failed([process.execPath, CLI, "--no-web", "--pin", dotted]);
    expect(stderr).toContain(`${dotted} cannot be in a bpffs: the kernel allows no dot`);
    expect(existsSync(pins)).toBe(false);
  }
});

test("a read-only bpffs is said to be that", async () => {
  const readOnly = [...inMountNamespace('mount -o remount,bind,ro /sys/fs/bpf && exec "$0" "$@"')];
  expect(failed([...readOnly, ...wordsOf()], 3)).toContain(`${pins} is mounted read-only`);
  expect(existsSync(pins)).toBe(false);
  await (await start()).stop();
  const unpin = [process.execPath, CLI, "unpin", pins];
  expect(failed([...readOnly, ...unpin], 3)).toContain(`${pins} is mounted read-only`);
  expect(contents(pins)).toContain("v3/execs");
  // All of the file system, with pins in it.
  const script = `umount /sys/fs/bpf && mount -t bpf bpf /sys/fs/bpf && "$0" "$@" 2>&- | { read line; }
    mount -o remount,ro /sys/fs/bpf && exec "$0" "$@"`;
  const words = [...inMountNamespace(script), ...wordsOf("--interval", "100ms")];
  expect(failed(words, 3)).toContain(`${pins} is mounted read-only`);
});

test("root mounts bpffs where it is not, and says that its pins end with the mount namespace", () => {
  const script =
    'umount -q -R /sys/fs/bpf; "$0" "$@" > $LINES & until [ -s $LINES ]; do kill -0 $! || exit; sleep 0.1; done; kill -INT $!; wait $!; stat -c %a /sys/fs/bpf; ls $PINS';
  const [unshare = "", ...words] = inMountNamespace(script);
  const env = { ...process.env, PINS: pins, LINES: join(directory, "lines") };
  const { status, stdout, stderr } = result(
    unshare,
    [...words, process.execPath, CLI, "--pin", pins, "--no-web", "--interval", "100ms"],
    { env },
  );
  expect(status).toBe(0);
  expect(stdout.trimEnd().split("\n")).toEqual(["1700", "v3"]);
  expect(stderr).toContain("also while no agent runs, as long as its bpffs is mounted\n");
  expect(stderr).toContain(`the bpffs of ${pins} is mounted in this mount namespace only`);
});

test("the start says which pins outlive everything but the machine, and which may not", async () => {
  // The first process has what this one has, wherever the tests run.
  const script = 'mount --bind /proc/$$/mountinfo /proc/1/mountinfo && exec "$0" "$@"';
  const host = ["unshare", "--mount", "sh", "-c", script];
  const meter = await start(FLAGS, { wrap: host });
  await until("a word", () => meter.stderr.includes("also while no agent runs\n"));
  expect(meter.stderr).not.toContain("mount namespace");
  await meter.stop();
  const wrap = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
  const inside = await start(FLAGS, { wrap });
  await until("a word", () =>
    inside.stderr.includes("also while no agent runs, as long as its bpffs is mounted\n"),
  );
  expect(inside.stderr).not.toContain("mount namespace");
  await inside.stop("SIGKILL"); // unshare takes no other
  // Mounted by the meter itself, like in a container.
  const alone = ["sh", "-c", 'umount /sys/fs/bpf && exec "$0" "$@"'];
  const last = await start(FLAGS, { wrap: [...wrap, ...alone] });
  await until("a word", () => last.stderr.includes("mounted in this mount namespace only"));
});

test("the service's user pins in a directory of its own, by the three capabilities", async () => {
  const installed = new Installation();
  chmodSync(installed.directory, 0o755);
  mkdirSync(pins, { mode: 0o700 });
  chownSync(pins, 65534, 65534);
  const caps = "+bpf,+perfmon,+dac_read_search";
  const user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
  const wrap = [...user, "--inh-caps", caps, "--ambient-caps", caps];
  const options = { wrap, cli: installed.cli };
  try {
    const { start_time } = await (await start(FLAGS, options)).counts();
    await running.pop()?.stop();
    expect((await (await start(FLAGS, options)).counts()).start_time).toBe(start_time);
    await running.pop()?.stop();
  } finally {
    installed.remove();
  }
  expect(unpin().status).toBe(0);
});

test("for a larger table the counts have to be ended first, and a message says so", async () => {
  const meter = await start(["--by", "command", "--max-series", "16", "--interval", "100ms"]);
  const many = Array.from({ length: 20 }, (_, i) => join(directory, `${program.slice(-8)}${i}`));
  for (const path of many) copyFileSync("/bin/true", path);
  sh(STORM, ["spawn", "1", "1", ...many]);
  const said = `for more rows than 16, end these counts (execve-counter unpin ${pins}), and start again with a larger`;
  await until("a word", () => meter.stderr.includes(said));
});

test("a start that fails pins nothing, and neither does --check", async () => {
  const first = await Meter.start();
  running.push(first);
  const { host } = new URL(first.origin);
  const { status } = result(process.execPath, [
    CLI,
    ...["--pin", pins, "--web.listen-address", host],
  ]);
  expect(status).toBe(1);
  expect(existsSync(pins)).toBe(false);
  const check = result(process.execPath, [CLI, "--check", "--pin", pins]);
  expect(check.status).toBe(0);
  expect(check.stdout).toContain(pins);
  expect(existsSync(pins)).toBe(false);
});

test("killed at any step of its first start, or of unpin, the next start repairs what it leaves", async () => {
  const words = wordsOf(...FLAGS, "--interval", "100ms");
  const unpinWords = [process.execPath, CLI, "unpin", pins];
  const starting = stepsOf(words, UNTIL_LINE);
  const ending = stepsOf(unpinWords);
  for (const kind of ["mkdir", "rename", "bpf"]) {
    expect(starting.map(({ call }) => call)).toContain(kind);
  }
  expect(ending.map(({ call }) => call)).toEqual(
    expect.arrayContaining(["rename", "unlink", "rmdir"]),
  );
  const some = <T>(all: T[]) => all.filter((_, i) => i < 3 || i > all.length - 4 || i % 6 === 0);
  for (const step of some(starting)) {
    killAt(step, words);
    await (await start()).stop();
    expect(unpin().status).toBe(0);
    expect(existsSync(pins)).toBe(false);
  }
  for (const step of some(ending)) {
    await (await start()).stop();
    killAt(step, unpinWords);
    await (await start()).stop();
    expect(unpin().status).toBe(0);
    expect(existsSync(pins)).toBe(false);
  }
});

test("an emptied slot is a failed read, reported everywhere", async () => {
  const meter = await start();
  const slot = join(pins, "v3/next_count_exec");
  sh(BPFTOOL, ["map", "delete", "pinned", slot, "key", "0", "0", "0", "0"]);
  expect((await meter.get("/readyz")).status).toBe(503);
  await until("a word", () =>
    meter.stderr.includes("slot count_exec calls another program, or none"),
  );
  await meter.stop();
  // The next start fills it again.
  const next = await start();
  expect((await next.get("/readyz")).status).toBe(200);
});

test("a slot that another process gave to another program is a failed read", async () => {
  const meter = await start();
  const other = await Meter.start(["--no-web"]);
  running.push(other);
  const [program] = loadedBy(other.pid).prog.filter((id) => {
    const { name } = JSON.parse(sh(BPFTOOL, ["-j", "prog", "show", "id", `${id}`]));
    return name === "count_exec";
  });
  const slot = join(pins, "v3/next_count_exec");
  const value = ["value", "id", `${program}`];
  sh(BPFTOOL, ["map", "update", "pinned", slot, "key", "0", "0", "0", "0", ...value]);
  expect((await meter.get("/readyz")).status).toBe(503);
  await until("a word", () =>
    meter.stderr.includes(
      "slot count_exec calls another program, or none, which does not count (ESTALE)",
    ),
  );
});

test("an agent that reuses links keeps them attached, though another process removes the pins", async () => {
  await (await start()).stop();
  const second = await start();
  await until("a word", () => second.stderr.includes("reuses the counts"));
  const { execveat = Number.NaN } = await counts(second);
  for (const name of contents(join(pins, "v3"))) {
    if (name.startsWith("link_")) rmSync(join(pins, "v3", name));
  }
  sh(STORM, ["execveat", "2", "1000"]);
  sh(join(directory, program), []);
  expect(await counts(second)).toMatchObject({ execveat: execveat + 2000, runs: 1 });
  // What comes after it finds that the pins are no longer what they were.
  await second.stop();
  expect(refused(...FLAGS)).toContain("is damaged: link_");
});

test("a start with too few file descriptors pins nothing", () => {
  let said = 0;
  for (let limit = 12; limit < 72; limit += limit < 24 ? 1 : 12) {
    const agent = [process.execPath, CLI, "--pin", pins, "--no-web", ...FLAGS];
    const { stderr } = result("prlimit", [`--nofile=${limit}`, "--core=0", ...agent]);
    expect(existsSync(pins)).toBe(false);
    // With a few less than the meter notices, Node.js itself does not start.
    if (said === 0 && !stderr.startsWith("execve-counter: ")) continue;
    expect(stderr).toMatch(/^execve-counter: error: .+\n.+ to do: raise the limit on open files/);
    said++;
  }
  expect(said).toBeGreaterThan(3);
});

test("an attempts key that is gone is not made anew at 0, as if nothing had been counted", async () => {
  await (await start()).stop();
  const map = join(pins, "v3/execve_counter");
  sh(BPFTOOL, ["map", "delete", "pinned", map, ...hexKey("execve_counter")]);
  const next = await start();
  expect((await next.get("/readyz")).status).toBe(503);
  expect(next.stderr).toContain("the key execve_counter is gone");
});

test("a user who may not look into the directory is told so, and not that nothing is there", async () => {
  await (await start()).stop();
  const installed = new Installation();
  const caps = ["--inh-caps", "+bpf,+perfmon", "--ambient-caps", "+bpf,+perfmon"];
  const nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", ...caps];
  // Below the pins, which are root's alone.
  const inside = join(pins, "more");
  try {
    for (const words of [
      ["unpin", inside],
      ["--no-web", "--attempts", "raw", "--pin", inside],
    ]) {
      const { status, stdout, stderr } = result("setpriv", [
        ...[...nobody, process.execPath, installed.cli, ...words],
      ]);
      expect({ status, stdout }).toEqual({ status: 3, stdout: "" });
      expect(stderr).toContain(`cannot use ${inside} for pins`);
      expect(stderr).toContain("to do: run it as the owner of the directory");
    }
  } finally {
    installed.remove();
  }
  expect(contents(pins)).not.toContain("more");
});

test("unpin touches nothing where something is not ours", async () => {
  await (await start()).stop();
  // The last is called like ours.
  for (const name of ["foreign", "v3/foreign", "v3/link_count_x"]) {
    const foreign = join(pins, name);
    mkdirSync(foreign);
    const before = contents(pins);
    const { status, stderr } = unpin();
    expect(status).toBe(1);
    expect(stderr).toContain(
      `${foreign} does not belong to execve-counter: nothing is pinned or removed there`,
    );
    expect(contents(pins)).toEqual(before);
    rmdirSync(foreign);
  }
  expect(unpin().status).toBe(0);
});
