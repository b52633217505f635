import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parse } from "yaml";
import { API_VERSION, GROUP, type Resource } from "../../src/operator/resource.ts";
import { readProjectFile } from "../support/files.ts";
import { CLI, sample, until } from "../support/meter.ts";
import { bytes } from "../support/pod.ts";
import { Cluster } from "./cluster.ts";
import { loadStorm } from "./images.ts";
import { FAKE, FakeNodes, type FakePod, running } from "./nodes.ts";

const COUNT = 1000;
/** What ends well whatever it is asked to do: unpin on the one node that is real. */
const IMAGE = "localhost/true:1";
const FLEET = `/apis/${GROUP}/${API_VERSION}/namespaces/default/execvecounters/fleet`;
const PODS = "/api/v1/namespaces/default/pods";

let cluster: Cluster;
let nodes: FakeNodes;
let operator: ChildProcess;
let log = "";

beforeAll(async () => {
  cluster = await Cluster.up(`${GROUP}/${API_VERSION}`);
  await cluster.apply(parse(readProjectFile("deploy/operator/crd.yaml")));
  await cluster.served(`${GROUP}/${API_VERSION}`);
  await loadStorm(cluster, IMAGE, "/bin/true");
  nodes = await FakeNodes.add(cluster, COUNT);
  const [nsenter = "", ...words] = [...cluster.onNode, process.execPath, CLI, "operator"];
  operator = spawn(nsenter, [...words, `--kubeconfig=${cluster.kubeconfig}`]);
  operator.stderr?.on("data", (data) => {
    log += data;
  });
});

afterAll(async () => {
  await cluster?.down();
});

async function fleet(): Promise<Resource> {
  return cluster.api<Resource>("GET", FLEET);
}

function untilNodes(counts: Partial<NonNullable<Resource["status"]>["nodes"]>): Promise<Resource> {
  const all = { eligible: COUNT, counting: 0, starting: 0, failing: 0, unsupported: 0 };
  return until(
    `nodes: ${JSON.stringify(counts)}`,
    async () => {
      if (operator.exitCode !== null) throw new Error(`the operator stopped: ${log}`);
      const resource = await fleet();
      try {
        expect(resource.status?.nodes).toEqual({ ...all, excluded: 1, ...counts });
        return resource;
      } catch {
        return false;
      }
    },
    200_000,
  );
}

async function metric(name: string): Promise<number> {
  const url = "http://127.0.0.1:11060/metrics";
  return sample(await cluster.run("/bin/busybox", ["wget", "-q", "-O", "-", url]), name);
}

/** Deletes the pods of nodes, in whose place others come. */
async function restart(names: readonly string[]): Promise<void> {
  const { items } = await cluster.api<{ items: FakePod[] }>("GET", PODS);
  const pods = items.filter(({ spec }) => names.includes(spec.nodeName ?? ""));
  expect(pods).toHaveLength(names.length);
  await Promise.all(pods.map(({ metadata }) => cluster.api("DELETE", `${PODS}/${metadata.name}`)));
}

test("of 1,000 nodes each gets an agent, and then the operator writes nothing any more", async () => {
  await cluster.apply({
    ...{ apiVersion: `${GROUP}/${API_VERSION}`, kind: "ExecveCounter" },
    ...{ metadata: { name: "fleet" } },
    spec: { image: IMAGE, nodeSelector: { [FAKE]: "" } },
  });
  await untilNodes({ counting: COUNT });
  const version = async () => (await fleet()).metadata.resourceVersion;
  const complete = (resource: Resource) =>
    resource.status?.conditions?.some(({ reason }) => reason === "Complete");
  await until("all of the present form", async () => complete(await fleet()));
  const writes = "execve_counter_operator_writes_total";
  const before = [await metric(writes), await version()];
  // Leases of nodes are renewed meanwhile, by every node.
  await new Promise((resolve) => setTimeout(resolve, 20_000));
  expect([await metric(writes), await version()]).toEqual(before);
});

test("what 100 nodes have in common is one problem, with five of them", async () => {
  const bad = nodes.names.slice(0, 100);
  const message =
    "execve-counter: error: this kernel has no BTF: there is no /sys/kernel/btf/vmlinux\nexecve-counter: error: to do: boot one\n";
  nodes.status = (pod) => {
    if (!bad.includes(pod.spec.nodeName ?? "")) return running(pod);
    const terminated = { exitCode: 3, reason: "Error", message };
    const container = {
      ...{ name: pod.spec.containers[0]?.name, image: "", imageID: "", ready: false },
      ...{ restartCount: 2, lastState: { terminated } },
      state: { waiting: { reason: "CrashLoopBackOff" } },
    };
    return { phase: "Running", containerStatuses: [container] };
  };
  await restart(bad);
  const { status } = await untilNodes({ counting: COUNT - 100, failing: 100 });
  expect(status?.problems).toEqual([
    {
      ...{ reason: "NoBTF", nodes: 100, examples: [...bad].sort().slice(0, 5) },
      message: expect.stringContaining("to do: boot a kernel with CONFIG_DEBUG_INFO_BTF=y"),
    },
  ]);
  const args = [CLI, "operator", "nodes", `--kubeconfig=${cluster.kubeconfig}`];
  const table = await cluster.run(process.execPath, args);
  expect(table.match(/ failing +NoBTF /g)).toHaveLength(100);
  expect(table.match(/ counting/g)).toHaveLength(COUNT - 100);
  nodes.status = running;
  await restart(bad);
  expect((await untilNodes({ counting: COUNT })).status?.problems).toEqual([]);
});

test("a node that is down is named, and counts again when it is back", async () => {
  await nodes.ready("fake7", false);
  const { status } = await untilNodes({ counting: COUNT - 1, failing: 1 });
  expect(status?.problems).toMatchObject([{ reason: "Silent", nodes: 1, examples: ["fake7"] }]);
  await nodes.ready("fake7");
  await untilNodes({ counting: COUNT });
});

test("deleted, it is gone once unpin has run on every node", async () => {
  nodes.status = ({ metadata, spec }) => {
    if (metadata.labels?.["app.kubernetes.io/component"] !== "unpin") return {};
    const [name, terminated] = [spec.containers[0]?.name, { exitCode: 0, reason: "Completed" }];
    const container = { name, image: "", imageID: "", ready: false, restartCount: 0 };
    return { phase: "Running", containerStatuses: [{ ...container, state: { terminated } }] };
  };
  await cluster.api("DELETE", FLEET);
  await until(
    "its end",
    () =>
      fleet().then(
        () => false,
        () => true,
      ),
    200_000,
  );
  const { items } = await cluster.api<{ items: { reason: string; message: string }[] }>(
    "GET",
    "/api/v1/namespaces/default/events?fieldSelector=reason%3DUnpinned",
  );
  expect(items.map(({ message }) => message)).toEqual([
    expect.stringContaining(` ${COUNT + 1} nodes`),
  ]);
});

test("meanwhile it stayed within the memory that deploy/operator gives it", async () => {
  const deployment = parse(readProjectFile("deploy/operator/deployment.yaml"));
  const limit = bytes(deployment.spec.template.spec.containers[0].resources.limits.memory);
  const [pid, ...others] = readdirSync("/proc").filter((pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      return words[2] === "operator" && words.includes(`--kubeconfig=${cluster.kubeconfig}`);
    } catch {
      return false; // no process, or one that has ended
    }
  });
  expect(others).toEqual([]);
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  expect(Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024).toBeLessThan(limit);
  expect(log).not.toContain(" error: ");
  const end = once(operator, "exit");
  process.kill(Number(pid), "SIGTERM");
  expect(await end).toEqual([0, null]);
  await nodes.remove();
});
