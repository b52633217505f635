import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { expect, test } from "vitest";
import { openKernel } from "../../src/kernel.ts";
import { projectPath } from "../support/files.ts";
import { type Loaded, loadedBy, Meter, until, untilGone } from "../support/meter.ts";

const ALL = { prog: 3, map: 3, link: 3 };

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
      { encoding: "utf8", timeout: 30_000 },
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

test("the meter stops when nobody reads its lines any more", async () => {
  const meter = await Meter.start(["--interval", "100ms"]);
  const loaded = loadedBy(meter.pid);
  await until("a line", () => meter.lines[0]);
  meter.child.stdout?.destroy();
  expect(await meter.exit()).toBe(1);
  expect(meter.stderr).toContain("cannot write to stdout (EPIPE)");
  await untilGone(loaded);
});

test("100 starts and stops leak no file descriptor", async () => {
  const options = { attempts: "tracepoint", watch: [], log: () => {} } as const;
  openKernel(options).close();
  const before = readdirSync("/proc/self/fd").length;
  for (let i = 0; i < 100; i++) openKernel(options).close();
  expect(readdirSync("/proc/self/fd").length).toBe(before);
  expect(sizes(loadedBy("self"))).toEqual({ prog: 0, map: 0, link: 0 });
});

test("a session that nobody closed is unloaded when its worker ends", async () => {
  const worker = new Worker(projectPath("test/support/open-session.mjs"));
  await once(worker, "message");
  const loaded = loadedBy("self");
  expect(sizes(loaded)).toEqual({ ...ALL, link: 3 });
  await worker.terminate();
  await untilGone(loaded);
});

test("a session that nobody closed is unloaded when it is collected", async () => {
  const script = `
    import { once } from "node:events";
    import { open } from "${projectPath("test/support/open-session.mjs")}";
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
