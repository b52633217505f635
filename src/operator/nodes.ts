/** Which nodes count, and why the others do not: a pure function of what is known of each. */
import { nodeSelectorOf, placesOf, tolerationsOf } from "./children.ts";
import {
  MAX_EXAMPLES,
  MAX_PROBLEMS,
  type NodeCounts,
  type Problem,
  type Resource,
} from "./resource.ts";
import type {
  ContainerStatus,
  Expression,
  Node,
  Pod,
  Taint,
  Terminated,
  Toleration,
} from "./types.ts";

/** Why a node does not count, with what to do; `excluded` and `unsupported` ones need not. */
export const REASONS = {
  NotLinux: "it runs no Linux",
  UnsupportedArch: "the agent runs on amd64 and arm64 alone",
  Virtual: "it has no kernel of its own",
  Selector: "nodeSelector or nodeAffinity leave it out: change them to include it",
  Tainted: "it has a taint that spec.tolerations do not tolerate: add it there to include the node",
  NotPermitted:
    "give the namespace the Pod Security level privileged, and see what the container's seccomp profile, SELinux and lockdown forbid",
  NoPod:
    "see the conditions Conflict and Progressing, and where they say nothing, whether the controller manager runs",
  NoRoom:
    "free CPU or memory on the node, ask for less in spec.resources, or give spec.priorityClassName",
  OutOfMemory: "raise spec.resources.limits.memory, or lower spec.maxSeries",
  ImagePull: "correct spec.image or spec.imagePullSecrets, or let the node reach the registry",
  KernelTooOld: "boot Linux 5.10 or newer",
  NoBTF: "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as the distributions' kernels have it",
  Pinned: "delete the other meter of this node, or end its counts: execve-counter unpin",
  Shared: "two resources count on it: let one of them leave it out by spec.nodeAffinity",
  TableFull: "raise spec.maxSeries: some execs have no row, and count as other",
  Silent:
    "see whether the node and its kubelet are up, and whether a network policy lets the operator reach the agent",
  Failing: "see the log of the pod",
} as const;
export type Reason = keyof typeof REASONS;

export interface Verdict {
  node: string;
  state: "counting" | "starting" | "failing" | "unsupported" | "excluded";
  reason?: Reason;
  /** What the node, the pod or the agent says itself. */
  message?: string;
}

/** What an agent has told. */
export interface Answer {
  /** Whether its table of execs has no room for more rows. */
  full: boolean;
  /** The digest of the watch list that is in force. */
  list: string | undefined;
}

/** What is known of a node beside the Node. */
export interface Seen {
  /** The pods of the resource on the node that are not being deleted. */
  pods: readonly Pod[];
  /** What the agent answered last; "silent" where it did not, undefined where it was not asked. */
  answer?: Answer | "silent" | undefined;
  /** Another resource of which an agent runs there. */
  other?: string | undefined;
  /** Ms for which there has been no pod although there should be one. */
  missing?: number;
  /** What the API says about pods that it does not let be made: see refusalOf. */
  refusal?: string | undefined;
}

/** Ms after which a pod that is not there, or not ready, is a problem. */
const PATIENCE_MS = 60_000;
/** Ms for which a refusal is believed. The DaemonSet's controller tries every 1000 s at least. */
const REFUSAL_MS = 1_200_000;
/** Taints that every DaemonSet tolerates. */
const ALWAYS: Toleration[] = [
  ...[
    "not-ready",
    "unreachable",
    "disk-pressure",
    "memory-pressure",
    "pid-pressure",
    "unschedulable",
  ].map((name) => ({ key: `node.kubernetes.io/${name}`, operator: "Exists" })),
];

/** Says whether a node counts for a resource, and if not, why. */
export function classify(node: Node, resource: Resource, seen: Seen, now: number): Verdict {
  const { name, labels = {} } = node.metadata;
  const verdict = (state: Verdict["state"], reason?: Reason, message?: string): Verdict => ({
    ...{ node: name, state },
    ...(reason ? { reason } : {}),
    ...(message ? { message: firstLine(message) } : {}),
  });
  const unsupported = unsupportedFor(resource, labels);
  if (unsupported) return verdict("unsupported", ...unsupported);
  if (!isSelected(resource, labels)) return verdict("excluded", "Selector");
  const taint = (node.spec?.taints ?? []).find(
    (each) =>
      each.effect !== "PreferNoSchedule" &&
      ![...ALWAYS, ...tolerationsOf(resource, "meter")].some((one) => tolerates(one, each)),
  );
  if (taint) return verdict("excluded", "Tainted", `${taint.key}:${taint.effect}`);

  const ready = node.status?.conditions?.find(({ type }) => type === "Ready");
  if (ready?.status !== "True") return verdict("failing", "Silent", ready?.message ?? "not ready");
  const [pod, ...more] = seen.pods;
  if (!pod) {
    if (seen.refusal) return verdict("failing", "NotPermitted", seen.refusal);
    return (seen.missing ?? 0) < PATIENCE_MS
      ? verdict("starting")
      : verdict("failing", "NoPod", "no pod has been made");
  }
  const ofPod = problemOf(pod, now);
  if (ofPod) return verdict("failing", ...ofPod);
  const isReady = pod.status?.conditions?.some(
    (each) => each.type === "Ready" && each.status === "True",
  );
  if (!isReady) {
    const age = now - Date.parse(pod.status?.startTime ?? pod.metadata.creationTimestamp ?? "");
    return age > PATIENCE_MS
      ? verdict("failing", "Silent", "the pod is not ready")
      : verdict("starting");
  }
  if (seen.other) return verdict("counting", "Shared", `${seen.other} counts there, too`);
  if (more.length > 0) return verdict("counting", "Shared", `${pod.metadata.name} is not alone`);
  if (seen.answer === "silent")
    return verdict("counting", "Silent", "the agent does not answer the operator");
  if (seen.answer?.full) return verdict("counting", "TableFull");
  return verdict("counting");
}

/** Of events that say why a pod was not made, one that is new, and after which no pod was made. */
export function refusalOf(
  events: readonly { message?: string; lastTimestamp?: string | null }[],
  pods: readonly Pod[],
  now: number,
): string | undefined {
  const made = pods.map(({ metadata }) => metadata.creationTimestamp ?? "").sort();
  const since = Math.max(now - REFUSAL_MS, Date.parse(made.at(-1) || "1970-01-01"));
  return events.find(({ lastTimestamp }) => Date.parse(lastTimestamp ?? "") > since)?.message;
}

/** Why no agent can run on a node with these labels; undefined where one can. */
export function unsupportedFor(
  resource: Resource,
  labels: Record<string, string>,
): [reason: Reason, message?: string] | undefined {
  const { "kubernetes.io/os": os = "unknown", "kubernetes.io/arch": arch = "unknown" } = labels;
  if (os !== "linux") return ["NotLinux", os];
  if (!["amd64", "arm64"].includes(arch)) return ["UnsupportedArch", arch];
  const places = placesOf(resource, "unpin");
  return isIn(places, labels) ? undefined : ["Virtual"];
}

/** Whether labels fulfil all of one of the terms. */
function isIn(places: readonly Expression[][], labels: Record<string, string>): boolean {
  return places.some((place) => place.every((each) => matches(each, labels)));
}

/** Whether the resource wants the node to count, by its labels. */
function isSelected(resource: Resource, labels: Record<string, string>): boolean {
  const selector = Object.entries(nodeSelectorOf(resource, "meter"));
  const places = [...placesOf(resource, "meter"), ...placesOf(resource, "canary")];
  return selector.every(([key, value]) => labels[key] === value) && isIn(places, labels);
}

/** Whether a node with these labels is one of the canary's. */
export function isCanary(resource: Resource, labels: Record<string, string>): boolean {
  return resource.spec.rollout.canary !== undefined && isIn(placesOf(resource, "canary"), labels);
}

/** Whether labels fulfil an expression, as the scheduler has it. */
export function matches(
  { key, operator, values = [] }: Expression,
  labels: Record<string, string>,
): boolean {
  const value = labels[key];
  if (value === undefined) return operator === "NotIn" || operator === "DoesNotExist";
  switch (operator) {
    case "In":
      return values.includes(value);
    case "NotIn":
      return !values.includes(value);
    case "Exists":
      return true;
    case "Gt":
      return Number.parseInt(value, 10) > Number(values[0]);
    case "Lt":
      return Number.parseInt(value, 10) < Number(values[0]);
    default:
      return false;
  }
}

export function tolerates(toleration: Toleration, taint: Taint): boolean {
  const { key = "", operator = "Equal", value = "", effect = "" } = toleration;
  if (effect !== "" && effect !== taint.effect) return false;
  if (key === "") return operator === "Exists";
  return key === taint.key && (operator === "Exists" || value === (taint.value ?? ""));
}

const WAITING: Record<string, Reason> = {
  ...{ ImagePullBackOff: "ImagePull", ErrImagePull: "ImagePull", ErrImageNeverPull: "ImagePull" },
  ...{
    InvalidImageName: "ImagePull",
    ImageInspectError: "ImagePull",
    RegistryUnavailable: "ImagePull",
  },
  ...{ CreateContainerConfigError: "NotPermitted", CreateContainerError: "NotPermitted" },
  ...{ RunContainerError: "NotPermitted" },
};

/** What keeps a pod from counting; undefined where nothing is known to. */
function problemOf({ status = {} }: Pod, now: number): [Reason, string] | undefined {
  const unscheduled = status.conditions?.find(
    ({ type, status }) => type === "PodScheduled" && status === "False",
  );
  if (unscheduled) return ["NoRoom", unscheduled.message ?? "not scheduled"];
  if (status.phase === "Failed") {
    const { reason = "Failed", message = "" } = status;
    const isRoom = /^(Evicted|OutOf|UnexpectedAdmissionError|Preempt)/.test(reason);
    return [isRoom ? "NoRoom" : "Failing", `${reason}: ${message}`];
  }
  for (const each of [
    ...(status.initContainerStatuses ?? []),
    ...(status.containerStatuses ?? []),
  ]) {
    const { reason = "", message = "" } = each.state?.waiting ?? {};
    if (WAITING[reason]) return [WAITING[reason], `${reason}: ${message}`];
    const ended = endOf(each, now);
    if (ended)
      return [reasonOf(ended), ended.message ?? ended.reason ?? `exit code ${ended.exitCode}`];
  }
  return undefined;
}

/**
 * How a container ended that is not ready again. Between two ends it runs for a while: what it
 * said last is true until it has run for long.
 */
function endOf({ ready, state, lastState }: ContainerStatus, now: number): Terminated | undefined {
  const isLong = now - Date.parse(state?.running?.startedAt ?? "") > PATIENCE_MS;
  const ended = state?.terminated ?? (ready || isLong ? undefined : lastState?.terminated);
  return ended && ended.exitCode !== 0 ? ended : undefined;
}

/** What an agent said when it ended, by its last lines; the first that fits. */
const SAID: [RegExp, Reason][] = [
  [/has no BTF|no \/sys\/kernel\/btf/, "NoBTF"],
  [/no BPF|the kernel refuses the program|is too old/, "KernelTooOld"],
  [
    /not permitted|may not be opened|may not be read|read-only|not in a bpffs|cannot mount/,
    "NotPermitted",
  ],
  [/\bpin(s|ned)?\b/, "Pinned"],
  [/out of memory/, "OutOfMemory"],
];

function reasonOf({ reason, message = "" }: Terminated): Reason {
  if (reason === "OOMKilled") return "OutOfMemory";
  if (reason === "ContainerCannotRun" || reason === "StartError") return "NotPermitted";
  return SAID.find(([pattern]) => pattern.test(message))?.[1] ?? "Failing";
}

/** The line that says what failed: of an agent's log the last one before the remedy. */
function firstLine(message: string): string {
  const lines = message.trim().split("\n");
  const error = lines.findLast((line) => line.includes(" error: ") && !line.includes("to do: "));
  return (error?.replace(/^execve-counter: error: /, "") ?? lines[0] ?? "").slice(0, 256);
}

export function countsOf(verdicts: readonly Verdict[]): NodeCounts {
  const counts = { eligible: 0, counting: 0, starting: 0, failing: 0, unsupported: 0, excluded: 0 };
  for (const { state } of verdicts) {
    counts[state]++;
    if (state !== "unsupported" && state !== "excluded") counts.eligible++;
  }
  return counts;
}

/** The problems by reason, those of the most nodes first; bounded, however many nodes there are. */
export function problemsOf(verdicts: readonly Verdict[]): Problem[] {
  const groups = new Map<Reason, Verdict[]>();
  for (const verdict of verdicts) {
    if (!verdict.reason || verdict.state === "excluded" || verdict.state === "unsupported")
      continue;
    const group = groups.get(verdict.reason) ?? [];
    groups.set(verdict.reason, group);
    group.push(verdict);
  }
  return [...groups]
    .map(([reason, group]) => {
      const sorted = group.sort((a, b) => (a.node < b.node ? -1 : 1));
      const said = sorted.find(({ message }) => message)?.message;
      return {
        reason,
        nodes: group.length,
        examples: sorted.slice(0, MAX_EXAMPLES).map(({ node }) => node),
        message: `${said ? `${said}; ` : ""}to do: ${REASONS[reason]}`,
      };
    })
    .sort((a, b) => b.nodes - a.nodes || (a.reason < b.reason ? -1 : 1))
    .slice(0, MAX_PROBLEMS);
}
