import { expect, test } from "vitest";
import { projectPath, readProjectFile } from "../support/files.ts";
import { BPFTOOL, CLI, hexKey, Meter, result, sample, sh, until } from "../support/meter.ts";

test("a key that somebody deletes is a failed read, said everywhere, until it is back", async () => {
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

test("a key that somebody adds is shown, and none is lost that is no UTF-8", async () => {
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
