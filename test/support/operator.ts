import type { Resource } from "../../src/operator/resource.ts";
import type { Node, Pod } from "../../src/operator/types.ts";

/** A resource as the API server makes it of one that has only a name and an image. */
export function resource(spec: Partial<Resource["spec"]> = {}, name = "fleet"): Resource {
  return {
    apiVersion: "execve-counter.dev/v1alpha1",
    kind: "ExecveCounter",
    metadata: { name, namespace: "meters", uid: `uid-of-${name}`, generation: 1 },
    spec: {
      image: "execve-counter:0.1.0",
      ...{ attempts: "raw", by: ["container"], failures: false, maxSeries: 8192 },
      ...{ retireAfter: "15m", watch: [], pin: "Keep", onDelete: "Unpin" },
      tolerations: [{ operator: "Exists" }],
      rollout: { maxUnavailable: 1 },
      monitoring: { mode: "Auto", namespaces: ["monitoring"] },
      paused: false,
      ...spec,
    },
  };
}

export function node(name: string, labels: Record<string, string> = {}, ready = "True"): Node {
  return {
    metadata: {
      name,
      labels: { "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", ...labels },
    },
    status: { conditions: [{ type: "Ready", status: ready }] },
  };
}

/** A pod of a resource on a node, that is ready unless `status` says otherwise. */
export function pod(
  onNode: string,
  status: Pod["status"] = { conditions: [{ type: "Ready", status: "True" }] },
  component = "meter",
  instance = "fleet",
): Pod {
  return {
    metadata: {
      name: `${instance}-${component}-${onNode}`,
      namespace: "meters",
      uid: `uid-of-${instance}-${component}-${onNode}`,
      labels: {
        "app.kubernetes.io/name": "execve-counter",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "execve-counter-operator",
      },
    },
    spec: { nodeName: onNode },
    status,
  };
}
