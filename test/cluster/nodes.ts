import { randomBytes } from "node:crypto";
import type { Cluster, KubernetesObject } from "./cluster.ts";

export interface FakePod extends KubernetesObject {
  spec: { nodeName?: string; containers: { name: string; image: string }[] };
  status?: { phase?: string };
}

/** What a fake node says of a pod; merged into its status. */
export type PodStatus = (pod: FakePod) => object;

const LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/** A label of fake nodes, and their taint: only what tolerates everything gets there. */
export const FAKE = "execve-counter.test/fake";

/** As kubelet has it once all containers run and are ready. */
export function running({ spec }: FakePod): object {
  const startedAt = new Date().toISOString().replace(/\.\d+/, "");
  const container = ({ name, image }: { name: string; image: string }) => ({
    ...{ name, image, imageID: "", ready: true, started: true, restartCount: 0 },
    containerID: `containerd://${randomBytes(32).toString("hex")}`,
    state: { running: { startedAt } },
  });
  const conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map((type) => ({
    ...{ type, status: "True", lastTransitionTime: startedAt },
  }));
  const containerStatuses = spec.containers.map(container);
  return { phase: "Running", startTime: startedAt, conditions, containerStatuses };
}

/**
 * Nodes that are objects of the API alone: ready as long as this process renews their leases. A
 * pod that is given to one runs at once, and ends at once when it is deleted.
 */
export class FakeNodes {
  readonly names: readonly string[];
  /** What they say of pods from now on. */
  status: PodStatus = running;
  readonly #cluster: Cluster;
  #renewal?: NodeJS.Timeout;
  #unwatch?: () => void;
  #failure?: unknown;

  private constructor(cluster: Cluster, count: number) {
    this.#cluster = cluster;
    this.names = Array.from({ length: count }, (_, i) => `fake${i}`);
  }

  /** Resolves once all of them are ready. */
  static async add(cluster: Cluster, count: number): Promise<FakeNodes> {
    const nodes = new FakeNodes(cluster, count);
    nodes.#unwatch = await cluster.watch<FakePod>("/api/v1/pods", (pod, event) => {
      if (event === "DELETED" || !nodes.names.includes(pod.spec.nodeName ?? "")) return;
      nodes.#keep(nodes.#tend(pod));
    });
    await Promise.all(nodes.names.map((name) => nodes.#register(name)));
    // kube-controller-manager waits 40 seconds for a lease.
    nodes.#renewal = setInterval(() => {
      for (const name of nodes.names) nodes.#keep(nodes.#renew(name));
    }, 15_000);
    return nodes;
  }

  /** Makes one of them ready or not, until it is told otherwise. */
  async ready(name: string, ready = true): Promise<void> {
    const now = new Date().toISOString().replace(/\.\d+/, "");
    await this.#cluster.api(
      "PATCH",
      `/api/v1/nodes/${name}/status`,
      {
        status: {
          conditions: [
            {
              ...{ type: "Ready", status: ready ? "True" : "False", reason: "Fake", message: "" },
              ...{ lastHeartbeatTime: now, lastTransitionTime: now },
            },
          ],
        },
      },
      "application/strategic-merge-patch+json",
    );
  }

  /** Removes them; throws what went wrong meanwhile. */
  async remove(): Promise<void> {
    clearInterval(this.#renewal);
    const gone = this.names.map((name) => this.#cluster.api("DELETE", `/api/v1/nodes/${name}`));
    await Promise.all(gone);
    this.#unwatch?.();
    if (this.#failure) throw this.#failure;
  }

  async #register(name: string): Promise<void> {
    const system = { "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64" };
    const labels = { "kubernetes.io/hostname": name, ...system, [FAKE]: "" };
    await this.#cluster.api("POST", "/api/v1/nodes", {
      metadata: { name, labels },
      spec: { taints: [{ key: FAKE, effect: "NoSchedule" }] },
    });
    const resources = { cpu: "4", memory: "8Gi", pods: "110", "ephemeral-storage": "100Gi" };
    await this.#cluster.api("PATCH", `/api/v1/nodes/${name}/status`, {
      status: { capacity: resources, allocatable: resources },
    });
    await this.#cluster.api("POST", LEASES, {
      metadata: { name, namespace: "kube-node-lease" },
      spec: { holderIdentity: name, leaseDurationSeconds: 40, renewTime: microTime() },
    });
    await this.ready(name);
  }

  async #renew(name: string): Promise<void> {
    await this.#cluster.api("PATCH", `${LEASES}/${name}`, { spec: { renewTime: microTime() } });
  }

  async #tend(pod: FakePod): Promise<void> {
    const path = `/api/v1/namespaces/${pod.metadata.namespace}/pods/${pod.metadata.name}`;
    if (pod.metadata.deletionTimestamp) {
      const { uid } = pod.metadata;
      await this.#cluster.api("DELETE", path, { gracePeriodSeconds: 0, preconditions: { uid } });
    } else if (pod.status?.phase === "Pending") {
      await this.#cluster.api("PATCH", `${path}/status`, { status: this.status(pod) });
    }
  }

  /** Of what is under way, the first failure; what is gone meanwhile is none. */
  #keep(work: Promise<void>): void {
    work.catch((error) => {
      if (!/"code":\s*(404|409)\b/.test(`${error}`)) this.#failure ??= error;
    });
  }
}

function microTime(): string {
  return new Date().toISOString().replace("Z", "000Z");
}
