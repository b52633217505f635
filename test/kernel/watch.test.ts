import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { projectPath } from "../support/files.ts";
import { Installation } from "../support/installation.ts";
import {
  BPFTOOL,
  CLI,
  hexKey,
  Meter,
  result,
  STORM,
  sh,
  uniqueName,
  until,
} from "../support/meter.ts";

let directory: string;
let meter: Meter;
const one = uniqueName();
const two = `${one.slice(0, -1)}_`;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  for (const name of [one, two]) copyFileSync("/bin/true", join(directory, name));
  meter = await Meter.start(["--watch", one, "--interval", "100ms", "--output", "json"]);
});

afterAll(async () => {
  await meter?.stop();
  rmSync(directory, { recursive: true });
});

function watch(...words: string[]) {
  return result(process.execPath, [CLI, "watch", ...words, "--map", `${meter.mapId}`]);
}

function run(times: number, ...names: string[]): void {
  sh(STORM, ["spawn", "1", `${times}`, ...names.map((name) => join(directory, name))]);
}

async function watched(): Promise<Record<string, number>> {
  return (await meter.counts()).watched;
}

test("a name is added from another process, counted from then on, and removed", async () => {
  run(3, one, two);
  expect(watch("add", two)).toEqual({ status: 0, stdout: "", stderr: "" });
  expect(await watched()).toEqual({ [one]: 3, [two]: 0 });
  run(23, two);
  expect(await watched()).toEqual({ [one]: 3, [two]: 23 });
  const line = await until("a line with it", () =>
    meter.lines.map((each) => JSON.parse(each)).find((each) => each.watched[two] === 23),
  );
  expect(line.watched[one]).toBe(3);

  const text = watch("list").stdout.split("\n").sort();
  expect(text).toEqual(["", `${one} 3`, `${two} 23`].sort());
  expect(JSON.parse(watch("list", "-o", "json").stdout)).toEqual({ [one]: 3, [two]: 23 });

  expect(watch("remove", two)).toEqual({ status: 0, stdout: "", stderr: "" });
  expect(await watched()).toEqual({ [one]: 3 });
  expect(await meter.metrics()).not.toContain(two);
  watch("add", two);
  expect(await watched()).toEqual({ [one]: 3, [two]: 0 });
  watch("remove", two);
});

test("a name that is watched already keeps its count", async () => {
  run(1, one);
  const before = await watched();
  const { status, stderr } = watch("add", one);
  expect({ status, stderr }).toEqual({
    status: 0,
    stderr: `execve-counter: ${one} is watched already\n`,
  });
  expect(await watched()).toEqual(before);
});

test("a name that is not watched cannot be removed, and the others are", async () => {
  watch("add", two);
  const { status, stderr } = watch("remove", "nobody-has-this", two);
  expect(status).toBe(1);
  expect(stderr).toContain("error: not watched: nobody-has-this\n");
  expect(stderr).toContain("to do: ");
  expect(Object.keys(await watched())).toEqual([one]);
});

test.each([
  [["add", ""], /a watched name cannot be ""/],
  [["add", "/usr/bin/nc"], /without its directory: give nc$/m],
  [["add", "systemd-executor"], /keeps 15 bytes .* give systemd-executo$/m],
  [["add"], /missing required argument 'name'/],
  [["add", "nc", "--map", "nonsense"], /--map cannot be "nonsense"/],
  [[], /watch needs list, add or remove/],
  [["nonsense"], /there is no command watch nonsense$/m],
] as const)("execve-counter watch %j is wrong usage", (words, message) => {
  const { status, stdout, stderr } = result(process.execPath, [CLI, "watch", ...words]);
  expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
  expect(stderr).toMatch(message);
  expect(stderr.trimEnd().split("\n")).toHaveLength(2);
});

test("of several meters one must be chosen, and a map of none is refused", async () => {
  const other = await Meter.start();
  try {
    const unclear = result(process.execPath, [CLI, "watch", "list"]);
    expect(unclear.status).toBe(1);
    expect(unclear.stderr).toMatch(/\d meters are running/);
    expect(unclear.stderr).toContain("by the map that its first line names: --map ");
    expect(unclear.stderr).toContain(`${other.mapId}`);
    const wrong = result(process.execPath, [CLI, "watch", "list", "--map", "4294967295"]);
    expect(wrong.status).toBe(1);
    expect(wrong.stderr).toContain("no meter has the map 4294967295");
  } finally {
    await other.stop();
  }
});

test("a user who may not look for the meter is told so", () => {
  const installed = new Installation();
  try {
    const user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    const list = [process.execPath, installed.cli, "watch", "list"];
    const { status, stderr } = result("setpriv", [...user, ...list]);
    expect(stderr).toContain("not permitted to look for the running meter");
    expect(stderr).toContain("to do: run it as root");
    expect(status).toBe(3);
  } finally {
    installed.remove();
  }
});

test("a full list is reported, and nothing is lost", async () => {
  const full = await Meter.start([
    ...["--watch", Array.from({ length: 4093 }, (_, i) => `full${i}`).join()],
  ]);
  const add = (name: string) =>
    result(process.execPath, [CLI, "watch", "add", name, "--map", `${full.mapId}`]);
  try {
    expect(add("last").status).toBe(0);
    const { status, stderr } = add("one-more");
    expect(status).toBe(2);
    expect(stderr).toContain("no room");
    expect(Object.keys((await full.counts()).watched)).toHaveLength(4094);
    // All of them or none.
    const remove = ["watch", "remove", "last", "--map", `${full.mapId}`];
    expect(result(process.execPath, [CLI, ...remove]).status).toBe(0);
    expect(add("two,more").status).toBe(2);
    expect(Object.keys((await full.counts()).watched)).toHaveLength(4093);
  } finally {
    await full.stop();
  }
});

test("the meter notices edits by bpftool too", async () => {
  const map = ["id", String(meter.mapId)];
  const value = ["value", ..."0 0 0 0 0 0 0 0".split(" ")];
  sh(BPFTOOL, ["map", "update", ...map, ...hexKey(`comm:${two}`), ...value]);
  run(23, two);
  expect((await watched())[two]).toBe(23);
  sh(BPFTOOL, ["map", "delete", ...map, ...hexKey(`comm:${two}`)]);
  expect(await watched()).not.toHaveProperty(two);
});

test("edits under a storm disturb no other counter by even one", async () => {
  const before = await watched();
  const attempts = (await meter.counts()).attempts?.execveat ?? Number.NaN;
  const RUNS = 4000;
  const starts = spawn(STORM, [
    ...["spawn", "2", `${RUNS}`, join(directory, one), join(directory, two)],
  ]);
  const failures = spawn(STORM, ["execveat", "1", "3000000"]);
  const ends = [once(starts, "exit"), once(failures, "exit")];
  // Names without a process come and go beside one that has some: a run of it
  // that lands on an element which is removed and used again would show as theirs.
  const unborn = Array.from({ length: 40 }, (_, i) => `${one.slice(0, 11)}%${i}`);
  const disturbed: unknown[] = [];
  let edits = 0;
  while (starts.exitCode === null) {
    for (const [edit, names] of [
      ["add", [two]],
      ["remove", [two]],
      ["add", unborn],
      ["remove", unborn],
    ] as const) {
      expect(await edited(edit, names)).toBe("");
      edits++;
      const now = await watched();
      for (const name of unborn) if (now[name]) disturbed.push([name, now[name]]);
    }
  }
  for (const [status] of await Promise.all(ends)) expect(status).toBe(0);
  expect(edits).toBeGreaterThanOrEqual(8);
  expect(disturbed).toEqual([]);
  const after = await watched();
  expect((after[one] ?? 0) - (before[one] ?? 0)).toBe(2 * RUNS);
  const { attempts: now } = await meter.counts();
  expect((now?.execveat ?? 0) - attempts).toBe(3_000_000);
});

test("two processes that edit at once wait for each other", async () => {
  const holder = spawn("flock", ["/run/execve-counter.lock", "sh", "-c", "echo held; read word"]);
  await once(holder.stdout, "data");
  const edit = edited("add", [two]);
  await sleep(1000);
  expect(Object.keys(await watched())).not.toContain(two);
  holder.stdin.end("\n");
  expect(await edit).toBe("");
  expect(Object.keys(await watched())).toContain(two);
  await edited("remove", [two]);
});

test.each([
  ["mount -t tmpfs -o ro none /run", "EROFS"],
  ["mount -t tmpfs none /run; ln -s /etc/hostname /run/execve-counter.lock", "ELOOP"],
])("where the lock cannot be taken, that is said: %s", (script, code) => {
  const edit = [process.execPath, CLI, "watch", "add", two, "--map", `${meter.mapId}`];
  const wrap = ["unshare", "--mount", "sh", "-c", `${script}; exec "$0" "$@"`];
  const { status, stderr } = result("env", [...wrap, ...edit]);
  expect(status).toBe(1);
  expect(stderr).toContain(`cannot lock /run/execve-counter.lock (${code})`);
});

// The race that this prevents is too rare to wait for.
test.each([
  ["add", /ARRAY_OF_MAPS.*MAP_UPDATE_ELEM.*flags=BPF_ANY.*MAP_UPDATE_ELEM.*flags=BPF_NOEXIST/s],
  ["remove", /MAP_DELETE_ELEM.*ARRAY_OF_MAPS.*MAP_UPDATE_ELEM.*flags=BPF_ANY/s],
] as const)("%s waits for the programs that run, on the right side of the edit", (edit, order) => {
  const { status, stderr } = result("strace", [
    ...["--follow-forks", "--trace=bpf", process.execPath, CLI],
    ...["watch", edit, two, "--map", `${meter.mapId}`],
  ]);
  expect(status).toBe(0);
  expect(stderr).toMatch(order);
});

test("a name given twice is edited once", async () => {
  expect(watch("add", two, two)).toEqual({ status: 0, stdout: "", stderr: "" });
  expect(watch("remove", two, two)).toEqual({ status: 0, stdout: "", stderr: "" });
  expect(Object.keys(await watched())).toEqual([one]);
});

/** Edits without waiting for the end of other edits; resolves to what stderr says. */
async function edited(edit: "add" | "remove", names: readonly string[]): Promise<string> {
  const args = [CLI, "watch", edit, ...names, "--map", `${meter.mapId}`];
  const child = spawn(process.execPath, args, { cwd: projectPath(".") });
  let stderr = "";
  child.stderr.on("data", (data) => {
    stderr += data;
  });
  const [status] = await once(child, "close");
  return status === 0 ? stderr : `${status}: ${stderr}`;
}
