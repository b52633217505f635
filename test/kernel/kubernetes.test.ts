import type { ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { afterAll, afterEach, expect, test } from "vitest";
import { isAtLeast } from "../../src/kernel/release.ts";
import { Installation } from "../support/installation.ts";
import {
  BPFTOOL,
  CLI,
  type Counts,
  result,
  sample,
  sh,
  uniqueName,
  until,
} from "../support/meter.ts";
import { bytes, container, podConfig } from "../support/pod.ts";
import { mountPoint, Runc, version1 } from "../support/runc.ts";

const runc = new Runc();
const installed = new Installation();
const port = container.ports?.[0]?.containerPort;
/** The host path that kubelet makes; the pins on the node are below it. */
const hostPath = `/sys/fs/bpf/${uniqueName()}`;
const directory = (container.args ?? []).find((arg) => arg.startsWith("--pin="))?.slice(6) ?? "";
const pins = join(hostPath, directory.slice(container.volumeMounts?.[0]?.mountPath.length));

/** Not with `recursive`: where bpffs is not mounted, Node.js would try for ever. */
function makeHostPath(): void {
  if (result("mountpoint", ["-q", "/sys/fs/bpf"]).status !== 0) {
    sh("mount", ["-t", "bpf", "-o", "mode=700", "bpf", "/sys/fs/bpf"]);
  }
  if (!existsSync(hostPath)) mkdirSync(hostPath, { mode: 0o755 });
}

/** A pod's container, on this node. */
class Pod {
  readonly id = randomBytes(32).toString("hex");
  stderr = "";
  pid = 0;
  ended = false;
  readonly #name: string;
  readonly #runc: ChildProcess;
  readonly exit: Promise<number | null>;

  constructor(without?: string, ...more: string[]) {
    makeHostPath();
    const root = mkdtempSync(join(runc.directory, "root-"));
    const { name, child } = runc.start(
      `kubepods/burstable/${this.id}`,
      podConfig(root, installed.directory, { pins: hostPath }, without, more),
    );
    this.#name = name;
    this.#runc = child;
    child.stdout?.resume();
    child.stderr?.on("data", (data) => {
      this.stderr += data;
    });
    this.exit = new Promise((resolve) => {
      child.on("exit", (code) => {
        this.ended = true;
        resolve(code);
      });
    });
  }

  static async start(without?: string, ...more: string[]): Promise<Pod> {
    const pod = new Pod(without, ...more);
    await until(
      "pins, and the first line",
      () => {
        if (pod.ended) throw new Error(`the meter stopped: ${pod.stderr}`);
        return /pinned in .*; counts since/.test(pod.stderr);
      },
      60_000,
    );
    pod.pid = JSON.parse(runc.call(["state", pod.#name])).pid;
    return pod;
  }

  /** Asks over the pod's own network. */
  get(path: string): string {
    const url = `http://127.0.0.1:${port}${path}`;
    const enter = ["--target", `${this.pid}`, "--net", "--"];
    return sh("nsenter", [...enter, "/bin/busybox", "wget", "-q", "-O", "-", url]);
  }

  get counts(): Counts {
    return JSON.parse(this.get("/api/v1/counts"));
  }

  execs(id: string): number {
    return this.counts.execs_by?.find((row) => row.container === id)?.execs ?? 0;
  }

  status(field: string): string {
    const status = readFileSync(`/proc/${this.pid}/status`, "utf8");
    return new RegExp(`^${field}:\\s*(\\S+)`, "m").exec(status)?.[1] ?? "";
  }

  /** As kubelet does; runc passes the signal on. */
  stop(): Promise<number | null> {
    this.#runc.kill("SIGTERM");
    return this.exit;
  }
}

/** The capabilities that reading a map takes: none from Linux 5.19 on, before CAP_BPF. */
const NEEDED = isAtLeast(release(), 5, 19) ? 0n : 1n << 39n;
let pod: Pod | undefined;

afterEach(async () => {
  await pod?.stop();
  pod = undefined;
  sh(process.execPath, [CLI, "unpin", pins]);
});

afterAll(async () => {
  await runc.remove();
  installed.remove();
  if (existsSync(hostPath)) sh("rmdir", [hostPath]);
});

/**
 * Starts a container of its own, which runs 22 programs once it is told to. What was counted
 * until then differs: one or two execs of runc itself may fall into it.
 */
async function startElsewhere() {
  const id = randomBytes(32).toString("hex");
  const loop = "i=0; while [ $i -lt 22 ]; do /bin/busybox true; i=$((i + 1)); done";
  const { child } = runc.start(`kubepods/besteffort/${id}`, {
    process: { args: ["/bin/sh", "-c", `echo ready; read -r go; ${loop}`] },
  });
  const exit = once(child, "exit");
  await once(child.stdout as Readable, "data");
  const run = async () => {
    child.stdin?.end("go\n");
    expect(await exit).toEqual([0, null]);
  };
  return { id, run };
}

test("the DaemonSet's container counts what runs on the node and in other containers, as nobody", async () => {
  pod = await Pod.start();
  expect(pod.status("Uid")).toBe("65534");
  expect(BigInt(`0x${pod.status("CapEff")}`)).toBe(NEEDED);
  expect(pod.status("NoNewPrivs")).toBe("1");
  const elsewhere = await startElsewhere();
  const [node, other] = [pod.execs(""), pod.execs(elsewhere.id)];
  await elsewhere.run();
  for (let i = 0; i < 23; i++) sh("/bin/busybox", ["true"]);
  expect(pod.execs(elsewhere.id) - other).toBe(22);
  expect(pod.execs("") - node).toBeGreaterThanOrEqual(23);
  const series = `execve_counter_execs_total{container="${elsewhere.id}"}`;
  expect(sample(pod.get("/metrics"), series)).toBe(other + 22);
  for (const probe of [container.livenessProbe, container.readinessProbe]) {
    pod.get(probe?.httpGet?.path as string);
  }
});

test("counts survive a rolling update, and of two pods at once the second gives up", async () => {
  pod = await Pod.start();
  const { start_time } = pod.counts;
  const second = new Pod();
  expect(await second.exit).toBe(1);
  expect(terminationMessage(second.stderr)).toMatch(
    /error: another execve-counter uses the pins in .+\n.+ error: to do: .+\n$/,
  );
  const between = await startElsewhere();
  const before = pod.execs(between.id);
  expect(await pod.stop()).toBe(0);
  await between.run();
  pod = await Pod.start();
  expect(pod.stderr).toContain("reuses the counts pinned");
  expect(pod.counts.start_time).toBe(start_time);
  expect(pod.execs(between.id) - before).toBe(22);
});

/** What kubelet takes of the log of a container that ended with an error, by the manifest's policy. */
function terminationMessage(log: string): string {
  expect(container.terminationMessagePolicy).toBe("FallbackToLogsOnError");
  const lines = log.split("\n").slice(-81).join("\n");
  return Buffer.from(lines).subarray(-2048).toString();
}

test("a pod with a flag more begins anew, and says so", async () => {
  pod = await Pod.start();
  const { start_time } = pod.counts;
  await pod.stop();
  pod = await Pod.start(undefined, "--failures");
  expect(pod.stderr).toContain("counts begin anew, in the place of those pinned at ");
  expect(pod.stderr).toContain("no --failures; this start asks for --failures\n");
  expect(Date.parse(pod.counts.start_time)).toBeGreaterThan(Date.parse(start_time));
  expect(pod.counts.failures).toBeDefined();
});

test.each([
  ["BPF", "not permitted to use BPF"],
  ["PERFMON", "not permitted to use BPF"],
])("without CAP_%s it does not start, and says why", async (name, message) => {
  const refused = new Pod(name);
  expect(await refused.exit).toBe(3);
  expect(refused.stderr).toContain(message);
});

test.each(["SETUID", "SETGID"])("without CAP_%s it stays root by number", async (name) => {
  pod = await Pod.start(name);
  expect(pod.status("Uid")).toBe("0");
  expect(BigInt(`0x${pod.status("CapEff")}`)).toBe(NEEDED);
});

test("these are all the capabilities it has", () => {
  const tried = ["BPF", "PERFMON", "SETGID", "SETUID"];
  expect(container.securityContext?.capabilities).toEqual({ drop: ["ALL"], add: tried });
});

test("with the table full it stays within its memory", async () => {
  pod = await Pod.start();
  const exposition = pod.get("/metrics");
  const rows = sample(exposition, 'execve_counter_table_capacity{table="execs"}');
  const taken = sample(exposition, 'execve_counter_table_entries{table="execs"}');
  // As bpftool takes a group with a container's id, and the row of this group, with a count of 1.
  const hex = (...parts: Buffer[]) => Buffer.concat(parts).toString("hex").replaceAll(/../g, " $&");
  const update = (map: string, key: Buffer, ...value: Buffer[]) =>
    `map update pinned ${join(pins, "v3", map)} key hex${hex(key)} value hex${hex(...value)}`;
  const row = (_: unknown, i: number) => {
    const group = Buffer.alloc(8);
    group.writeBigUInt64LE(2n ** 60n + BigInt(i));
    const names = [Buffer.alloc(8), randomBytes(32), Buffer.alloc(256)];
    const count = [Buffer.from([1]), Buffer.alloc(55)];
    return [update("groups", group, ...names), update("execs", group, ...count)];
  };
  const batch = join(runc.directory, "batch");
  writeFileSync(
    batch,
    Array.from({ length: rows - taken }, row)
      .flat()
      .join("\n"),
  );
  sh(BPFTOOL, ["batch", "file", batch]);
  for (let i = 0; i < 20; i++) pod.get("/metrics");
  expect(sample(pod.get("/metrics"), 'execve_counter_table_entries{table="execs"}')).toBe(rows);
  const [hierarchy, file] = version1
    ? [mountPoint("memory"), "memory.max_usage_in_bytes"]
    : [mountPoint(), "memory.peak"];
  const path = join(hierarchy, runc.top, "kubepods/burstable", pod.id, file);
  const peak = Number(readFileSync(path, "utf8"));
  const limit = bytes(`${container.resources?.limits?.memory}`);
  expect(peak).toBeLessThan(0.8 * limit);
});
