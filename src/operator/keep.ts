/** What the operator keeps of objects: of a thousand nodes and pods little is needed. */
import type { KubernetesObject, Node, ObjectMeta, Pod } from "./types.ts";

export function slimNode({ metadata, spec, status }: Node): Node {
  const { name, labels = {} } = metadata;
  const ready = status?.conditions?.filter(({ type }) => type === "Ready") ?? [];
  return {
    metadata: { name, labels },
    ...(spec?.taints ? { spec: { taints: spec.taints } } : {}),
    status: {
      conditions: ready.map(({ type, status, message = "" }) => ({
        ...{ type, status },
        // That of a node that is ready says nothing.
        ...(status === "True" ? {} : { message }),
      })),
    },
  };
}

export function slimPod({ metadata, spec, status = {} }: Pod): Pod {
  const { name, namespace, uid, labels, creationTimestamp, deletionTimestamp } = metadata;
  const { ownerReferences } = metadata;
  const { phase, reason, message, podIP, startTime, conditions, ...containers } = status;
  const kept: Record<string, unknown> = {
    ...{ name, namespace, uid, labels, creationTimestamp, deletionTimestamp, ownerReferences },
  };
  return {
    metadata: defined(kept) as unknown as ObjectMeta,
    spec: spec.nodeName ? { nodeName: spec.nodeName } : { affinity: spec.affinity },
    status: defined({
      ...{ phase, reason, message, podIP, startTime },
      conditions: conditions
        ?.filter(({ type }) => type === "Ready" || type === "PodScheduled")
        .map(({ type, status, reason, message }) => defined({ type, status, reason, message })),
      initContainerStatuses: containers.initContainerStatuses?.map(({ ready, state, lastState }) =>
        defined({ ready, state, lastState }),
      ),
      containerStatuses: containers.containerStatuses?.map(({ ready, state, lastState }) =>
        defined({ ready, state, lastState }),
      ),
    }) as NonNullable<Pod["status"]>,
  };
}

/** The object without the list of who manages what, which is often its largest part. */
export function slim<T extends KubernetesObject>(object: T): T {
  const { managedFields: _, ...metadata } = object.metadata;
  return { ...object, metadata };
}

function defined<T extends object>(object: T): T {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as T;
}
