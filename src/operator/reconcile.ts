/** Brings what there is of a resource to what it should be, and says in its status how it is. */
import { type Api, ApiError, isConflict, isMissing, MERGE, pathOf, pluralOf } from "./api.ts";
import type { Cache } from "./cache.ts";
import { keyOf } from "./cache.ts";
import {
  type Child,
  COMPONENT_LABEL,
  type Component,
  childrenOf,
  DIGEST_ANNOTATION,
  daemonSetName,
  holds,
  INSTANCE_LABEL,
  MANAGER,
  pinsOf,
  reservedName,
  surplusOf,
  unpinOf,
  wrongName,
} from "./children.ts";
import {
  type Answer,
  classify,
  isCanary,
  refusalOf,
  unsupportedFor,
  type Verdict,
} from "./nodes.ts";
import { API_VERSION, GROUP, PLURAL, type Resource, type Status } from "./resource.ts";
import { conditionOf, type Said, sameStatus, statusOf } from "./status.ts";
import type { DaemonSet, KubernetesObject, Node, Pod } from "./types.ts";

export const FINALIZER = `${GROUP}/unpin`;
/** The namespace of the operator that works on a resource: one in another namespace leaves it. */
export const OPERATOR_ANNOTATION = `${GROUP}/operator`;
/**
 * Milliseconds between two writes of a status, and between two looks while something changes; those
 * that the agents have to end, and those that unpin has on every node; and those after which an
 * object that was put right is not changed again by the same hand.
 */
export const TIMES = { status: 1000, look: 5000, end: 60_000, unpin: 120_000, calm: 60_000 };
/**
 * An object that has to be put right so often in a row is changed again and again by somebody else:
 * from then on it is put right after so many ms, twice as many each time.
 */
const FIGHT = { often: 10, first: 1000, most: 60_000 };
const WAIT_MS = 1000;
const REFUSED_MS = 60_000;
/** Where a node has what pods have as /pins. */
const PINS_ON_NODE = "/sys/fs/bpf/execve-counter";
/** Answers that pass, or that say nothing about what was asked; 0 where none came. */
const PASSING = [0, 401, 409, 429];
/** Kinds of which a resource may need an object no more. */
const PRUNED = ["DaemonSet", "PodMonitor", "PrometheusRule"];
/** How many nodes an event names. */
const NAMED = 10;

export interface World {
  readonly resources: Cache<Resource>;
  readonly nodes: Cache<Node>;
  readonly pods: Cache<Pod>;
  /** Of each kind of child, by "apps/v1 DaemonSet"; those of Prometheus only where it has them. */
  readonly children: Map<string, Cache<KubernetesObject>>;
  /** The operator's namespace. */
  readonly namespace: string;
  /** What the agent of a pod answered last. */
  answerOf(pod: Pod): Answer | "silent" | undefined;
  /** The digest of a watch list. */
  digestOf(resource: Resource): string;
}

interface Applied {
  digest: string | undefined;
  /** What became of it. */
  edition: string;
  /** How often it had to be put right in a row. */
  times: number;
  /** When it may be applied again, in ms of performance.now(). */
  next: number;
  /** Who had changed it. */
  by: string | undefined;
}

export type Tell = (
  resource: Resource,
  type: "Normal" | "Warning",
  reason: string,
  message: string,
) => void;

const kindOf = ({ apiVersion, kind }: Child) => `${apiVersion} ${kind}`;
const pathTo = ({ apiVersion, kind, metadata }: Child) =>
  pathOf(apiVersion, pluralOf(kind), metadata.namespace, metadata.name);
/** Changes with what an object should be, where its kind tells that from how it is. */
const editionOf = ({ metadata: { uid, generation, resourceVersion, labels } }: KubernetesObject) =>
  `${uid} ${generation ?? resourceVersion} ${JSON.stringify(labels)}`;
const isReady = ({ status }: Node) =>
  status?.conditions?.some((each) => each.type === "Ready" && each.status === "True") === true;

export class Reconciler {
  readonly #api: Api;
  readonly #world: World;
  readonly #tell: Tell;
  readonly #signal: AbortSignal;
  readonly #times: typeof TIMES;
  /** The status that was written last of each resource, which version that made, and when. */
  readonly #written = new Map<string, { status: Status; version: number; at: number }>();
  /** Since when a node has had no pod, by resource and node. */
  readonly #missing = new Map<string, Map<string, number>>();
  /**
   * When this operator first saw each phase of a deletion, by resource, in ms of
   * performance.now(): its clock and the API server's may differ.
   */
  readonly #phases = new Map<string, { ending: number; unpinning?: number }>();
  /** How each object was applied last, by resource and path. */
  readonly #applied = new Map<string, Map<string, Applied>>();
  /** Why pods of each DaemonSet are refused, and when that was asked. */
  readonly #refusals = new Map<string, { messages: Map<Component, string>; at: number }>();
  /** The verdicts of the last look, by resource. */
  readonly verdicts = new Map<string, readonly Verdict[]>();
  /** How many objects were applied and deleted. */
  writes = 0;

  /** @param signal ends every write that is under way: once another operator may lead */
  constructor(api: Api, world: World, tell: Tell, signal: AbortSignal, times: typeof TIMES) {
    this.#api = api;
    this.#world = world;
    this.#tell = tell;
    this.#signal = signal;
    this.#times = times;
  }

  /** Works on a resource; returns after how many ms it wants to look again. */
  async reconcile(key: string): Promise<number | undefined> {
    const resource = this.#world.resources.get(key);
    if (!resource) {
      this.#forget(key);
      return undefined;
    }
    const operator = resource.metadata.annotations?.[OPERATOR_ANNOTATION];
    if (operator !== undefined && operator !== this.#world.namespace) {
      this.#forget(key);
      const { namespace, name } = resource.metadata;
      const message = `the operator in the namespace ${operator} works on it, and this one in ${this.#world.namespace} does not; to do: uninstall one of them; where it is the other, run kubectl annotate ec ${name} -n ${namespace} ${OPERATOR_ANNOTATION}-`;
      this.#tell(resource, "Warning", "OtherOperator", message);
      return undefined;
    }
    if (resource.metadata.deletionTimestamp) return this.#finalize(resource);
    this.#phases.delete(key);
    const reserved = reservedName(resource);
    const paused = resource.spec.paused || reserved !== undefined;
    await this.#claim(resource, paused);

    const conflicts: string[] = [];
    const fights: (Applied & { what: string })[] = [];
    // Of what older API servers let pass.
    const wrong = paused ? undefined : wrongName(resource);
    const refused = reserved ?? wrong;
    let failed: unknown = refused && new ApiError(422, "Invalid", refused);
    const unpinning = this.#unpinPods(resource).length;
    if (!paused) {
      const children = childrenOf(resource, this.#around(resource));
      for (const child of children) {
        // The list that is there stays.
        if (wrong && child.kind === "ConfigMap") continue;
        // Those of an earlier resource would unpin what new agents pin.
        if (unpinning > 0 && child.kind === "DaemonSet") continue;
        try {
          const what = `${child.kind} ${child.metadata.name}`;
          const applied = await this.#apply(resource, child);
          if (applied === "taken") conflicts.push(what);
          else if (applied) fights.push({ what, ...applied });
        } catch (error) {
          // What the API server refuses is said; the rest need not suffer from it.
          if (!(error instanceof ApiError)) throw error;
          failed ??= error;
        }
      }
      if (unpinning > 0) {
        const message = `${unpinning} pods of an earlier ${resource.metadata.name} still unpin; agents are made once they are gone`;
        this.#tell(resource, "Normal", "StillUnpinning", message);
      }
      failed ??= await this.#prune(resource, children);
    }
    const verdicts = await this.#look(resource);
    const status = statusOf(
      {
        ...{ resource, verdicts, conflicts, now: new Date() },
        fights: fights.map(({ what, by }) => (by ? `${what} (by ${by})` : what)),
        daemonSets: this.#daemonSets(resource),
        failure: failed
          ? `${(failed as Error).message}; to do: correct the spec, or see the operator's log`
          : undefined,
        monitoring: this.#monitoring(resource),
        watchList: this.#watchList(resource),
      },
      this.#before(resource),
    );
    const wait = await this.#write(resource, status);
    // Else what is new would wait as long as what fails.
    if (wait !== undefined) return wait;
    if (failed) throw failed;
    if (fights.length > 0) {
      const waits = fights.map(({ next }) => next - performance.now());
      return Math.min(this.#times.look, ...waits.filter((ms) => ms > 0));
    }
    if (conflicts.length > 0 || (status.nodes?.starting ?? 0) > 0) return this.#times.look;
    // Nothing tells when a refusal comes, or is over.
    return verdicts.some(({ reason }) => reason === "NoPod" || reason === "NotPermitted")
      ? REFUSED_MS
      : undefined;
  }

  #forget(key: string): void {
    for (const map of [this.#missing, this.#phases, this.#refusals, this.verdicts]) map.delete(key);
    for (const map of [this.#applied, this.#written]) map.delete(key);
  }

  #around(resource: Resource) {
    const { children, namespace, resources } = this.#world;
    // The rules are the same for all: those of the oldest resource that wants them are enough.
    const [oldest] = [...resources.values()]
      .filter(
        ({ metadata, spec }) => !metadata.deletionTimestamp && spec.monitoring.mode === "Auto",
      )
      .sort((a, b) => ageOf(a).localeCompare(ageOf(b)));
    return {
      namespace,
      podMonitors: children.has("monitoring.coreos.com/v1 PodMonitor"),
      rules:
        children.has("monitoring.coreos.com/v1 PrometheusRule") &&
        oldest?.metadata.uid === resource.metadata.uid,
    };
  }

  /** @returns where it cannot be as it should be now: who has the name, or that it has to wait */
  async #apply(resource: Resource, child: Child): Promise<"taken" | Applied | undefined> {
    const { uid } = resource.metadata;
    const owned = (object: KubernetesObject) =>
      object.metadata.ownerReferences?.some((owner) => owner.uid === uid) === true;
    const digest = child.metadata.annotations?.[DIGEST_ANNOTATION];
    const path = pathTo(child);
    const all = this.#applied.get(keyOf(resource)) ?? new Map<string, Applied>();
    this.#applied.set(keyOf(resource), all);
    const last = all.get(path);
    const same = (object: KubernetesObject) =>
      owned(object) &&
      object.metadata.annotations?.[DIGEST_ANNOTATION] === digest &&
      (holds(object, child) || (last?.digest === digest && last?.edition === editionOf(object)));
    const cached = this.#world.children.get(kindOf(child))?.get(keyOf(child));
    if (cached && same(cached)) return this.#fought(last);
    const again = last?.digest === digest ? last : undefined;
    if (again && performance.now() < again.next) return again;
    // The cache has only what has the operator's label, and may be late.
    const there = await this.#get(path);
    if (there && !owned(there)) return "taken";
    if (there && same(there)) return this.#fought(last);
    // By its uid: what comes in its place meanwhile is not taken.
    const metadata = there?.metadata.uid
      ? { ...child.metadata, uid: there.metadata.uid }
      : child.metadata;
    this.writes++;
    let result: KubernetesObject = await this.#api.apply(
      path,
      { ...child, metadata },
      this.#signal,
    );
    const surplus = surplusOf(result, child);
    if (surplus) {
      const options = { body: surplus, type: MERGE, signal: this.#signal };
      result = await this.#api.request("PATCH", path, options);
    }
    const now = performance.now();
    const times = again && now < again.next + this.#times.calm ? again.times + 1 : 0;
    const wait =
      times < FIGHT.often ? 0 : Math.min(FIGHT.first * 2 ** (times - FIGHT.often), FIGHT.most);
    // What the API server writes in its own way is not applied again and again.
    const edition = editionOf(result);
    const applied = { ...{ digest, edition, times }, next: now + wait, by: otherOf(there) };
    all.set(path, applied);
    return this.#fought(applied);
  }

  /** What somebody else changed again and again until a moment ago. */
  #fought(applied: Applied | undefined): Applied | undefined {
    const isRecent = applied && performance.now() < applied.next + this.#times.calm;
    return isRecent && applied.times >= FIGHT.often ? applied : undefined;
  }

  async #get(path: string): Promise<KubernetesObject | undefined> {
    try {
      return await this.#api.request("GET", path, { signal: this.#signal });
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  /**
   * Deletes what is the resource's own, but not one of its children any more.
   *
   * @returns what the API server refused
   */
  async #prune(resource: Resource, wanted: readonly Child[]): Promise<ApiError | undefined> {
    let failed: ApiError | undefined;
    const keys = new Set(wanted.map((child) => `${kindOf(child)} ${keyOf(child)}`));
    for (const [kind, cache] of this.#world.children) {
      if (!PRUNED.some((each) => kind.endsWith(` ${each}`))) continue;
      for (const object of cache.values()) {
        if (keys.has(`${kind} ${keyOf(object)}`)) continue;
        const { ownerReferences, deletionTimestamp } = object.metadata;
        const owned = ownerReferences?.some(({ uid }) => uid === resource.metadata.uid);
        if (!owned || deletionTimestamp) continue;
        try {
          await this.#delete(kind, object);
        } catch (error) {
          if (!(error instanceof ApiError)) throw error;
          failed ??= error;
        }
      }
    }
    return failed;
  }

  async #delete(kind: string, { metadata }: KubernetesObject): Promise<void> {
    const [apiVersion = "", name = ""] = kind.split(" ");
    const path = pathOf(apiVersion, pluralOf(name), metadata.namespace, metadata.name);
    const body = { preconditions: { uid: metadata.uid }, propagationPolicy: "Background" };
    this.writes++;
    await this.#api.request("DELETE", path, { body, signal: this.#signal }).catch((error) => {
      if (!isMissing(error) && !isConflict(error)) throw error;
    });
  }

  #daemonSets(resource: Resource, ...components: Component[]): DaemonSet[] {
    const cache = this.#world.children.get("apps/v1 DaemonSet");
    const of = components.length > 0 ? components : (["meter", "canary"] as const);
    return of.flatMap((component) => {
      const name = daemonSetName(resource, component);
      const found = cache?.get(`${resource.metadata.namespace}/${name}`) as DaemonSet | undefined;
      return found?.metadata.ownerReferences?.some(({ uid }) => uid === resource.metadata.uid)
        ? [found]
        : [];
    });
  }

  /** The pods of each node, of a resource or of all others. */
  #podsByNode(resource: Resource): { own: Map<string, Pod[]>; others: Map<string, string> } {
    const own = new Map<string, Pod[]>();
    const others = new Map<string, string>();
    for (const pod of this.#world.pods.values()) {
      const node = nodeOf(pod);
      const { labels = {}, deletionTimestamp } = pod.metadata;
      if (!node || deletionTimestamp || labels[COMPONENT_LABEL] === "unpin") continue;
      if (isOf(resource, pod)) {
        own.set(node, [...(own.get(node) ?? []), pod]);
      } else {
        others.set(node, `${pod.metadata.namespace}/${labels[INSTANCE_LABEL]}`);
      }
    }
    return { own, others };
  }

  async #look(resource: Resource): Promise<readonly Verdict[]> {
    const key = keyOf(resource);
    const now = Date.now();
    const { own, others } = this.#podsByNode(resource);
    const missing = new Map<string, number>();
    const before = this.#missing.get(key);
    for (const { metadata } of this.#world.nodes.values()) {
      if (!own.has(metadata.name)) missing.set(metadata.name, before?.get(metadata.name) ?? now);
    }
    this.#missing.set(key, missing);
    const judge = (refusals?: Map<Component, string>) =>
      [...this.#world.nodes.values()].map((node) => {
        const { name, labels = {} } = node.metadata;
        const refusal = refusals?.get(isCanary(resource, labels) ? "canary" : "meter");
        const pods = own.get(name) ?? [];
        const seen = {
          ...{ pods, other: others.get(name), missing: now - (missing.get(name) ?? now), refusal },
          answer: pods[0] && this.#world.answerOf(pods[0]),
        };
        return classify(node, resource, seen, now);
      });
    let verdicts = judge();
    if (
      verdicts.some(
        ({ node, state, reason }) => !own.has(node) && (state === "starting" || reason === "NoPod"),
      )
    ) {
      const refusals = await this.#refusalsOf(resource, [...own.values()].flat());
      if (refusals.size > 0) verdicts = judge(refusals);
    }
    this.verdicts.set(key, verdicts);
    return verdicts;
  }

  /** What the API says where pods may not be made; asked every few seconds at most. */
  async #refusalsOf(resource: Resource, pods: readonly Pod[]): Promise<Map<Component, string>> {
    const key = keyOf(resource);
    const known = this.#refusals.get(key);
    if (known && performance.now() - known.at < this.#times.look) return known.messages;
    const messages = new Map<Component, string>();
    const path = pathOf("v1", "events", resource.metadata.namespace);
    for (const component of ["meter", "canary"] as const) {
      const [set] = this.#daemonSets(resource, component);
      if (!set) continue;
      const fieldSelector = `involvedObject.uid=${set.metadata.uid},reason=FailedCreate`;
      const { items } = await this.#api.request<{
        items: { message?: string; lastTimestamp?: string }[];
      }>("GET", path, { query: { fieldSelector, limit: 50 }, signal: this.#signal });
      const made = pods.filter(({ metadata }) => metadata.labels?.[COMPONENT_LABEL] === component);
      const message = refusalOf(items, made, Date.now());
      if (message) messages.set(component, message);
    }
    this.#refusals.set(key, { messages, at: performance.now() });
    return messages;
  }

  #monitoring({ spec }: Resource): Said {
    if (spec.monitoring.mode === "None") return ["False", "Off", "spec.monitoring.mode is None"];
    return this.#world.children.has("monitoring.coreos.com/v1 PodMonitor")
      ? ["True", "PodMonitor", "the Prometheus operator finds the agents by a PodMonitor"]
      : [
          "False",
          "NoPrometheusOperator",
          "the cluster has no PodMonitor; to do: install the Prometheus operator, or scrape the Service",
        ];
  }

  /** How many agents have the list; those that do not answer are not counted against it. */
  #watchList(resource: Resource): Said {
    const digest = this.#world.digestOf(resource);
    const { own } = this.#podsByNode(resource);
    const answers = [...own.values()].flat().map((pod) => this.#world.answerOf(pod));
    const told = answers.filter((answer) => typeof answer === "object");
    const applied = told.filter(({ list }) => list === digest).length;
    const names = `${resource.spec.watch.length} names`;
    if (told.length === 0) return ["Unknown", "NotAsked", "no agent has answered the operator yet"];
    return applied === answers.length
      ? ["True", "Applied", `${applied} agents count ${names}`]
      : [
          "False",
          "Spreading",
          `${applied} of ${answers.length} agents count ${names}; kubelet takes a minute or two; to do: after that, see the log of an agent`,
        ];
  }

  /** The status as it is in the cluster: until the cache has what was written, that. */
  #before(resource: Resource): Status | undefined {
    const last = this.#written.get(keyOf(resource));
    // As etcd numbers them, and as Kubernetes promises since 1.35. Equality would not do: what others
    // have changed in between is old, too. Where they are no numbers, what the cache has is taken,
    // which costs a write that changes nothing.
    const isOld = last && Number(resource.metadata.resourceVersion) < last.version;
    return isOld ? last.status : resource.status;
  }

  /** Writes a status that says something new; returns after how many ms, where that is too soon. */
  async #write(resource: Resource, status: Status): Promise<number | undefined> {
    const { uid = "", namespace, name } = resource.metadata;
    const last = this.#written.get(keyOf(resource));
    const before = this.#before(resource);
    if (sameStatus(before, status)) return undefined;
    const soon = this.#times.status - (performance.now() - (last?.at ?? -this.#times.status));
    if (soon > 0) return soon;
    const path = `${pathOf(`${GROUP}/${API_VERSION}`, PLURAL, namespace, name)}/status`;
    const options = { body: { metadata: { uid }, status }, type: MERGE, signal: this.#signal };
    let version: number;
    try {
      const { metadata } = await this.#api.request<KubernetesObject>("PATCH", path, options);
      version = Number(metadata.resourceVersion);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
    this.#written.set(keyOf(resource), { status, version, at: performance.now() });
    if (before?.flags !== undefined && before.flags !== status.flags) {
      const message = `counts begin anew on each node, with ${status.flags} in the place of ${before.flags}`;
      this.#tell(resource, "Normal", "BeganAnew", message);
    }
    const conflict = conflictOf(status);
    if (conflict && conflict !== conflictOf(before))
      this.#tell(resource, "Warning", "Conflict", conflict);
    return undefined;
  }

  /** Says that this operator works on the resource; one that is paused goes without unpinning. */
  async #claim(resource: Resource, paused: boolean): Promise<void> {
    const { finalizers = [], annotations = {} } = resource.metadata;
    const isHeld = paused || finalizers.includes(FINALIZER);
    if (isHeld && annotations[OPERATOR_ANNOTATION] !== undefined) return;
    await this.#patch(resource, {
      annotations: { [OPERATOR_ANNOTATION]: this.#world.namespace },
      ...(isHeld ? {} : { finalizers: [...finalizers, FINALIZER] }),
    });
  }

  /** Changes metadata, where nobody else has changed the resource meanwhile. */
  async #patch({ metadata }: Resource, change: object): Promise<void> {
    const { namespace, name, resourceVersion, uid } = metadata;
    const path = pathOf(`${GROUP}/${API_VERSION}`, PLURAL, namespace, name);
    const body = { metadata: { ...change, resourceVersion, uid } };
    await this.#api
      .request("PATCH", path, { body, type: MERGE, signal: this.#signal })
      .catch((error) => {
        if (!isMissing(error)) throw error;
      });
  }

  /** The pods that unpin, also those of an earlier resource of that name. */
  #unpinPods(resource: Resource): Pod[] {
    return [...this.#world.pods.values()].filter(
      (pod) => isOf(resource, pod) && pod.metadata.labels?.[COMPONENT_LABEL] === "unpin",
    );
  }

  /** Ends the counting on every node that can be reached, and lets the resource go. */
  async #finalize(resource: Resource): Promise<number | undefined> {
    const { finalizers = [] } = resource.metadata;
    if (!finalizers.includes(FINALIZER)) return undefined;
    if (resource.spec.onDelete === "Unpin") {
      const key = keyOf(resource);
      const phases = this.#phases.get(key) ?? { ending: performance.now() };
      this.#phases.set(key, phases);
      try {
        if (!(await this.#unpin(resource, phases))) return WAIT_MS;
      } catch (error) {
        // A namespace that is being deleted takes no DaemonSet, and waits for this resource.
        const refused = error instanceof ApiError && !PASSING.includes(error.code);
        const { end, unpin } = this.#times;
        if (!refused || performance.now() < phases.ending + end + unpin) throw error;
        const message = `nothing is unpinned: ${error.message}; ${remedyFor(resource)}`;
        this.#tell(resource, "Warning", "NotUnpinned", message);
      }
    }
    await this.#patch(resource, { finalizers: finalizers.filter((each) => each !== FINALIZER) });
    return undefined;
  }

  /** @returns whether it is done, or its time is over */
  async #unpin(
    resource: Resource,
    phases: { ending: number; unpinning?: number },
  ): Promise<boolean> {
    for (const set of this.#daemonSets(resource)) {
      if (!set.metadata.deletionTimestamp) await this.#delete("apps/v1 DaemonSet", set);
    }
    const nodes = [...this.#world.nodes.values()].filter(
      ({ metadata: { labels = {} } }) => !unsupportedFor(resource, labels),
    );
    const up = new Set(nodes.filter(isReady).map(({ metadata }) => metadata.name));
    // A pod that is being started would pin again what has been unpinned.
    const counting = new Set(
      [...this.#world.pods.values()]
        .filter((pod) => isOf(resource, pod) && pod.metadata.labels?.[COMPONENT_LABEL] !== "unpin")
        .map(nodeOf),
    );
    const waiting = [...counting].filter((node) => node !== undefined && up.has(node)).length;
    if (waiting > 0 && performance.now() < phases.ending + this.#times.end) {
      await this.#progress(resource, "Ending", `${waiting} agents have not ended yet`);
      return false;
    }
    phases.unpinning ??= performance.now();
    const child = unpinOf(resource);
    if ((await this.#apply(resource, child)) === "taken") {
      // It may be that of an earlier resource, which goes.
      const message = `others have ${child.kind} ${child.metadata.name}`;
      this.#tell(resource, "Warning", "Conflict", message);
    }
    const [set] = this.#daemonSets(resource, "unpin");
    const done = new Set(
      this.#unpinPods(resource)
        .filter(({ metadata, status }) => {
          const [container] = status?.containerStatuses ?? [];
          const { state, lastState } = container ?? {};
          return (
            set?.metadata.uid !== undefined &&
            metadata.ownerReferences?.some(({ uid }) => uid === set.metadata.uid) &&
            [state?.terminated, lastState?.terminated].some((end) => end?.exitCode === 0)
          );
        })
        .map(nodeOf)
        .filter((node) => !counting.has(node)),
    );
    const left = nodes.map(({ metadata }) => metadata.name).filter((name) => !done.has(name));
    const pending = left.filter((name) => up.has(name));
    if (pending.length > 0 && performance.now() < phases.unpinning + this.#times.unpin) {
      await this.#progress(
        resource,
        "Unpinning",
        `unpinned on ${done.size} of ${nodes.length} nodes`,
      );
      return false;
    }
    this.#tell(resource, "Normal", "Unpinned", `nothing counts any more on ${done.size} nodes`);
    if (left.length > 0) {
      const names = `${left.slice(0, NAMED).join(", ")}${left.length > NAMED ? ", …" : ""}`;
      const message = `${left.length} nodes could not be reached: ${names}; ${remedyFor(resource)}`;
      this.#tell(resource, "Warning", "NotUnpinned", message);
    }
    return true;
  }

  async #progress(resource: Resource, reason: string, message: string): Promise<void> {
    const before = this.#before(resource) ?? {};
    const { generation = 0 } = resource.metadata;
    const said: [string, Said] = ["Progressing", ["True", reason, message]];
    const others = (before.conditions ?? []).filter(({ type }) => type !== "Progressing");
    const condition = conditionOf(said, generation, before, new Date());
    await this.#write(resource, { ...before, conditions: [...others, condition] });
  }
}

const conflictOf = (status: Status | undefined) =>
  status?.conditions?.find((each) => each.type === "Conflict" && each.status === "True")?.message;

const remedyFor = (resource: Resource) =>
  `to do: on each node, run execve-counter unpin ${pinsOf(resource, PINS_ON_NODE)}, or reboot it`;

/** Whether a pod was made for the resource, by whatever DaemonSet. */
export function isOf({ metadata }: Resource, pod: Pod): boolean {
  const { namespace, labels = {} } = pod.metadata;
  return namespace === metadata.namespace && labels[INSTANCE_LABEL] === metadata.name;
}

/** Who else has changed an object last; undefined where that is not known. */
function otherOf(object: KubernetesObject | undefined): string | undefined {
  return object?.metadata.managedFields
    ?.filter(({ manager, subresource }) => manager !== MANAGER && !subresource)
    .sort((a, b) => `${a.time}`.localeCompare(`${b.time}`))
    .at(-1)?.manager;
}

const ageOf = ({ metadata }: Resource) => `${metadata.creationTimestamp} ${metadata.uid}`;

/** The node of a pod; of one that is not scheduled yet, the one that its DaemonSet made it for. */
export function nodeOf({ spec }: Pod): string | undefined {
  if (spec.nodeName) return spec.nodeName;
  const text = JSON.stringify(spec.affinity ?? {});
  return /"key":"metadata\.name","operator":"In","values":\["([^"]+)"\]/.exec(text)?.[1];
}
