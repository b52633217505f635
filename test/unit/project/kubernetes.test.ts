import type { IPodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import type { INetworkPolicy } from "kubernetes-models/networking.k8s.io/v1/NetworkPolicy";
import type { INamespace } from "kubernetes-models/v1/Namespace";
import { expect, test } from "vitest";
import { parse } from "yaml";
import { FIXED_PATHS } from "../../../src/agent/paths.ts";
import { VERSION } from "../../../src/base/version.ts";
import { readProjectFile } from "../../support/files.ts";
import { complaints } from "../../support/manifests.ts";
import { CLI, result } from "../../support/meter.ts";
import { container, daemonSet } from "../../support/pod.ts";

const read = (file: string) => parse(readProjectFile(`deploy/kubernetes/${file}`));
const namespace: INamespace = read("namespace.yaml");
const policy: INetworkPolicy = read("networkpolicy.yaml");
const podMonitor: IPodMonitor = read("podmonitor.yaml");
const docs = readProjectFile("docs/kubernetes.md");

test("the manifests are what the API's schemas say", async () => {
  expect(await complaints([namespace, daemonSet, policy, podMonitor])).toEqual(["", "", "", ""]);
});

test("a name, a type or a value that is wrong would be found", async () => {
  const wrong = <T extends object>(manifest: T, from: string, to: string): T => {
    const text = JSON.stringify(manifest);
    expect(text.split(from)).toHaveLength(2);
    return JSON.parse(text.replace(from, to));
  };
  const found = await complaints([
    wrong(daemonSet, '"readOnlyRootFilesystem"', '"readOnlyRootFileSystem"'),
    wrong(daemonSet, '"containerPort":11059', '"containerPort":"11059"'),
    wrong(daemonSet, '"256Mi"', '"256MiB"'),
    wrong(policy, '"ingress":', '"ingres":'),
    wrong(podMonitor, '"targetLabel"', '"target_label"'),
    wrong(podMonitor, '"labeldrop"', '"labelDrop"'),
    wrong(namespace, '"metadata"', '"meta"'),
  ]);
  expect(found).toEqual([
    expect.stringContaining("readOnlyRootFileSystem\"' does not exist"),
    expect.stringContaining("containerPort must be integer"),
    expect.stringContaining('memory must match format "quantity"'),
    expect.stringContaining("ingres\"' does not exist"),
    expect.stringContaining("target_label\"' does not exist"),
    expect.stringContaining("action must be equal to one of the allowed values"),
    expect.stringContaining("meta\"' does not exist"),
  ]);
});

test("its flags are the program's, and it listens and answers where it is asked", () => {
  const { stdout } = result(process.execPath, [CLI, "run", "--help"]);
  const flags = Object.fromEntries(
    (container.args ?? []).map((arg) => /^(--[\w.-]+)(?:=(.+))?$/.exec(arg)?.slice(1) ?? [arg]),
  );
  for (const flag of Object.keys(flags)) expect(stdout).toMatch(new RegExp(`^ .*${flag} `, "m"));

  const [port, ...others] = container.ports ?? [];
  expect(others).toEqual([]);
  expect(flags["--web.listen-address"]).toBe(`:${port?.containerPort}`);
  for (const probe of [container.livenessProbe, container.readinessProbe]) {
    expect(probe?.httpGet?.port).toBe(port?.name);
    expect(FIXED_PATHS).toContain(probe?.httpGet?.path);
  }
  expect(podMonitor.spec?.podMetricsEndpoints).toMatchObject([
    { port: port?.name, path: /--web.telemetry-path .*default: "(.+?)"/.exec(stdout)?.[1] },
  ]);
  expect(policy.spec?.ingress).toMatchObject([{ ports: [{ port: port?.name }] }]);
  expect(policy.spec?.egress).toBeUndefined();
  expect(policy.spec?.policyTypes).toContain("Egress");

  const [volume] = daemonSet.spec?.template?.spec?.volumes ?? [];
  const [mount] = container.volumeMounts ?? [];
  expect(mount?.name).toBe(volume?.name);
  // Of its own: kubelet's is not private.
  expect(flags["--pin"]?.startsWith(`${mount?.mountPath}/`)).toBe(true);
});

test("a change of its flags ends no pod, and one that ends says why", () => {
  expect(container.args).toContain("--pin-replace");
  // The reason and the remedy are the last lines of the log, which this makes the message.
  expect(container.terminationMessagePolicy).toBe("FallbackToLogsOnError");
});

test("all speak of the same pods, in the same namespace, of this version", () => {
  const labels = daemonSet.spec?.template?.metadata?.labels;
  for (const selector of [
    daemonSet.spec?.selector,
    policy.spec?.podSelector,
    podMonitor.spec?.selector,
  ]) {
    expect(selector).toEqual({ matchLabels: labels });
  }
  const { namespace: name, resources } = read("kustomization.yaml");
  expect(name).toBe(namespace.metadata?.name);
  expect(podMonitor.metadata?.namespace).toBe(name);
  expect(resources).toEqual(["namespace.yaml", "daemonset.yaml", "networkpolicy.yaml"]);
  expect(container.image).toBe(`execve-counter:${VERSION}`);
  for (const text of [docs, readProjectFile("deploy/container/Containerfile")]) {
    expect(text).toContain(`--build-arg VERSION=${VERSION} `);
  }
});

test("two pods are never meant to be on one node", () => {
  const { type, rollingUpdate } = daemonSet.spec?.updateStrategy ?? {};
  expect({ type, maxSurge: rollingUpdate?.maxSurge }).toEqual({
    type: "RollingUpdate",
    maxSurge: 0,
  });
});

test("the documentation has each capability, and only queries that are tested", () => {
  const rows = [...docs.matchAll(/^\| (`[A-Z]+`(?:, `[A-Z]+`)*) \|/gm)];
  const documented = rows.flatMap(([, names]) => names?.replaceAll("`", "").split(", "));
  expect(documented.sort()).toEqual(container.securityContext?.capabilities?.add);

  const { tests } = parse(readProjectFile("deploy/prometheus/kubernetes-rules.test.yml")) as {
    tests: { promql_expr_test?: { expr: string }[] }[];
  };
  const tested = tests.flatMap(({ promql_expr_test: each = [] }) =>
    each.map(({ expr }) => expr.trim()),
  );
  const queries = [...docs.matchAll(/```promql\n(.+?)\n```/gs)].map(([, query]) => query);
  expect(queries.length).toBeGreaterThan(2);
  for (const query of queries) expect(tested).toContain(query);
});
