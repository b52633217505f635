import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  constants,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { projectPath } from "../support/files.ts";
import {
  CLI,
  type Counts,
  freePort,
  Meter,
  result,
  STORM,
  sh,
  uniqueName,
  until,
} from "../support/meter.ts";
import { inTerminal, shellLine } from "../support/script.mjs";

const FAST = ["--interval", "100ms"];
/** Lines of some 8,000 bytes. */
const LONG = [
  ...["--output", "json", "--watch"],
  Array.from({ length: 400 }, (_, i) => `output${i}`).join(),
];

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

type Line = Counts & { delta: number };

/** Checks lines of JSON: each is whole, and together they have every call. */
function expectWhole(text: string): Line[] {
  const lines = text.split("\n");
  expect(lines.pop()).toBe("");
  const read = lines.map((line) => JSON.parse(line) as Line);
  const sum = read.reduce((total, { delta }) => total + delta, 0);
  expect(sum).toBe(read.at(-1)?.execve_counter);
  return read;
}

test("with stdout closed it counts and serves", async () => {
  const meter = await Meter.start(FAST, { wrap: ["sh", "-c", 'exec "$@" >&-', "sh"] });
  try {
    await sleep(300);
    expect((await meter.counts()).execs).toBeGreaterThanOrEqual(0);
  } finally {
    expect(await meter.stop()).toBe(0);
  }
});

test("a full stdout leaves lines out, which is reported once, and counting goes on", async () => {
  const full = openSync("/dev/full", "w");
  const meter = await Meter.start(FAST, { stdio: ["ignore", full, "pipe"] });
  try {
    closeSync(full);
    const said = "stdout takes no lines (ENOSPC)";
    await until("a word of it", () => meter.stderr.includes(said));
    const { execs } = await meter.counts();
    sh("/bin/true", []);
    expect((await meter.counts()).execs).toBeGreaterThan(execs);
    await sleep(300);
    expect(meter.stderr.split(said)).toHaveLength(2);
  } finally {
    expect(await meter.stop()).toBe(0);
  }
});

test("on a disk that was full every line is whole, and what was left out is in the next", async () => {
  const disk = join(directory, "disk");
  mkdirSync(disk);
  const script = `mount -t tmpfs -o size=128k tmpfs ${disk} && head -c 65536 /dev/zero > ${disk}/filler && exec "$@" > ${disk}/log`;
  const wrap = ["unshare", "--mount", "sh", "-c", script, "sh"];
  const meter = await Meter.start([...FAST, ...LONG], { wrap });
  try {
    const seen = `/proc/${meter.pid}/root${disk}`;
    await until("a full disk", () => meter.stderr.includes("stdout takes no lines (ENOSPC)"));
    expect((await meter.get("/readyz")).status).toBe(200);
    await sleep(500);
    const { length } = readFileSync(`${seen}/log`);
    expect(readFileSync(`${seen}/log`, "utf8").endsWith("\n")).toBe(false);
    rmSync(`${seen}/filler`);
    await until("a line again", () => meter.stderr.includes("stdout takes lines again"));
    await until("a whole line", () => readFileSync(`${seen}/log`).at(-1) === 10);
    const text = await until("two more lines", () => {
      const log = readFileSync(`${seen}/log`, "utf8");
      return log.slice(length).split("\n").length > 3 && log.endsWith("\n") && log;
    });
    const times = expectWhole(text).map(({ time }) => Date.parse(time));
    const gaps = times.slice(1).map((time, i) => time - (times[i] as number));
    expect(Math.max(...gaps)).toBeGreaterThanOrEqual(400);
  } finally {
    expect(await meter.stop()).toBe(0);
  }
});

test("a reader that takes a byte now and then gets whole lines, and holds up nothing", async () => {
  const fifo = join(directory, "fifo");
  sh("mkfifo", [fifo]);
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(fifo, "w");
  const meter = await Meter.start([...FAST, ...LONG], { stdio: ["ignore", writer, "pipe"] });
  let read = Buffer.alloc(0);
  /** Reads what there is, up to so much. */
  const take = (most: number) => {
    try {
      const bytes = Buffer.alloc(most);
      read = Buffer.concat([read, bytes.subarray(0, readSync(reader, bytes))]);
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe("EAGAIN");
    }
  };
  try {
    closeSync(writer);
    await until(
      "a full pipe",
      () => {
        take(1);
        return meter.stderr.includes("stdout is not read");
      },
      10_000,
    );
    for (let i = 0; i < 20; i++) {
      take(1);
      expect((await meter.get("/healthz")).status).toBe(200);
    }
    const { length } = read;
    expect(length).toBeLessThan(1000);
    await until("lines again", () => {
      take(1 << 20);
      return meter.stderr.includes("stdout takes lines again") && read.at(-1) === 10;
    });
    expectWhole(`${read}`);
  } finally {
    expect(await meter.stop()).toBe(0);
    closeSync(reader);
  }
});

test("a terminal that Ctrl-S has stopped holds up nothing", async () => {
  const address = `127.0.0.1:${await freePort()}`;
  const agent = shellLine(process.execPath, CLI, ...FAST, "--web.listen-address", address);
  const terminal = inTerminal(`exec ${agent}`);
  const ended = once(terminal, "exit");
  let shown = "";
  terminal.stdout.on("data", (data) => {
    shown += data;
  });
  const lines = () => shown.split("execve_counter:").length - 1;
  try {
    await until("lines", () => lines() > 3);
    terminal.stdin.write("\x13"); // Ctrl-S
    await until("no more lines", async () => {
      const before = lines();
      await sleep(500);
      return lines() === before;
    });
    for (let i = 0; i < 5; i++) {
      await sleep(100);
      const signal = AbortSignal.timeout(5000);
      expect((await fetch(`http://${address}/metrics`, { signal })).status).toBe(200);
    }
    const before = lines();
    terminal.stdin.write("\x11"); // Ctrl-Q
    await until("lines again", () => lines() > before + 3);
    // What waited is one line: the others were left out.
    const times = [...shown.matchAll(/(\S+Z) execve_counter:/g)].map(([, time]) =>
      Date.parse(time as string),
    );
    const gaps = times.slice(1).map((time, i) => time - (times[i] as number));
    expect(Math.max(...gaps)).toBeGreaterThanOrEqual(900);
  } finally {
    terminal.stdin.write("\x11\x03"); // Ctrl-Q, Ctrl-C
  }
  expect(await ended).toEqual([0, null]);
});

test("with stderr full or closed it runs all the same", async () => {
  for (const script of ['exec "$@" 2>/dev/full', 'exec "$@" 2>&-']) {
    const args = ["-c", script, "sh", process.execPath, CLI, "--no-web", ...FAST];
    const child = spawn("sh", args, { stdio: ["ignore", "pipe", "ignore"] });
    let stdout = "";
    child.stdout.on("data", (data) => {
      stdout += data;
    });
    try {
      await until("three lines", () => stdout.split("\n").length > 3);
    } finally {
      child.kill("SIGTERM");
    }
    expect(await once(child, "exit")).toEqual([0, null]);
  }
});

test("messages without a reader do not pile up for ever", async () => {
  const script = `
    const { createLog } = require(${JSON.stringify(projectPath("dist/base/log.js"))});
    const log = createLog("info");
    for (let i = 0; i < 100; i++) log.info("x".repeat(1 << 20));
    console.log(process.stderr.writableLength);
    process.exit();
  `;
  const child = spawn(process.execPath, ["-e", script]); // its stderr has no reader
  const [waiting] = await once(child.stdout, "data");
  expect(Number(waiting)).toBeGreaterThan(1 << 24); // more than libbpf's longest message
  expect(Number(waiting)).toBeLessThan(1 << 26);
});

test.each([["--check"], ["doctor"], ["watch", "list"]])(
  "what %s has to say and cannot is a failure",
  async (...args) => {
    const meter = await Meter.start();
    try {
      const map = args[0] === "watch" ? ["--map", String(meter.mapId)] : [];
      const words = [process.execPath, CLI, ...args, ...map];
      const { status, stderr } = result("sh", ["-c", 'exec "$@" > /dev/full', "sh", ...words]);
      expect(stderr).toContain("cannot write to stdout (ENOSPC)");
      expect(stderr).toContain("to do: ");
      expect(status).toBe(1);
    } finally {
      await meter.stop();
    }
  },
);

test("in a terminal it says in three lines what it counts, where to look, and how to stop it", async () => {
  const agent = ["--web.listen-address", "127.0.0.1:0", "--interval", "100ms"];
  const child = inTerminal(`exec ${shellLine(process.execPath, CLI, ...agent)}`);
  let screen = "";
  child.stdout.on("data", (data) => {
    screen += data;
  });
  await until("a few lines", () => screen.split("\n").length > 6);
  child.stdin.write("\x03");
  const [code] = await once(child, "exit");
  expect(code).toBe(0);
  const [what, where, how, first] = screen.split("\r\n");
  expect(what).toMatch(/^execve-counter: \S+ counts attempts and execs on this host; map /);
  expect(where).toMatch(
    /^execve-counter: metrics at (http:\/\/127\.0\.0\.1:\d+)\/metrics and a page at \1\/$/,
  );
  expect(how).toBe("execve-counter: Ctrl-C stops it");
  expect(first).toMatch(/^\S+Z execve_counter: \d+ \(/);
});

test("whatever a process is called, nothing that is printed does more than show it", async () => {
  const name = `${uniqueName().slice(-5)}\x1b[2\u009b\n\u202e`;
  copyFileSync("/bin/true", join(directory, name));
  const pins = "/sys/fs/bpf/\u009b\u202e";
  const texts: string[] = [];
  const meters: Meter[] = [];
  try {
    for (const output of ["text", "json"]) {
      const watch = [...FAST, "--output", output, "--by", "command", "--watch", name];
      meters.push(await Meter.start(watch));
    }
    const [first, second] = meters as [Meter, Meter];
    const cli = (...args: string[]) => {
      const { stdout, stderr } = result(process.execPath, [CLI, ...args]);
      texts.push(stdout, stderr);
      return `${stdout}${stderr}`;
    };
    sh(join(directory, name), []);
    const shown = `${name.slice(0, 5)}\\u{1b}[2\\u{9b}\\u{a}\\u{202e}`;
    await until("its line", () => first.stdout.includes(`exec command=${shown}`));
    const line = await until("its line", () =>
      second.lines.find((line) => JSON.parse(line).watched[name] === 1),
    );
    const execs = JSON.parse(line).execs_by as Counts["execs_by"];
    expect(execs).toContainEqual({ command: name, execs: 1 });
    const map = ["--map", `${first.mapId}`];
    expect(cli("watch", "list", ...map)).toBe(`${shown} 1\n`);
    expect(JSON.parse(cli("watch", "list", "-o", "json", ...map))).toEqual({ [name]: 1 });
    expect(cli("watch", "add", name, ...map)).toContain(`${shown} is watched already`);
    cli("watch", "remove", name, ...map);
    expect(cli("watch", "remove", name, ...map)).toContain(`not watched: ${shown}`);
    expect(cli("--check", "--no-web", "--watch", name)).toContain(`watch     ${shown}\n`);
    expect(cli("--check", "--no-web", "--pin", pins)).toContain("pins      /sys/fs/bpf/\\u{9b}");
    expect(cli("unpin", pins)).toContain("\\u{9b}\\u{202e}");
    cli("doctor");
    cli("doctor", "-o", "json");
    texts.push(result("timeout", ["2", process.execPath, CLI, "top", ...map]).stdout);
    expect(texts.at(-1)).toContain(shown);
    // So often that it is among the busiest, whatever else runs here.
    sh(STORM, ["spawn", "1", "1000", join(directory, name)]);
    for (const path of ["/api/v1/counts", "/api/v1/status"]) {
      texts.push(await (await first.get(path)).text());
      expect(texts.at(-1)).toContain("\\u009b");
    }
  } finally {
    for (const meter of meters) await meter.stop();
  }
  for (const meter of meters) texts.push(meter.stdout, meter.stderr);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
  for (const text of texts) expect(text).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]/);
});

test("piped, stdout is data only, and no message names keys", async () => {
  const meter = await Meter.start(FAST);
  await until("lines", () => meter.lines.length >= 2);
  await meter.stop();
  for (const line of meter.lines) expect(line).toMatch(/^\S+Z execve_counter: \d+ \(.*\)$/);
  expect(meter.stderr).not.toContain("Ctrl-C");
});
