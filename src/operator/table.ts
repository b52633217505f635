/** `operator nodes`: each node with whether it counts, and why not. */
import { ExitCode, UserError } from "../base/errors.ts";
import { printable, visible } from "../base/text.ts";
import { ApiError, connect, pathOf, remedyOf } from "./api.ts";
import { keyOf } from "./cache.ts";
import { COMPONENT_LABEL, INSTANCE_LABEL, MANAGED_LABEL, MANAGER } from "./children.ts";
import { classify, REASONS, type Verdict } from "./nodes.ts";
import { isOf, nodeOf } from "./reconcile.ts";
import { API_VERSION, GROUP, PLURAL, type Resource } from "./resource.ts";
import type { Node, Pod } from "./types.ts";

export interface NodeRow extends Verdict {
  resource: string;
}

/** Looks once; what agents tell only the operator is not in it. @throws UserError */
export async function nodeRows(kubeconfig: string | undefined): Promise<NodeRow[]> {
  const { api } = await connect(kubeconfig);
  const list = async <T>(path: string, query = {}) => {
    const all: T[][] = [];
    for await (const { items } of api.pages<T>(path, query)) all.push(items);
    return all.flat();
  };
  const labelSelector = `${MANAGED_LABEL}=${MANAGER}`;
  const [resources, nodes, pods] = await Promise.all([
    list<Resource>(pathOf(`${GROUP}/${API_VERSION}`, PLURAL)),
    list<Node>(pathOf("v1", "nodes")),
    list<Pod>(pathOf("v1", "pods"), { labelSelector }),
  ])
    .catch((error) => {
      if (!(error instanceof ApiError)) throw error;
      const remedy = remedyOf(error) ?? "see whether kubectl reaches the cluster";
      throw new UserError(error.message, remedy, ExitCode.failed);
    })
    .finally(() => api.close());
  const now = Date.now();
  const agents = pods.filter(
    ({ metadata: { labels = {}, deletionTimestamp } }) =>
      labels[COMPONENT_LABEL] !== "unpin" && !deletionTimestamp,
  );
  return resources.flatMap((resource) => {
    const ours = agents.filter((pod) => isOf(resource, pod));
    const others = agents.filter((pod) => !ours.includes(pod));
    const missing = now - Date.parse(resource.metadata.creationTimestamp ?? "");
    return nodes.map((node) => {
      const on = (pod: Pod) => nodeOf(pod) === node.metadata.name;
      const other = others.find(on)?.metadata;
      return {
        resource: keyOf(resource),
        ...classify(
          node,
          resource,
          {
            ...{ pods: ours.filter(on), missing },
            other: other && `${other.namespace}/${other.labels?.[INSTANCE_LABEL]}`,
          },
          now,
        ),
      };
    });
  });
}

/** The rows as a table, and what to do about each reason that is in it. */
export function nodeTable(rows: readonly NodeRow[]): string[] {
  const cells = [
    ["RESOURCE", "NODE", "STATE", "REASON", "MESSAGE"],
    ...rows.map(({ resource, node, state, reason = "", message = "" }) => [
      ...[resource, printable(node), state, reason, visible(message)],
    ]),
  ];
  const widths = [0, 1, 2, 3].map((i) => Math.max(...cells.map((row) => row[i]?.length ?? 0)));
  const reasons = [...new Set(rows.flatMap(({ reason }) => reason ?? []))].sort();
  return [
    ...cells.map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join("  ")
        .trimEnd(),
    ),
    ...reasons.map((reason) => `${reason}: ${REASONS[reason]}`),
  ];
}
