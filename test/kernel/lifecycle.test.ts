import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { Session } from "node:inspector";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { run } from "../../src/agent/agent.ts";
import { type MeterOptions, openOwnMeter } from "../../src/kernel/meter.ts";
import { projectPath } from "../support/files.ts";
import {
  BPFTOOL,
  freePort,
  hexKey,
  type Loaded,
  loadedBy,
  Meter,
  sh,
  until,
  untilGone,
} from "../support/meter.ts";

const ALL = { prog: 3, map: 13, link: 3 };

const OPTIONS: MeterOptions = {
  attempts: "tracepoint",
  failures: true,
  by: ["command", "user", "container"],
  maxSeries: 16,
  pin: undefined,
  watch: [],
  log: () => {},
};

function sizes({ prog, map, link }: Loaded) {
  return { prog: prog.length, map: map.length, link: link.length };
}

test.each([
  ["SIGINT", 0],
  ["SIGTERM", 0],
  ["SIGKILL", "SIGKILL"],
  ["SIGSEGV", "SIGSEGV"],
  ["SIGHUP", "SIGHUP"],
] as const)("nothing stays loaded after %s", async (signal, end) => {
  const meter = await Meter.start();
  const loaded = loadedBy(meter.pid);
  expect(sizes(loaded)).toEqual(ALL);
  expect(await meter.stop(signal)).toBe(end);
  await untilGone(loaded);
});

test("nothing stays loaded when the port is taken, and the first meter goes on", async () => {
  const first = await Meter.start();
  try {
    const address = new URL(first.origin).host;
    const second = spawnSync(
      process.execPath,
      [projectPath("dist/cli.js"), "--web.listen-address", address],
      { encoding: "utf8", timeout: 120_000 },
    );
    expect(second.status).toBe(1);
    expect(second.stderr).toContain(`cannot listen on ${address} (EADDRINUSE)`);
    expect(second.stderr).toContain("another execve-counter?");
    const mapId = Number(/execve_counter, id (\d+)/.exec(second.stderr)?.[1]);
    await untilGone({ prog: [], map: [mapId], link: [] });
    const before = (await first.counts()).execs;
    spawnSync("/bin/true");
    expect((await first.counts()).execs).toBeGreaterThan(before);
  } finally {
    await first.stop();
  }
});

test("the agent stops when its lines have no reader any more", async () => {
  const meter = await Meter.start(["--interval", "100ms"]);
  try {
    const loaded = loadedBy(meter.pid);
    await until("a line", () => meter.lines[0]);
    meter.child.stdout?.destroy();
    await until("the end", () => meter.child.exitCode !== null);
    expect(await meter.exit()).toBe(1);
    expect(meter.stderr).toContain("cannot write to stdout (EPIPE)");
    await untilGone(loaded);
  } finally {
    await meter.stop();
  }
});

test("a stop while HTTP is still starting is a stop like any other", async () => {
  const options = {
    interval: 1000,
    output: "text",
    attempts: "tracepoint",
    failures: false,
    by: [],
    maxSeries: 16,
    retireAfter: "never",
    pin: undefined,
    watch: [],
    // Takes a look-up that fails, later than the stop.
    web: {
      addresses: [{ host: "nonexistent.invalid", port: 0 }],
      telemetryPath: "/metrics",
      configFile: undefined,
    },
    runAs: "root", // never this process
    logLevel: "error",
  } as const;
  await run(options, Promise.resolve(), 1);
  expect(sizes(loadedBy("self"))).toEqual({ prog: 0, map: 0, link: 0 });
});

describe("when npx is stopped, what it started stops too", () => {
  /** The meter below npx, by its command line. */
  const meters = (port: string) =>
    readdirSync("/proc").filter((pid) => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
        return words[0]?.endsWith("node") && words.includes(port);
      } catch {
        return false;
      }
    });

  // npx keeps what it runs in its cache; killed while it puts it there, it leaves half of it, and
  // the next one fails. So this one has a cache of its own, which is complete.
  const cache = mkdtempSync(join(tmpdir(), "execve-counter-"));
  const env = { ...process.env, npm_config_cache: cache };
  const npx = (...args: string[]) =>
    spawn("npx", ["execve-counter", ...args], { cwd: projectPath("."), stdio: "ignore", env });
  beforeAll(async () => {
    expect(await once(npx("--version"), "exit")).toEqual([0, null]);
  });
  afterAll(() => rmSync(cache, { recursive: true }));

  // Some of these moments fall before the meter runs, some while it starts.
  test.each([300, 400, 500, 600, 700, "serving"])("at %s", async (when) => {
    const address = `127.0.0.1:${await freePort()}`;
    const child = npx("--web.listen-address", address);
    const end = once(child, "exit");
    try {
      if (typeof when === "number") await sleep(when);
      // An npx that was killed leaves a lock, which the next one waits for: for a minute.
      else
        await until("HTTP", () => fetch(`http://${address}/healthz`).catch(() => false), 200_000);
      expect(child.exitCode).toBe(null);
      child.kill("SIGTERM");
      await end;
      await until("the end of the meter", () => meters(address).length === 0);
    } finally {
      child.kill("SIGKILL");
      for (const pid of meters(address)) process.kill(Number(pid), "SIGKILL");
    }
  });
});

test("an agent whose messages have no reader goes on", async () => {
  const meter = await Meter.start();
  try {
    meter.child.stderr?.destroy();
    await meter.get("/metrics");
    sh(BPFTOOL, ["map", "delete", "id", String(meter.mapId), ...hexKey("execve_counter")]);
    expect((await meter.get("/metrics")).status).toBe(503); // and an error to stderr
    expect((await meter.get("/healthz")).status).toBe(200);
  } finally {
    expect(await meter.stop()).toBe(0);
  }
});

test("lines that stdout does not take are left out, and the next one covers their time", async () => {
  const names = Array.from({ length: 400 }, (_, i) => `unread${i}`).join();
  const meter = await Meter.start(["--interval", "100ms", "-o", "json", "--watch", names]);
  try {
    meter.child.stdout?.pause();
    await until("a full pipe", () => meter.stderr.includes("stdout is not read"), 60_000);
    expect((await meter.get("/healthz")).status).toBe(200);
    await sleep(1000);
    meter.child.stdout?.resume();
    const lines = await until("a line after the gap", () => {
      const read = meter.lines.map((line) => JSON.parse(line));
      const gap = (i: number) => Date.parse(read[i]?.time) - Date.parse(read[i - 1]?.time);
      return read.some((_, i) => i > 0 && gap(i) >= 500) && read;
    });
    const sum = lines.reduce((total, { delta }) => total + delta, 0);
    expect(sum).toBe(lines.at(-1).execve_counter);
  } finally {
    expect(await meter.stop()).toBe(0);
  }
});

test("a start that fails half-way leaves nothing loaded in the process", () => {
  const watch = Array.from({ length: 4095 }, (_, i) => `${i}`);
  expect(() => openOwnMeter({ ...OPTIONS, watch })).toThrow("no room");
  expect(sizes(loadedBy("self"))).toEqual({ prog: 0, map: 0, link: 0 });
});

test("a profiler, whose signals interrupt system calls, does not hinder a start", () => {
  const profiler = new Session();
  profiler.connect();
  try {
    profiler.post("Profiler.enable");
    profiler.post("Profiler.setSamplingInterval", { interval: 200 });
    profiler.post("Profiler.start");
    openOwnMeter(OPTIONS).close();
  } finally {
    profiler.disconnect();
  }
});

test("100 starts and stops leak no file descriptor", async () => {
  openOwnMeter(OPTIONS).close();
  const before = readdirSync("/proc/self/fd").length;
  for (let i = 0; i < 100; i++) openOwnMeter(OPTIONS).close();
  expect(readdirSync("/proc/self/fd").length).toBe(before);
  expect(sizes(loadedBy("self"))).toEqual({ prog: 0, map: 0, link: 0 });
});

test("a session that was not closed is unloaded when its worker ends", async () => {
  const worker = new Worker(projectPath("test/support/open-session.mjs"));
  await once(worker, "message");
  const loaded = loadedBy("self");
  expect(sizes(loaded)).toEqual(ALL);
  await worker.terminate();
  await untilGone(loaded);
});

test("a session that was not closed is unloaded when it is collected", async () => {
  const script = `
    import { open } from ${JSON.stringify(projectPath("test/support/open-session.mjs"))};
    import { readdirSync, readlinkSync } from "node:fs";
    const held = () => readdirSync("/proc/self/fd").filter((fd) => {
      try { return readlinkSync("/proc/self/fd/" + fd).includes("bpf"); } catch { return false; }
    }).length;
    open();
    const before = held();
    for (let i = 0; i < 100 && held() > 0; i++) {
      globalThis.gc();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    console.log(before > 0, held());
  `;
  const { stdout, stderr } = spawnSync(
    process.execPath,
    ["--expose-gc", "--input-type=module", "-e", script],
    { encoding: "utf8" },
  );
  expect(stderr).toBe("");
  expect(stdout).toBe("true 0\n");
});
