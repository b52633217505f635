import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  CLI,
  type Counts,
  type Loaded,
  loadedBy,
  sample,
  sh,
  until,
  untilGone,
} from "../support/meter.ts";
import { container, daemonSet } from "../support/pod.ts";
import { mountPoint, version1 } from "../support/runc.ts";
import { Cluster, type KubernetesObject } from "./cluster.ts";
import { IMAGE, loadAgent, loadStorm, MANIFESTS } from "./images.ts";

interface Pod extends KubernetesObject {
  spec: object;
  status: {
    phase: string;
    podIP?: string;
    containerStatuses?: {
      containerID?: string;
      imageID: string;
      ready: boolean;
      restartCount: number;
      state: { running?: object; terminated?: { exitCode: number; message?: string } };
    }[];
  };
}

interface DaemonSet {
  metadata: { generation: number };
  status: { observedGeneration?: number; updatedNumberScheduled?: number; numberReady?: number };
}

const NEXT = `${IMAGE}-next`;
const STORM = "localhost/storm:1";
const NAMESPACE = "execve-counter";
const PODS = `/api/v1/namespaces/${NAMESPACE}/pods`;
const SET = `/apis/apps/v1/namespaces/${NAMESPACE}/daemonsets/${daemonSet.metadata?.name}`;
const PORT = container.ports?.[0]?.containerPort;
const ARGS = container.args ?? [];
/** Of the node's bpffs, which is the cluster's own. */
const HOST_PATH = "/sys/fs/bpf/execve-counter";
const PINS = `${HOST_PATH}/by-container`;

let cluster: Cluster;

beforeAll(async () => {
  cluster = await Cluster.up();
  await loadAgent(cluster, IMAGE, NEXT);
  await loadStorm(cluster, STORM);
});

afterAll(async () => {
  await cluster?.down();
});

/** The agent's pod, once each node has one of the newest template, and it is ready. */
async function agent(): Promise<Pod> {
  const ready = async () => {
    const { metadata, status } = await cluster.api<DaemonSet>("GET", SET);
    const seen = status.observedGeneration === metadata.generation;
    return seen && status.updatedNumberScheduled === 1 && status.numberReady === 1;
  };
  // kubelet can need a minute to remove a pod that is deleted while it starts.
  await until("a ready pod", ready, 150_000);
  const { items } = await cluster.api<{ items: Pod[] }>("GET", PODS);
  const [pod, ...others] = items.filter(({ metadata }) => !metadata.deletionTimestamp);
  expect(others).toEqual([]);
  return pod as Pod;
}

/** Changes the template of its pod, and resolves to the pod that follows. */
async function roll(change: object, spec: object = {}): Promise<Pod> {
  const containers = [{ name: container.name, ...change }];
  const body = { spec: { template: { spec: { containers, ...spec } } } };
  await cluster.api("PATCH", SET, body, "application/strategic-merge-patch+json");
  return agent();
}

function get(pod: Pod, path: string): Promise<string> {
  const url = `http://${pod.status.podIP}:${PORT}${path}`;
  return cluster.run("/bin/busybox", ["wget", "-q", "-O", "-", url]);
}

async function counts(pod: Pod): Promise<Counts> {
  return JSON.parse(await get(pod, "/api/v1/counts"));
}

async function execs(pod: Pod, id: string): Promise<number> {
  return (await counts(pod)).execs_by?.find((row) => row.container === id)?.execs ?? 0;
}

function idOf(pod: Pod): string {
  const id = /^containerd:\/\/([0-9a-f]{64})$/.exec(statusOf(pod).containerID ?? "")?.[1];
  if (!id) throw new Error(`no id of a container in ${JSON.stringify(pod.status)}`);
  return id;
}

function statusOf(pod: Pod) {
  const [status] = pod.status.containerStatuses ?? [];
  if (!status) throw new Error(`no container in ${JSON.stringify(pod.status)}`);
  return status;
}

/** What the agent in the pod has loaded. */
function loaded(pod: Pod): Loaded {
  const top = join(
    mountPoint(version1 ? "pids" : undefined),
    cluster.directory.split("/").at(-1) ?? "",
  );
  const path = readdirSync(top, { recursive: true, encoding: "utf8" }).find((each) =>
    each.endsWith(`/${idOf(pod)}`),
  );
  const [pid] = readFileSync(join(top, path as string, "cgroup.procs"), "utf8").split("\n");
  const found = loadedBy(Number(pid));
  expect(found.prog.length).toBeGreaterThan(1);
  return found;
}

/** A pod that runs programs, as long as it shall, and knows how many. */
class Storm {
  readonly id: string;
  readonly #pod: string;
  readonly #directory: string;

  private constructor(pod: string, directory: string, id: string) {
    this.#pod = pod;
    this.#directory = directory;
    this.id = id;
  }

  /** Resolves once its shell waits. */
  static async start(name: string): Promise<Storm> {
    const directory = join(cluster.directory, name);
    mkdirSync(directory);
    sh("mkfifo", [join(directory, "next")]);
    const script = `
      read -r _ </go/next
      n=0
      while [ -e /go/on ]; do storm spawn 2 100 /bin/true >/go/time || exit; n=$((n + 1)); done
      echo $n
      read -r _ </go/next`;
    await cluster.apply({
      ...{ apiVersion: "v1", kind: "Pod", metadata: { name } },
      spec: {
        ...{ restartPolicy: "Never", terminationGracePeriodSeconds: 0 },
        containers: [
          {
            ...{ name: "storm", image: STORM, args: ["-c", script] },
            volumeMounts: [{ name: "go", mountPath: "/go" }],
          },
        ],
        volumes: [{ name: "go", hostPath: { path: directory } }],
      },
    });
    const pod = await until("a waiting storm", async () => {
      const pod = await cluster.api<Pod>("GET", `/api/v1/namespaces/default/pods/${name}`);
      return pod.status.containerStatuses?.[0]?.state.running && pod;
    });
    return new Storm(name, directory, idOf(pod));
  }

  async begin(): Promise<void> {
    writeFileSync(join(this.#directory, "on"), "");
    await writeFile(join(this.#directory, "next"), "\n");
  }

  /** Resolves to the number of programs that it has run. */
  async end(): Promise<number> {
    rmSync(join(this.#directory, "on"));
    const rounds = await until(
      "its end",
      async () => /^\d+$/m.exec(await cluster.kubectl(["logs", this.#pod]))?.[0],
    );
    return Number(rounds) * 201;
  }

  async remove(): Promise<void> {
    await cluster.kubectl(["delete", "pod", this.#pod]);
  }
}

let storm: Storm;

test("the pod of deploy/kubernetes becomes ready, and counts a storm in another pod exactly", async () => {
  await cluster.kubectl(["apply", "--validate=false", "-k", MANIFESTS]);
  const pod = await agent();
  storm = await Storm.start("storm");
  const before = await execs(pod, storm.id);
  expect(before).toBeGreaterThan(0);
  await storm.begin();
  await until("a few rounds", async () => (await execs(pod, storm.id)) > before + 2000);
  const count = await storm.end();
  expect(await execs(pod, storm.id)).toBe(before + count);
  expect(statusOf(await agent()).restartCount).toBe(0);
  await storm.remove();
});

test("a roll to another image in a storm loses no count", async () => {
  const old = await agent();
  storm = await Storm.start("storm-in-roll");
  const before = await execs(old, storm.id);
  const { start_time } = await counts(old);
  await storm.begin();
  const pod = await roll({ image: NEXT });
  expect(pod.metadata.uid).not.toBe(old.metadata.uid);
  expect(statusOf(pod).imageID).not.toBe(statusOf(old).imageID);
  const count = await storm.end();
  expect(count).toBeGreaterThan(201);
  expect(await execs(pod, storm.id)).toBe(before + count);
  expect((await counts(pod)).start_time).toBe(start_time);
  await storm.remove();
});

test("with --failures counts begin anew, and the old programs are gone", async () => {
  const old = await agent();
  const { start_time } = await counts(old);
  const programs = loaded(old);
  const pod = await roll({ args: [...ARGS, "--failures"] });
  const now = await counts(pod);
  expect(now.failures).toBeDefined();
  expect(Date.parse(now.start_time)).toBeGreaterThan(Date.parse(start_time));
  const log = await cluster.kubectl(["logs", "-n", NAMESPACE, pod.metadata.name]);
  expect(log).toContain("counts begin anew, in the place of those pinned at ");
  await untilGone(programs);
});

test("a change of a ConfigMap changes the watched commands, and no pod starts again", async () => {
  const list = (commands: string) =>
    cluster.apply({
      ...{ apiVersion: "v1", kind: "ConfigMap" },
      metadata: { name: "watched-commands", namespace: NAMESPACE },
      data: { commands },
    });
  await list("# one name a line\nnc\n");
  const pod = await roll(
    {
      args: [...ARGS, "--failures", "--watch-file=/watch/commands", "--retire-after=2s"],
      volumeMounts: [{ name: "watch", mountPath: "/watch" }],
    },
    { volumes: [{ name: "watch", configMap: { name: "watched-commands" } }] },
  );
  expect((await counts(pod)).watched).toEqual({ nc: expect.any(Number) });
  await list("true\nnsenter\n");
  await until(
    "the other list",
    async () =>
      Object.keys((await counts(pod)).watched)
        .sort()
        .join() === "nsenter,true",
    120_000,
  );
  storm = await Storm.start("storm-watched");
  const before = (await counts(pod)).watched.true as number;
  await storm.begin();
  await storm.end();
  expect((await counts(pod)).watched.true).toBeGreaterThanOrEqual(before + 200);
  const same = await agent();
  expect(same.metadata.uid).toBe(pod.metadata.uid);
  expect(statusOf(same).restartCount).toBe(0);
});

test("rows of a deleted pod retire, and no exec with them", async () => {
  const pod = await agent();
  const row = await execs(pod, storm.id);
  expect(row).toBeGreaterThan(200);
  await storm.remove();
  const exposition = await until("retirement", async () => {
    const text = await get(pod, "/metrics");
    return !text.includes(storm.id) && text;
  });
  const retired = sample(exposition, 'execve_counter_execs_total{container="retired"}');
  expect(retired).toBeGreaterThanOrEqual(row);
  const { execs_by = [], execs: total } = await counts(pod);
  expect(execs_by.reduce((sum, each) => sum + each.execs, 0)).toBe(total);
});

test("a pod that ends with an error has the reason in its termination message", async () => {
  const pod = await agent();
  const { nodeName, containers, volumes } = pod.spec as Record<string, object[]>;
  await cluster.apply({
    ...{ apiVersion: "v1", kind: "Pod", metadata: { name: "second", namespace: NAMESPACE } },
    spec: { restartPolicy: "Never", nodeName, containers, volumes },
  });
  const state = await until("its end", async () => {
    const second = await cluster.api<Pod>("GET", `${PODS}/second`);
    return second.status.containerStatuses?.[0]?.state.terminated;
  });
  expect(state.exitCode).toBe(1);
  expect(state.message).toMatch(
    /error: another execve-counter uses the pins in .+\n.+ error: to do: .+\n$/,
  );
  await cluster.kubectl(["delete", "pod", "-n", NAMESPACE, "second"]);
});

test("the pins count on when all is deleted, and unpin ends that", async () => {
  // A pod of the manifests as they are.
  await cluster.kubectl(["delete", "-n", NAMESPACE, "daemonset", "--all", "--wait"]);
  await cluster.kubectl(["apply", "--validate=false", "-k", MANIFESTS]);
  const old = await agent();
  const { start_time } = await counts(old);
  const programs = loaded(old);
  storm = await Storm.start("storm-alone");
  const before = await execs(old, storm.id);
  await cluster.kubectl(["delete", "-k", MANIFESTS, "--wait"]);
  await storm.begin();
  await until("a while", () => existsSync(join(cluster.directory, "storm-alone/time")));
  const count = await storm.end();
  await cluster.kubectl(["apply", "--validate=false", "-k", MANIFESTS]);
  const pod = await agent();
  expect((await counts(pod)).start_time).toBe(start_time);
  expect(await execs(pod, storm.id)).toBe(before + count);
  await cluster.kubectl(["delete", "-k", MANIFESTS, "--wait"]);
  expect(await cluster.run("ls", [PINS])).not.toBe("");
  await cluster.run(process.execPath, [CLI, "unpin", PINS]);
  expect(await cluster.run("ls", [HOST_PATH])).toBe("");
  await untilGone(programs);
});
