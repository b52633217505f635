import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadAddon } from "../../src/kernel/addon.ts";
import { CLI, Meter, result, uniqueName, until } from "../support/meter.ts";

/** Prints what is sent to the socket named by its first argument, a message a line. */
const LISTENER = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1].replace("@", "\\0"))
print("listens", flush=True)
while True:
    print(s.recv(4096).decode(), flush=True)`;

async function listen(path: string) {
  const listener = spawn("python3", ["-c", LISTENER, path], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let heard = "";
  listener.stdout.on("data", (data) => {
    heard += data;
  });
  await until("the listener", () => heard.includes("listens"));
  return {
    heard: () => heard.split("\n").slice(1, -1),
    close: () => listener.kill(),
  };
}

test.each(["in the file system", "in the abstract name space"])(
  "systemd, %s, is told of a start, a life and an end",
  async (where) => {
    const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
    const path = where.startsWith("in the file") ? join(directory, "notify") : `@${uniqueName()}`;
    const systemd = await listen(path);
    // Root, who may write to a socket of the tests, which are in a directory of root.
    const env = { ...process.env, NOTIFY_SOCKET: path, WATCHDOG_USEC: "400000" };
    try {
      const meter = await Meter.start(["--run-as", "root"], { env });
      await until("signs of life", () => systemd.heard().length > 4);
      expect(systemd.heard()[0]).toBe("READY=1");
      expect(new Set(systemd.heard().slice(1))).toEqual(new Set(["WATCHDOG=1"]));
      expect(await meter.stop()).toBe(0);
      await until("the end", () => systemd.heard().at(-1) === "STOPPING=1");
    } finally {
      systemd.close();
      rmSync(directory, { recursive: true });
    }
  },
);

test("a watchdog that waits for another process is left alone", async () => {
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  const path = join(directory, "notify");
  const systemd = await listen(path);
  const env = { ...process.env, NOTIFY_SOCKET: path, WATCHDOG_USEC: "20000", WATCHDOG_PID: "1" };
  try {
    const meter = await Meter.start(["--interval", "100ms", "--run-as", "root"], { env });
    await until("READY", () => systemd.heard().length > 0);
    await until("lines", () => meter.lines.length > 5);
    expect(systemd.heard()).toEqual(["READY=1"]);
    await meter.stop();
  } finally {
    systemd.close();
    rmSync(directory, { recursive: true });
  }
});

test("a manager that does not listen is a warning, and the meter counts", async () => {
  const path = join(tmpdir(), uniqueName());
  const meter = await Meter.start([], { env: { ...process.env, NOTIFY_SOCKET: path } });
  try {
    await until("the warning", () => meter.stderr.includes("cannot tell systemd READY=1 (ENOENT)"));
    expect((await meter.get("/-/ready")).status).toBe(200);
  } finally {
    expect(await meter.stop()).toBe(0);
  }
  expect(existsSync(path)).toBe(false);
});

test("without a manager nothing is sent, and a wrong address is no address", () => {
  const { notify } = loadAddon();
  const before = process.env.NOTIFY_SOCKET;
  try {
    delete process.env.NOTIFY_SOCKET;
    expect(notify("READY=1")).toBe(false);
    for (const path of ["", "x".repeat(108)]) {
      process.env.NOTIFY_SOCKET = path;
      expect(() => notify("READY=1")).toThrow(
        expect.objectContaining({ step: "notify", errno: 22 }),
      );
    }
    expect(() => notify(1 as unknown as string)).toThrow(TypeError);
  } finally {
    if (before === undefined) delete process.env.NOTIFY_SOCKET;
    else process.env.NOTIFY_SOCKET = before;
  }
});

test("it answers on a socket that it was given, and listens nowhere else", async () => {
  const given = createServer().listen(0, "127.0.0.1");
  await once(given, "listening");
  const { port } = given.address() as AddressInfo;
  const { fd } = (given as unknown as { _handle: { fd: number } })._handle;
  const words = `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`;
  const meter = await Meter.start(["--web.systemd-socket"], {
    wrap: ["sh", "-c", words],
    stdio: ["ignore", "pipe", "pipe", fd],
  });
  given.close();
  try {
    expect(meter.origin).toBe(`http://127.0.0.1:${port}`);
    expect((await meter.get("/metrics")).status).toBe(200);
  } finally {
    expect(await meter.stop()).toBe(0);
  }
});

test("without a socket it says so, and loads nothing", () => {
  for (const LISTEN_PID of [undefined, "1"]) {
    const env = { ...process.env, LISTEN_PID, LISTEN_FDS: "1" };
    const { status, stderr } = result(process.execPath, [CLI, "--web.systemd-socket"], { env });
    expect(stderr).toBe(
      "execve-counter: error: systemd has passed no sockets\n" +
        "execve-counter: error: to do: start this service by execve-counter.socket, or leave out --web.systemd-socket\n",
    );
    expect(status).toBe(2);
  }
});
