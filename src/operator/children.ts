/** What a resource is made of: pure functions from the resource to the objects of its own. */
import { createHash } from "node:crypto";
import { UserError } from "../base/errors.ts";
import { requireName } from "../counts/choices.ts";
import { LABELS } from "../counts/labels.ts";
import {
  type Container,
  type DaemonSetManifest,
  daemonSet,
  networkPolicy,
  PORT,
  type PodTemplate,
  podMonitor,
  ruleGroups,
} from "./manifests.ts";
import { API_VERSION, GROUP, KIND, type Resource } from "./resource.ts";
import type { Expression, KubernetesObject } from "./types.ts";

export const MANAGER = "execve-counter-operator";
/** Of the pods that count, wherever they come from, and of what is made of a resource. */
export const NAME_LABEL = "app.kubernetes.io/name";
export const INSTANCE_LABEL = "app.kubernetes.io/instance";
export const COMPONENT_LABEL = "app.kubernetes.io/component";
export const MANAGED_LABEL = "app.kubernetes.io/managed-by";
/** Tells whether what is there was made of the same manifest. */
export const DIGEST_ANNOTATION = `${GROUP}/applied`;
const POD_NAME = "execve-counter";
/** Where a pod has the directory of the pins, and the list of watched commands. */
const PINS = "/pins";
const WATCH = "/watch";
const LIST = "commands";

export type Component = "meter" | "canary" | "unpin";

/** An object that the operator makes, as it applies it. */
export interface Child extends KubernetesObject {
  apiVersion: string;
  kind: string;
  metadata: KubernetesObject["metadata"] & { namespace: string };
}

export function selectorOf(resource: Resource, component?: Component): Record<string, string> {
  return {
    [NAME_LABEL]: POD_NAME,
    [INSTANCE_LABEL]: resource.metadata.name,
    ...(component ? { [COMPONENT_LABEL]: component } : {}),
  };
}

/** The flags that choose what is counted. */
function countingFlags({ spec }: Resource): string[] {
  const by = LABELS.filter((label) => spec.by.includes(label));
  return [
    `--attempts=${spec.attempts}`,
    ...(by.length > 0 ? [`--by=${by.join()}`] : []),
    ...(spec.failures ? ["--failures"] : []),
    `--max-series=${spec.maxSeries}`,
  ];
}

/** The directory of its own in which a resource's agents pin. bpffs allows no dot in a name. */
export function pinsOf({ metadata }: Resource, below = PINS): string {
  return `${below}/${metadata.namespace}_${metadata.name}`;
}

/** Flags of the manifest that a resource chooses. */
const CHOSEN = /^--(attempts|by|failures|max-series|retire-after|pin|pin-replace|watch-file)(=|$)/;

/** Of an agent's arguments those with others of which counts begin anew. */
export function flagsOf(args: readonly string[]): string {
  return args.filter((arg) => /^--(attempts|by|failures|max-series|pin)(=|$)/.test(arg)).join(" ");
}

export function argsOf(resource: Resource): string[] {
  const { retireAfter, pin } = resource.spec;
  return [
    ...countingFlags(resource),
    `--retire-after=${retireAfter}`,
    // Also where it is empty: so names can be added without a new pod.
    `--watch-file=${WATCH}/${LIST}`,
    ...(pin === "Keep" ? [`--pin=${pinsOf(resource)}`, "--pin-replace"] : []),
    ...(daemonSet.spec.template.spec.containers[0].args ?? []).filter((arg) => !CHOSEN.test(arg)),
  ];
}

type Place = Expression[];

/** Terms that a node matches where it matches one of each side. */
function both(left: Place[], right: Place[]): Place[] {
  return left.flatMap((one) => right.map((other) => [...one, ...other]));
}

/**
 * The terms of node affinity for the agents of a component, of which a node must match one: those
 * of the manifest, and, but for unpin, those of the resource.
 */
export function placesOf({ spec }: Resource, component: Component): Place[] {
  const { nodeAffinity } = daemonSet.spec.template.spec.affinity;
  const base = nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.map(
    ({ matchExpressions }) => matchExpressions,
  );
  // Nodes that a selector once chose have pins, too.
  if (component === "unpin") return base;
  const own = (spec.nodeAffinity ?? []).map(({ matchExpressions }) => matchExpressions as Place);
  const places = both(base, own.length > 0 ? own : [[]]);
  const canary = Object.entries(spec.rollout.canary?.nodeSelector ?? {});
  if (canary.length === 0) return places;
  const on = canary.map(([key, value]) => ({ key, operator: "In", values: [value] }));
  if (component === "canary") return both(places, [on]);
  // Any other value, or none.
  return both(
    places,
    on.map((expression) => [{ ...expression, operator: "NotIn" }]),
  );
}

export function nodeSelectorOf({ spec }: Resource, component: Component): Record<string, string> {
  const base = daemonSet.spec.template.spec.nodeSelector;
  return component === "unpin" ? base : { ...spec.nodeSelector, ...base };
}

export function tolerationsOf({ spec }: Resource, component: Component) {
  return component === "unpin" ? daemonSet.spec.template.spec.tolerations : spec.tolerations;
}

function templateOf(resource: Resource, component: Component): PodTemplate {
  const { spec } = resource;
  const base = daemonSet.spec.template;
  const [container] = base.spec.containers;
  const image = component === "canary" ? spec.rollout.canary?.image : spec.image;
  const common: Container = {
    ...{ ...container, image: image as string },
    ...(spec.imagePullPolicy ? { imagePullPolicy: spec.imagePullPolicy } : {}),
  };
  const { ports, livenessProbe, readinessProbe, ...bare } = common;
  const unpin = { ...bare, args: ["unpin", pinsOf(resource)] };
  const counting = {
    ...common,
    args: argsOf(resource),
    resources: {
      requests: { ...container.resources.requests, ...spec.resources?.requests },
      limits: { ...container.resources.limits, ...spec.resources?.limits },
    },
    // The API server would add it, and takes no port without it.
    ports: ports?.map((port) => ({ ...port, protocol: "TCP" })) ?? [],
    volumeMounts: [...container.volumeMounts, { name: "watch", mountPath: WATCH, readOnly: true }],
  };
  return {
    metadata: {
      labels: { ...spec.podLabels, ...selectorOf(resource, component), [MANAGED_LABEL]: MANAGER },
      ...(spec.podAnnotations ? { annotations: spec.podAnnotations } : {}),
    },
    spec: {
      ...base.spec,
      // Another's ServiceAccount of that name cannot keep it from unpinning.
      ...(component === "unpin" ? {} : { serviceAccountName: resource.metadata.name }),
      ...(spec.imagePullSecrets ? { imagePullSecrets: spec.imagePullSecrets } : {}),
      ...(spec.priorityClassName ? { priorityClassName: spec.priorityClassName } : {}),
      nodeSelector: nodeSelectorOf(resource, component),
      affinity: {
        nodeAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: {
            nodeSelectorTerms: placesOf(resource, component).map((matchExpressions) => ({
              matchExpressions,
            })),
          },
        },
      },
      tolerations: tolerationsOf(resource, component),
      ...(component !== "unpin" && spec.pin === "None"
        ? { initContainers: [{ ...unpin, name: "unpin" }] }
        : {}),
      containers: [component === "unpin" ? unpin : counting],
      volumes: [
        ...base.spec.volumes,
        ...(component === "unpin"
          ? []
          : [{ name: "watch", configMap: { name: `${resource.metadata.name}-watch` } }]),
      ],
    },
  };
}

export function daemonSetName({ metadata }: Resource, component: Component): string {
  return component === "meter" ? metadata.name : `${metadata.name}-${component}`;
}

function daemonSetOf(resource: Resource, component: Component): Child {
  const { type, rollingUpdate } = daemonSet.spec.updateStrategy;
  // Before Kubernetes 1.22 there is no maxSurge; 0 is its default.
  const { maxSurge: _, ...strategy } = rollingUpdate;
  const spec: DaemonSetManifest["spec"] = {
    selector: { matchLabels: selectorOf(resource, component) },
    updateStrategy: {
      type,
      rollingUpdate: { ...strategy, maxUnavailable: resource.spec.rollout.maxUnavailable },
    },
    template: templateOf(resource, component),
  };
  return child(resource, "apps/v1", "DaemonSet", daemonSetName(resource, component), { spec });
}

/** An object of the resource's own, marked with a digest of what is applied. */
function child(
  resource: Resource,
  apiVersion: string,
  kind: string,
  name: string,
  content: object,
): Child {
  const { namespace = "", name: owner, uid = "" } = resource.metadata;
  const labels = { ...selectorOf(resource), [MANAGED_LABEL]: MANAGER };
  const digest = createHash("sha256")
    .update(JSON.stringify([labels, content]))
    .digest("hex");
  return {
    ...{ apiVersion, kind },
    metadata: {
      ...{ name, namespace, labels },
      annotations: { [DIGEST_ANNOTATION]: digest.slice(0, 16) },
      ownerReferences: [
        {
          ...{ apiVersion: `${GROUP}/${API_VERSION}`, kind: KIND, name: owner, uid },
          ...{ controller: true, blockOwnerDeletion: true },
        },
      ],
    },
    ...content,
  };
}

/** What of the cluster has a say in what is made. */
export interface Surroundings {
  /** The operator's own namespace: it asks the agents how they are. */
  namespace: string;
  podMonitors: boolean;
  /** Whether the rules, which are the same for all resources, are made for this one. */
  rules: boolean;
}

/** All that the resource should have, in the order in which it is applied. */
export function childrenOf(resource: Resource, around: Surroundings): Child[] {
  const { spec, metadata } = resource;
  const { name } = metadata;
  const make = (apiVersion: string, kind: string, content: object, suffix = "") =>
    child(resource, apiVersion, kind, `${name}${suffix}`, content);
  const auto = spec.monitoring.mode === "Auto";
  return [
    make("v1", "ServiceAccount", { automountServiceAccountToken: false }),
    make("v1", "ConfigMap", { data: { [LIST]: watchList(resource) } }, "-watch"),
    make("v1", "Service", {
      spec: {
        clusterIP: "None",
        selector: selectorOf(resource),
        ports: [{ name: "metrics", port: PORT, targetPort: "metrics", protocol: "TCP" }],
      },
    }),
    make("networking.k8s.io/v1", "NetworkPolicy", {
      spec: {
        podSelector: { matchLabels: selectorOf(resource) },
        policyTypes: networkPolicy.spec.policyTypes,
        ingress: [
          {
            from: [
              ...spec.monitoring.namespaces.map(inNamespace),
              {
                ...inNamespace(around.namespace),
                podSelector: { matchLabels: { [NAME_LABEL]: MANAGER } },
              },
            ],
            ports: networkPolicy.spec.ingress[0].ports.map((port) => ({
              ...port,
              protocol: "TCP",
            })),
          },
        ],
      },
    }),
    daemonSetOf(resource, "meter"),
    ...(spec.rollout.canary ? [daemonSetOf(resource, "canary")] : []),
    ...(auto && around.podMonitors
      ? [
          make("monitoring.coreos.com/v1", "PodMonitor", {
            spec: { ...podMonitor.spec, selector: { matchLabels: selectorOf(resource) } },
          }),
        ]
      : []),
    ...(auto && around.rules
      ? [make("monitoring.coreos.com/v1", "PrometheusRule", { spec: { groups: ruleGroups } })]
      : []),
  ];
}

/** What ends the counting on every node, once nothing else of the resource runs. */
export function unpinOf(resource: Resource): Child {
  return daemonSetOf(resource, "unpin");
}

const inNamespace = (name: string) => ({
  namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": name } },
});

/** What another resource's DaemonSets would be called, too; undefined where the name is good. */
export function reservedName({ metadata: { name } }: Resource): string | undefined {
  return /-(unpin|canary)$/.test(name)
    ? `the name ${name} ends as those of another resource's DaemonSets: take another`
    : undefined;
}

/** What the agents would refuse in the list, which ends every new one; undefined where nothing. */
export function wrongName({ spec }: Resource): string | undefined {
  try {
    for (const name of spec.watch) requireName(name);
    // A list in a file has names without white space around them, and comments.
    const other = spec.watch.find((name) => name !== name.trim() || name.startsWith("#"));
    return other === undefined
      ? undefined
      : `spec.watch: a watched name cannot be ${JSON.stringify(other)}: leave out white space around it, and names that begin with #`;
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return `spec.watch: ${error.message}: ${error.remedy}`;
  }
}

/** The file of --watch-file: a name a line. */
export function watchList({ spec }: Resource): string {
  return [...spec.watch]
    .sort()
    .map((name) => `${name}\n`)
    .join("");
}

/**
 * What is the operator's as a whole, beside the spec of a pod: what somebody adds to a selector
 * changes what it means, and what somebody adds to a pod may give it rights.
 */
const WHOLE = ["nodeSelector", "matchLabels", "selector", "podSelector", "namespaceSelector"];
/** What the API server itself adds to a pod's spec, of whatever value where it is undefined. */
const DEFAULTS: Record<string, unknown> = {
  ...{ restartPolicy: "Always", dnsPolicy: "ClusterFirst", schedulerName: "default-scheduler" },
  ...{ securityContext: {}, procMount: "Default", resources: {}, defaultMode: 0o644 },
  ...{ terminationMessagePath: "/dev/termination-log", scheme: "HTTP", protocol: "TCP" },
  ...{ timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3 },
  ...{ imagePullPolicy: undefined, serviceAccount: undefined },
};

/** Requests are made of limits where they are not given. */
const isWhole = (whole: boolean, key: string, applied: unknown) =>
  key !== "requests" &&
  (whole || WHOLE.includes(key) || (isMap(applied) && "containers" in applied));

/** The keys of what is there that were neither applied nor added by the API server. */
function added(there: Record<string, unknown>, applied: Record<string, unknown>): string[] {
  return Object.keys(there).filter((key) => {
    if (key in applied) return false;
    if (!(key in DEFAULTS)) return true;
    const preset = JSON.stringify(DEFAULTS[key]);
    return preset !== undefined && preset !== JSON.stringify(there[key]);
  });
}

/**
 * A merge patch that removes what others have added to what is the operator's as a whole; to apply
 * it again does not. Undefined where there is nothing to remove.
 */
export function surplusOf(there: unknown, applied: unknown, whole = false): object | undefined {
  if (!isMap(there) || !isMap(applied)) return undefined;
  const patch: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(applied)) {
    const ofWhole = isWhole(whole, key, value);
    if (!Array.isArray(value)) {
      const rest = surplusOf(there[key], value, ofWhole);
      if (rest) patch[key] = rest;
    } else if (ofWhole && !holds(there[key], value, true)) patch[key] = value;
  }
  if (whole) for (const key of added(there, applied)) patch[key] = null;
  return Object.keys(patch).length > 0 ? patch : undefined;
}

const isMap = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Whether what is there has all that was applied. It may have more: defaults, and what others
 * have added to what is not the operator's as a whole.
 */
export function holds(there: unknown, applied: unknown, whole = false): boolean {
  // The API server leaves out what is empty.
  if (there === undefined && typeof applied === "object") {
    return Object.keys(applied ?? {}).length === 0;
  }
  if (Array.isArray(applied)) {
    if (!Array.isArray(there) || (whole && there.length !== applied.length)) return false;
    // Lists of named objects are merged by the API server: others may have added some.
    if (applied.length > 0 && applied.every((each) => typeof each?.name === "string")) {
      return applied.every((each) =>
        there.some((other) => other?.name === each.name && holds(other, each, whole)),
      );
    }
    return (
      there.length === applied.length && applied.every((each, i) => holds(there[i], each, whole))
    );
  }
  if (isMap(applied)) {
    if (!isMap(there) || (whole && added(there, applied).length > 0)) return false;
    return Object.entries(applied).every(([key, value]) =>
      holds(there[key], value, isWhole(whole, key, value)),
    );
  }
  return there === applied || (quantity(there) === quantity(applied) && quantity(applied) >= 0);
}

const UNITS: Record<string, number> = {
  ...{ m: 1e-3, "": 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12 },
  ...{ Ki: 1024, Mi: 1024 ** 2, Gi: 1024 ** 3, Ti: 1024 ** 4 },
};

/** A quantity as a number; NaN for anything else. The API server rewrites 1024Mi as 1Gi. */
function quantity(value: unknown): number {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?)([a-zA-Z]*)$/.exec(`${value}`) ?? [];
  return Number(number) * (UNITS[unit] ?? Number.NaN);
}
