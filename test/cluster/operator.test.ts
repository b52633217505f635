import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { pathOf, pluralOf } from "../../src/operator/api.ts";
import { childrenOf, holds } from "../../src/operator/children.ts";
import { API_VERSION, GROUP, PLURAL } from "../../src/operator/resource.ts";
import type { Any } from "../support/apiserver.ts";
import { readProjectFile } from "../support/files.ts";
import { BPFTOOL, CLI, type Counts, result, sh, until } from "../support/meter.ts";
import { Cluster } from "./cluster.ts";
import { loadOperator } from "./images.ts";

const NAMESPACE = "execve-counter";
const IMAGE = "fleet:1";
const NEXT = "fleet:2";
const RESOURCES = `/apis/${GROUP}/${API_VERSION}/namespaces/${NAMESPACE}/${PLURAL}`;
const FLEET = `${RESOURCES}/fleet`;
const PODS = `/api/v1/namespaces/${NAMESPACE}/pods`;
const SETS = `/apis/apps/v1/namespaces/${NAMESPACE}/daemonsets`;
const PINS = `/sys/fs/bpf/execve-counter/${NAMESPACE}_fleet`;

let cluster: Cluster;

beforeAll(async () => {
  cluster = await Cluster.up(`${GROUP}/${API_VERSION}`);
  await loadOperator(cluster, IMAGE, NEXT);
  const [crd, ...rest] = manifests();
  await cluster.apply(crd);
  await cluster.served(`${GROUP}/${API_VERSION}`);
  await cluster.apply(...rest);
});

afterAll(async () => {
  await cluster?.down();
});

/** What kubectl applies of deploy/operator, with an image that is there. */
function manifests(): Any[] {
  return ["crd.yaml", "namespace.yaml", "rbac.yaml", "deployment.yaml"]
    .flatMap((file) => parseAllDocuments(readProjectFile(`deploy/operator/${file}`)))
    .map((document) => {
      const manifest = document.toJS() as Any;
      if (!["CustomResourceDefinition", "Namespace"].includes(manifest.kind)) {
        if (!manifest.kind.startsWith("Cluster")) manifest.metadata.namespace = NAMESPACE;
      }
      const [container] = manifest.spec?.template?.spec.containers ?? [];
      if (container) container.image = IMAGE;
      return manifest;
    });
}

const get = (path: string) => cluster.api<Any>("GET", path);
const patch = (spec: object) => cluster.api("PATCH", FLEET, { spec });
const fleet = () => get(FLEET);
const condition = async (type: string): Promise<Any> =>
  (await fleet()).status?.conditions?.find((each: Any) => each.type === type);

/** The agent's pod, once all pods are of the present form and count. */
async function agent(image = IMAGE): Promise<Any> {
  return until(
    `a node that counts with ${image}`,
    async () => {
      const { metadata, status } = await fleet();
      if (status?.observedGeneration !== metadata.generation || status.nodes.counting !== 1) return;
      if ((await condition("Progressing")).reason !== "Complete") return;
      const { items } = await get(`${PODS}?labelSelector=app.kubernetes.io/instance=fleet`);
      const [pod, ...others] = items.filter((each: Any) => !each.metadata.deletionTimestamp);
      const ready = pod?.status.containerStatuses?.[0]?.ready;
      return others.length === 0 && ready && pod.spec.containers[0].image === image && pod;
    },
    90_000,
  );
}

async function counts(): Promise<Counts> {
  const { status } = await agentNow();
  const url = `http://${status.podIP}:11059/api/v1/counts`;
  return JSON.parse(await cluster.run("/bin/busybox", ["wget", "-q", "-O", "-", url]));
}
const agentNow = async () =>
  (await get(`${PODS}?labelSelector=app.kubernetes.io/instance=fleet`)).items.find(
    (each: Any) => !each.metadata.deletionTimestamp,
  );
const events = async () =>
  (await get(`/api/v1/namespaces/${NAMESPACE}/events`)).items
    .filter(({ involvedObject }: Any) => involvedObject.kind === "ExecveCounter")
    .map(({ reason, message }: Any) => `${reason}: ${message}`);
/** The pods of the operator, the one that holds the Lease first. */
async function operators(): Promise<Any[]> {
  const { items } = await get(
    `${PODS}?labelSelector=app.kubernetes.io/name=execve-counter-operator`,
  );
  const lease = await get(
    `/apis/coordination.k8s.io/v1/namespaces/${NAMESPACE}/leases/execve-counter-operator`,
  );
  const holder = lease.spec.holderIdentity;
  return items.toSorted((a: Any) => (holder.startsWith(a.metadata.name) ? -1 : 1));
}

test("two operators start, with the rights of deploy/operator, and one leads", async () => {
  await until("two operators that are ready", async () => {
    const path = `/apis/apps/v1/namespaces/${NAMESPACE}/deployments/execve-counter-operator`;
    return (await get(path)).status.readyReplicas === 2;
  });
  const [leader] = await operators();
  const log = await cluster.kubectl(["logs", "-n", NAMESPACE, leader.metadata.name]);
  expect(log).toContain("execve-counter: leads\n");
  expect(log).not.toContain("error");
});

test.each([
  ["a name with a dot", { metadata: { name: "a.b" } }, "the name must be at most 40"],
  ["no image", { spec: {} }, "spec.image"],
  ["a duration that is too short", { spec: { retireAfter: "1ms" } }, "give a duration from 1s"],
  ["a duration that is none", { spec: { retireAfter: "soon" } }, "give a duration from 1s"],
  ["a label that there is not", { spec: { by: ["pod"] } }, "Unsupported value"],
  ["the same label twice", { spec: { by: ["user", "user"] } }, "Duplicate value"],
  ["too few rows", { spec: { maxSeries: 15 } }, "spec.maxSeries"],
  ["a path as a watched name", { spec: { watch: ["/bin/nc"] } }, "spec.watch"],
  ["a watched name of too many bytes", { spec: { watch: ["ä".repeat(8)] } }, "at most 15 bytes"],
  ["a NUL in a watched name", { spec: { watch: ["a\0b"] } }, "spec.watch"],
  ["what is not UTF-8 in a watched name", { spec: { watch: ["a\ufffd"] } }, "spec.watch"],
  [
    "a label of the operator's",
    { spec: { podLabels: { "app.kubernetes.io/name": "x" } } },
    "are the operator's",
  ],
  ["no nodes at all at once", { spec: { rollout: { maxUnavailable: 0 } } }, "give at least 1"],
  [
    "values for Exists",
    {
      spec: {
        nodeAffinity: [{ matchExpressions: [{ key: "a", operator: "Exists", values: ["b"] }] }],
      },
    },
    "have none",
  ],
  [
    "two values for Gt",
    {
      spec: {
        nodeAffinity: [{ matchExpressions: [{ key: "a", operator: "Gt", values: ["1", "2"] }] }],
      },
    },
    "Gt and Lt one",
  ],
])("%s is refused", async (_, more: Any, message) => {
  const spec = {
    ...("spec" in more && !Object.keys(more.spec).length ? {} : { image: IMAGE }),
    ...more.spec,
  };
  const manifest = {
    ...{ apiVersion: `${GROUP}/${API_VERSION}`, kind: "ExecveCounter" },
    ...{ metadata: { name: "wrong", ...more.metadata }, spec },
  };
  await expect(cluster.api("POST", RESOURCES, manifest)).rejects.toThrow(message);
});

test("a resource with an image alone counts on every node within a minute", async () => {
  await cluster.api("POST", RESOURCES, {
    ...{ apiVersion: `${GROUP}/${API_VERSION}`, kind: "ExecveCounter" },
    ...{ metadata: { name: "fleet" }, spec: { image: IMAGE } },
  });
  const { metadata } = await agent();
  expect((await condition("Available")).message).toBe("1 of 1 nodes count");
  expect(metadata.ownerReferences[0].name).toBe("fleet");
  const table = await cluster.kubectl(["get", PLURAL, "-n", NAMESPACE]);
  expect(table).toMatch(/^NAME +ELIGIBLE +COUNTING +FAILING +PROBLEM +SINCE +AGE\nfleet +1 +1 +0 /);
  const args = [CLI, "operator", "nodes", "--kubeconfig", cluster.kubeconfig];
  const nodes = await cluster.run(process.execPath, args);
  expect(nodes).toMatch(/^RESOURCE .*\nexecve-counter\/fleet +node0 +counting$/m);
});

test("the watch list is edited without a new pod, and counts to the digit, also across a roll", async () => {
  const before = await agent();
  const name = `w${process.pid}`;
  await patch({ watch: [name, "other"] });
  await until(
    "the list in every agent",
    async () => {
      const { status, message } = await condition("WatchListApplied");
      return status === "True" && message === "1 agents count 2 names";
    },
    180_000,
  );
  expect(Object.keys((await counts()).watched).sort()).toEqual(["other", name].sort());
  const { metadata, status } = await agent();
  expect(metadata.uid).toBe(before.metadata.uid);
  expect(status.containerStatuses[0].restartCount).toBe(0);

  const program = join(cluster.directory, name);
  copyFileSync("/bin/busybox", program);
  const run = () => {
    for (let i = 0; i < 23; i++) expect(result(program, ["true"]).status).not.toBeNull();
  };
  run();
  expect((await counts()).watched[name]).toBe(23);
  await patch({ image: NEXT });
  for (let i = 0; i < 3; i++) run();
  await agent(NEXT);
  expect((await counts()).watched[name]).toBe(92);
});

test("a change of flags begins new counts, ends no pod in error, and is said", async () => {
  const { start_time } = await counts();
  const { countsSince } = (await fleet()).status;
  await patch({ failures: true });
  const { status } = await agent(NEXT);
  const after = await counts();
  expect(after.failures).toBeDefined();
  expect(Date.parse(after.start_time)).toBeGreaterThan(Date.parse(start_time));
  expect(status.containerStatuses[0].restartCount).toBe(0);
  expect((await fleet()).status.countsSince > countsSince).toBe(true);
  expect(await events()).toContainEqual(expect.stringMatching(/^BeganAnew: /));
});

test("what is deleted or changed by hand is healed; what is added stays", async () => {
  const { start_time } = await counts();
  for (const path of [
    `/api/v1/namespaces/${NAMESPACE}/services/fleet`,
    `/api/v1/namespaces/${NAMESPACE}/configmaps/fleet-watch`,
    `/apis/networking.k8s.io/v1/namespaces/${NAMESPACE}/networkpolicies/fleet`,
    `${SETS}/fleet`,
  ]) {
    const { metadata } = await get(path);
    await cluster.api("DELETE", path);
    await until(`another ${path}`, async () => {
      const there = await get(path).catch(() => undefined);
      return there && there.metadata.uid !== metadata.uid;
    });
  }
  await agent(NEXT);
  // The pins have kept the counts while there was no pod.
  expect((await counts()).start_time).toBe(start_time);

  const spec = { template: { spec: { nodeSelector: { nowhere: "yes" } } } };
  await cluster.api("PATCH", `${SETS}/fleet`, { spec });
  await until("the selector", async () => {
    const { nodeSelector } = (await get(`${SETS}/fleet`)).spec.template.spec;
    return JSON.stringify(nodeSelector) === '{"kubernetes.io/os":"linux"}';
  });
  await cluster.api("PATCH", `${SETS}/fleet`, { spec: { template: { spec: { hostPID: true } } } });
  await until(
    "no more rights",
    async () => (await get(`${SETS}/fleet`)).spec.template.spec.hostPID === undefined,
  );
  await cluster.kubectl(["rollout", "restart", "-n", NAMESPACE, "daemonset/fleet"]);
  await agent(NEXT);
  const { annotations } = (await get(`${SETS}/fleet`)).spec.template.metadata;
  expect(annotations).toHaveProperty(["kubectl.kubernetes.io/restartedAt"]);
  // What the API server adds is known, so another operator has nothing to write.
  const around = { namespace: NAMESPACE, podMonitors: false, rules: false };
  for (const child of childrenOf(await fleet(), around)) {
    const { apiVersion, kind, metadata } = child;
    const there = await get(pathOf(apiVersion, pluralOf(kind), NAMESPACE, metadata.name));
    expect(holds(there, child), kind).toBe(true);
  }
});

test("an image that is not there is a problem of its nodes, until it is corrected", async () => {
  const { start_time } = await counts();
  await patch({ image: "nowhere:1", imagePullPolicy: "Never" });
  const problem = await until(
    "a problem",
    async () => (await fleet()).status.problems.find(({ reason }: Any) => reason === "ImagePull"),
    90_000,
  );
  expect(problem).toMatchObject({ nodes: 1, examples: ["node0"] });
  expect(problem.message).toMatch(/nowhere.*; to do: correct spec.image/s);
  expect((await condition("Degraded")).status).toBe("True");
  expect((await condition("Available")).status).toBe("False");
  await patch({ image: NEXT, imagePullPolicy: null });
  await agent(NEXT);
  expect((await counts()).start_time).toBe(start_time);
  expect((await condition("Degraded")).status).toBe("False");
});

test("a canary takes a node with its counts, and gives it back", async () => {
  const { start_time } = await counts();
  const label = (value: string | null) =>
    cluster.api("PATCH", "/api/v1/nodes/node0", { metadata: { labels: { canary: value } } });
  await label("yes");
  await patch({ rollout: { canary: { nodeSelector: { canary: "yes" }, image: IMAGE } } });
  const { metadata } = await agent(IMAGE);
  expect(metadata.name).toMatch(/^fleet-canary-/);
  expect((await counts()).start_time).toBe(start_time);
  await patch({ rollout: { canary: null } });
  await label(null);
  await agent(NEXT);
  expect((await counts()).start_time).toBe(start_time);
  const names = (await get(SETS)).items.map(({ metadata }: Any) => metadata.name);
  expect(names).toEqual(["fleet"]);
});

test("without pins nothing is left of those that were", async () => {
  await patch({ pin: "None" });
  await agent(NEXT);
  expect(await cluster.run("ls", ["/sys/fs/bpf/execve-counter"])).toBe("");
  await patch({ pin: "Keep" });
  await agent(NEXT);
  expect(await cluster.run("ls", ["/sys/fs/bpf/execve-counter"])).not.toBe("");
});

test("an API server that hangs for 20 seconds leaves nothing undone", async () => {
  const signal = async (name: string) => {
    const pid = cluster.run("cat", [join(cluster.directory, "log/kube-apiserver.pid")]);
    await cluster.run("kill", [`-${name}`, (await pid).trim()]);
  };
  await signal("STOP");
  await sleep(20_000);
  await signal("CONT");
  const begin = performance.now();
  await cluster.api("DELETE", `/api/v1/namespaces/${NAMESPACE}/services/fleet`);
  await until("a service", () =>
    get(`/api/v1/namespaces/${NAMESPACE}/services/fleet`).catch(() => undefined),
  );
  expect(performance.now() - begin).toBeLessThan(40_000);
  await agent(NEXT);
});

test("deleted in the middle of a roll, and made again, it counts anew", async () => {
  const { metadata, spec } = await fleet();
  await patch({ image: IMAGE });
  await cluster.api("DELETE", FLEET);
  await until("its end", async () => !(await get(FLEET).catch(() => undefined)), 90_000);
  await cluster.api("POST", RESOURCES, {
    ...{ apiVersion: `${GROUP}/${API_VERSION}`, kind: "ExecveCounter" },
    ...{ metadata: { name: "fleet" }, spec: { ...spec, image: NEXT } },
  });
  await agent(NEXT);
  expect(Date.parse((await counts()).start_time)).toBeGreaterThan(
    Date.parse(metadata.creationTimestamp),
  );
  expect((await condition("Conflict")).status).toBe("False");
});

test("another's object of a name is left alone, and named", async () => {
  const path = `/api/v1/namespaces/${NAMESPACE}/services`;
  const spec = { selector: { app: "other" }, ports: [{ port: 80 }] };
  await cluster.api("POST", path, { metadata: { name: "second" }, spec });
  await cluster.api("POST", RESOURCES, {
    ...{ apiVersion: `${GROUP}/${API_VERSION}`, kind: "ExecveCounter" },
    ...{ metadata: { name: "second" }, spec: { image: IMAGE, nodeSelector: { none: "yes" } } },
  });
  const second = `${RESOURCES}/second`;
  await until("the conflict", async () =>
    (await get(second)).status?.conditions.some(
      ({ type, message }: Any) => type === "Conflict" && message.includes("Service second"),
    ),
  );
  expect((await get(`${path}/second`)).spec.selector).toEqual({ app: "other" });
  expect((await get(second)).status.nodes).toMatchObject({ eligible: 0, excluded: 1 });
  await cluster.api("DELETE", `${path}/second`);
  await until("the end of the conflict", async () =>
    (await get(second)).status.conditions.some(
      ({ type, status }: Any) => type === "Conflict" && status === "False",
    ),
  );
  await cluster.api("DELETE", second);
  await until("its end", async () => !(await get(second).catch(() => undefined)));
});

test("when the leader is killed, the next one works on once its Lease is over", async () => {
  const [leader] = await operators();
  const id = leader.status.containerStatuses[0].containerID.replace("containerd://", "");
  const ctr = ["-a", join(cluster.directory, "containerd.sock"), "-n", "k8s.io"];
  await cluster.run(join(cluster.directory, "bin/ctr"), [...ctr, "tasks", "kill", "-s", "9", id]);
  const begin = performance.now();
  await cluster.api("DELETE", `${SETS}/fleet`);
  await until("another DaemonSet", async () => {
    const there = await get(`${SETS}/fleet`).catch(() => undefined);
    return there && !there.metadata.deletionTimestamp;
  });
  const took = performance.now() - begin;
  // It has 15 seconds, of which some were over.
  expect(took).toBeGreaterThan(5000);
  expect(took).toBeLessThan(30_000);
});

test("deleted, it leaves nothing in the kernel and nothing in the cluster", async () => {
  await agent(NEXT);
  const [version = ""] = (await cluster.run("ls", [PINS])).trim().split("\n");
  const pinned = (await cluster.run("ls", [join(PINS, version)])).trim().split("\n");
  const ids = await Promise.all(
    pinned.map(async (name) => {
      const args = ["-j", "prog", "show", "pinned", join(PINS, version, name)];
      return JSON.parse(await cluster.run(BPFTOOL, args).catch(() => "{}")).id as
        | number
        | undefined;
    }),
  );
  const programs = ids.filter((id) => id !== undefined);
  expect(programs.length).toBeGreaterThan(1);
  await cluster.api("DELETE", FLEET);
  await until("its end", async () => !(await get(FLEET).catch(() => undefined)), 90_000);
  expect(await cluster.run("ls", ["/sys/fs/bpf/execve-counter"])).toBe("");
  await until("unloading", () => {
    const left: { id: number }[] = JSON.parse(sh(BPFTOOL, ["-j", "prog", "list"]));
    return programs.every((id) => !left.some((each) => each.id === id));
  });
  expect(await events()).toContain("Unpinned: nothing counts any more on 1 nodes");
  await until("an empty namespace", async () => {
    const { items } = await get(SETS);
    return items.length === 0;
  });
});
