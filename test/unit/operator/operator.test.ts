import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { listDigest } from "../../../src/base/digest.ts";
import { createLog } from "../../../src/base/log.ts";
import type { Page } from "../../../src/http/server.ts";
import type { Api } from "../../../src/operator/api.ts";
import { Leadership } from "../../../src/operator/lease.ts";
import { Operator } from "../../../src/operator/operator.ts";
import { FINALIZER, OPERATOR_ANNOTATION } from "../../../src/operator/reconcile.ts";
import { CRD, GROUP } from "../../../src/operator/resource.ts";
import { type Any, ApiServer, refuse } from "../../support/apiserver.ts";
import { readProjectFile } from "../../support/files.ts";
import { until } from "../../support/meter.ts";
import { node, pod, resource } from "../../support/operator.ts";

const RESOURCE = `/apis/${GROUP}/v1alpha1/namespaces/meters/execvecounters/fleet`;
const APPS = "/apis/apps/v1/namespaces/meters/daemonsets";
const CORE = "/api/v1/namespaces/meters";
const LEASE = "/apis/coordination.k8s.io/v1/namespaces/operators/leases/execve-counter-operator";

const hang = () => () => {};

let server: ApiServer;
let api: Api;
let operator: Operator;
let stop: () => void;
let ended: Promise<unknown>;
let running = 0;

beforeEach(async () => {
  server = await ApiServer.start();
  running = 0;
});

afterEach(async () => {
  if (running > 0) {
    server.fault = () => undefined;
    stop();
    await ended;
  }
  api?.close();
  server.close();
});

async function start(times = {}, log = createLog("error")): Promise<void> {
  api = server.connect();
  operator = new Operator(api, "operators", log, times);
  running++;
  ended = operator.run(
    new Promise((resolve) => {
      stop = resolve;
    }),
  );
  await until("readiness", async () => (await ask("/readyz")) === "ok\n" && server.watches >= 8);
}

async function ask(path: string): Promise<string> {
  const page = operator.pages.get(path) as Page;
  return `${(await page.make("", "")).body}`;
}

const make = (spec = {}, more = {}) =>
  server.put(RESOURCE, { ...resource(spec), metadata: { uid: undefined, ...more } });
const status = () => server.get(RESOURCE)?.status;
const condition = (type: string) =>
  status()?.conditions?.find((each: Any) => each.type === type) as Any;
const writes = () =>
  server.asked.filter(
    ({ verb, resource }) =>
      !["get", "list", "watch"].includes(verb) && !["leases", "events"].includes(resource),
  );
const events = () =>
  server.list("/v1/events").map(({ reason, message }) => `${reason}: ${message}`);
const putPod = (on: string, more: Any = {}, component?: string) => {
  const one = pod(on, more.status, component);
  const owner = server.get(`${APPS}/fleet-unpin`);
  const ownerReferences =
    component === "unpin" && owner ? [{ kind: "DaemonSet", uid: owner.metadata.uid }] : [];
  const metadata = { ...one.metadata, ownerReferences };
  return server.put(`${CORE}/pods/${one.metadata.name}`, { ...one, ...more, metadata });
};
const putNode = (name: string, labels = {}, ready = "True") =>
  server.put(`/api/v1/nodes/${name}`, node(name, labels, ready));

test("it makes what a resource needs, says how it is, and then writes nothing", async () => {
  putNode("a");
  putNode("w", { "kubernetes.io/os": "windows" });
  make({ watch: ["nc"] });
  await start();
  await until("a status", () => condition("Available"));
  expect(server.get(RESOURCE).metadata.finalizers).toEqual([FINALIZER]);
  expect(server.get(`${APPS}/fleet`).metadata.ownerReferences).toMatchObject([
    { kind: "ExecveCounter", name: "fleet", uid: server.get(RESOURCE).metadata.uid },
  ]);
  expect(server.get(`${CORE}/configmaps/fleet-watch`).data).toEqual({ commands: "nc\n" });
  expect(status().nodes).toMatchObject({ eligible: 1, starting: 1, unsupported: 1 });
  expect(condition("Available").status).toBe("False");

  putPod("a");
  await until("a node that counts", () => status().nodes.counting === 1);
  expect(condition("Available")).toMatchObject({ status: "True", message: "1 of 1 nodes count" });
  const before = writes().length;
  const asked = server.asked.length;
  // What a node and a pod say all the time, without saying anything new.
  for (let i = 0; i < 5; i++) {
    server.put("/api/v1/nodes/a", { ...node("a"), heartbeat: i });
    putPod("a", { note: i });
    // And what makes it look again, in vain.
    putNode("a", { note: `${i}` });
    await sleep(150);
  }
  await sleep(1200);
  expect(writes().slice(before)).toEqual([]);
  // Nor is anything looked up that is known.
  const others = server.asked.slice(asked).filter(({ resource }) => resource !== "leases");
  expect(others.map(({ verb, path }) => `${verb} ${path}`)).toEqual([]);
  const kinds = [...new Set(writes().map(({ resource }) => resource))].sort();
  expect(kinds).toEqual([
    ...["configmaps", "daemonsets", "execvecounters", "execvecounters/status"],
    ...["networkpolicies", "serviceaccounts", "services"],
  ]);
});

test("of much that happens at once the status is written once a second at most", async () => {
  make();
  await start();
  await until("a status", status);
  const before = writes().length;
  const begin = performance.now();
  for (let i = 0; i < 60; i++) {
    putNode(`n${i}`);
    await sleep(40);
  }
  await until("all of them", () => status().nodes.eligible === 60);
  const seconds = (performance.now() - begin) / 1000;
  expect(writes().length - before).toBeLessThanOrEqual(Math.ceil(seconds) + 1);
});

test("until everything is known, nothing is written: what is there would seem missing", async () => {
  make();
  server.fault = ({ verb, resource }) =>
    verb === "list" && resource === "pods" ? refuse(503, "ServiceUnavailable") : undefined;
  const started = start();
  await until("a refused list", () => server.asked.some(({ resource }) => resource === "pods"));
  await sleep(700);
  server.remove(`${CORE}/services/fleet`);
  putNode("a");
  await sleep(700);
  expect(writes()).toEqual([]);
  expect(await ask("/readyz")).toBe("the lists are not read yet\n");
  server.fault = () => undefined;
  await started;
  await until("a status", status);
});

test("another operator finds all as it should be, and writes nothing", async () => {
  putNode("a");
  putPod("a");
  make();
  await start();
  await until("a status", () => status()?.nodes?.counting === 1);
  await sleep(1500);
  stop();
  await ended;
  api.close();
  const before = writes().length;
  await start();
  await sleep(1000);
  expect(writes().slice(before)).toEqual([]);
});

test("what is deleted or changed is healed; what others add stays", async () => {
  make();
  await start();
  await until("a status", status);
  server.remove(`${CORE}/services/fleet`);
  await until("a service", () => server.get(`${CORE}/services/fleet`));
  const set = server.get(`${APPS}/fleet`);
  const spec = structuredClone(set.spec);
  spec.template.spec.containers[0].image = "another";
  server.put(`${APPS}/fleet`, { ...set, spec });
  const image = () => server.get(`${APPS}/fleet`).spec.template.spec.containers[0].image;
  await until("the image", () => image() === "execve-counter:0.1.0");

  await sleep(300);
  const before = writes().length;
  const { metadata } = server.get(`${APPS}/fleet`);
  const annotations = { ...metadata.annotations, "kubectl.kubernetes.io/restartedAt": "now" };
  server.put(`${APPS}/fleet`, {
    ...server.get(`${APPS}/fleet`),
    metadata: { ...metadata, annotations },
  });
  await sleep(500);
  expect(
    writes()
      .slice(before)
      .filter(({ resource }) => resource === "daemonsets"),
  ).toEqual([]);
});

test("what others change again and again is put right less and less often, and that is said", async () => {
  make();
  await start({ status: 50, look: 200, calm: 500 });
  await until("a status", status);
  const path = `${CORE}/services/fleet`;
  const isOurs = () => server.get(path).spec.selector !== "theirs";
  const change = () => {
    const { metadata, ...service } = server.get(path);
    const managedFields = [
      { manager: "execve-counter-operator", time: "2026-01-02T00:00:00Z" },
      { manager: "flux", time: "2026-01-01T00:00:00Z" },
      { manager: "kubelet", time: "2026-01-03T00:00:00Z", subresource: "status" },
    ];
    const spec = { ...service.spec, selector: "theirs" };
    server.put(path, { ...service, metadata: { ...metadata, managedFields }, spec });
  };
  const applied = () => writes().filter(({ resource }) => resource === "services").length;
  const before = applied();
  const timer = setInterval(() => isOurs() && change(), 5);
  await sleep(2000);
  // Ten at once, then after one second, and two more.
  expect(applied() - before).toBeGreaterThanOrEqual(10);
  expect(applied() - before).toBeLessThanOrEqual(11);
  expect(condition("Conflict")).toMatchObject({ status: "True", reason: "ChangedByOthers" });
  expect(condition("Conflict").message).toContain("Service fleet (by flux)");
  expect(events().join("\n")).toContain("Conflict: changed by others again and again");
  // Nothing else has to wait.
  server.remove(`${CORE}/configmaps/fleet-watch`);
  await until("the list", () => server.get(`${CORE}/configmaps/fleet-watch`), 900);
  // A change of the spec has not either.
  make({ image: "another", watch: ["nc"] });
  await until(
    "the image",
    () => server.get(`${APPS}/fleet`).spec.template.spec.containers[0].image === "another",
    900,
  );
  clearInterval(timer);
  await until("calm", () => isOurs() && condition("Conflict").status === "False", 20_000);
});

test("privileges that somebody gives to the pods are taken away, and selectors are as they were", async () => {
  make();
  await start({ status: 50 });
  await until("a status", status);
  const set = server.get(`${APPS}/fleet`);
  const policy = server.get(`/apis/networking.k8s.io/v1/namespaces/meters/networkpolicies/fleet`);
  const spec = structuredClone(set.spec);
  Object.assign(spec.template.spec, { hostPID: true, dnsPolicy: "ClusterFirst" });
  spec.template.spec.containers[0].securityContext.privileged = true;
  spec.template.spec.containers.push({ name: "x", image: "x" });
  server.put(`${APPS}/fleet`, { ...set, spec });
  const matchExpressions = [{ key: "x", operator: "Exists" }];
  server.put(`/apis/networking.k8s.io/v1/namespaces/meters/networkpolicies/fleet`, {
    ...policy,
    spec: { ...policy.spec, podSelector: { ...policy.spec.podSelector, matchExpressions } },
  });
  await until("the pods as they were", () => {
    const { dnsPolicy: _, ...pod } = server.get(`${APPS}/fleet`).spec.template.spec;
    return JSON.stringify(pod) === JSON.stringify(set.spec.template.spec);
  });
  await until("the policy as it was", () => {
    const { spec } = server.get(
      `/apis/networking.k8s.io/v1/namespaces/meters/networkpolicies/fleet`,
    );
    return JSON.stringify(spec) === JSON.stringify(policy.spec);
  });
});

test("what the API server writes in its own way is not written again and again", async () => {
  server.admit = (object) => {
    const pod = object.spec?.template?.spec;
    return pod
      ? {
          ...object,
          spec: {
            ...object.spec,
            template: { ...object.spec.template, spec: { ...pod, novel: "x" } },
          },
        }
      : object;
  };
  make();
  await start({ status: 50 });
  await until("a status", status);
  for (const name of ["a", "b"]) {
    putNode(name);
    await until("a look", () => status().nodes.eligible === (name === "a" ? 1 : 2));
  }
  // It is applied, and then tried to be removed.
  const sets = writes().filter(({ resource }) => resource === "daemonsets");
  expect(sets).toHaveLength(2);
});

test("another's object of that name is left alone, which is said, until it is gone", async () => {
  const foreign = { spec: { selector: { app: "other" } } };
  server.put(`${CORE}/services/fleet`, foreign);
  make();
  await start({ status: 50, look: 200 });
  await until("a conflict", () => condition("Conflict")?.status === "True");
  expect(condition("Conflict").message).toContain("Service fleet");
  expect(server.get(`${CORE}/services/fleet`).spec).toEqual(foreign.spec);
  expect(server.get(`${APPS}/fleet`)).toBeDefined();
  await until("an event", () => events().length > 0);
  // Another operator does not say it again.
  stop();
  await ended;
  api.close();
  await start({ status: 50, look: 200 });
  const asked = server.asked.length;
  const looks = () =>
    server.asked.slice(asked).filter(({ path }) => path.endsWith("/fleet")).length;
  await until("a look", () => looks() > 0);
  expect(events()).toEqual([
    expect.stringMatching(/^Conflict: not made, .*: Service fleet; to do: /),
  ]);
  server.remove(`${CORE}/services/fleet`);
  await until("no conflict", () => condition("Conflict").status === "False");
  expect(server.get(`${CORE}/services/fleet`).spec.clusterIP).toBe("None");
});

test("a change of the flags is said, in the status and by an event; one of the image is not", async () => {
  make();
  await start();
  await until("a status", status);
  const { countsSince } = status();
  await sleep(1100);
  const change = (spec: Any) => {
    const { status: _, ...old } = server.get(RESOURCE);
    server.put(RESOURCE, { ...old, status: status(), spec: { ...old.spec, ...spec } });
  };
  change({ image: "execve-counter:next" });
  const set = () => server.get(`${APPS}/fleet`).spec.template.spec.containers[0];
  await until("the image", () => set().image === "execve-counter:next");
  change({ failures: true });
  await until("the flags", () => status().flags.includes("--failures"));
  expect(set().args).toContain("--failures");
  expect(status().countsSince > countsSince).toBe(true);
  await until("an event", () => events().length > 0);
  expect(events()).toEqual([expect.stringContaining("BeganAnew: counts begin anew")]);
});

test("paused, and where it cannot be applied, the status has the flags that are in force", async () => {
  make();
  await start({ status: 50 });
  await until("a status", status);
  const { flags, countsSince } = status();
  const change = async (spec: Any) => {
    const { metadata } = server.put(RESOURCE, {
      ...server.get(RESOURCE),
      spec: { ...server.get(RESOURCE).spec, ...spec },
    });
    await until("a report", () => status().observedGeneration === metadata.generation);
  };
  await change({ paused: true, failures: true });
  expect(status()).toMatchObject({ flags, countsSince });
  server.fault = ({ verb, resource }) =>
    verb === "patch" && resource === "daemonsets" ? refuse(422, "Invalid") : undefined;
  await change({ paused: false });
  expect(condition("Progressing").reason).toBe("ApplyFailed");
  expect(status()).toMatchObject({ flags, countsSince });
  expect(events()).toEqual([]);
  server.fault = () => undefined;
  await until("the flags", () => status().flags.includes("--failures"));
  await until("an event", () => events().length > 0);
  await change({ pin: "None" });
  expect(status().flags).not.toContain("--pin");
});

test("a condition of others stays in the status", async () => {
  make();
  await start({ status: 50 });
  await until("a status", status);
  const other = { type: "Audited", status: "True", reason: "Yes", message: "" };
  const { status: old, ...rest } = server.get(RESOURCE);
  server.put(RESOURCE, { ...rest, status: { ...old, conditions: [other, ...old.conditions] } });
  putNode("a");
  await until("a report", () => status().nodes.eligible === 1);
  expect(condition("Audited")).toEqual(other);
});

test("a canary comes and goes; paused, nothing is changed, but all is reported", async () => {
  putNode("a", { canary: "yes" });
  const canary = { nodeSelector: { canary: "yes" }, image: "execve-counter:next" };
  make({ rollout: { maxUnavailable: 1, canary } });
  await start();
  await until("a canary", () => server.get(`${APPS}/fleet-canary`));
  const change = (spec: Any) => {
    const old = server.get(RESOURCE);
    server.put(RESOURCE, { ...old, spec: { ...old.spec, ...spec } });
  };
  await until("a status", status);
  change({ rollout: { maxUnavailable: 1 } });
  await until("no canary", () => !server.get(`${APPS}/fleet-canary`));
  change({ paused: true });
  await until("the pause", () => condition("Progressing").reason === "Paused");
  server.remove(`${APPS}/fleet`);
  putPod("a");
  await until("a report", () => status().nodes.counting === 1);
  expect(server.get(`${APPS}/fleet`)).toBeUndefined();
});

test("what the API server refuses is said, and tried again", async () => {
  server.fault = ({ verb, resource }) =>
    verb === "patch" && resource === "daemonsets" ? refuse(422, "Invalid") : undefined;
  make();
  await start();
  await until("the failure", () => condition("Progressing")?.reason === "ApplyFailed");
  expect(condition("Progressing").message).toMatch(/^Invalid by the test; to do: /);
  // The rest is made nevertheless.
  expect(server.get(`${CORE}/services/fleet`)).toBeDefined();
  server.fault = () => undefined;
  await until("a DaemonSet", () => server.get(`${APPS}/fleet`));
  await until("no failure", () => condition("Progressing").reason !== "ApplyFailed");
});

test.each(["nc\u2003", "\u00a0nc", "#nc"])(
  "the name %j, of which a list would make another, is said",
  async (name) => {
    make({ watch: [name] });
    await start();
    await until("the failure", () => condition("Progressing")?.reason === "ApplyFailed");
    expect(condition("Progressing").message).toContain(
      `cannot be ${JSON.stringify(name)}: leave out`,
    );
  },
);

test("a name that would end the agents is not given to them, and is said", async () => {
  make({ watch: ["nc"] });
  await start();
  await until("a status", status);
  const old = server.get(RESOURCE);
  // 20 bytes in 10 characters, which an API server without validation rules lets pass.
  server.put(RESOURCE, { ...old, spec: { ...old.spec, watch: ["ä".repeat(10)], failures: true } });
  await until("the failure", () => condition("Progressing")?.reason === "ApplyFailed");
  expect(condition("Progressing").message).toMatch(
    /^spec\.watch: a watched name cannot be "ä{10}": /,
  );
  expect(server.get(`${CORE}/configmaps/fleet-watch`).data).toEqual({ commands: "nc\n" });
  // The rest is made nevertheless.
  expect(server.get(`${APPS}/fleet`).spec.template.spec.containers[0].args).toContain("--failures");
});

const putRefusal = (set: string, message: string, secondsAgo = 0) =>
  server.put(`${CORE}/events/${set}`, {
    ...{ reason: "FailedCreate", message },
    involvedObject: { uid: server.get(`${APPS}/${set}`).metadata.uid },
    lastTimestamp: new Date(Date.now() - 1000 * secondsAgo).toISOString(),
  });

test("pods that may not be made are a problem, with the reason that the API gives", async () => {
  putNode("a");
  make();
  await start();
  await until("a status", status);
  putRefusal("fleet", "pods are forbidden: violates PodSecurity");
  await until("a problem", () => status().problems.length > 0);
  expect(status().problems).toMatchObject([{ reason: "NotPermitted", nodes: 1, examples: ["a"] }]);
  expect(condition("Degraded").message).toContain("violates PodSecurity; to do: ");
});

test("what the API gives is a reason for the nodes of that DaemonSet, the canary's or the other, while it is fresh", async () => {
  for (const name of ["a", "b", "c"]) putNode(name, name === "c" ? { canary: "yes" } : {});
  const canary = { nodeSelector: { canary: "yes" }, image: "execve-counter:next" };
  make({ rollout: { maxUnavailable: 1, canary } });
  await start({ status: 50, look: 100 });
  await until("a status", status);
  // A pod made after the canary's refusal, but by the other DaemonSet.
  putRefusal("fleet-canary", "violates PodSecurity", 60);
  const one = pod("a");
  const creationTimestamp = new Date().toISOString();
  server.put(`${CORE}/pods/a`, { ...one, metadata: { ...one.metadata, creationTimestamp } });
  const refused = () =>
    status().problems.map(({ reason, examples }: Any) => `${reason} ${examples}`);
  await until("a problem", () => status().nodes.counting === 1 && refused().length > 0);
  expect(refused()).toEqual(["NotPermitted c"]);
  putRefusal("fleet", "exceeded quota");
  await until("a second one", () => status().problems[0].nodes === 2);
  expect(refused()).toEqual(["NotPermitted b,c"]);
  // One that is old says nothing.
  for (const set of ["fleet", "fleet-canary"]) putRefusal(set, "violates PodSecurity", 3600);
  await sleep(150);
  putNode("d", { "kubernetes.io/os": "windows" });
  await until("no problem", () => status().problems.length === 0);
});

test("deleted, it ends the agents first, then unpins on every node, and says what is out of reach", async () => {
  for (const name of ["a", "b"]) {
    putNode(name);
    putPod(name);
  }
  putNode("down", {}, "Unknown");
  make();
  await start();
  await until("a status", () => status()?.nodes.counting === 2);
  server.remove(RESOURCE);
  await until("the end of the DaemonSet", () => !server.get(`${APPS}/fleet`));
  server.remove(`${CORE}/pods/fleet-meter-a`);
  await sleep(1500);
  // An agent that still runs on b could pin again.
  expect(server.get(`${APPS}/fleet-unpin`)).toBeUndefined();
  server.remove(`${CORE}/pods/fleet-meter-b`);
  await until("unpin", () => server.get(`${APPS}/fleet-unpin`));
  const end = (exitCode: number) => ({
    containerStatuses: [{ ready: false, state: { terminated: { exitCode } } }],
  });
  putPod("a", { status: end(0) }, "unpin");
  putPod("b", { status: end(1) }, "unpin");
  await sleep(1500);
  expect(server.get(RESOURCE)).toBeDefined();
  expect(condition("Progressing").message).toBe("unpinned on 1 of 3 nodes");
  const { lastState, ...again } = { ...end(0).containerStatuses[0], lastState: {} };
  putPod("b", { status: { containerStatuses: [again] } }, "unpin");
  await until("the end", () => !server.get(RESOURCE));
  await until("two events", () => events().length === 2);
  expect(events()).toEqual([
    "Unpinned: nothing counts any more on 2 nodes",
    "NotUnpinned: 1 nodes could not be reached: down; to do: on each node, run execve-counter unpin /sys/fs/bpf/execve-counter/meters_fleet, or reboot it",
  ]);
  expect(server.get(`${APPS}/fleet-unpin`)).toBeUndefined();
});

const ENDED = {
  containerStatuses: [{ ready: false, state: { terminated: { exitCode: 0 } } }],
};

test("a node whose agent does not end is not taken for one that is unpinned", async () => {
  putNode("a");
  putPod("a");
  make({}, { finalizers: [FINALIZER], deletionTimestamp: new Date().toISOString() });
  await start({ end: 200 });
  await until("unpin", () => server.get(`${APPS}/fleet-unpin`));
  putPod("a", { status: ENDED }, "unpin");
  await sleep(1500);
  expect(condition("Progressing").message).toBe("unpinned on 0 of 1 nodes");
  server.remove(`${CORE}/pods/fleet-meter-a`);
  await until("the end", () => !server.get(RESOURCE), 10_000);
});

test("each phase has its whole time, whatever the clocks say and however long nobody looked", async () => {
  putNode("a");
  putPod("a");
  const deletionTimestamp = new Date(Date.now() - 3_600_000).toISOString();
  make({}, { finalizers: [FINALIZER], deletionTimestamp });
  await start({ end: 2500, unpin: 2500 });
  const begin = performance.now();
  await sleep(1500);
  expect(server.get(`${APPS}/fleet-unpin`)).toBeUndefined();
  await until("unpin", () => server.get(`${APPS}/fleet-unpin`));
  await sleep(1500);
  expect(server.get(RESOURCE)).toBeDefined();
  await until("the end", () => !server.get(RESOURCE));
  expect(performance.now() - begin).toBeGreaterThan(4500);
  await until("an event", () => events().some((each) => each.startsWith("NotUnpinned: 1 nodes")));
});

test("another's ServiceAccount of that name keeps nothing from being unpinned", async () => {
  server.put(`${CORE}/serviceaccounts/fleet`, {});
  putNode("a");
  make({}, { finalizers: [FINALIZER], deletionTimestamp: new Date().toISOString() });
  await start();
  await until("unpin", () => server.get(`${APPS}/fleet-unpin`));
  const { spec } = server.get(`${APPS}/fleet-unpin`).spec.template;
  expect(spec).not.toHaveProperty("serviceAccountName");
  expect(spec.automountServiceAccountToken).toBe(false);
  putPod("a", { status: ENDED }, "unpin");
  await until("the end", () => !server.get(RESOURCE));
});

test("another's DaemonSet of that name is left alone; it waits for its end, and says what was not reached", async () => {
  const foreign = { spec: { theirs: true } };
  server.put(`${APPS}/fleet-unpin`, foreign);
  putNode("a");
  make({}, { finalizers: [FINALIZER], deletionTimestamp: new Date().toISOString() });
  await start({ end: 200, unpin: 2500 });
  putPod("a", { status: ENDED }, "unpin");
  await sleep(1500);
  expect(server.get(RESOURCE)).toBeDefined();
  await until("the end", () => !server.get(RESOURCE));
  expect(server.get(`${APPS}/fleet-unpin`).spec).toEqual(foreign.spec);
  await until("three events", () => events().length === 3);
  expect(events()).toEqual([
    "Conflict: others have DaemonSet fleet-unpin",
    "Unpinned: nothing counts any more on 0 nodes",
    expect.stringMatching(/^NotUnpinned: 1 nodes could not be reached: a; to do: /),
  ]);
});

test("pods that unpin for an earlier resource prove nothing, and no agent is made beside them", async () => {
  putNode("a");
  putPod("a", { status: ENDED }, "unpin");
  make();
  await start();
  await until("a status", status);
  expect(server.get(`${APPS}/fleet`)).toBeUndefined();
  expect(events()).toEqual([expect.stringMatching(/^StillUnpinning: 1 pods of an earlier fleet /)]);
  server.remove(RESOURCE);
  await until("unpin", () => server.get(`${APPS}/fleet-unpin`));
  await sleep(1200);
  expect(condition("Progressing").message).toBe("unpinned on 0 of 1 nodes");
  putPod("a", { status: ENDED }, "unpin");
  await until("the end", () => !server.get(RESOURCE));
  make();
  server.remove(`${CORE}/pods/fleet-unpin-a`);
  await until("agents", () => server.get(`${APPS}/fleet`));
});

test("a name that is that of another resource's DaemonSet is refused, and nothing is made", async () => {
  const path = RESOURCE.replace("fleet", "fleet-unpin");
  server.put(path, { ...resource({}, "fleet-unpin"), metadata: { uid: undefined } });
  await start();
  await until("the failure", () => server.get(path).status);
  const conditions: Any[] = server.get(path).status.conditions;
  expect(conditions.find(({ type }) => type === "Progressing")).toMatchObject({
    reason: "ApplyFailed",
  });
  expect(server.list("apps/v1/daemonsets")).toEqual([]);
  expect(server.get(path).metadata.finalizers).toBeUndefined();
});

test.each([400, 403, 500])(
  "where what unpins is refused with %i it gives up in the end, says so, and lets the resource go",
  async (code) => {
    putNode("a");
    server.fault = ({ verb, path }) =>
      verb === "patch" && path.includes("unpin") ? refuse(code, "Denied") : undefined;
    make({}, { finalizers: [FINALIZER], deletionTimestamp: new Date().toISOString() });
    await start({ end: 1000, unpin: 1000 });
    await sleep(1000);
    expect(server.get(RESOURCE)).toBeDefined();
    await until("the end", () => !server.get(RESOURCE), 10_000);
    await until("an event", () => events().length > 0);
    expect(events()).toEqual([
      expect.stringMatching(/^NotUnpinned: nothing is unpinned: Denied by the test; to do: /),
    ]);
  },
);

test("with Retain it goes at once", async () => {
  putNode("a");
  putPod("a");
  make({ onDelete: "Retain" });
  await start();
  await until("a status", status);
  server.remove(RESOURCE);
  await until("the end", () => !server.get(RESOURCE), 3000);
  expect(server.asked.filter(({ path }) => path.endsWith("fleet-unpin"))).toEqual([]);
});

test("the monitoring objects are made once the cluster knows them, the rules once for all", async () => {
  server.absent = () => false;
  make();
  const second = RESOURCE.replace("fleet", "second");
  server.put(second, {
    ...resource({}, "second"),
    metadata: { uid: undefined, creationTimestamp: "2099-01-01T00:00:00Z" },
  });
  await start();
  const names = (kind: string) =>
    server
      .list(`monitoring.coreos.com/v1/${kind}`)
      .map(({ metadata }) => metadata.name)
      .sort();
  await until("monitors", () => names("podmonitors").length === 2);
  await until("rules", () => names("prometheusrules").length === 1);
  expect(names("prometheusrules")).toEqual(["fleet"]);
  server.put(RESOURCE, {
    ...server.get(RESOURCE),
    spec: { ...server.get(RESOURCE).spec, onDelete: "Retain" },
  });
  server.remove(RESOURCE);
  await until("the other's rules", () => names("prometheusrules")[0] === "second");
  await until("a status", () => server.get(second).status);
});

test("the Prometheus operator may go, and come again", async () => {
  const kinds = ["podmonitors", "prometheusrules"];
  server.absent = () => false;
  make();
  await start({ status: 50, discover: 200 });
  await until("a monitor", () => condition("MonitoringReady")?.status === "True");
  server.absent = (resource) => kinds.includes(resource);
  for (const kind of kinds) {
    server.remove(`/apis/monitoring.coreos.com/v1/namespaces/meters/${kind}/fleet`);
  }
  // As the API server does with the watches of a kind that is gone.
  server.interrupt();
  await until("its end", () => condition("MonitoringReady").status === "False");
  await until("no failure", () => condition("Progressing").reason === "Complete");
  expect(await ask("/metrics")).not.toContain("podmonitors");
  server.absent = () => false;
  await until("a monitor", () => condition("MonitoringReady").status === "True");
  await until(
    "the rules",
    () => server.list("monitoring.coreos.com/v1/prometheusrules").length > 0,
  );
});

test.each<[string, () => void]>([
  ["503 to everything", () => (server.fault = () => refuse(503, "ServiceUnavailable"))],
  ["broken connections", () => (server.fault = () => (_, response) => response.destroy())],
  ["401 to everything", () => (server.fault = () => refuse(401, "Unauthorized"))],
  ["no answer", () => (server.fault = () => () => {})],
])("after %s it becomes what it should be, without a storm", async (_, fault) => {
  make();
  await start();
  await until("a status", status);
  fault();
  server.interrupt();
  server.remove(`${CORE}/services/fleet`);
  server.remove(`${APPS}/fleet`);
  const before = server.asked.length;
  await sleep(4000);
  // Eight watches, each tried again a few times, and one resource.
  expect(server.asked.length - before).toBeLessThan(80);
  server.fault = () => undefined;
  await until(
    "what it should be",
    () => server.get(`${CORE}/services/fleet`) && server.get(`${APPS}/fleet`),
    30_000,
  );
});

test("its rights are just what it asks for", async () => {
  server.absent = () => false;
  putNode("a");
  putPod("a");
  const canary = { nodeSelector: { canary: "yes" }, image: "next" };
  make({ rollout: { maxUnavailable: 1, canary } });
  server.put(`${CORE}/services/fleet`, { spec: {} });
  await start();
  await until("a conflict", () => condition("Conflict")?.status === "True");
  server.remove(`${CORE}/services/fleet`);
  // So each right is needed once: what is applied anew, removed, and looked up.
  const old = server.get(RESOURCE);
  server.put(RESOURCE, {
    ...old,
    spec: {
      ...old.spec,
      rollout: { maxUnavailable: 1 },
      failures: true,
      monitoring: { mode: "None", namespaces: [] },
    },
  });
  await until("no canary", () => !server.get(`${APPS}/fleet-canary`));
  putNode("b");
  await until("a second status", () => status().nodes.starting === 1);
  stop();
  await ended;
  running--;

  const rules = parseAllDocuments(readProjectFile("deploy/operator/rbac.yaml"))
    .map((document) => document.toJS() as Any)
    .flatMap(({ rules = [] }) => rules);
  const granted = new Set<string>(
    rules.flatMap(({ apiGroups, resources, verbs }: Any) =>
      resources.flatMap((name: string) =>
        verbs.map((verb: string) => `${apiGroups[0]} ${name} ${verb}`),
      ),
    ),
  );
  const needed = new Set(
    server.asked.map(({ group, resource, verb }) => `${group} ${resource} ${verb}`),
  );
  expect([...needed].filter((right) => !granted.has(right))).toEqual([]);
  // To apply what is not there takes two rights; and some clusters ask for one to own things.
  const spare = [...granted].filter((right) => !needed.has(right));
  expect(spare.sort()).toEqual([
    ...[" configmaps create", " serviceaccounts create", " services create"],
    ...["apps daemonsets create", "execve-counter.dev execvecounters/finalizers update"],
    ...["monitoring.coreos.com podmonitors create", "monitoring.coreos.com prometheusrules create"],
    "networking.k8s.io networkpolicies create",
  ]);
  expect(
    [...granted].filter((right) =>
      /secrets|\/exec|nodes (?!list|watch)|pods (?!list|watch)/.test(right),
    ),
  ).toEqual([]);
  expect(CRD.spec.group).toBe(GROUP);
});

test("of two operators one leads, and the next one begins once it has stopped", async () => {
  make();
  await start();
  await until("a status", status);
  const [first, stopFirst, firstApi] = [ended, stop, api];
  const secondApi = server.connect();
  const second = new Operator(secondApi, "operators", createLog("error"));
  let stopSecond = () => {};
  const secondEnd = second.run(
    new Promise((resolve) => {
      stopSecond = resolve;
    }),
  );
  await sleep(1000);
  const holder = () => server.get(LEASE).spec.holderIdentity;
  const before = holder();
  stopFirst();
  await first;
  running--;
  firstApi.close();
  await until("another holder", () => holder() !== "" && holder() !== before, 10_000);
  server.remove(`${CORE}/services/fleet`);
  await until("a service", () => server.get(`${CORE}/services/fleet`), 10_000);
  stopSecond();
  await secondEnd;
  secondApi.close();
});

test("a Lease whose holder is gone is taken once it is old, by this machine's own clock", async () => {
  api = server.connect();
  const spec = {
    holderIdentity: "gone",
    leaseDurationSeconds: 2,
    renewTime: "2099-01-01T00:00:00.000000Z",
  };
  server.put(LEASE, { spec });
  const leadership = new Leadership(api, "operators", "me", () => {});
  const begin = performance.now();
  expect(await leadership.acquire(new AbortController().signal)).toBe(true);
  expect(performance.now() - begin).toBeGreaterThan(2000);
  expect(server.get(LEASE).spec).toMatchObject({ holderIdentity: "me", leaseTransitions: 1 });
});

test("the Lease is free at once also where the last renewal is under way still", async () => {
  api = server.connect();
  const errors: unknown[] = [];
  const leadership = new Leadership(api, "operators", "me", (error) => error && errors.push(error));
  const ended = new AbortController();
  expect(await leadership.acquire(ended.signal)).toBe(true);
  let renewals = 0;
  // It is done, but its answer does not come.
  server.fault = ({ verb, resource }) => {
    if (verb !== "update" || resource !== "leases" || ++renewals > 1) return undefined;
    const lease = server.get(LEASE);
    server.put(LEASE, { ...lease, spec: { ...lease.spec, renewTime: "later" } });
    ended.abort();
    return hang();
  };
  await leadership.keep(ended.signal);
  expect(renewals).toBe(1);
  await leadership.release();
  expect(server.get(LEASE).spec).toMatchObject({ holderIdentity: "", renewTime: "later" });
  expect(errors).toEqual([]);
});

test("an error is said once, and once more when it comes again after all was well", async () => {
  const said: string[] = [];
  const log = { ...createLog("error"), error: (line: string) => void said.push(line) };
  await start({}, log);
  const times = (error: string) =>
    said.filter((line) => line.startsWith("/api/v1/nodes: ") && line.includes(error)).length;
  for (let outage = 1; outage <= 2; outage++) {
    server.interrupt();
    await until("the error", () => times("ECONNRESET") === outage);
    await until("the watches", () => server.watches >= 8);
    putNode(`n${outage}`);
    await sleep(200);
  }
  let failed = 0;
  server.fault = ({ verb, path }) => {
    if (!path.startsWith("/api/v1/nodes") || !["list", "watch"].includes(verb)) return undefined;
    failed++;
    return refuse(500, "InternalError");
  };
  server.interrupt();
  await until("three tries", () => failed >= 3);
  expect(times("InternalError")).toBe(1);
});

test("a leader that cannot renew gives up before another may lead", async () => {
  api = server.connect();
  const leadership = new Leadership(api, "operators", "me", () => {});
  const { signal } = new AbortController();
  expect(await leadership.acquire(signal)).toBe(true);
  server.fault = () => () => {};
  const begin = performance.now();
  await leadership.keep(signal);
  const took = performance.now() - begin;
  expect(took).toBeGreaterThan(5000);
  // Of which a Lease has 15 seconds.
  expect(took).toBeLessThan(15_000);
});

test("a watch that has not been tried for long makes it unhealthy", async () => {
  await start({ stuck: 300 });
  expect(await ask("/readyz")).toBe("ok\n");
  await until("a silent watch", async () =>
    /^the watch of .* is silent$/m.test(await ask("/healthz")),
  );
});

test("a Lease that is renewed is not taken, however long that goes on", async () => {
  api = server.connect();
  const renew = (n: number) =>
    server.put(LEASE, {
      spec: { holderIdentity: "other", leaseDurationSeconds: 1, leaseTransitions: n },
    });
  renew(0);
  const leadership = new Leadership(api, "operators", "me", () => {});
  const tries = () => server.asked.filter(({ resource }) => resource === "leases").length;
  const ended = new AbortController();
  const acquired = leadership.acquire(ended.signal);
  for (let n = 1; tries() < 2; n++) {
    await sleep(100);
    renew(n);
  }
  await sleep(100);
  ended.abort();
  expect(await acquired).toBe(false);
  expect(server.get(LEASE).spec.holderIdentity).toBe("other");
});

test("a leader that sees another's name in the Lease stops at once", async () => {
  api = server.connect();
  const leadership = new Leadership(api, "operators", "me", () => {});
  const { signal } = new AbortController();
  await leadership.acquire(signal);
  const lease = server.get(LEASE);
  server.put(LEASE, { ...lease, spec: { ...lease.spec, holderIdentity: "other" } });
  const begin = performance.now();
  await leadership.keep(signal);
  expect(performance.now() - begin).toBeLessThan(5000);
  expect(server.get(LEASE).spec.holderIdentity).toBe("other");
});

test("who has lost the Lease ends the writes that are under way, and begins none", async () => {
  await start();
  server.fault = ({ verb, resource }) =>
    verb === "patch" && resource === "execvecounters" ? hang() : undefined;
  make();
  await until("a write", () => writes().length === 1);
  const lost = expect(ended).rejects.toThrow("another operator may lead");
  const lease = server.get(LEASE);
  server.put(LEASE, { ...lease, spec: { ...lease.spec, holderIdentity: "other" } });
  const begin = performance.now();
  await lost;
  running--;
  // An answer may take 10 seconds, and a stop 4.
  expect(performance.now() - begin).toBeLessThan(3500);
  expect(writes().length).toBe(1);
});

test("a stop lets a write end, and leaves one that does not while no other one can lead", async () => {
  await start({ finish: 1500 });
  server.fault = ({ verb, resource }) =>
    verb === "patch" && resource === "execvecounters" ? hang() : undefined;
  make();
  await until("a write", () => writes().length === 1);
  const begin = performance.now();
  let over = false;
  void ended.then(() => (over = true));
  stop();
  await sleep(1000);
  expect(over).toBe(false);
  expect(server.get(LEASE).spec.holderIdentity).not.toBe("");
  await ended;
  running--;
  expect(performance.now() - begin).toBeLessThan(3500);
  expect(server.get(LEASE).spec.holderIdentity).toBe("");
});

test("copies of what it makes are left alone, and what cannot be removed is said", async () => {
  putNode("a");
  const canary = { nodeSelector: { canary: "yes" }, image: "execve-counter:next" };
  make({ rollout: { maxUnavailable: 1, canary } });
  await start();
  await until("a status", status);
  const service = server.get(`${CORE}/services/fleet`);
  const { uid, resourceVersion, ...metadata } = service.metadata;
  server.put(`${CORE}/services/mine`, { ...service, metadata: { ...metadata, name: "mine" } });
  server.fault = ({ verb }) => (verb === "delete" ? refuse(403, "Forbidden") : undefined);
  const old = server.get(RESOURCE);
  server.put(RESOURCE, { ...old, spec: { ...old.spec, rollout: { maxUnavailable: 1 } } });
  await until("the failure", () => condition("Progressing").reason === "ApplyFailed");
  const deleted = server.asked.filter(({ verb }) => verb === "delete").map(({ path }) => path);
  expect(new Set(deleted)).toEqual(new Set([`${APPS}/fleet-canary`]));
  putPod("a");
  await until("a node that counts", () => status().nodes.counting === 1);
  expect(server.get(`${CORE}/services/mine`)).toBeDefined();
});

test("what has come in the place of an object is not deleted for it", async () => {
  const canary = { nodeSelector: { canary: "yes" }, image: "execve-counter:next" };
  make({ rollout: { maxUnavailable: 1, canary } });
  await start();
  await until("a status", status);
  const other = { spec: { theirs: true } };
  server.fault = ({ verb, path }) => {
    if (verb === "delete" && path === `${APPS}/fleet-canary` && server.get(path).spec.selector) {
      server.remove(path);
      server.put(path, other);
    }
    return undefined;
  };
  const old = server.get(RESOURCE);
  server.put(RESOURCE, { ...old, spec: { ...old.spec, rollout: { maxUnavailable: 1 } } });
  await until("the other's", () => server.get(`${APPS}/fleet-canary`)?.spec.theirs);
  await sleep(500);
  expect(server.get(`${APPS}/fleet-canary`)?.spec).toEqual(other.spec);
});

test("a label that says it is another's is put right", async () => {
  make();
  await start();
  await until("a status", status);
  const service = server.get(`${CORE}/services/fleet`);
  const labels = { ...service.metadata.labels, "app.kubernetes.io/instance": "other" };
  server.put(`${CORE}/services/fleet`, { ...service, metadata: { ...service.metadata, labels } });
  const instance = () =>
    server.get(`${CORE}/services/fleet`).metadata.labels["app.kubernetes.io/instance"];
  await until("its label", () => instance() === "fleet");
});

test("the rules go to another resource where the oldest wants them no more", async () => {
  server.absent = () => false;
  make();
  const second = RESOURCE.replace("fleet", "second");
  server.put(second, {
    ...resource({}, "second"),
    metadata: { uid: undefined, creationTimestamp: "2099-01-01T00:00:00Z" },
  });
  await start();
  const names = () =>
    server.list("monitoring.coreos.com/v1/prometheusrules").map(({ metadata }) => metadata.name);
  await until("rules", () => names().length === 1);
  await until("a status", () => status() && server.get(second).status);
  const old = server.get(RESOURCE);
  const monitoring = { mode: "None", namespaces: [] };
  server.put(RESOURCE, { ...old, spec: { ...old.spec, monitoring } });
  await until("the other's rules", () => names().join() === "second");
});

test("of two operators in two namespaces one works on a resource, and the other says so", async () => {
  make();
  await start();
  await until("a status", status);
  const secondApi = server.connect();
  const second = new Operator(secondApi, "others", createLog("error"));
  let stopSecond = () => {};
  const secondEnd = second.run(
    new Promise((resolve) => {
      stopSecond = resolve;
    }),
  );
  await until("an event", () => events().length > 0);
  expect(events()).toEqual([
    expect.stringMatching(/^OtherOperator: the operator in the namespace operators .*; to do: /),
  ]);
  const before = writes().length;
  await sleep(700);
  expect(writes().slice(before)).toEqual([]);
  const { metadata } = server.get(RESOURCE);
  expect(metadata.annotations).toEqual({ [OPERATOR_ANNOTATION]: "operators" });
  stopSecond();
  await secondEnd;
  secondApi.close();
});

test("a status that somebody else has changed is put right", async () => {
  putNode("a");
  make();
  await start();
  await until("a status", () => status()?.nodes?.starting === 1);
  const { nodes } = status();
  const old = server.get(RESOURCE);
  const wrong = { ...nodes, eligible: 99, counting: 99 };
  server.put(RESOURCE, { ...old, status: { ...old.status, nodes: wrong } });
  await until("the right one", () => status().nodes.eligible === 1);
  expect(status().nodes).toEqual(nodes);
});

test("its metrics have controller-runtime's names, and its own", async () => {
  putNode("a");
  make();
  await start();
  await until("a status", status);
  await sleep(300);
  const text = await ask("/metrics");
  for (const line of [
    'controller_runtime_reconcile_total{controller="execvecounters",result="',
    'workqueue_depth{name="execvecounters"} 0',
    'leader_election_master_status{name="execvecounters"} 1',
    'execve_counter_operator_nodes{namespace="meters",name="fleet",state="starting"} 1',
    'execve_counter_operator_watch_silence_seconds{path="/api/v1/nodes"} ',
    "# TYPE execve_counter_operator_writes_total counter",
  ]) {
    expect(text).toContain(line);
  }
  expect(await ask("/healthz")).toBe("ok\n");
});

test("a digest is the same in any order, and another for another list", () => {
  expect(listDigest(["a", "b", "a"])).toBe(listDigest(["a", "b"]));
  expect(listDigest(["a", "b"])).toBe(listDigest(new Set(["b", "a"])));
  expect(listDigest(["a", "b"])).not.toBe(listDigest(["ab"]));
  expect(listDigest([])).toMatch(/^[0-9a-f]{16}$/);
});
