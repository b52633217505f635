/** What the operator makes is made from the manifests that kubectl applies without it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import type { Expression, KubernetesObject, Toleration } from "./types.ts";

export interface PodTemplate {
  metadata: { labels: Record<string, string>; annotations?: Record<string, string> };
  spec: {
    nodeSelector: Record<string, string>;
    affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: Terms } };
    tolerations: Toleration[];
    initContainers?: Container[];
    containers: [Container];
    volumes: object[];
    [field: string]: unknown;
  };
}

export interface Terms {
  nodeSelectorTerms: { matchExpressions: Expression[] }[];
}

export interface Container {
  name: string;
  image: string;
  args: string[];
  ports?: { name: string; containerPort: number }[];
  volumeMounts: object[];
  resources: Record<"requests" | "limits", Record<string, string | number>>;
  [field: string]: unknown;
}

export interface DaemonSetManifest extends KubernetesObject {
  spec: {
    selector: { matchLabels: Record<string, string> };
    updateStrategy: { type: string; rollingUpdate: { maxSurge?: number; maxUnavailable: unknown } };
    template: PodTemplate;
  };
}

interface Group {
  name: string;
  rules: object[];
}

const DEPLOY = join(__dirname, "../../deploy");
const read = <T>(path: string): T => parse(readFileSync(join(DEPLOY, path), "utf8"));

export const daemonSet = read<DaemonSetManifest>("kubernetes/daemonset.yaml");
/** The port on which the agents listen. */
export const PORT = daemonSet.spec.template.spec.containers[0].ports?.[0]?.containerPort as number;
export const networkPolicy = read<
  KubernetesObject & { spec: { policyTypes: string[]; ingress: [{ ports: object[] }] } }
>("kubernetes/networkpolicy.yaml");
export const podMonitor = read<
  KubernetesObject & { spec: { jobLabel: string; podMetricsEndpoints: object[] } }
>("kubernetes/podmonitor.yaml");
export const ruleGroups = ["rules.yml", "kubernetes-rules.yml"].flatMap(
  (file) => read<{ groups: Group[] }>(`prometheus/${file}`).groups,
);
