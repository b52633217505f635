import { closeSync, copyFileSync, mkdtempSync, openSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { projectPath } from "../support/files.ts";
import { Groups } from "../support/groups.ts";
import { Installation } from "../support/installation.ts";
import {
  CLI,
  loadedBy,
  Meter,
  result,
  STORM,
  sh,
  uniqueName,
  until,
  untilGone,
} from "../support/meter.ts";

// The way a program finds it that has installed the package.
const { findMeters, openMeter, UserError } = (await import(
  projectPath("dist/index.js")
)) as typeof import("../../src/index.ts");

const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
const name = uniqueName();
const program = join(directory, name);
copyFileSync("/bin/true", program);
const installed = new Installation();
afterAll(() => {
  rmSync(directory, { recursive: true });
  installed.remove();
});

const run = (times: number) => sh(STORM, ["spawn", "1", `${times}`, program]);

test("a meter of one's own counts from now on, and leaves nothing", async () => {
  const meter = openMeter({ by: ["command"], maxSeries: 4096, failures: true, watch: [name] });
  const loaded = loadedBy("self");
  try {
    expect(findMeters()).toContain(meter.map);
    const before = meter.read().failures?.execve.get("ENOTDIR") ?? 0n;
    sh(STORM, ["execve", "1", "23", "/etc/passwd/none"]);
    run(23);
    const { watched, execsBy, by, failures } = meter.read();
    expect(watched.get(name)).toBe(23n);
    expect(execsBy.find(({ labels }) => labels.command === name)?.count).toBe(23n);
    expect(by).toEqual(["command"]);
    expect((failures?.execve.get("ENOTDIR") ?? 0n) - before).toBe(23n);
    expect(meter.ended).toBe(false);
  } finally {
    meter.close();
  }
  expect(loaded.prog.length).toBeGreaterThan(0);
  await untilGone(loaded);
  expect(() => meter.read()).toThrow("the meter is closed");
  await expect(meter.watch(name)).rejects.toThrow("the meter is closed");
});

test("one that is pinned can be closed twice, and no file of others with it", () => {
  const pin = `/sys/fs/bpf/${uniqueName()}`;
  const meter = openMeter({ pin });
  // These tests may run in a mount namespace with a bpffs of its own, which is one.
  expect(meter.notices.filter((notice) => !notice.includes("mount namespace"))).toEqual([]);
  meter.close();
  const files = Array.from({ length: 32 }, () => openSync("/dev/null", "r"));
  meter.close();
  for (const file of files) closeSync(file);
  sh(process.execPath, [CLI, "unpin", pin]);
});

test("a start that finds damaged pins leaves no descriptor open", () => {
  const pin = `/sys/fs/bpf/${uniqueName()}`;
  openMeter({ pin }).close();
  const link = `${pin}/v3/link_count_exec`;
  sh("rm", [link]);
  const open = () => readdirSync("/proc/self/fd").length;
  expect(() => openMeter({ pin })).toThrow("is damaged");
  const before = open();
  for (let i = 0; i < 10; i++) expect(() => openMeter({ pin })).toThrow("is damaged");
  expect(open()).toBe(before);
  sh(process.execPath, [CLI, "unpin", pin]);
});

test("what is pinned with other options is replaced only where that is asked for", () => {
  const pin = `/sys/fs/bpf/${uniqueName()}`;
  try {
    openMeter({ pin, watch: [name] }).close();
    run(3);
    expect(() => openMeter({ pin, failures: true })).toThrow("this start asks for --failures");
    const again = openMeter({ pin, watch: [name] });
    expect(again.read().watched.get(name)).toBe(3n);
    again.close();
    const anew = openMeter({ pin, failures: true, watch: [name], pinReplace: true });
    run(2);
    expect(anew.read().watched.get(name)).toBe(2n);
    anew.close();
  } finally {
    sh("rm", ["-rf", pin]);
  }
});

test("rows of a container that has ended retire when it says so", () => {
  const groups = new Groups();
  const meter = openMeter({ by: ["command", "container"] });
  const container = "c3".padEnd(64, "0");
  const counts = () =>
    meter.read().execsBy.filter(({ labels }) => labels.container === container).length;
  try {
    groups.run(groups.program(name), 3, container);
    groups.end(container);
    expect(meter.retire(60_000)).toBe(0);
    expect(counts()).toBe(1);
    expect(() => meter.retire(-1)).toThrow(UserError);
    expect(meter.retire(0)).toBeGreaterThanOrEqual(1);
    expect(counts()).toBe(0);
    expect(meter.read().execsBy.find(({ of }) => of === "retired")?.count).toBeGreaterThanOrEqual(
      3n,
    );
    const reader = openMeter({ map: meter.map });
    expect(() => reader.retire(0)).toThrow("another process runs this meter");
    reader.close();
  } finally {
    meter.close();
    groups.remove();
  }
});

test("a hook that was not asked for is in its notices", () => {
  const script = `const { openMeter } = require("execve-counter");
    const meter = openMeter(); console.log(meter.notices.join()); meter.close();`;
  const words = ["--reuid=65534", "--regid=65534", "--clear-groups"];
  const capable = ["--inh-caps", "+bpf,+perfmon", "--ambient-caps", "+bpf,+perfmon"];
  const { status, stdout } = result(
    "setpriv",
    [...words, ...capable, process.execPath, "--input-type=commonjs", "--eval", script],
    { cwd: installed.directory },
  );
  expect(stdout).toContain("the raw hook counts instead");
  expect(status).toBe(0);
});

test("its watch list can be edited", async () => {
  const meter = openMeter();
  try {
    run(1);
    expect([...meter.read().watched]).toEqual([]);
    await meter.watch(name, "sh");
    run(23);
    expect(meter.read().watched.get(name)).toBe(23n);
    await meter.unwatch(name);
    expect([...meter.read().watched.keys()]).toEqual(["sh"]);
    await expect(meter.unwatch(name)).rejects.toThrow(`not watched: ${name}`);
    await expect(meter.watch("a/b")).rejects.toThrow("a watched name cannot be");
  } finally {
    meter.close();
  }
});

test("another process's meter can be read and edited, and its end is seen", async () => {
  const running = await Meter.start(["--watch", name]);
  const meter = openMeter({ map: running.mapId });
  try {
    expect(meter.startTime.getTime()).toBeLessThanOrEqual(Date.now());
    run(23);
    expect(meter.read().watched.get(name)).toBe(23n);
    await meter.unwatch(name);
    expect((await running.counts()).watched).toEqual({});
    expect(meter.ended).toBe(false);
    await running.stop();
    // The kernel frees programs with a little delay.
    await until("its end", () => meter.read().execs >= 23n && meter.ended);
  } finally {
    meter.close();
    await running.stop();
  }
});

test.each([
  [{ attempts: "all" }, "attempts cannot be"],
  [{ by: ["pid"] }, "by cannot be"],
  [{ maxSeries: 15 }, "maxSeries cannot be 15"],
  [{ maxSeries: "1024" }, "maxSeries cannot be"],
  [{ watch: ["a/b"] }, "a watched name cannot be"],
  [{ pin: "" }, "pin cannot be"],
  [{ pin: 5 }, "pin cannot be 5"],
  [{ failures: "no" }, "failures cannot be"],
  [{ by: "command" }, "by cannot be"],
  [{ watch: [5] }, "watch cannot be"],
  [{ log: "x" }, "log cannot be"],
  [{ map: null }, "map cannot be null"],
  [{ map: undefined }, "map cannot be undefined"],
  [{ interval: 5 }, "an option cannot be"],
  [{ map: 0 }, "no meter has the map 0"],
  [{ map: 1, by: [] }, "an option cannot be"],
])("%j is refused, and loads nothing", (options, message) => {
  const before = loadedBy("self");
  expect(() => openMeter(options as object)).toThrow(UserError);
  expect(() => openMeter(options as object)).toThrow(message);
  expect(loadedBy("self")).toEqual(before);
});

test.each([
  ["import", "--input-type=module", 'import { openMeter } from "execve-counter";'],
  ["require", "--input-type=commonjs", 'const { openMeter } = require("execve-counter");'],
])("%s finds it by the package's name", (_, type, line) => {
  const script = `${line} const meter = openMeter(); console.log(meter.read().execs); meter.close();`;
  const ended = result(process.execPath, [type, "--eval", script], { cwd: projectPath(".") });
  expect(ended).toMatchObject({ status: 0, stderr: "" });
  expect(ended.stdout).toMatch(/^\d+n\n$/);
});

test("nothing but the library can be imported", () => {
  const script = 'import("execve-counter/dist/kernel/meter.js")';
  const { status, stderr } = result(process.execPath, ["--eval", script], {
    cwd: projectPath("."),
  });
  expect(status).toBe(1);
  expect(stderr).toContain("ERR_PACKAGE_PATH_NOT_EXPORTED");
});

test("the example shows what ran", () => {
  const { status, stdout, stderr } = result(process.execPath, [
    projectPath("examples/busiest.mjs"),
    "0.5",
  ]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout).toMatch(/^\d+ execs, \d+ of them sh\n(\d+ .+\n)+$/);
});

test("the example says in two lines why it cannot", () => {
  const words = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
  const { status, stdout, stderr } = result(
    "setpriv",
    [
      ...words,
      process.execPath,
      "--input-type=module",
      "--eval",
      'import { openMeter } from "execve-counter"; try { openMeter(); } catch ({ message, remedy, exitCode }) { console.log(message, remedy, exitCode); }',
    ],
    { cwd: projectPath(".") },
  );
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout).toContain("not permitted to use BPF");
  expect(stdout).toMatch(/ 3\n$/);
});
