import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findMeters } from "../../src/kernel/running.ts";
import { locate } from "../../src/stat/group.ts";
import { CLI, has32Bit, loadedBy, result, STORM, sh, until, untilGone } from "../support/meter.ts";

let directory: string;
/** A program that does nothing, of a name and in a place that every user can read. */
let tiny: string;
const parent =
  locate(readFileSync("/proc/self/mountinfo", "utf8"), readFileSync("/proc/self/cgroup", "utf8")) ??
  "/sys/fs/cgroup";

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  chmodSync(directory, 0o777);
  tiny = join(directory, "ectiny");
  copyFileSync("/bin/true", tiny);
});

afterAll(() => {
  expect(groups()).toEqual([]);
  rmSync(directory, { recursive: true });
});

const allGroups = () =>
  readdirSync(parent).filter((name) => name.startsWith("execve-counter-stat-"));
const others = allGroups();
/** The groups that stat has made here, and not removed. */
const groups = () => allGroups().filter((name) => !others.includes(name));

const stat = (options: string[], ...command: string[]) =>
  result(process.execPath, [CLI, "stat", ...options, "--", ...command], { input: "" });

interface Counted {
  command: string[];
  exit_code: number | null;
  signal: string | null;
  seconds: number;
  attempts: { execve: number; execveat: number };
  missed: number | null;
  execs: number;
  execs_by: Record<string, string | number>[];
  failures: Record<"execve" | "execveat", Record<string, number>>;
  left_running: number;
}

/** The JSON, which is the last line of stderr. */
const parsed = (stderr: string) => JSON.parse(stderr.trim().split("\n").at(-1) ?? "") as Counted;

function counted(options: string[], ...command: string[]): Counted {
  return parsed(stat(["-o", "json", "--failures", ...options], ...command).stderr);
}

test("23 programs and the command itself are counted as exactly 24", () => {
  expect(counted([], STORM, "spawn", "1", "23", tiny)).toMatchObject({
    command: [STORM, "spawn", "1", "23", tiny],
    ...{ exit_code: 0, signal: null, left_running: 0 },
    attempts: { execve: 24, execveat: 0 },
    execs: 24,
    execs_by: [
      { command: "ectiny", execs: 23 },
      { command: "storm", execs: 1 },
    ],
    failures: { execve: {}, execveat: {} },
  });
});

test("two CPUs that start programs, and fail to, lose none", () => {
  const { attempts, execs, missed } = counted([], STORM, "spawn", "2", "500", tiny);
  expect([attempts.execve + (missed ?? 0), execs]).toEqual([1001, 1001]);
  const failing = counted([], STORM, "execve", "2", "200000");
  expect(failing.attempts.execve + (failing.missed ?? 0)).toBe(400_001);
  expect(failing.failures.execve).toEqual({ ENOENT: 400_000 });
  const at = counted([], STORM, "execveat", "2", "100000");
  expect([at.attempts, at.failures.execveat]).toEqual([
    { execve: 1, execveat: 200_000 },
    { ENOENT: 200_000 },
  ]);
});

test.runIf(has32Bit)("the raw hook counts attempts by 32-bit callers", () => {
  const options = ["--attempts", "raw"];
  expect(counted(options, STORM, "int80", "1", "1000").attempts.execve).toBe(1001);
  expect(counted([], STORM, "int80", "1", "1000").attempts.execve).toBe(1);
});

test("without attempts only execs are counted", () => {
  const { attempts, execs } = counted(["--attempts", "off"], STORM, "spawn", "1", "23", tiny);
  expect([attempts, execs]).toEqual([undefined, 24]);
});

test("an exec by a thread, a double fork and a daemon of a session of its own are in", () => {
  const thread = counted([], STORM, "thread", "1", "1", tiny);
  expect([thread.execs, thread.attempts.execve]).toEqual([2, 2]);
  const done = join(directory, "done");
  // The waiting shell executes nothing: all of these words are its own.
  const daemon = `(setsid sh -c '( "$0"; "$0"; : >"$1" ) & exit' "$0" "$1" &); until [ -e "$1" ]; do :; done`;
  const { execs_by, left_running } = counted([], "/bin/sh", "-c", daemon, tiny, done);
  expect(execs_by).toEqual([
    { command: "ectiny", execs: 2 },
    { command: "sh", execs: 2 },
    { command: "setsid", execs: 1 },
  ]);
  expect(left_running).toBeLessThanOrEqual(1);
});

test("what others execute meanwhile is not counted", async () => {
  const [ready, go] = [join(directory, "ready"), join(directory, "go")];
  const script = `"$0"; : >"$1"; until [ -e "$2" ]; do :; done; "$0"`;
  const child = spawn(process.execPath, [
    ...[CLI, "stat", "-o", "json", "--failures"],
    ...["--", "/bin/sh", "-c", script, tiny, ready, go],
  ]);
  let stderr = "";
  child.stderr.on("data", (data) => {
    stderr += data;
  });
  const end = once(child, "close");
  await until("the command", () => existsSync(ready));
  sh(STORM, ["spawn", "2", "100", tiny]);
  sh(STORM, ["execve", "2", "100000"]);
  writeFileSync(go, "");
  await end;
  const { attempts, execs, execs_by, failures } = parsed(stderr);
  expect([attempts, execs]).toEqual([{ execve: 3, execveat: 0 }, 3]);
  expect(execs_by[0]).toEqual({ command: "ectiny", execs: 2 });
  expect(failures).toEqual({ execve: {}, execveat: {} });
});

test("20 at once do not see each other", async () => {
  const runs = Array.from({ length: 20 }, async (_, i) => {
    const child = spawn(process.execPath, [
      ...[CLI, "stat", "-o", "json"],
      ...["--", STORM, "spawn", "1", `${i + 1}`, tiny],
    ]);
    let stderr = "";
    child.stderr.on("data", (data) => {
      stderr += data;
    });
    await once(child, "close");
    return parsed(stderr).execs;
  });
  expect(await Promise.all(runs)).toEqual(Array.from({ length: 20 }, (_, i) => i + 2));
  expect(groups()).toEqual([]);
});

test("a program that leaves the group is out, as the docs say", () => {
  const leave = `"$0"; echo $$ >"$1/cgroup.procs"; "$0"; "$0"`;
  expect(counted([], "/bin/sh", "-c", leave, tiny, parent).execs).toBe(2);
});

test("groups that the command makes below are in, and go with it", () => {
  const below = `own=$(sed -n 's/^0:://p' /proc/self/cgroup); top=\${0%"$own"}
    for place in "$1"/execve-counter-stat-*; do :; done
    mkdir "$place/below"; echo $$ >"$place/below/cgroup.procs"; "$0"; "$0"
    echo $$ >"$place/cgroup.procs"; rmdir "$place/below"`;
  const { execs_by } = counted([], "/bin/sh", "-c", below, tiny, parent);
  expect(execs_by).toContainEqual({ command: "ectiny", execs: 2 });
});

test("stdout is the command's, and stdin and stderr are, too", () => {
  const script = "cat; echo talk >&2";
  const { stdout, stderr, status } = result(
    process.execPath,
    [CLI, "stat", "--", "/bin/sh", "-c", script],
    { input: "data\n" },
  );
  expect([status, stdout]).toEqual([0, "data\n"]);
  const [first, second, , head, ...rows] = stderr.split("\n");
  expect(first).toBe("talk");
  expect(second).toBe(`execve-counter: /bin/sh -c ${script}`);
  expect(head).toBe("  execs  command");
  expect(rows.slice(0, 3)).toEqual(["      1  cat", "      1  sh", ""]);
  expect(rows[3]).toMatch(/^ {6}2 {2}execs in \d+\.\d{3} s, \d+\.\d\/s$/);
  expect(rows[4]).toBe("      2  attempts: 2 execve, 0 execveat");
});

test("the command's stdin, stdout and stderr wait for it, as without stat", () => {
  const flags = "for fd in 0 1 2; do sed -n 's/^flags:\\t//p' /proc/self/fdinfo/$fd; done";
  const modes = (...args: string[]) =>
    result(args[0] as string, [...args.slice(1), "/bin/sh", "-c", flags], { input: "" })
      .stdout.trim()
      .split("\n")
      .map((mode) => Number.parseInt(mode, 8) & 0o4000);
  expect(modes(process.execPath, CLI, "stat", "--")).toEqual([0, 0, 0]);
});

test("words that are no text are passed on, byte by byte", () => {
  const script = `node=$1; shift; exec "$node" "$@" -- /bin/sh -c 'printf %s "$0" | od -An -tx1' "$(printf '\\377\\001')"`;
  const { stdout } = result("/bin/sh", ["-c", script, "sh", process.execPath, CLI, "stat"]);
  expect(stdout.trim()).toBe("ff 01");
});

test("the exit code is the command's, or 126 or 127 where it cannot be executed", () => {
  expect(stat([], "/bin/sh", "-c", "exit 3").status).toBe(3);
  const missing = stat([], "ec-there-is-none");
  expect(missing.status).toBe(127);
  expect(missing.stderr).toContain("error: cannot run ec-there-is-none (ENOENT)");
  expect(missing.stderr).toContain("error: to do: ");
  const plain = join(directory, "plain");
  writeFileSync(plain, "");
  expect(stat([], plain).status).toBe(126);
  chmodSync(plain, 0o755);
  // A script without #!, which the shell reads.
  writeFileSync(plain, "exit 5\n");
  expect(stat([], plain).status).toBe(5);
  expect(groups()).toEqual([]);
});

test("a command that a signal ends, ends stat by the same one, and without a core", () => {
  for (const signal of ["TERM", "INT", "KILL", "SEGV", "PIPE", "USR1"]) {
    const words = [CLI, "stat", "--", "/bin/sh", "-c", `ulimit -c 0; kill -${signal} $$`];
    const ended = spawnSync(process.execPath, words, { encoding: "utf8" });
    expect(ended.signal).toBe(`SIG${signal}`);
    expect(ended.stderr).toContain(`ended by SIG${signal}`);
  }
});

/** Counts the SIGINTs that reach it for a second, and prints how many. */
const COUNT_SIGNALS = `n=0; trap 'n=$((n + 1))' INT; : >"$0"
  i=0; while [ $i -lt 10 ]; do sleep 0.1; i=$((i + 1)); done; echo "signals: $n"`;

test("Ctrl-C reaches the command once, and a signal of another process does", async () => {
  const ready = join(directory, "trapped");
  const words = [process.execPath, CLI, "stat", "--", "/bin/sh", "-c", COUNT_SIGNALS, ready];
  // The kernel sends nothing to another session: so it is stat that would.
  const elsewhere = words.toSpliced(4, 0, "setsid");
  for (const [line, signals] of [
    [words, 1],
    [elsewhere, 0],
  ] as const) {
    rmSync(ready, { force: true });
    const quoted = line.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
    const terminal = spawn("script", ["-qec", quoted, "/dev/null"], { stdio: "pipe" });
    let shown = "";
    terminal.stdout.on("data", (data) => {
      shown += data;
    });
    await until("the command", () => existsSync(ready));
    terminal.stdin.write("\x03");
    await once(terminal, "close");
    expect(shown).toContain(`signals: ${signals}\r\n`);
    expect(shown).toContain(" execs in ");
  }

  rmSync(ready);
  const child = spawn(words[0] as string, words.slice(1), { stdio: "pipe" });
  let said = "";
  child.stdout.on("data", (data) => {
    said += data;
  });
  await until("the command", () => existsSync(ready));
  child.kill("SIGINT");
  expect(await once(child, "close")).toEqual([0, null]);
  expect(said).toBe("signals: 1\n");
});

test("what outlives the command runs on where it was, and stat says how many", async () => {
  const pid = join(directory, "pid");
  const script = `sleep 60 >/dev/null 2>&1 & echo $! >"$0"; until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done`;
  const { left_running, execs_by } = counted([], "/bin/sh", "-c", script, pid);
  expect(left_running).toBe(1);
  expect(execs_by).toContainEqual({ command: "sleep", execs: 1 });
  const left = Number(readFileSync(pid, "utf8"));
  try {
    const own = (of: number | "self") =>
      /^0::.*$/m.exec(readFileSync(`/proc/${of}/cgroup`, "utf8"))?.[0];
    expect(own(left)).toBe(own("self"));
    expect(groups()).toEqual([]);
  } finally {
    process.kill(left);
  }
});

test("a killed stat leaves no program, and the next one removes its group", async () => {
  const ready = join(directory, "killed");
  const words = [CLI, "stat", "--", "/bin/sh", "-c", `echo $$ >"$0"; exec sleep 60`, ready];
  const child = spawn(process.execPath, words, { stdio: "ignore" });
  const pid = Number(
    await until("the command", () => existsSync(ready) && readFileSync(ready, "utf8").trim()),
  );
  const loaded = loadedBy(child.pid as number);
  expect(loaded.prog.length).toBe(3);
  child.kill("SIGKILL");
  await once(child, "exit");
  await untilGone(loaded);
  expect(groups().length).toBe(1);
  // It is in use.
  stat([], "/bin/true");
  expect(groups().length).toBe(1);
  process.kill(pid);
  await until("the end", () => !existsSync(`/proc/${pid}`));
  stat([], "/bin/true");
  expect(groups()).toEqual([]);
});

test("under sudo the command runs as the caller, with the caller's groups and home", () => {
  const home = join(directory, "home");
  mkdirSync(home);
  const env = {
    ...{ PATH: process.env.PATH, HOME: "/root", USER: "root", LOGNAME: "root", MAIL: "/x" },
    ...{ SUDO_UID: "65534", SUDO_GID: "65534", SUDO_USER: "nobody", SUDO_COMMAND: "x" },
  };
  const script =
    "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; env | grep -cE '^(SUDO|MAIL)'; kill -0 1";
  const words = [CLI, "stat", "-o", "json", "--by", "command,user", "--", "/bin/sh", "-c", script];
  const { stdout, stderr, status } = result(process.execPath, words, { env });
  const account = (field: number) => sh("getent", ["passwd", "65534"]).trim().split(":")[field];
  const groups = sh("id", ["-G", "nobody"]).trim();
  expect(stdout.split("\n")).toEqual([
    ...["65534", "65534", groups],
    `${account(5)} nobody nobody`,
    ...["0", ""],
  ]);
  // It may not send a signal to init.
  expect(status).not.toBe(0);
  expect(parsed(stderr).execs_by).toContainEqual({ command: "sh", user: "nobody", execs: 1 });
});

test("other commands do not take it for the host's meter", async () => {
  const before = findMeters();
  const ready = join(directory, "meters");
  const words = [CLI, "stat", "--", "/bin/sh", "-c", `: >"$0"; exec sleep 60`, ready];
  const child = spawn(process.execPath, words, { stdio: "ignore" });
  await until("the command", () => existsSync(ready));
  expect(findMeters()).toEqual(before);
  child.kill();
  expect(await once(child, "exit")).toEqual([null, "SIGTERM"]);
});

test("it works where no unified hierarchy is mounted", () => {
  const script = `mount --make-rprivate / && umount -a -t cgroup2 && exec "$0" "$@"`;
  const words = [CLI, "stat", "-o", "json", "--", STORM, "spawn", "1", "23", tiny];
  const { stderr } = result("unshare", ["--mount", "sh", "-c", script, process.execPath, ...words]);
  expect(parsed(stderr).execs).toBe(24);
});

test("it works where a container's filter says that there is no clone3(2)", () => {
  const filter = ["strace", "-f", "-o", "/dev/null", "-e", "inject=clone3:error=ENOSYS"];
  const words = [
    process.execPath,
    CLI,
    "stat",
    "-o",
    "json",
    "--",
    STORM,
    "spawn",
    "1",
    "23",
    tiny,
  ];
  const { stderr } = result(filter[0] as string, [...filter.slice(1), ...words]);
  expect(parsed(stderr).execs).toBe(24);
});

test("a hierarchy that cannot be written is one line, and one remedy", () => {
  const script = `mount --make-rprivate / && mount -o remount,ro,bind "$0" && exec "$@"`;
  const words = [process.execPath, CLI, "stat", "--", "/bin/true"];
  const top = readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => line.split(" "))
    .find(([, , type]) => type === "cgroup2")?.[1] as string;
  const { status } = result("unshare", ["--mount", "sh", "-c", script, top, ...words]);
  // Root can mount it for itself.
  expect(status).toBe(0);
  const drop = ["setpriv", "--reuid", "65534", "--clear-groups", "--bounding-set", "-all"];
  const refused = result(drop[0] as string, [...drop.slice(1), ...words]);
  expect(refused.status).toBe(3);
  expect(refused.stderr).toMatch(
    /^execve-counter: error: .*control group.*\nexecve-counter: error: to do: run it as root.*\n$/,
  );
});

test("rows are by the labels asked for, the most first, and --top of them", () => {
  const other = join(directory, "ecother");
  copyFileSync("/bin/true", other);
  const { stderr } = stat(
    ["--by", "command,parent", "--top", "1"],
    ...[STORM, "spawn", "1", "3", tiny, other],
  );
  const lines = stderr.split("\n");
  expect(lines.slice(2, 6)).toEqual([
    "  execs  command  parent",
    "      3  ecother  storm",
    "      4  and 2 more",
    "",
  ]);
  expect(lines[6]).toMatch(/^ {6}7 {2}execs in /);
});

test("more programs than the budget end it with 4, unless the command fails by itself", () => {
  const words = [STORM, "spawn", "1", "23", tiny];
  expect(stat(["--budget", "24"], ...words)).toMatchObject({ status: 0 });
  const { status, stderr } = stat(["--budget", "23"], ...words);
  expect(status).toBe(4);
  expect(stderr.split("\n")[0]).toBe(
    "execve-counter: error: 24 programs were started, and the budget is 23: 1 too many",
  );
  const failing = stat(["--budget", "0"], "/bin/sh", "-c", "exit 3");
  expect(failing.status).toBe(3);
  expect(failing.stderr).toContain("the budget is 0: 1 too many");
});

test("what differs from an earlier run is shown, by the labels of its file", () => {
  const before = join(directory, "before.json");
  const run =
    (...options: string[]) =>
    (times: number) =>
      stat(options, STORM, "spawn", "1", `${times}`, tiny);
  writeFileSync(before, run("-o", "json", "--by", "command,parent")(20).stderr);
  const { status, stderr } = run("--compare", before)(23);
  expect(status).toBe(0);
  const lines = stderr.split("\n");
  expect(lines.slice(2, 5)).toEqual([
    "  execs  before  change  command  parent",
    "     23      20      +3  ectiny   storm",
    "",
  ]);
  expect(lines[5]).toMatch(/^ {5}24 {2}execs in .*; 21 before \(\+3\)$/);
  // Refused before the command runs.
  const refused = run("--compare", before, "--by", "command")(1);
  expect([refused.status, refused.stderr.split("\n").length]).toEqual([2, 3]);
});
