import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, readdirSync, readFileSync } from "node:fs";
import { constants, release } from "node:os";
import { promisify } from "node:util";
import { afterEach, describe, expect, test } from "vitest";
import { isAtLeast } from "../../src/kernel/release.ts";
import { projectPath } from "../support/files.ts";
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

const CAP_BPF = 1n << 39n;
const CAP_SYS_ADMIN = 1n << 21n;
/** The capabilities of an agent that has attached: none where maps can be read without. */
const NEEDED = isAtLeast(release(), 5, 19) ? 0n : CAP_BPF;

let meter: Meter | undefined;
afterEach(async () => {
  await meter?.stop();
  meter = undefined;
});

/** A meter that has printed its first line, and so has given up what it does not need. */
async function start(...args: Parameters<typeof Meter.start>): Promise<Meter> {
  meter = await Meter.start(...args);
  const { lines } = await until("the first line", () => (meter?.lines[0] ? meter : undefined));
  expect(lines[0]).toContain("execve_counter: ");
  return meter;
}

/** What /proc says of every thread, the main one first. */
function threads({ pid }: { pid: number }) {
  return readdirSync(`/proc/${pid}/task`).map((thread) => {
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, "utf8");
    const field = (name: string) =>
      new RegExp(`^${name}:[ \\t]*(.*?)[ \\t]*$`, "m").exec(status)?.[1];
    const set = (name: string) => BigInt(`0x${field(name)}`);
    return {
      uids: field("Uid")?.split(/\s+/),
      gids: field("Gid")?.split(/\s+/),
      groups: field("Groups"),
      permitted: set("CapPrm"),
      effective: set("CapEff"),
      inheritable: set("CapInh"),
      ambient: set("CapAmb"),
      noNewPrivileges: field("NoNewPrivs"),
    };
  });
}

const as = (uid: string, gid: string, kept = 0n) => ({
  ...{ uids: [uid, uid, uid, uid], gids: [gid, gid, gid, gid], groups: "" },
  ...{ permitted: kept, effective: kept, inheritable: 0n, ambient: 0n, noNewPrivileges: "1" },
});

/** Of every thread: what the main one keeps, no other has. */
function expectThreads(
  { pid }: { pid: number },
  expected: (kept: bigint) => object,
  needed = NEEDED,
) {
  const [main, ...others] = threads({ pid });
  expect(main).toMatchObject(expected(needed));
  // Node.js' own, and libuv's pool.
  expect(others.length).toBeGreaterThan(5);
  for (const thread of others) expect(thread).toMatchObject(expected(0n));
}

async function expectCounting(running: Meter) {
  const before = await running.counts();
  sh(STORM, ["execveat", "1", "1000"]);
  const after = await running.counts();
  expect((after.attempts?.execveat ?? 0) - (before.attempts?.execveat ?? 0)).toBeGreaterThan(999);
  expect(after.execs).toBeGreaterThan(before.execs);
}

describe("started by root", () => {
  test("it becomes nobody, on every thread, without groups, and counts on", async () => {
    const wrap = ["setpriv", "--groups", "4,20,27", "--inh-caps", "+net_raw"];
    meter = await start(["--by", "user", "--failures"], { wrap });
    expectThreads(meter, (kept) => as("65534", "65534", kept));
    await expectCounting(meter);
  });

  test("nothing has to be loaded from its files after that", async () => {
    const installed = new Installation();
    try {
      chmodSync(installed.directory, 0o700);
      meter = await start(["--by", "command,user,container"], { cli: installed.cli });
      expect(threads(meter)[0]?.uids?.[0]).toBe("65534");
      for (const path of ["/", "/metrics", "/api/v1/counts", "/-/ready", "/nothing"]) {
        const { status } = await fetch(meter.origin + path);
        expect(status).toBe(path === "/nothing" ? 404 : 200);
      }
      const accept = "application/openmetrics-text";
      const metrics = await fetch(`${meter.origin}/metrics`, { headers: { accept } });
      const text = await metrics.text();
      expect(text).toContain("# EOF");
      // Its own directory in /proc belongs to root now, and it can look into it all the same.
      const open = Number(/^process_open_fds (\d+)/m.exec(text)?.[1]);
      expect(open).toBeGreaterThan(Object.values(loadedBy(meter.pid)).flat().length);
      await expectCounting(meter);
      expect(await meter.stop("SIGTERM")).toBe(0);
    } finally {
      installed.remove();
    }
  });

  test.each([
    ["by name", "daemon", "1", "1"],
    ["by number", "1", "1", "1"],
    // Debian's sync: the group of the same number is adm, which reads /var/log.
    ["by a number that is another group's", "4", "4", "65534"],
    ["by a number that has no account", "54321", "54321", "54321"],
  ])("it becomes another user, %s", async (_, user, uid, gid) => {
    meter = await start(["--run-as", user]);
    expectThreads(meter, (kept) => as(uid, gid, kept));
    await expectCounting(meter);
  });

  test("root keeps all", async () => {
    const self = /^CapEff:\s*(\w+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    meter = await start(["--run-as", "root"]);
    for (const { uids, effective, noNewPrivileges } of threads(meter)) {
      expect({ uids, effective, noNewPrivileges }).toEqual({
        ...{ uids: ["0", "0", "0", "0"], effective: BigInt(`0x${self}`) },
        noNewPrivileges: "0",
      });
    }
  });

  test.each(["setuid", "setgid"])(
    "without CAP_%s it stays root, and has nothing of what makes root",
    async (name) => {
      const wrap = ["setpriv", `--bounding-set=-${name}`, `--inh-caps=-${name}`];
      meter = await start([], { wrap });
      expectThreads(meter, (kept) => ({ ...as("0", "0", kept), groups: expect.anything() }));
      await expectCounting(meter);
    },
  );

  test("pins are reused and left as always", async () => {
    const directory = `/sys/fs/bpf/${uniqueName()}`;
    const flags = ["--pin", directory, "--attempts", "raw"];
    try {
      meter = await start(flags);
      expect(threads(meter)[0]?.uids?.[0]).toBe("65534");
      const { start_time } = await meter.counts();
      expect(await meter.stop("SIGTERM")).toBe(0);
      meter = await start(flags);
      expect((await meter.counts()).start_time).toBe(start_time);
      await expectCounting(meter);
      await meter.stop();
    } finally {
      sh(process.execPath, [CLI, "unpin", directory]);
    }
  });
});

describe("started by an ordinary user with the three capabilities", () => {
  const caps = "+bpf,+perfmon,+dac_read_search";
  const user = ["setpriv", "--reuid=1", "--regid=1", "--clear-groups"];
  const wrap = [...user, "--inh-caps", caps, "--ambient-caps", caps];
  const flags = ["--attempts", "raw"];
  let installed: Installation;
  afterEach(() => installed.remove());

  test("it stays that user, and no thread holds more than it needs", async () => {
    installed = new Installation();
    meter = await start(flags, { wrap, cli: installed.cli });
    expectThreads(meter, (kept) => as("1", "1", kept));
    // Without capabilities its user could else trace it, and change the counts.
    const write = ["sh", "-c", `: 3<>/proc/${meter.pid}/mem`];
    const [command = "", ...args] = [...user, ...write];
    expect(result(command, args).stderr).toContain("ermission denied");
    expect(await meter.metrics()).toMatch(/^process_open_fds \d+/m);
    await expectCounting(meter);
  });

  test("what the main thread may not read, libuv's pool may not", () => {
    installed = new Installation();
    const script = `
      const { restrict } = require(${JSON.stringify(installed.path("build/Release/execve_counter.node"))});
      const { readFileSync, promises } = require("node:fs");
      const read = () => Promise.all([
        (async () => readFileSync("/etc/shadow"))(),
        ...Array.from({ length: 8 }, () => promises.readFile("/etc/shadow")),
      ].map((reading) => reading.then(() => "read", ({ code }) => code)));
      (async () => {
        const before = await read();
        restrict([]);
        console.log(JSON.stringify([before, await read()]));
      })();`;
    const [command = "", ...args] = [...wrap, process.execPath, "-e", script];
    const { stdout, stderr } = result(command, args);
    const all = (what: string) => Array(9).fill(what);
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual([all("read"), all("EACCES")]);
  });

  test("it is told that it cannot become another, and leaves nothing loaded", async () => {
    installed = new Installation();
    const [command = "", ...args] = [...wrap, process.execPath, installed.cli];
    const { status, stderr } = result(command, [
      ...args,
      "--no-web",
      "--run-as",
      "daemon",
      ...flags,
    ]);
    expect(stderr).toContain("error: cannot give up privileges (setgroups: EPERM)\n");
    expect(stderr).toContain("to do: leave out --run-as, or add CAP_SETUID and CAP_SETGID\n");
    expect(status).toBe(3);
    const mapId = Number(/execve_counter, id (\d+)/.exec(stderr)?.[1]);
    await untilGone({ prog: [], map: [mapId], link: [] });
  });
});

test("it compresses, and has names, where the user nobody may have no more threads", async () => {
  meter = await start(["--by", "user"], { wrap: ["prlimit", "--nproc=1:1"] });
  const { status, headers } = await fetch(`${meter.origin}/metrics`);
  expect({ status, encoding: headers.get("content-encoding") }).toEqual({
    ...{ status: 200, encoding: "gzip" },
  });
  await expectCounting(meter);
  expect((await meter.counts()).execs_by?.map(({ user }) => user)).toContain("root");
});

test("top keeps the capability to find the meter's programs, on its main thread only", async () => {
  meter = await start(["--by", "command"]);
  const args = [CLI, "top", "--map", `${meter.mapId}`];
  const top = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  try {
    await once(top.stdout, "readable");
    const { pid } = top as { pid: number };
    expectThreads({ pid }, (kept) => as("65534", "65534", kept), CAP_SYS_ADMIN);
  } finally {
    top.kill();
  }
});

test("a signal of the same user opens no debugger", async () => {
  meter = await start([]);
  const nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
  sh("setpriv", [...nobody, "sh", "-c", `kill -USR1 ${meter.pid}`]);
  await expectCounting(meter);
  await until("a line after the signal", () => (meter?.stdout.length ?? 0) > 0);
  expect(meter.stderr).not.toContain("Debugger");
  expect(await meter.stop()).toBe(0);
});

const RESTRICTED = projectPath("build/test/restricted");

test("a thread that has something left is an error", async () => {
  // Ten seconds each, in which there might be an end to it.
  const outcomes = ["uid", "gid", "groups", "permitted", "inheritable"].map(async (how) => {
    const { stdout } = await promisify(execFile)(RESTRICTED, [how]);
    return stdout;
  });
  for (const outcome of await Promise.all(outcomes)) {
    expect(outcome).toBe("threads: Connection timed out\n");
  }
  expect(sh(RESTRICTED, ["filter"])).toBe("seccomp: Device or resource busy\n");
});

test("threads that start others meanwhile leave none with privileges", () => {
  for (let i = 0; i < 20; i++) expect(sh(RESTRICTED, ["chain"])).toBe("0\n");
});

test("where threads cannot be seen, the meter does not go on", async () => {
  const script = 'mount -t tmpfs tmpfs /proc && exec "$@"';
  const [command = "", ...args] = ["unshare", "--mount", "sh", "-c", script, "sh"];
  const { status, stdout, stderr } = result(command, [...args, process.execPath, CLI, "--no-web"]);
  expect(stderr).toContain("error: cannot give up privileges (threads: ENOENT)\n");
  expect(stderr).toContain("to do: mount /proc, ");
  expect({ status, stdout }).toEqual({ status: 3, stdout: "" });
});

test("libuv's threads in the kernel, which keep privileges, are refused", async () => {
  const env = (value: string) => ({ env: { ...process.env, UV_USE_IO_URING: value } });
  const { status, stdout, stderr } = result(process.execPath, [CLI, "--no-web"], env("1"));
  expect(stderr).toBe(
    `execve-counter: error: Node.js ${process.versions.node} uses io_uring, through which the kernel reads files with the privileges of its start\n` +
      "execve-counter: error: to do: start it with UV_USE_IO_URING=0, or use Node.js 20.11.1, 21.6.2 or newer\n",
  );
  expect({ status, stdout }).toEqual({ status: 3, stdout: "" });
  meter = await start([], env("0"));
});

test("a user that does not exist is refused before anything is loaded", () => {
  for (const user of ["no-such-user", "", "4294967295", "-1"]) {
    for (const more of [[], ["--check"]]) {
      const { status, stdout, stderr } = result(process.execPath, [
        CLI,
        `--run-as=${user}`,
        ...more,
      ]);
      expect(stderr).toBe(
        `execve-counter: error: there is no user ${JSON.stringify(user)}\n` +
          "execve-counter: error: to do: give --run-as the name or the number of an account, or root to keep all privileges\n",
      );
      expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    }
  }
});

test("a process that has given privileges up can start no program", () => {
  const script = `
    const { restrict } = require(${JSON.stringify(projectPath("build/Release/execve_counter.node"))});
    const { spawnSync } = require("node:child_process");
    const start = (...args) => spawnSync(${JSON.stringify(STORM)}, args).error?.code;
    const before = start("execveat", "1", "1");
    restrict([], 65534, 65534);
    process.stdout.write(JSON.stringify({ before, after: start("execveat", "1", "1") }));`;
  const { stdout, stderr } = result(process.execPath, ["-e", script]);
  expect({ stdout, stderr }).toEqual({ stdout: '{"after":"EPERM"}', stderr: "" });
});

test("no kind of call starts a program any more, on any thread", () => {
  const { ENOENT, EPERM } = constants.errno;
  const lines = sh(RESTRICTED, []).trim().split("\n");
  const [before, after] = lines.map((line) => line.split(" ").map(Number));
  expect(before?.slice(0, 2)).toEqual([ENOENT, ENOENT]);
  expect(before).not.toContain(EPERM);
  expect(after).toEqual(before?.map(() => EPERM));
});
