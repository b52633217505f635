import { randomBytes, randomInt } from "node:crypto";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { loadAddon } from "../../src/kernel/addon.ts";
import { projectPath } from "../support/files.ts";
import { Meter, sh } from "../support/meter.ts";
import { mountPoint, Runc, version1 } from "../support/runc.ts";

interface Series {
  command?: string;
  user?: string;
  container?: string;
  execs: number;
}

const runc = new Runc();
/** The runtime's cgroups in the hierarchy that the meter looks at. */
const cgroups = join(mountPoint(version1 ? "pids" : undefined), runc.top);

let meter: Meter;

beforeAll(async () => {
  // Nothing is read before a test reads it.
  const quiet = ["--interval", "1h", "--max-series", "8192"];
  meter = await Meter.start(["--by", "command,container", ...quiet]);
});

afterAll(async () => {
  await meter?.stop();
  await runc.remove();
});

test("23 execs of a container that is gone before the meter is read have its full id", async () => {
  const [program, id] = [newProgram(), newId()];
  const loop = `i=0; while [ $i -lt 23 ]; do /bin/${program}; i=$((i + 1)); done`;
  runContainer(`docker/${id}`, ["/bin/sh", "-c", loop]);
  expect(existsSync(join(cgroups, "docker"))).toBe(true);
  expect(existsSync(join(cgroups, "docker", id))).toBe(false);
  expect(runc.call(["list", "--quiet"])).toBe("");
  expect(await series(program)).toEqual([{ container: id, execs: 23 }]);
});

const POD = "kubepods-burstable-pod0f9e1d2c_3b4a_5968_7786_95a4b3c2d1e0.slice";

test.each([
  ["Docker", (id) => `docker/${id}`],
  ["Docker with systemd", (id) => `system.slice/docker-${id}.scope`],
  ["kubelet", (id) => `kubepods/burstable/pod0f9e1d2c-3b4a-5968-7786-95a4b3c2d1e0/${id}`],
  [
    "containerd and kubelet with systemd",
    (id) => `kubepods.slice/kubepods-burstable.slice/${POD}/cri-containerd-${id}.scope`,
  ],
  [
    "containerd with systemd's path and no systemd",
    (id) => `system.slice/containerd.service/${POD}:cri-containerd:${id}`,
  ],
  [
    "CRI-O with systemd",
    (id) => `kubepods.slice/kubepods-besteffort.slice/${POD}/crio-${id}.scope`,
  ],
  ["podman with systemd", (id) => `machine.slice/libpod-${id}.scope`],
] satisfies [string, (id: string) => string][])("a container of %s has its id", async (_, path) => {
  const [program, id] = [newProgram(), newId()];
  runContainer(path(id), [`/bin/${program}`]);
  expect(await series(program)).toEqual([{ container: id, execs: 1 }]);
});

test.each([
  ["in the host's PID namespace", []],
  ["with a cgroup namespace of its own", ["pid", "cgroup"]],
])("a container %s has its id", async (_, namespaces) => {
  const [program, id] = [newProgram(), newId()];
  runContainer(`docker/${id}`, [`/bin/${program}`], { namespaces });
  expect(await series(program)).toEqual([{ container: id, execs: 1 }]);
});

test("a container without an id is unknown, and all those are one", async () => {
  const program = newProgram();
  for (const name of ["web", "db"]) runContainer(`default/${name}`, [`/bin/${program}`]);
  expect(await series(program)).toEqual([{ container: "unknown", execs: 2 }]);
});

test("what runs outside containers has no container", async () => {
  const program = newProgram();
  for (let i = 0; i < 3; i++) sh(onHost(program), []);
  expect(await series(program)).toEqual([{ container: "", execs: 3 }]);
});

test.each([
  ["podman's monitor", (id) => `machine.slice/libpod-conmon-${id}.scope`],
  ["CRI-O's monitor", (id) => `system.slice/crio-conmon-${id}.scope`],
  ["63 digits", (id) => `docker/${id.slice(1)}`],
  ["65 digits", (id) => `docker/0${id}`],
  ["64 characters, the first one uppercase", (id) => `docker/A${id.slice(1)}`],
  ["64 characters, the first one no digit", (id) => `docker/g${id.slice(1)}`],
  ["64 characters, the last one no digit", (id) => `docker/${id.slice(1)}g`],
  ["64 digits after an underscore", (id) => `system.slice/docker_${id}.scope`],
  ["64 digits before another suffix", (id) => `system.slice/docker-${id}.slice`],
] satisfies [string, (id: string) => string][])(
  "a cgroup of %s is no container's",
  async (_, path) => {
    const program = newProgram();
    runIn([join(cgroups, path(newId()))], program);
    expect(await series(program)).toEqual([{ container: "", execs: 1 }]);
  },
);

test("a cgroup below a container's belongs to it, and a container inside another is itself", async () => {
  const [program, outer, inner] = [newProgram(), newId(), newId()];
  const container = join(cgroups, "docker", outer);
  runIn([join(container, "init.scope"), join(container, "system.slice/a.service")], program);
  runIn([join(container, "docker", inner)], program);
  runIn([join(container, `system.slice/docker-${inner}.scope/init.scope`)], program);
  expect(await series(program)).toEqual(byId([outer, inner], 2));
});

test("31 levels above a cgroup are looked at, and what is deeper is unknown", async () => {
  const [program, near, far] = [newProgram(), newId(), newId()];
  const below = (path: string, levels: number) => join(cgroups, path, "level/".repeat(levels));
  runIn([below(near, 31), below(far, 32), below("none", 40)], program);
  expect(await series(program)).toEqual([...byId([near], 1), { container: "unknown", execs: 2 }]);
});

test("of 300 containers that take turns each has its own count", async () => {
  const program = newProgram();
  const ids = Array.from({ length: 300 }, newId);
  const paths = ids.map((id) => join(cgroups, "docker", id));
  runIn([...paths, ...paths], program);
  expect(await series(program)).toEqual(byId(ids, 2));
});

test("by user and container, a container's user is its own", async () => {
  const [program, id] = [newProgram(), newId()];
  const uid = randomInt(1_000_000_000, 2_000_000_000);
  const other = await Meter.start(["--by", "user,container"]);
  try {
    runContainer(`docker/${id}`, [`/bin/${program}`], { uid });
    const own = (await allSeries(other)).filter(({ user }) => user === `${uid}`);
    expect(own).toEqual([{ user: `${uid}`, container: id, execs: 1 }]);
  } finally {
    await other.stop();
  }
});

test("the unified hierarchy is looked at unless the pids controller is in version 1", async () => {
  const [program, id] = [newProgram(), newId()];
  const { Session } = loadAddon();
  const session = new Session(projectPath("dist/execve_counter.bpf.o"), () => {});
  try {
    session.load({ programs: ["count_exec"], flags: ["command", "container"], rows: 1024 });
    session.attach("count_exec");
    const container = join(mountPoint(), runc.top, "docker", id);
    runIn([container, join(container, "init.scope")], program);
    const { labels, counts } = session.readExecs();
    const { command = [], container: ids = [] } = labels;
    const rows = [...counts].map((execs, i) => [command[i], ids[i], execs]);
    expect(rows.filter(([command]) => command === program)).toEqual([[program, id, 2n]]);
  } finally {
    session.close();
  }
  expect(await series(program)).toEqual([{ container: version1 ? "" : id, execs: 2 }]);
});

function newId(): string {
  return randomBytes(32).toString("hex");
}

/** The name of a new program in the containers' /bin, which does nothing. */
function newProgram(): string {
  const name = `ec${randomBytes(6).toString("hex")}`;
  writeFileSync(onHost(name), "#!/bin/busybox true\n", { mode: 0o755 });
  return name;
}

function onHost(program: string): string {
  return join(runc.root, "bin", program);
}

/** Runs a container to its end. */
function runContainer(
  cgroup: string,
  args: string[],
  { uid = 0, namespaces = ["pid"] } = {},
): void {
  runc.run(cgroup, {
    process: { args, user: { uid, gid: uid } },
    linux: { namespaces: ["mount", ...namespaces].map((type) => ({ type })) },
  });
}

/** Runs a program once in each of these cgroups, which it makes where there is none. */
function runIn(paths: readonly string[], program: string): void {
  for (const path of paths) mkdirSync(path, { recursive: true });
  const script = 'for path; do echo $$ >"$path/cgroup.procs" && "$0" || exit; done';
  sh("/bin/sh", ["-c", script, onHost(program), ...paths]);
}

async function allSeries(from: Meter): Promise<Series[]> {
  return ((await from.counts()) as unknown as { execs_by: Series[] }).execs_by;
}

/** Of the meter's series those of one command, without its name, by container. */
async function series(program: string): Promise<Series[]> {
  return (await allSeries(meter))
    .filter(({ command }) => command === program)
    .map(({ command: _, ...rest }) => rest)
    .sort(byContainer);
}

function byId(ids: readonly string[], execs: number): Series[] {
  return ids.map((container) => ({ container, execs })).sort(byContainer);
}

function byContainer(a: Series, b: Series): number {
  return (a.container ?? "") < (b.container ?? "") ? -1 : 1;
}
