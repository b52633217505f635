import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { projectPath } from "../support/files.ts";
import { uniqueName, until } from "../support/meter.ts";
import { Cluster } from "./cluster.ts";
import { FAKE, FakeNodes, type FakePod } from "./nodes.ts";

const GROUP = "execve-counter.test/v1";
let cluster: Cluster;

beforeAll(async () => {
  cluster = await Cluster.up(GROUP);
});

afterAll(async () => {
  await cluster?.down();
});

function controlGroups(name: string): string[] {
  return readdirSync("/sys/fs/cgroup", { recursive: true, encoding: "utf8" }).filter((path) =>
    path.split("/").includes(name),
  );
}

/** The processes whose command line has this text. */
function processes(text: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(text);
    } catch {
      return false; // it has ended since it was listed
    }
  });
}

test("a pod runs on the node, and reaches the API", async () => {
  const script =
    "busybox wget --no-check-certificate -qO- https://$KUBERNETES_SERVICE_HOST/version";
  const container = { name: "only", image: "localhost/busybox:1", command: ["/bin/sh", "-c"] };
  await cluster.apply({
    ...{ apiVersion: "v1", kind: "Pod", metadata: { name: "asks" } },
    spec: { restartPolicy: "Never", containers: [{ ...container, args: [script] }] },
  });
  await until("its end", async () => {
    const pod = await cluster.api<FakePod>("GET", "/api/v1/namespaces/default/pods/asks");
    return pod.status?.phase === "Succeeded";
  });
  expect(JSON.parse(await cluster.kubectl(["logs", "asks"]))).toMatchObject({ minor: "20" });
});

test("custom resources have rules", async () => {
  const [group, version] = GROUP.split("/") as [string, string];
  const rule = { rule: "self.size < 23", message: "too large" };
  const size = { type: "integer" };
  const spec = { type: "object", properties: { size }, "x-kubernetes-validations": [rule] };
  const openAPIV3Schema = { type: "object", properties: { spec } };
  await cluster.apply({
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `things.${group}` },
    spec: {
      ...{ group, scope: "Cluster", names: { plural: "things", kind: "Thing" } },
      versions: [{ name: version, served: true, storage: true, schema: { openAPIV3Schema } }],
    },
  });
  await cluster.served(GROUP);
  const thing = (size: number) => ({
    ...{ apiVersion: GROUP, kind: "Thing", metadata: { name: `of-${size}` }, spec: { size } },
  });
  await cluster.apply(thing(22));
  expect(await cluster.kubectl(["get", "things", "-o", "name"])).toBe(`thing.${group}/of-22\n`);
  await expect(cluster.apply(thing(23))).rejects.toThrow("too large");
});

test("a DaemonSet has a running pod on each fake node, and of a deleted one nothing is left", async () => {
  const nodes = await FakeNodes.add(cluster, 23);
  try {
    const labels = { app: "fake" };
    await cluster.apply({
      ...{ apiVersion: "apps/v1", kind: "DaemonSet", metadata: { name: "fake" } },
      spec: {
        selector: { matchLabels: labels },
        template: {
          metadata: { labels },
          spec: {
            nodeSelector: { [FAKE]: "" },
            tolerations: [{ operator: "Exists" }],
            containers: [{ name: "only", image: "localhost/busybox:1" }],
          },
        },
      },
    });
    const pods = async () => {
      const path = "/api/v1/namespaces/default/pods?labelSelector=app%3Dfake";
      return (await cluster.api<{ items: FakePod[] }>("GET", path)).items;
    };
    await until("23 pods that run", async () => {
      const running = (await pods()).filter(({ status }) => status?.phase === "Running");
      return new Set(running.map(({ spec }) => spec.nodeName)).size === 23;
    });
    await nodes.ready("fake7", false);
    const list = await cluster.kubectl(["get", "nodes", "-l", FAKE, "--no-headers"]);
    expect(list.match(/ NotReady /g)).toHaveLength(1);
    expect(list.match(/ Ready /g)).toHaveLength(22);
    await cluster.kubectl(["delete", "daemonset", "fake", "--cascade=foreground", "--timeout=60s"]);
    expect(await pods()).toEqual([]);
  } finally {
    await nodes.remove();
  }
});

test("nothing is left of a cluster whose test is killed while it comes up", async () => {
  const name = uniqueName();
  const directory = join(tmpdir(), name);
  const script = projectPath("test/cluster/cluster.sh");
  const start = `require("node:child_process").spawn(process.argv[1], process.argv.slice(2), {
    stdio: ["pipe", "ignore", "inherit"], detached: true });`;
  const killed = spawn(process.execPath, ["-e", start, script, directory]);
  await until("kubelet", () => existsSync(join(directory, "log/kubelet.log")), 200_000);
  expect(processes(directory)).not.toEqual([]);
  expect(controlGroups(name)).not.toEqual([]);
  killed.kill("SIGKILL");
  await until("its end", () => !existsSync(directory));
  expect(processes(directory)).toEqual([]);
  expect(controlGroups(name)).toEqual([]);
});
