/** The operator: watches the cluster, and works on the resources one by one, while it leads. */
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { listDigest } from "../base/digest.ts";
import { ExitCode, UserError } from "../base/errors.ts";
import { createLog, type Level, type Log } from "../base/log.ts";
import { type Address, type Page, serve, TEXT } from "../http/server.ts";
import { Agents } from "./agents.ts";
import { type Api, ApiError, connect, isMissing, pathOf, pluralOf, remedyOf } from "./api.ts";
import { Cache, type CacheOptions, keyOf } from "./cache.ts";
import { INSTANCE_LABEL, MANAGED_LABEL, MANAGER } from "./children.ts";
import { slim, slimNode, slimPod } from "./keep.ts";
import { Leadership } from "./lease.ts";
import { METRICS_TYPE, OperatorMetrics } from "./metrics.ts";
import { Queue } from "./queue.ts";
import { Reconciler, type Tell, TIMES, type World } from "./reconcile.ts";
import { API_VERSION, GROUP, KIND, PLURAL, type Resource } from "./resource.ts";
import type { KubernetesObject, Node, Pod } from "./types.ts";

export interface OperatorOptions {
  kubeconfig?: string;
  addresses: readonly Address[];
  logLevel: Level;
}

const CHILDREN = [
  ...["v1 ServiceAccount", "v1 ConfigMap", "v1 Service"],
  ...["networking.k8s.io/v1 NetworkPolicy", "apps/v1 DaemonSet"],
];
const PROMETHEUS = [
  "monitoring.coreos.com/v1 PodMonitor",
  "monitoring.coreos.com/v1 PrometheusRule",
];
/** Of the operator's objects, and of their pods. */
const OURS = `${MANAGED_LABEL}=${MANAGER}`;
/** Milliseconds for which changes of nodes and pods are gathered. */
const GATHER_MS = 300;
const ASK_MS = 2500;
/**
 * Milliseconds between two looks for the Prometheus operator; those after which a watch that says
 * nothing makes the operator unready, and unhealthy; and those for which work under way may go on
 * after the stop, in which no other one can lead.
 */
const ALL_TIMES = { ...TIMES, discover: 60_000, silent: 180_000, stuck: 300_000, finish: 4000 };
/** Milliseconds for which the same event is not told again. */
const EVENT_MS = 600_000;

/**
 * Runs until `stop` resolves.
 *
 * @throws UserError where it cannot start, or has lost its Lease
 */
export async function operate(options: OperatorOptions, stop: Promise<void>): Promise<void> {
  const log = createLog(options.logLevel);
  const { api, namespace } = await connect(options.kubeconfig);
  const operator = new Operator(api, namespace, log);
  const web = await serve(options.addresses, operator.pages, (error) => log.error(`${error}`));
  for (const origin of web.origins) log.info(`metrics at ${origin}/metrics`);
  try {
    await operator.run(stop);
  } finally {
    web.close();
    api.close();
  }
}

export class Operator {
  readonly #api: Api;
  readonly #log: Log;
  readonly #namespace: string;
  readonly #times: typeof ALL_TIMES;
  /** Ends what only a leader may do. */
  readonly #end = new AbortController();
  readonly #agents = new Agents();
  readonly #queue: Queue;
  readonly #reconciler: Reconciler;
  readonly #metrics: OperatorMetrics;
  readonly #world: World;
  readonly #caches = new Map<string, Cache<KubernetesObject>>();
  /** What was logged last of a path or resource: the same is not logged again. */
  readonly #logged = new Map<string, string>();
  readonly #told = new Map<string, number>();
  readonly #digests = new WeakMap<object, string>();
  #leads = false;
  #synced = false;

  /** @param times those that shall be others, for tests */
  constructor(api: Api, namespace: string, log: Log, times: Partial<typeof ALL_TIMES> = {}) {
    this.#times = { ...ALL_TIMES, ...times };
    this.#api = api;
    this.#log = log;
    this.#namespace = namespace;
    const children = new Map<string, Cache<KubernetesObject>>();
    const ofCluster = `${GROUP}/${API_VERSION}`;
    const add = <T extends KubernetesObject>(
      name: string,
      more: Omit<CacheOptions<T>, "onError" | "onWell">,
    ) => {
      const onError = (path: string, error: ApiError) => this.#logError(path, error);
      const onWell = (path: string) => void this.#logged.delete(path);
      const cache = new Cache<T>(api, { ...more, onError, onWell });
      this.#caches.set(name, cache as unknown as Cache<KubernetesObject>);
      return cache;
    };
    this.#addChild = (kind) => {
      const [apiVersion = "", name = ""] = kind.split(" ");
      const cache = add<KubernetesObject>(kind, {
        path: pathOf(apiVersion, pluralOf(name)),
        ...{ labelSelector: OURS, keep: slim },
        onChange: (object) => {
          for (const key of new Set([controllerOf(object), ownerOf(object)])) this.#add(key, 0);
          // Another resource may be the one that has the rules.
          if (name === "PrometheusRule") this.#addAll(0);
        },
        ...(PROMETHEUS.includes(kind)
          ? {
              onMissing: () => {
                for (const map of [children, this.#caches]) map.delete(kind);
                this.#addAll(0);
              },
            }
          : {}),
      });
      children.set(kind, cache);
      return cache;
    };
    this.#world = {
      ...{ namespace, children },
      resources: add<Resource>("resources", {
        ...{ path: pathOf(ofCluster, PLURAL), keep: slim },
        onChange: (object, gone) => {
          this.#add(keyOf(object), 0);
          // The next oldest one gets the rules.
          if (gone) this.#addAll(0);
        },
      }),
      nodes: add<Node>("nodes", {
        ...{ path: pathOf("v1", "nodes"), keep: slimNode },
        onChange: () => this.#addAll(GATHER_MS),
      }),
      pods: add<Pod>("pods", {
        ...{ path: pathOf("v1", "pods"), labelSelector: OURS, keep: slimPod },
        onChange: (pod) => this.#add(ownerOf(pod), GATHER_MS),
      }),
      answerOf: (pod) => this.#agents.answerOf(pod),
      digestOf: ({ spec }) => {
        // Asked for each pod: of a long list it is worth keeping.
        const digest = this.#digests.get(spec) ?? listDigest(spec.watch);
        this.#digests.set(spec, digest);
        return digest;
      },
    };
    for (const kind of CHILDREN) this.#addChild(kind);
    this.#reconciler = new Reconciler(api, this.#world, this.#tell, this.#end.signal, this.#times);
    this.#queue = new Queue(
      (key) => this.#reconciler.reconcile(key),
      (key, work, error) => {
        this.#metrics.observe(work);
        if (error && !this.#end.signal.aborted) this.#logError(key, error);
        if (!error) this.#logged.delete(key);
      },
    );
    this.#metrics = new OperatorMetrics({
      queue: this.#queue,
      caches: () => this.#caches.values(),
      verdicts: () => this.#reconciler.verdicts,
      writes: () => this.#reconciler.writes,
      leads: () => this.#leads,
    });
  }

  readonly #addChild: (kind: string) => Cache<KubernetesObject>;

  /** Its pages: metrics, health and readiness. */
  get pages(): Map<string, Page> {
    const page = (problem: () => string | undefined): Page => ({
      types: [TEXT],
      make: () => {
        const found = problem();
        return found ? { status: 503, body: `${found}\n` } : { body: "ok\n" };
      },
    });
    const metrics = {
      types: [METRICS_TYPE],
      make: async () => ({ body: await this.#metrics.render() }),
    };
    return new Map([
      ["/metrics", metrics],
      ["/healthz", page(() => this.#silent("tried", this.#times.stuck))],
      ["/readyz", page(() => this.#unready())],
    ]);
  }

  #unready(): string | undefined {
    if (!this.#leads) return undefined; // it waits for its turn
    return this.#synced ? this.#silent("heard", this.#times.silent) : "the lists are not read yet";
  }

  /** Which watch has had no answer, or made no try, for so many ms. */
  #silent(since: "heard" | "tried", ms: number): string | undefined {
    if (!this.#leads) return undefined;
    for (const cache of this.#caches.values()) {
      const last = Math.max(cache[since], since === "tried" ? cache.heard : 0);
      if (performance.now() - last > ms) return `the watch of ${cache.path} is silent`;
    }
    return undefined;
  }

  async run(stop: Promise<void>): Promise<void> {
    const ended = new AbortController();
    void stop.then(() => ended.abort());
    const identity = `${hostname()}_${randomBytes(4).toString("hex")}`;
    const leadership = new Leadership(this.#api, this.#namespace, identity, (error) =>
      error ? this.#logError("lease", error) : this.#logged.delete("lease"),
    );
    this.#log.info(`waits for the lead, as ${identity}`);
    if (!(await leadership.acquire(ended.signal))) return;
    this.#leads = true;
    this.#log.info("leads");
    for (const cache of this.#caches.values()) this.#follow(cache);
    const timers = [
      setInterval(() => void this.#ask(), ASK_MS),
      setInterval(() => void this.#discover(), this.#times.discover),
    ];
    void this.#start();
    await leadership.keep(ended.signal);
    const lost = !ended.signal.aborted;
    for (const timer of timers) clearInterval(timer);
    this.#leads = false;
    // What is under way is finished, but where another one may lead already.
    if (lost) this.#end.abort();
    const late = setTimeout(() => this.#end.abort(), this.#times.finish);
    await this.#queue.close();
    clearTimeout(late);
    this.#end.abort();
    if (!lost) {
      await leadership.release();
      this.#log.info("stopped");
      return;
    }
    throw new UserError(
      "the Lease could not be renewed, so another operator may lead",
      "start it again, which Kubernetes does by itself; see whether the API server can be reached",
      ExitCode.failed,
    );
  }

  /** Works on all resources once everything is known: before, what is there would seem missing. */
  async #start(): Promise<void> {
    await this.#discover();
    await Promise.all([...this.#caches.values()].map(({ ready }) => ready));
    this.#synced = true;
    this.#log.info("knows the cluster");
    this.#addAll(0);
  }

  #follow(cache: Cache<KubernetesObject>): void {
    cache.run(this.#end.signal).catch((error) => this.#log.error(`${cache.path}: ${error.stack}`));
  }

  /** Looks whether the cluster has the Prometheus operator by now. */
  async #discover(): Promise<void> {
    for (const kind of PROMETHEUS.filter((each) => !this.#caches.has(each))) {
      const [apiVersion = "", name = ""] = kind.split(" ");
      try {
        await this.#api.request("GET", pathOf(apiVersion, pluralOf(name)), { query: { limit: 1 } });
        this.#logged.delete(kind);
      } catch (error) {
        if (isMissing(error)) this.#logged.delete(kind);
        else this.#logError(kind, error);
        continue;
      }
      if (this.#caches.has(kind)) continue;
      const cache = this.#addChild(kind);
      this.#follow(cache);
      await cache.ready;
      this.#addAll(0);
    }
  }

  #asking = false;
  async #ask(): Promise<void> {
    if (this.#asking || !this.#synced) return;
    this.#asking = true;
    const { pods, resources, digestOf } = this.#world;
    const changed = await this.#agents.ask([...pods.values()], (pod) => {
      const resource = resources.get(ownerOf(pod));
      return resource && digestOf(resource);
    });
    for (const pod of changed) this.#add(ownerOf(pod), GATHER_MS);
    this.#asking = false;
  }

  #add(key: string, ms: number): void {
    if (!this.#synced) return;
    if (ms > 0) this.#queue.addAfter(key, ms);
    else this.#queue.add(key);
  }

  #addAll(ms: number): void {
    for (const resource of this.#world.resources.values()) this.#add(keyOf(resource), ms);
  }

  readonly #tell: Tell = (resource, type, reason, message) => {
    const { namespace = "", name, uid = "" } = resource.metadata;
    const key = `${uid} ${reason} ${message}`;
    const last = this.#told.get(key);
    if (last !== undefined && performance.now() - last < EVENT_MS) return;
    for (const [old, at] of this.#told)
      if (performance.now() - at > EVENT_MS) this.#told.delete(old);
    this.#told.set(key, performance.now());
    this.#log[type === "Normal" ? "info" : "warn"](`${namespace}/${name}: ${reason}: ${message}`);
    const time = new Date().toISOString().replace(/\.\d+Z$/, "Z");
    const body = {
      ...{
        apiVersion: "v1",
        kind: "Event",
        type,
        reason,
        message: message.slice(0, 1024),
        count: 1,
      },
      metadata: { name: `${name}.${randomBytes(8).toString("hex")}`, namespace },
      involvedObject: { apiVersion: `${GROUP}/${API_VERSION}`, kind: KIND, namespace, name, uid },
      ...{ source: { component: MANAGER }, firstTimestamp: time, lastTimestamp: time },
    };
    this.#api
      .request("POST", pathOf("v1", "events", namespace), { body, signal: this.#end.signal })
      .then(
        () => this.#logged.delete("events"),
        (error) => this.#logError("events", error),
      );
  };

  #logError(about: string, error: unknown): void {
    const known = error instanceof ApiError;
    const text = known ? error.message : `${(error as Error).stack ?? error}`;
    if (this.#logged.get(about) === text) return;
    this.#logged.set(about, text);
    for (const line of `${about}: ${text}`.split("\n")) this.#log.error(line);
    const remedy = known ? remedyOf(error) : undefined;
    if (remedy) this.#log.error(`to do: ${remedy}`);
  }
}

/** The key of the resource that has an object, whatever its labels say. */
function controllerOf(object: KubernetesObject): string {
  const { namespace = "", ownerReferences } = object.metadata;
  const owner = ownerReferences?.find(({ controller, kind }) => controller && kind === KIND);
  return owner ? `${namespace}/${owner.name}` : ownerOf(object);
}

/** The key of the resource that an object was made for. */
function ownerOf({ metadata: { namespace = "", labels = {} } }: KubernetesObject): string {
  return `${namespace}/${labels[INSTANCE_LABEL]}`;
}
