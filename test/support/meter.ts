import { type ChildProcess, type SpawnOptions, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { projectPath } from "./files.ts";

export const CLI = projectPath("dist/cli.js");
export const STORM = projectPath("build/test/storm");
/** The environment that preloads it; not by its path, which may have no space there. */
export const SLOW_NAMES = {
  LD_LIBRARY_PATH: projectPath("build/test"),
  LD_PRELOAD: "slow-names.so",
};
export const PERF = projectPath("build/test/perf");
/** By its path: looking for a program along $PATH makes failing calls of its own. */
export const BPFTOOL = ["/usr/sbin/bpftool", "/usr/bin/bpftool"].find(existsSync) ?? "bpftool";
export const DENY = projectPath("build/test/deny");

/** Runs a command to its end, which must be a good one, and returns its stdout. */
export function sh(command: string, args: readonly string[], options = {}): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: "utf8",
    maxBuffer: 1 << 26,
    ...options,
  });
  if (error) throw error;
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${status}\n${stdout}${stderr}`);
  return stdout;
}

/** Runs a command to its end, whatever that is. */
export function result(command: string, args: readonly string[], options = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: "utf8",
    timeout: 120_000,
    ...options,
  });
  if (error) throw error;
  return { status, stdout, stderr };
}

/**
 * Whether this machine makes a 64-bit program's 32-bit calls, by int $0x80: only x86-64 has it,
 * some virtual machines and ia32_emulation=off end the caller. make test-vm tries them anywhere.
 */
export const has32Bit =
  process.arch === "x64" && spawnSync(STORM, ["int80", "1", "1"]).status === 0;

/**
 * The words that run a shell script in a mount namespace of its own, where no
 * other process sees what it mounts below /sys. Works in a chroot too.
 */
export function inMountNamespace(script: string): string[] {
  const unshare = ["unshare", "--mount", "--propagation=unchanged"];
  return [...unshare, "sh", "-c", `mount --make-rslave /sys && ${script}`];
}

/** Has tracefs mounted, in such a namespace. */
export const MOUNT_TRACEFS =
  "{ mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; }";

/** Polls until `check` returns something other than undefined or false. */
export async function until<T>(
  what: string | (() => string),
  check: () => T | Promise<T>,
  ms = 60_000,
) {
  const deadline = performance.now() + ms;
  for (;;) {
    const value = await check();
    if (value !== undefined && value !== false) return value as Exclude<T, undefined | false>;
    if (performance.now() > deadline) {
      throw new Error(`waited ${ms} ms in vain: ${typeof what === "string" ? what : what()}`);
    }
    await sleep(20);
  }
}

/** What `read` gives twice in a row: a call that is under way may be in one count and not in another. */
export async function steady(read: () => Promise<number>): Promise<number> {
  let before = Number.NaN;
  const { value } = await until("the same twice", async () => {
    const last = before;
    before = await read();
    await sleep(50);
    return before === last && { value: before };
  });
  return value;
}

/** A key as bpftool takes it: 64 bytes in hex. */
export function hexKey(text: string | Buffer): string[] {
  const bytes = Buffer.alloc(64);
  bytes.set(Buffer.from(text));
  return ["key", "hex", ...[...bytes].map((byte) => byte.toString(16).padStart(2, "0"))];
}

interface BpfObject {
  id: number;
}

function bpftoolIds(kind: "prog" | "map" | "link"): Set<number> {
  const objects = JSON.parse(sh(BPFTOOL, ["-j", kind, "list"])) as BpfObject[];
  return new Set(objects.map(({ id }) => id));
}

/** The maps, programs and links that a process holds. */
export interface Loaded {
  prog: number[];
  map: number[];
  link: number[];
}

/** What in the kernel belongs to the process `pid`, by its file descriptors; each id once. */
export function loadedBy(pid: number | "self"): Loaded {
  const infos = readdirSync(`/proc/${pid}/fdinfo`).flatMap((fd) => {
    try {
      return [readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8")];
    } catch {
      return []; // closed since it was listed
    }
  });
  const ids = (kind: string) =>
    infos.flatMap((info) => {
      const match = new RegExp(`^${kind}_id:\\s*(\\d+)$`, "m").exec(info);
      // A link's information names its program too.
      return match && (kind === "link" || !/^link_id:/m.test(info)) ? [Number(match[1])] : [];
    });
  const each = (kind: string) => [...new Set(ids(kind))];
  return { prog: each("prog"), map: each("map"), link: each("link") };
}

/** Waits until none of `loaded` is left; the kernel frees with a little delay. */
export async function untilGone(loaded: Loaded): Promise<void> {
  let left: Loaded = loaded;
  // The maps come last: bpftool opens each, which can disturb their release (see Pins::EmptySlot).
  const look = () =>
    (["link", "prog", "map"] as const).every((kind) => {
      const all = bpftoolIds(kind);
      left = { ...left, [kind]: loaded[kind].filter((id) => all.has(id)) };
      return left[kind].length === 0;
    });
  await until(() => `unloading of ${JSON.stringify(left)}`, look);
}

export interface Counts {
  time: string;
  start_time: string;
  execve_counter: number;
  attempts?: { execve: number; execveat: number };
  missed: number | null;
  execs: number;
  execs_by?: { command?: string; user?: string; container?: string; execs: number }[];
  failures?: Record<"execve" | "execveat", Record<string, number>>;
  checks?: number;
  unfollowed?: number;
  watched: Record<string, number>;
}

interface MeterOptions extends SpawnOptions {
  cli?: string;
  /** The words of a command that becomes the agent, like setpriv. */
  wrap?: readonly string[];
}

/** The agent, run as a user would, on a free port. */
export class Meter {
  readonly child: ChildProcess;
  readonly pid: number;
  stdout = "";
  stderr = "";
  readonly #exit: Promise<number | NodeJS.Signals>;

  private constructor(args: readonly string[], options: MeterOptions) {
    const { cli = CLI, wrap = [], ...spawnOptions } = options;
    const [command = "", ...words] = [...wrap, process.execPath, cli, ...args];
    this.child = spawn(command, words, { stdio: "pipe", ...spawnOptions });
    this.pid = this.child.pid as number;
    this.child.stdout?.on("data", (data) => {
      this.stdout += data;
    });
    this.child.stderr?.on("data", (data) => {
      this.stderr += data;
    });
    this.#exit = once(this.child, "exit").then(([code, signal]) => code ?? signal);
  }

  /** Resolves once it serves HTTP (or, with --no-web, once it has attached). */
  static async start(args: readonly string[] = [], options: MeterOptions = {}): Promise<Meter> {
    const own = ["--web.listen-address", "--web.systemd-socket", "--no-web"];
    const web = args.some((arg) => own.some((flag) => arg.startsWith(flag)));
    const meter = new Meter(web ? args : [...args, "--web.listen-address", "127.0.0.1:0"], options);
    await until("start of the meter", () => {
      if (meter.child.exitCode !== null) throw new Error(`the meter stopped: ${meter.stderr}`);
      return meter.stderr.includes(args.includes("--no-web") ? " counts " : "metrics at ");
    });
    return meter;
  }

  get origin(): string {
    return /metrics at (https?:\/\/[^/]+)/.exec(this.stderr)?.[1] ?? "";
  }

  /** The id of the map execve_counter, from the start-up message. */
  get mapId(): number {
    return Number(/execve_counter, id (\d+)/.exec(this.stderr)?.[1]);
  }

  get lines(): string[] {
    return this.stdout.split("\n").slice(0, -1);
  }

  async counts(): Promise<Counts> {
    return (await this.get("/api/v1/counts")).json() as Promise<Counts>;
  }

  async metrics(headers: Record<string, string> = {}): Promise<string> {
    return (await this.get("/metrics", headers)).text();
  }

  /** Over a connection of its own: one kept alive may just be timing out. */
  get(path: string, headers: Record<string, string> = {}): Promise<Response> {
    return fetch(this.origin + path, { headers: { ...headers, connection: "close" } });
  }

  /** Sends a signal and resolves to the exit code, or to the signal that ended it. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<number | NodeJS.Signals> {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill(signal);
    return this.exit();
  }

  exit(): Promise<number | NodeJS.Signals> {
    return this.#exit;
  }
}

/** The value of the sample whose name and labels are `series`. */
export function sample(exposition: string, series: string): number {
  const line = exposition.split("\n").find((each) => each.startsWith(`${series} `));
  if (!line) throw new Error(`no ${series} in\n${exposition}`);
  return Number(line.slice(series.length + 1));
}

let lastName = 0;

/** A command name of at most 15 bytes that no other program has. */
export function uniqueName(): string {
  lastName = Math.max(lastName + 1, Date.now());
  return `ec${process.pid.toString(36)}${lastName.toString(36)}`.slice(0, 15);
}

/** A port of 127.0.0.1 that no process listens on. */
export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const address = server.address();
      const port = typeof address === "object" && address ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}
