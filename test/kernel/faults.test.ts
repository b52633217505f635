import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { Agent, get as httpGet, type IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { projectPath, readProjectFile } from "../support/files.ts";
import {
  BPFTOOL,
  CLI,
  type Counts,
  hexKey,
  loadedBy,
  Meter,
  result,
  STORM,
  sample,
  sh,
  uniqueName,
  until,
} from "../support/meter.ts";

test("a key that another process deletes is a failed read, reported everywhere, until it is back", async () => {
  const meter = await Meter.start(["--interval", "100ms"]);
  const map = ["id", String(meter.mapId)];
  const status = async (path: string) => (await meter.get(path)).status;
  try {
    sh(BPFTOOL, ["map", "delete", ...map, ...hexKey("execve_counter")]);
    const reason = "cannot read the counters: the key execve_counter is gone";
    await until("the failed read", () => meter.stderr.includes(reason));
    expect(await meter.metrics()).toContain(reason);
    expect(await status("/metrics")).toBe(503);
    expect(await status("/api/v1/counts")).toBe(503);
    expect(await status("/-/ready")).toBe(503);
    expect(await status("/readyz")).toBe(503);
    expect(await status("/-/healthy")).toBe(200);
    expect(await status("/healthz")).toBe(200);
    const { length } = meter.lines;
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(meter.lines.length).toBe(length);

    const restored = 2 ** 40;
    const value = ["value", "hex", "00", "00", "00", "00", "00", "01", "00", "00"];
    sh(BPFTOOL, ["map", "update", ...map, ...hexKey("execve_counter"), ...value]);
    await until("a good read", () => meter.lines.length > length);
    expect(await status("/-/ready")).toBe(200);
    const exposition = await meter.metrics();
    expect(sample(exposition, "execve_counter_read_errors_total")).toBeGreaterThanOrEqual(3);
    const attempts = sample(exposition, 'execve_counter_attempts_total{syscall="execve"}');
    expect(attempts).toBeGreaterThanOrEqual(restored);
    expect(attempts).toBeLessThan(restored + 1_000_000);
  } finally {
    expect(await meter.stop()).toBe(0);
  }
});

test("a key that another process adds is shown, and one that is not UTF-8 is not lost", async () => {
  const meter = await Meter.start();
  const seven = ["value", "hex", "07", "00", "00", "00", "00", "00", "00", "00"];
  const add = (key: string | Buffer) =>
    sh(BPFTOOL, ["map", "update", "id", String(meter.mapId), ...hexKey(key), ...seven]);
  try {
    add("comm:x");
    expect((await meter.counts()).watched).toEqual({ x: 7 });
    expect(sample(await meter.metrics(), 'execve_counter_watched_total{command="x"}')).toBe(7);
    add(Buffer.from("comm:\xfe", "latin1"));
    add(Buffer.from("comm:\xff", "latin1"));
    expect((await meter.counts()).watched).toEqual({ x: 7, "\ufffd": 14 });
    const entries = 'execve_counter_table_entries{table="execve_counter"}';
    expect(sample(await meter.metrics(), entries)).toBe(5);
  } finally {
    await meter.stop();
  }
});

test("all of a long --check reaches a slow reader", () => {
  const names = Array.from({ length: 4000 }, (_, i) => `name${i}`).join();
  const script = `"$0" "$1" --check --watch "$2" | { sleep 1; tail -1; }`;
  const { stdout } = result("sh", ["-c", script, process.execPath, CLI, names]);
  expect(stdout).toBe("ok\n");
});

test("npx runs what is built in the checkout", () => {
  const { version } = JSON.parse(readProjectFile("package.json"));
  const { stdout, status } = result("npx", ["execve-counter", "--version"], {
    cwd: projectPath("."),
  });
  expect({ stdout, status }).toEqual({ stdout: `${version}\n`, status: 0 });
});

interface Line extends Counts {
  delta: number;
  rate: number;
}

test("stopped for a while and continued, it has lost nothing and prints no lines for the time", async () => {
  const meter = await Meter.start(["--interval", "200ms", "--output", "json"]);
  const lines = () => meter.lines.map((line) => JSON.parse(line) as Line);
  try {
    await until("lines", () => meter.lines.length > 2);
    process.kill(meter.pid, "SIGSTOP");
    await sleep(500); // what it had written is read
    const { length } = lines();
    const before = lines().at(-1) as Line;
    sh(STORM, ["execveat", "2", "50000"]);
    sh(STORM, ["execve", "2", "50000"]);
    await sleep(2000);
    process.kill(meter.pid, "SIGCONT");
    const next = await until("a line", () => lines()[length]);
    expect(next.attempts?.execveat).toBe((before.attempts?.execveat ?? 0) + 100_000);
    expect(next.delta).toBe(next.execve_counter - before.execve_counter);
    expect(next.delta).toBeGreaterThanOrEqual(100_000);
    const seconds = (Date.parse(next.time) - Date.parse(before.time)) / 1000;
    expect(seconds).toBeGreaterThan(2);
    expect(next.rate / (next.delta / seconds)).toBeCloseTo(1, 1);
    expect((await meter.get("/readyz")).status).toBe(200);
    await sleep(1000);
    // Five a second, and none for the time in which it was stopped.
    const after = lines().filter(({ time }) => Date.parse(time) > Date.parse(next.time));
    const span = Date.parse(after.at(-1)?.time ?? "") - Date.parse(next.time);
    expect(after.length).toBeLessThanOrEqual(span / 200 + 2);
  } finally {
    process.kill(meter.pid, "SIGCONT");
    expect(await meter.stop()).toBe(0);
  }
});

test("a clock that is set changes the times that are printed, and no rate", async () => {
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  chmodSync(directory, 0o755); // the agent is another user by then
  const offset = join(directory, "offset");
  writeFileSync(offset, "+0\n");
  const env = {
    ...process.env,
    // Written for each process to its own libraries' directory.
    LD_PRELOAD: "/usr/$LIB/faketime/libfaketimeMT.so.1",
    FAKETIME_TIMESTAMP_FILE: offset,
    FAKETIME_NO_CACHE: "1",
    FAKETIME_DONT_FAKE_MONOTONIC: "1",
  };
  const meter = await Meter.start(["--interval", "200ms", "--output", "json"], { env });
  const HOUR = 3_600_000;
  let lines: Line[] = [];
  /** Waits for a line whose clock is so far from this machine's. */
  const lineAt = (distance: number) =>
    until(`a line of ${distance} ms from now`, () => {
      lines = meter.lines.map((line) => JSON.parse(line));
      const { time = "" } = lines.at(-1) ?? {};
      return Math.abs(Date.parse(time) - Date.now() - distance) < 60_000;
    });
  try {
    for (const hours of [0, -24, 1000, 0]) {
      writeFileSync(offset, `${hours < 0 ? "" : "+"}${hours}h\n`);
      sh(STORM, ["execve", "1", "1000"]);
      await lineAt(hours * HOUR);
    }
    const { length } = lines;
    expect(length).toBeGreaterThanOrEqual(4);
    for (const [i, { rate, delta, start_time }] of lines.entries()) {
      expect(rate).toBeGreaterThanOrEqual(0);
      // The time is that of a few intervals at most, not of hours, and not zero.
      if (i > 0 && delta >= 1000) expect(rate).toBeGreaterThan(delta / 20);
      expect(rate).toBeLessThanOrEqual(delta / 0.02);
      expect(start_time).toBe(lines[0]?.start_time);
    }
    expect(lines.reduce((sum, { delta }) => sum + delta, 0)).toBe(lines.at(-1)?.execve_counter);
    const seconds = sample(await meter.metrics(), "execve_counter_start_time_seconds");
    expect(seconds).toBe(Date.parse(lines[0]?.start_time ?? "") / 1000);
  } finally {
    expect(await meter.stop()).toBe(0);
    rmSync(directory, { recursive: true });
  }
});

test("out of file descriptors it counts, prints and answers clients that are connected already", async () => {
  // Of the same user as prlimit, which else needs CAP_SYS_RESOURCE.
  const flags = ["--run-as", "root", "--interval", "100ms", "--by", "command,user"];
  const meter = await Meter.start([...flags, "--watch", "true"]);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const get = async (path: string) => {
    const request = httpGet(meter.origin + path, { agent });
    const [response] = (await once(request, "response")) as [IncomingMessage];
    return { status: response.statusCode, body: await text(response) };
  };
  try {
    expect((await get("/metrics")).status).toBe(200);
    sh("prlimit", ["--pid", String(meter.pid), "--nofile=3:"]);
    const before = meter.lines.length;
    // A user whose name was not asked for yet: it takes a file to ask.
    sh(STORM, ["spawnas", "1", "23", "64123", "/bin/true"]);
    sh(STORM, ["spawnas", "1", "1", "1", "/bin/true"]);
    const { status, body } = await get("/metrics");
    expect(status).toBe(200);
    const series = (user: string) => `execve_counter_execs_total{command="true",user="${user}"}`;
    expect(sample(body, series("64123"))).toBe(23);
    expect(sample(body, series("1"))).toBe(1);
    expect(sample(body, 'execve_counter_watched_total{command="true"}')).toBeGreaterThanOrEqual(24);
    expect(sample(body, "execve_counter_read_errors_total")).toBe(0);
    await until("more lines", () => meter.lines.length > before + 3);

    sh("prlimit", ["--pid", String(meter.pid), "--nofile=1024:"]);
    const exposition = (await get("/metrics")).body;
    expect(sample(exposition, series("daemon"))).toBe(1);
    expect(sample(exposition, "process_open_fds")).toBeGreaterThan(10);
  } finally {
    agent.destroy();
    expect(await meter.stop()).toBe(0);
  }
});

test("with too few file descriptors it says so, whatever the limit", () => {
  let said = 0;
  for (let limit = 10; ; limit++) {
    const agent = [process.execPath, CLI, "--check", "--failures", "--by", "container"];
    const { status, stdout, stderr } = result("prlimit", [
      `--nofile=${limit}`,
      "--core=0",
      ...agent,
    ]);
    if (status === 0) break;
    expect(stdout).toBe("");
    // With a few less than the meter notices, Node.js itself does not start.
    if (said === 0 && !stderr.startsWith("execve-counter: ")) continue;
    expect(stderr).toMatch(
      /^execve-counter: error: .*(out of file descriptors|Too many open files).*\nexecve-counter: error: to do: raise the limit on open files \(ulimit -n\)\n$/,
    );
    expect(status).toBe(1);
    expect(limit).toBeLessThan(200);
    said++;
  }
  expect(said).toBeGreaterThan(0);
});

/** A control group whose memory can be limited. */
function memoryGroup() {
  const version1 = existsSync("/sys/fs/cgroup/memory/memory.limit_in_bytes");
  const path = `/sys/fs/cgroup/${version1 ? "memory/" : ""}${uniqueName()}`;
  mkdirSync(path);
  return {
    procs: join(path, "cgroup.procs"),
    limit(bytes: number) {
      writeFileSync(join(path, version1 ? "memory.limit_in_bytes" : "memory.max"), `${bytes}`);
    },
    remove: () => until("an empty group", () => result("rmdir", [path]).status === 0),
  };
}

test("with too little memory it says so, or the kernel kills it", async () => {
  const group = memoryGroup();
  let refused = 0;
  try {
    for (let mebibytes = 14; ; mebibytes++) {
      group.limit(mebibytes << 20);
      const flags = ["--check", "--by", "command", "--max-series", "65536"];
      const words = [group.procs, process.execPath, CLI, ...flags];
      const { status, stdout, stderr } = result("sh", [
        "-c",
        'echo $$ > "$0" && exec "$@"',
        ...words,
      ]);
      if (status === 0) break;
      // Node.js ends itself, with 133 or 134, where it has no memory for its own.
      if (status !== null && status < 128) {
        expect(stderr).toMatch(/^execve-counter: error: out of memory \(.+: ENOMEM\)\n.+\n$/);
        expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
        refused++;
      }
      expect(mebibytes).toBeLessThan(256);
    }
    expect(refused).toBeGreaterThan(0);
  } finally {
    await group.remove();
  }
});

test("a count that another process sets back is reported, and is no negative rate", async () => {
  const meter = await Meter.start(["--interval", "100ms", "--output", "json", "--by", "command"]);
  const map = ["id", String(meter.mapId)];
  const zero = ["value", "hex", ..."00 ".repeat(8).trim().split(" ")];
  const lines = () => meter.lines.map((line) => JSON.parse(line) as Line);
  try {
    sh(STORM, ["execve", "1", "1000"]);
    await until("a count", () => (lines().at(-1)?.execve_counter ?? 0) >= 1000);
    sh(BPFTOOL, ["map", "update", ...map, ...hexKey("execve_counter"), ...zero]);
    const fallen = await until("the fall", () => lines().find(({ delta }) => delta < 0));
    expect(fallen.rate).toBe(0);
    expect(meter.stderr).toMatch(
      /warn: execve fell from \d+ to \d+: another process edits the maps/,
    );

    sh(STORM, ["spawn", "1", "100", "/bin/true"]);
    const { id } = loadedBy(meter.pid)
      .map.map((each) => JSON.parse(sh(BPFTOOL, ["-j", "map", "show", "id", `${each}`])))
      .find(({ name }) => name === "execs");
    const dump = JSON.parse(sh(BPFTOOL, ["-j", "map", "dump", "id", `${id}`])) as {
      key: string[];
      value: string[];
    }[];
    const number = (bytes: string[]) => Buffer.from(strip(bytes).join(""), "hex").readBigUInt64LE();
    // As struct exec_key and struct exec_row begin.
    const rows = dump.map(({ key, value }) => ({ key, group: number(key), count: number(value) }));
    const row = rows.find(({ count }) => count >= 100n);
    // A count that was not read before it is gone cannot be seen to fall.
    await until("the row", () => (lines().at(-1)?.execs ?? 0) >= Number(row?.count));
    sh(BPFTOOL, ["map", "delete", "id", `${id}`, "key", "hex", ...strip(row?.key ?? [])]);
    await until("a word", () => meter.stderr.includes("warn: execs fell from "));
    expect((await meter.get("/readyz")).status).toBe(200);

    const other = rows.find(({ group }) => group === 2n ** 64n - 1n);
    sh(BPFTOOL, ["map", "delete", "id", `${id}`, "key", "hex", ...strip(other?.key ?? [])]);
    expect((await meter.get("/readyz")).status).toBe(503);
    expect(meter.stderr).toContain("the row of all others is gone from the map execs");
  } finally {
    await meter.stop();
  }
});

/** Bytes as bpftool prints them, as it takes them. */
const strip = (bytes: string[]) => bytes.map((byte) => byte.replace(/^0x/, ""));

test("a key that is none of the meter's is in no count", async () => {
  const meter = await Meter.start();
  const seven = ["value", "hex", "07", "00", "00", "00", "00", "00", "00", "00"];
  try {
    const before = await meter.counts();
    sh(BPFTOOL, ["map", "update", "id", `${meter.mapId}`, ...hexKey("foreign"), ...seven]);
    const exposition = await meter.metrics();
    expect(exposition).not.toContain("foreign");
    const entries = 'execve_counter_table_entries{table="execve_counter"}';
    expect(sample(exposition, entries)).toBe(3);
    const { watched, attempts } = await meter.counts();
    expect(watched).toEqual({});
    expect(attempts?.execveat).toBeGreaterThanOrEqual(before.attempts?.execveat ?? 0);
    expect((await meter.get("/readyz")).status).toBe(200);
  } finally {
    expect(await meter.stop()).toBe(0);
  }
});

test("in a map that another process froze the kernel keeps counting, and watch says that it cannot edit it", async () => {
  const meter = await Meter.start(["--watch", "true"]);
  try {
    sh(BPFTOOL, ["map", "freeze", "id", `${meter.mapId}`]);
    const { watched } = await meter.counts();
    sh("/bin/true", []);
    expect((await meter.counts()).watched.true).toBeGreaterThan(watched.true ?? 0);
    const words = ["watch", "add", "nc", "--map", `${meter.mapId}`];
    const { status, stderr } = result(process.execPath, [CLI, ...words]);
    expect(stderr).toContain("the map of counters is frozen");
    expect(stderr).toContain("to do: start the meter again");
    expect(status).toBe(1);
  } finally {
    expect(await meter.stop()).toBe(0);
  }
});

test.each(["tracepoint", "raw"])(
  "no other process detaches what counts by --attempts %s",
  async (hook) => {
    const meter = await Meter.start(["--attempts", hook, "--failures"]);
    try {
      for (const link of loadedBy(meter.pid).link) {
        const { status, stderr } = result(BPFTOOL, ["link", "detach", "id", `${link}`]);
        expect(stderr).toContain("Operation not supported");
        expect(status).not.toBe(0);
      }
      await expectCounting(meter);
    } finally {
      expect(await meter.stop()).toBe(0);
    }
  },
);

/** A storm of each kind, counted to the last call. */
async function expectCounting(meter: Meter) {
  const count = async () => {
    const { attempts, failures } = await meter.counts();
    return [attempts?.execveat ?? Number.NaN, failures?.execveat.ENOENT ?? 0] as const;
  };
  const [attempts, failures] = await count();
  sh(STORM, ["execveat", "2", "1000"]);
  expect(await count()).toEqual([attempts + 2000, failures + 2000]);
}
