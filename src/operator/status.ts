/** What the status of a resource says: a pure function of what the operator has seen. */
import { argsOf, flagsOf } from "./children.ts";
import type { DaemonSetManifest } from "./manifests.ts";
import { countsOf, problemsOf, type Verdict } from "./nodes.ts";
import type { Resource, Status } from "./resource.ts";
import type { Condition, DaemonSet } from "./types.ts";

export interface Observation {
  resource: Resource;
  verdicts: readonly Verdict[];
  daemonSets: readonly DaemonSet[];
  /** Objects that are not the resource's, but have a name that it needs: "Service a". */
  conflicts: readonly string[];
  /** Objects that somebody else changes again and again: "Service a (by b)". */
  fights: readonly string[];
  /** Why something could not be applied. */
  failure?: string | undefined;
  monitoring: Said;
  watchList: Said;
  now: Date;
}

/** A condition's status, reason and message. */
export type Said = [status: Condition["status"], reason: string, message: string];

/** The status after `before`: times change only with what they are about. */
export function statusOf(seen: Observation, before: Status = {}): Status {
  const { resource, verdicts, conflicts, fights, now } = seen;
  const { generation = 0 } = resource.metadata;
  const nodes = countsOf(verdicts);
  const problems = problemsOf(verdicts);
  const flags = flagsNow(seen) ?? before.flags;
  const isSame = before.flags === flags && before.countsSince !== undefined;
  const countsSince = isSame ? before.countsSince : timeOf(now);
  const said: Record<string, Said> = {
    Available:
      nodes.counting > 0
        ? ["True", "Counting", `${nodes.counting} of ${nodes.eligible} nodes count`]
        : nodes.eligible > 0
          ? ["False", "NoneCounts", `none of ${nodes.eligible} nodes counts; to do: see problems`]
          : [
              "False",
              "NoNodes",
              "no node is eligible; to do: see spec.nodeSelector and spec.tolerations",
            ],
    Progressing: progressOf(seen),
    Degraded: problems[0]
      ? [
          "True",
          problems[0].reason,
          problems
            .map(({ reason, nodes, examples, message }) => {
              const others = nodes > examples.length ? ", …" : "";
              return `${reason}: ${nodes} (${examples.join(", ")}${others}): ${message}`;
            })
            .join("\n"),
        ]
      : ["False", "NoProblem", "no node has a problem"],
    WatchListApplied: seen.watchList,
    MonitoringReady: seen.monitoring,
    Conflict:
      conflicts.length > 0
        ? [
            "True",
            "NameTaken",
            `not made, because others have an object of that name: ${conflicts.join(", ")}; to do: delete that object, or give the resource another name`,
          ]
        : fights.length > 0
          ? [
              "True",
              "ChangedByOthers",
              `changed by others again and again, and so put right less and less often: ${fights.join(", ")}; to do: end what changes it, or set spec.paused`,
            ]
          : ["False", "NoConflict", "all objects are the resource's own"],
  };
  return {
    observedGeneration: generation,
    ...(flags === undefined ? {} : { flags, countsSince }),
    nodes,
    problems,
    conditions: [
      ...Object.entries(said).map((each) => conditionOf(each, generation, before, now)),
      ...(resource.status?.conditions ?? []).filter(({ type }) => !(type in said)),
    ],
  };
}

/** The flags of the agents: those of the spec once they are applied, else those that are there. */
function flagsNow({ resource, failure, conflicts, daemonSets }: Observation): string | undefined {
  const isTaken = conflicts.some((each) => each.startsWith("DaemonSet "));
  if (!resource.spec.paused && !failure && !isTaken) return flagsOf(argsOf(resource));
  const [set] = daemonSets as Partial<DaemonSetManifest>[];
  return set && flagsOf(set.spec?.template.spec.containers[0].args ?? []);
}

const timeOf = (date: Date) => date.toISOString().replace(/\.\d+Z$/, "Z");

/** A condition as the API has it, with the time at which its status changed. */
export function conditionOf(
  [type, [status, reason, message]]: [string, Said],
  generation: number,
  before: Status,
  now: Date,
): Condition {
  const old = before.conditions?.find((each) => each.type === type);
  const same = old?.status === status;
  return {
    ...{ type, status, reason, message: message.slice(0, 4096), observedGeneration: generation },
    lastTransitionTime: same ? old.lastTransitionTime : timeOf(now),
  };
}

function progressOf({ resource, verdicts, daemonSets, failure }: Observation): Said {
  if (failure) return ["False", "ApplyFailed", failure];
  if (resource.spec.paused) {
    return ["False", "Paused", "nothing is changed; to do: set spec.paused to false"];
  }
  let [updated, desired] = [0, 0];
  for (const { metadata, status = {} } of daemonSets) {
    const { desiredNumberScheduled = 0, updatedNumberScheduled = 0 } = status;
    desired += desiredNumberScheduled;
    // Until the controller has seen the change, its numbers are about what was before.
    if (status.observedGeneration === metadata.generation) updated += updatedNumberScheduled;
  }
  const { starting } = countsOf(verdicts);
  return updated < desired || starting > 0
    ? [
        "True",
        "RollingOut",
        `${updated} of ${desired} pods are of the present form, ${starting} nodes are starting`,
      ]
    : ["False", "Complete", `all ${desired} pods are of the present form`];
}

/** Whether two statuses say the same. */
export function sameStatus(one: Status | undefined, other: Status): boolean {
  const sorted = (value: unknown): unknown =>
    Array.isArray(value)
      ? value.map(sorted)
      : value && typeof value === "object"
        ? Object.entries(value)
            .sort()
            .map(([key, each]) => [key, sorted(each)])
        : value;
  return JSON.stringify(sorted(one)) === JSON.stringify(sorted(other));
}
