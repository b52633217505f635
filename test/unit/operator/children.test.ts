import fc from "fast-check";
import { expect, test } from "vitest";
import { parse } from "yaml";
import { childrenOf, holds, placesOf, surplusOf, unpinOf } from "../../../src/operator/children.ts";
import { matches } from "../../../src/operator/nodes.ts";
import type { Resource } from "../../../src/operator/resource.ts";
import type { Any } from "../../support/apiserver.ts";
import { readProjectFile } from "../../support/files.ts";
import { complaints } from "../../support/manifests.ts";
import { resource } from "../../support/operator.ts";

const AROUND = { namespace: "operators", podMonitors: true, rules: true };
const base = (file: string): Any => parse(readProjectFile(`deploy/kubernetes/${file}`));
const made = (spec: Partial<Resource["spec"]> = {}) =>
  Object.fromEntries(
    childrenOf(resource(spec), AROUND).map((child) => [
      `${child.kind} ${child.metadata.name}`,
      child as Any,
    ]),
  );
const podOf = (spec: Partial<Resource["spec"]> = {}, name = "DaemonSet fleet") =>
  made(spec)[name].spec.template.spec;

/** Of everything that a resource can have. */
const EVERYTHING: Partial<Resource["spec"]> = {
  imagePullPolicy: "Always",
  imagePullSecrets: [{ name: "registry" }],
  attempts: "off",
  by: ["path", "command"],
  failures: true,
  maxSeries: 16,
  retireAfter: "never",
  watch: ["nsenter", "nc"],
  pin: "None",
  nodeSelector: { pool: "a" },
  nodeAffinity: [{ matchExpressions: [{ key: "zone", operator: "In", values: ["z"] }] }],
  tolerations: [{ key: "gpu", operator: "Exists" }],
  priorityClassName: "high",
  resources: { limits: { memory: "1024Mi" } },
  rollout: {
    maxUnavailable: "10%",
    canary: { nodeSelector: { canary: "yes", ring: "0" }, image: "execve-counter:next" },
  },
  podLabels: { team: "a" },
  podAnnotations: { note: "b" },
};

test("its pods are those of the manifests, but for what a resource chooses", () => {
  const pod = podOf();
  const { template, updateStrategy } = base("daemonset.yaml").spec;
  const { serviceAccountName, volumes, containers, ...rest } = pod;
  const { containers: baseContainers, volumes: baseVolumes, ...baseRest } = template.spec;
  expect(rest).toEqual(baseRest);
  expect(serviceAccountName).toBe("fleet");
  expect(volumes).toEqual([...baseVolumes, { name: "watch", configMap: { name: "fleet-watch" } }]);
  const { args, volumeMounts, ports, ...container } = containers[0];
  const { args: baseArgs, volumeMounts: mounts, ports: basePorts, ...bare } = baseContainers[0];
  expect(container).toEqual(bare);
  expect(ports).toEqual([{ ...basePorts[0], protocol: "TCP" }]);
  expect(volumeMounts).toEqual([...mounts, { name: "watch", mountPath: "/watch", readOnly: true }]);
  // The same flags, with pins of its own, and a list.
  expect(args.toSorted()).toEqual(
    [
      ...baseArgs.filter((arg: string) => !arg.startsWith("--pin=")),
      ...["--pin=/pins/meters_fleet", "--retire-after=15m", "--watch-file=/watch/commands"],
    ].toSorted(),
  );
  expect(made()["DaemonSet fleet"].spec.updateStrategy).toEqual({
    type: updateStrategy.type,
    rollingUpdate: { maxUnavailable: updateStrategy.rollingUpdate.maxUnavailable },
  });
});

test("policy, monitor and rules are those of the manifests, for its own pods", () => {
  const {
    "NetworkPolicy fleet": policy,
    "PodMonitor fleet": monitor,
    "PrometheusRule fleet": rules,
  } = made();
  const selector = {
    matchLabels: {
      "app.kubernetes.io/name": "execve-counter",
      "app.kubernetes.io/instance": "fleet",
    },
  };
  const basePolicy = base("networkpolicy.yaml").spec;
  const operator = {
    namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "operators" } },
    podSelector: { matchLabels: { "app.kubernetes.io/name": "execve-counter-operator" } },
  };
  const [rule] = basePolicy.ingress;
  expect(policy.spec).toEqual({
    ...{ ...basePolicy, podSelector: selector },
    ingress: [{ from: [...rule.from, operator], ports: [{ ...rule.ports[0], protocol: "TCP" }] }],
  });
  expect(monitor.spec).toEqual({ ...base("podmonitor.yaml").spec, selector });
  expect(rules.spec.groups.map(({ name }: Any) => name).length).toBeGreaterThan(1);
});

test("the API's schemas have nothing against any of it", async () => {
  const all = [
    ...childrenOf(resource(), AROUND),
    ...childrenOf(resource(EVERYTHING), AROUND),
    unpinOf(resource(EVERYTHING)),
  ];
  expect(await complaints(all)).toEqual(all.map(() => ""));
});

test("every field of a resource arrives", () => {
  const [pod, canary] = [podOf(EVERYTHING), podOf(EVERYTHING, "DaemonSet fleet-canary")];
  const [container] = pod.containers;
  expect(container.args.slice(0, 7)).toEqual([
    ...["--attempts=off", "--by=command,path", "--failures", "--max-series=16"],
    ...["--retire-after=never", "--watch-file=/watch/commands", "--interval=1h"],
  ]);
  expect(container.args.filter((arg: string) => arg.startsWith("--pin"))).toEqual([]);
  expect(pod.initContainers[0].args).toEqual(["unpin", "/pins/meters_fleet"]);
  expect(container.resources).toMatchObject({ requests: {}, limits: { memory: "1024Mi" } });
  expect(pod).toMatchObject({
    imagePullSecrets: [{ name: "registry" }],
    priorityClassName: "high",
    nodeSelector: { pool: "a", "kubernetes.io/os": "linux" },
    tolerations: [{ key: "gpu", operator: "Exists" }],
  });
  expect(container).toMatchObject({ imagePullPolicy: "Always", image: "execve-counter:0.1.0" });
  expect(canary.containers[0].image).toBe("execve-counter:next");
  const all = made(EVERYTHING);
  expect(all["ConfigMap fleet-watch"].data.commands).toBe("nc\nnsenter\n");
  const { metadata } = all["DaemonSet fleet"].spec.template;
  expect(metadata.labels).toMatchObject({ team: "a", "app.kubernetes.io/component": "meter" });
  expect(metadata.annotations).toEqual({ note: "b" });
  expect(all["DaemonSet fleet"].spec.updateStrategy.rollingUpdate.maxUnavailable).toBe("10%");
  const none = Object.keys(made({ monitoring: { mode: "None", namespaces: [] } }));
  expect(none.filter((name) => /PodMonitor|PrometheusRule/.test(name))).toEqual([]);
});

test("a change of the watch list is no change of the pods, nor is its first name", () => {
  expect(podOf({ watch: ["nc"] })).toEqual(podOf());
  expect(podOf({ watch: ["nc", "ls"] })).toEqual(podOf());
});

test("a node runs the meter or the canary, never both, and never none of its own", () => {
  const labels = fc.dictionary(
    fc.constantFrom("canary", "ring", "zone", "type"),
    fc.constantFrom("yes", "0", "z", "virtual-kubelet"),
  );
  fc.assert(
    fc.property(labels, (some) => {
      const all = { ...some, "kubernetes.io/arch": "arm64" };
      const on = (component: "meter" | "canary" | "unpin") =>
        placesOf(resource(EVERYTHING), component).some((place) =>
          place.every((each) => matches(each, all)),
        );
      const wanted = some.zone === "z" && some.type !== "virtual-kubelet";
      expect([on("meter"), on("canary")].filter(Boolean).length).toBe(wanted ? 1 : 0);
      expect(on("unpin")).toBe(some.type !== "virtual-kubelet");
    }),
  );
});

test("unpin goes to every node, and tolerates all", () => {
  const set = unpinOf(resource(EVERYTHING)) as Any;
  const pod = set.spec.template.spec;
  expect(set.metadata.name).toBe("fleet-unpin");
  expect(pod.containers[0].args).toEqual(["unpin", "/pins/meters_fleet"]);
  expect(pod.containers[0].livenessProbe).toBeUndefined();
  expect(pod.nodeSelector).toEqual({ "kubernetes.io/os": "linux" });
  expect(pod.tolerations).toEqual([{ operator: "Exists" }]);
  expect(pod.volumes).toHaveLength(1);
});

test("what holds what was applied may have more, but not in maps that are whole", () => {
  const applied = {
    spec: { selector: { a: "b" }, list: [{ name: "x", memory: "1024Mi" }], words: ["a"] },
  };
  const more = {
    spec: {
      ...{ selector: { a: "b" }, words: ["a"], more: 1 },
      list: [{ name: "y" }, { name: "x", memory: "1Gi", port: 1 }],
    },
    status: {},
  };
  expect(holds(more, applied)).toBe(true);
  expect(holds({ spec: { ...more.spec, selector: { a: "b", c: "d" } } }, applied)).toBe(false);
  expect(holds({ spec: { ...more.spec, selector: {} } }, applied)).toBe(false);
  expect(holds({ spec: { ...more.spec, words: ["a", "b"] } }, applied)).toBe(false);
  expect(holds({ spec: { ...more.spec, list: [{ name: "y" }] } }, applied)).toBe(false);
  expect(surplusOf(more, applied)).toBeUndefined();
  expect(surplusOf({ spec: { selector: { a: "b", c: "d" }, more: 1 } }, applied)).toEqual({
    spec: { selector: { c: null } },
  });
});

test("of a pod's spec nothing may be more, but what the API server adds", () => {
  const [set] = childrenOf(resource(EVERYTHING), AROUND).filter(({ kind }) => kind === "DaemonSet");
  const changed = (change: (pod: Any) => void) => {
    const copy = JSON.parse(JSON.stringify(set));
    change(copy.spec.template.spec);
    return copy;
  };
  const defaults = changed((pod) => {
    Object.assign(pod, { restartPolicy: "Always", securityContext: {}, serviceAccount: "fleet" });
    pod.containers[0].securityContext.procMount = "Default";
    pod.containers[0].resources.requests["ephemeral-storage"] = "1Gi";
    pod.volumes[1].configMap.defaultMode = 420;
  });
  expect(holds(defaults, set)).toBe(true);
  expect(surplusOf(defaults, set)).toBeUndefined();
  const changes: [(pod: Any) => void, object][] = [
    [(pod) => Object.assign(pod, { hostPID: true }), { hostPID: null }],
    [(pod) => Object.assign(pod, { securityContext: { runAsUser: 0 } }), { securityContext: null }],
    [
      (pod) => Object.assign(pod.affinity, { podAffinity: {} }),
      { affinity: { podAffinity: null } },
    ],
  ];
  for (const [change, spec] of changes) {
    expect(holds(changed(change), set)).toBe(false);
    expect(surplusOf(changed(change), set)).toEqual({ spec: { template: { spec } } });
  }
  const { containers, volumes } = (set as Any).spec.template.spec;
  for (const change of [
    (pod: Any) => pod.containers.push({ name: "x", image: "x" }),
    (pod: Any) => Object.assign(pod.containers[0].securityContext, { privileged: true }),
    (pod: Any) => Object.assign(pod.containers[0], { command: ["x"] }),
  ]) {
    expect(holds(changed(change), set)).toBe(false);
    expect(surplusOf(changed(change), set)).toEqual({
      spec: { template: { spec: { containers } } },
    });
  }
  expect(
    surplusOf(
      changed((pod) => pod.volumes.push({ name: "x" })),
      set,
    ),
  ).toEqual({
    spec: { template: { spec: { volumes } } },
  });
});

test("what of the resources is not given stays", () => {
  const [{ resources }] = base("daemonset.yaml").spec.template.spec.containers;
  const [container] = podOf({ resources: { limits: { cpu: 1 } } }).containers;
  expect(container.resources).toEqual({
    ...resources,
    limits: { ...resources.limits, cpu: 1 },
  });
});

test("what is empty may be left out by the API server", () => {
  const empty = { tolerations: [], podAnnotations: {} };
  const [set] = childrenOf(resource(empty), AROUND).filter(({ kind }) => kind === "DaemonSet");
  const there = structuredClone(set) as Any;
  delete there.spec.template.spec.tolerations;
  delete there.spec.template.metadata.annotations;
  expect(holds(there, set)).toBe(true);
});

test("everything holds itself, and what lacks a part of it does not hold it", () => {
  const children = childrenOf(resource(EVERYTHING), AROUND);
  for (const child of children) {
    expect(holds(structuredClone(child), child)).toBe(true);
    const { labels: _, ...metadata } = child.metadata;
    expect(holds({ ...child, metadata }, child)).toBe(false);
  }
});
