// Runs inside a test machine, where no one else runs anything: makes known storms while
// three processes read BPF maps, by either hook, and prints what was counted.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { release } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { lateFile } from "../support/late.mjs";

const STORM = "/app/build/test/storm";
const STORM_32 = "/app/build/test/storm32";
const PROGRAM = "/bin/program";
// How many failing calls of execve, of which all other numbers are fractions or multiples.
const CALLS = Number(process.env.calls);
const ADDON = ["build/Release", `prebuilds/linux-${process.arch}`]
  .map((directory) => `/app/${directory}/execve_counter.node`)
  .find(existsSync);
const READER = `
  const { Session } = require("${ADDON}");
  const session = new Session("/app/dist/execve_counter.bpf.o", () => {});
  session.load({ programs: ["count_exec"] });
  for (let i = 0; i < 50; i++) session.insert("k" + i);
  process.send("reads");
  for (;;) session.readCounters();`;

const startMeter = (...flags) => startMeterOn("3", ...flags);

/** @param cpus that it runs on, a bit each: there the tracepoints' perf events are opened */
async function startMeterOn(cpus, ...flags) {
  const child = spawn("/bin/taskset", [
    ...[cpus, "/bin/node", "dist/cli.js", "--web.listen-address", "127.0.0.1:0", "--failures"],
    ...["--by", "command,user,container,parent,unit,path", "--watch", "program", ...flags],
  ]);
  let stderr = "";
  let origin;
  child.stdout.resume();
  child.stderr.on("data", (data) => {
    stderr += data;
  });
  const exit = once(child, "exit");
  while (!origin) {
    if (child.exitCode !== null) throw new Error(stderr);
    await sleep(50);
    origin = /metrics at (http:\/\/[^/]+)/.exec(stderr)?.[1];
  }
  const stop = async (signal) => {
    child.kill(signal);
    return (await exit)[0];
  };
  // A connection each: one kept alive may just be timing out.
  const get = async (path) =>
    (await fetch(origin + path, { headers: { connection: "close" } })).text();
  return {
    stop,
    get,
    pid: child.pid,
    counts: async () => JSON.parse(await get("/api/v1/counts")),
    log: () => stderr,
  };
}

/** The counts, and what the kernel skipped, program by program. */
async function snapshot(meter) {
  const counts = await meter.counts();
  const missed = {};
  const metrics = await meter.get("/metrics");
  for (const [, program, value] of metrics.matchAll(
    /^execve_counter_missed_total\{program="(\w+)"\} (\d+)$/gm,
  )) {
    missed[program] = Number(value);
  }
  return { ...counts, missed };
}

const run = (program, ...args) => {
  const { status, stderr, error } = spawnSync(program, args.map(String), { encoding: "utf8" });
  if (status !== 0) throw error ?? new Error(stderr);
};
const storm = (...args) => run(STORM, ...args);

/** What top reads beside the meter. */
async function firstTable(map) {
  const child = spawn("/bin/node", ["dist/cli.js", "top", "--by", "command", "--map", map]);
  let text = "";
  child.stderr.on("data", (data) => {
    text += data;
  });
  for await (const data of child.stdout) {
    text += data;
    if (text.includes("\n\n")) break;
  }
  child.kill("SIGTERM");
  return text;
}

/** The calls of execve, a tenth as many of execveat, 40 starts, and the 3 of the storms. */
async function underReaders(hook) {
  const meter = await startMeter("--attempts", hook);
  const readers = [1, 2, 3].map(() =>
    spawn("/bin/node", ["-e", READER], { stdio: ["ignore", "inherit", "inherit", "ipc"] }),
  );
  await Promise.all(readers.map((reader) => once(reader, "message")));
  const before = await snapshot(meter);
  storm("execve", 2, CALLS / 2);
  storm("execveat", 2, CALLS / 20);
  storm("spawn", 2, 20, PROGRAM);
  const after = await snapshot(meter);
  const top = await firstTable(/execve_counter, id (\d+)/.exec(meter.log())[1]);
  const status = readFileSync(`/proc/${meter.pid}/status`, "utf8");
  for (const reader of readers) reader.kill("SIGKILL");
  await meter.stop("SIGTERM");
  return { before, after, top, status, log: meter.log() };
}

/** Calls of execveat and 40 starts, in the middle of which the meter is killed. */
async function pinned(hook) {
  const flags = ["--attempts", hook, "--pin", `/sys/fs/bpf/${hook}`];
  const meter = await startMeter(...flags).catch(({ message }) => message);
  if (typeof meter === "string") return { refused: meter };
  const storms = [
    spawn(STORM, ["execveat", "1", String(2.5 * CALLS)]),
    spawn(STORM, ["spawn", "1", "40", PROGRAM]),
  ];
  const ends = storms.map((child) => once(child, "exit"));
  await sleep(50);
  await meter.stop("SIGKILL");
  await Promise.all(ends);
  const next = await startMeter(...flags);
  const after = await snapshot(next);
  await next.stop("SIGTERM");
  spawnSync("/bin/node", ["dist/cli.js", "unpin", `/sys/fs/bpf/${hook}`]);
  return { after };
}

/** A quarter of the calls each while the CPU that the meter was started on is there, is not, is again. */
async function hotplug(hook) {
  // It reads when it is asked, not in the middle of a storm, where runs would be skipped.
  const meter = await startMeterOn("2", "--attempts", hook, "--interval", "1h");
  const counted = [];
  for (const online of ["1", "0", "1"]) {
    writeFileSync("/sys/devices/system/cpu/cpu1/online", online);
    const before = await snapshot(meter);
    storm("execve", 2, CALLS / 8);
    const after = await snapshot(meter);
    counted.push({ online, before, after });
  }
  await meter.stop("SIGTERM");
  return counted;
}

/** The same calls of execve and starts by a 32-bit program or, on x86-64, by int $0x80. */
async function from32Bit(hook) {
  const meter = await startMeter("--attempts", hook);
  const before = await snapshot(meter);
  if (process.arch === "arm64") {
    run(STORM_32, "execve", 2, CALLS / 2);
    run(STORM_32, "spawn", 2, 20, PROGRAM);
    run(STORM_32, "execveat", 2, CALLS / 20);
  } else {
    storm("int80", 2, CALLS / 2);
    storm("spawn32", 1, 40, PROGRAM);
  }
  const after = await snapshot(meter);
  await meter.stop("SIGTERM");
  return { before, after };
}

/** A tenth of the calls, by execveat, after each thing that others switch off. */
async function switchedOff() {
  run("/bin/mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing");
  // It reads when it is asked, as above.
  const meter = await startMeter("--interval", "1h");
  const counted = [];
  for (const [path, value] of [
    ["/sys/kernel/tracing/events/syscalls/sys_enter_execveat/enable", "1"],
    ["/sys/kernel/tracing/events/syscalls/sys_enter_execveat/enable", "0"],
    ["/sys/kernel/tracing/events/enable", "0"],
    ["/sys/kernel/tracing/set_event", ""],
    ["/sys/kernel/tracing/tracing_on", "0"],
    ["/proc/sys/kernel/perf_event_paranoid", "3"],
  ]) {
    writeFileSync(path, value);
    const before = await snapshot(meter);
    storm("execveat", 2, CALLS / 20);
    counted.push({ path, before, after: await snapshot(meter) });
  }
  await meter.stop("SIGTERM");
  return counted;
}

/** Each of five programs that are refused late, by every way to call that there is. */
async function refusedLate(hook) {
  const ways = [
    [STORM, "killed", "killedfd"],
    process.arch === "arm64" ? [STORM_32, "killed", "killedfd"] : [STORM, "killed32", "killed32fd"],
  ];
  // It reads when it is asked: on old kernels a read in the midst may skip what is not said.
  const meter = await startMeter("--attempts", hook, "--interval", "1h");
  const rows = [];
  for (const [compat, [program, ...modes]] of ways.entries()) {
    for (const bits of [32, 64]) {
      writeFileSync("/late", lateFile(bits), { mode: 0o755 });
      for (const [at, mode] of modes.entries()) {
        const before = await snapshot(meter);
        run(program, mode, 1, 5, "/late");
        rows.push({ compat, bits, at, before, after: await snapshot(meter) });
      }
    }
  }
  await meter.stop("SIGTERM");
  return rows;
}

/**
 * Three starts in each of ten containers, one after the other, and in ten lives of a unit: what a
 * scrape sees of each when it has ended, and what there is once all have retired.
 */
async function retired(hierarchy) {
  const meter = await startMeter("--interval", "1h", "--retire-after", "1s");
  const script = `echo $$ >"$0/cgroup.procs"; for i in 1 2 3; do ${PROGRAM}; done`;
  const series = async (pattern) => {
    const metrics = await meter.get("/metrics");
    const execs = metrics.split("\n").filter((line) => /^execve_counter_execs_total\{/.test(line));
    const sum = (lines) => lines.reduce((all, line) => all + Number(line.split(" ").at(-1)), 0);
    const rows = /^execve_counter_retired_rows_total (\d+)$/m.exec(metrics)?.[1];
    const count = sum(execs.filter((line) => pattern.test(line)));
    return { sum: sum(execs), rows: Number(rows), count };
  };
  const ended = [];
  for (let i = 0; i < 20; i++) {
    const name = i < 10 ? `a${i}`.padEnd(64, "0") : "timer.service";
    const path = `${hierarchy}/${name}`;
    mkdirSync(path);
    run("/bin/sh", "-c", script, path);
    rmdirSync(path);
    ended.push(await series(new RegExp(`="${name}".*="${PROGRAM}"`)));
  }
  let last = await series(/unit="retired"/);
  for (let i = 0; i < 100 && last.count < 60; i++) {
    await sleep(200);
    last = await series(/unit="retired"/);
  }
  const counts = await snapshot(meter);
  await meter.stop("SIGTERM");
  return { ended, last, counts };
}

/** Three starts in each of ten lives of a control group that alone is counted. */
async function lives(hook) {
  const path = "/sys/fs/cgroup/some.service";
  mkdirSync(path);
  const meter = await startMeter("--cgroup", "/some.service", "--attempts", hook);
  const script = `echo $$ >"$0/cgroup.procs"; for i in 1 2 3; do ${PROGRAM}; done`;
  for (let life = 1; life <= 10; life++) {
    if (life > 1) mkdirSync(path);
    run("/bin/sh", "-c", script, path);
    storm("spawn", 1, 10, PROGRAM);
    rmdirSync(path);
  }
  const counts = await snapshot(meter);
  await meter.stop("SIGTERM");
  return counts;
}

/** The maps of meters that are left; the kernel frees with a little delay. */
async function left() {
  const { findCounters } = createRequire(import.meta.url)(ADDON);
  for (let i = 0; i < 100 && findCounters().length > 0; i++) await sleep(100);
  return findCounters();
}

/** What stat counts of known storms, by either hook, while others execute programs. */
async function stat(hook) {
  const others = spawn(STORM, ["spawn", "1", "1000000", PROGRAM]);
  const words = [STORM, "spawn", "2", `${CALLS / 200}`, PROGRAM];
  const counted = [words, [STORM, "execve", "2", `${CALLS / 10}`]].map((command) => {
    const options = ["--failures", "-o", "json", "--by", "command,parent", "--attempts", hook];
    const { stderr } = spawnSync("/bin/node", [
      ...["dist/cli.js", "stat", ...options],
      ...["--", ...command],
    ]);
    return JSON.parse(`${stderr}`.trim().split("\n").at(-1));
  });
  const exit = once(others, "exit");
  others.kill();
  await exit;
  return counted;
}

const report = { release: release(), hooks: {} };
try {
  for (const hook of ["tracepoint", "raw"]) {
    report.hooks[hook] = {
      readers: await underReaders(hook),
      compat: await from32Bit(hook),
      pinned: await pinned(hook),
      hotplug: await hotplug(hook),
      late: await refusedLate(hook),
      stat: await stat(hook),
      lives: await lives(hook),
    };
  }
  report.switchedOff = await switchedOff();
  report.retired = { 2: await retired("/sys/fs/cgroup") };
  mkdirSync("/tmp/pids");
  run("/bin/mount", "-t", "cgroup", "-o", "pids", "cgroup", "/tmp/pids");
  report.retired[1] = await retired("/tmp/pids");
  report.left = await left();
} catch (error) {
  report.error = error.stack;
}
// Not to the console, where the kernel may write in between.
writeFileSync(process.env.report, JSON.stringify(report));
process.exit(); // whatever still runs
