/** What the operator tells Prometheus: controller-runtime's names, so its dashboards work, and its own. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Cache } from "./cache.ts";
import type { Verdict } from "./nodes.ts";
import type { Queue, Work } from "./queue.ts";
import { PLURAL } from "./resource.ts";
import type { KubernetesObject } from "./types.ts";

/** What is read at each scrape. */
export interface Sources {
  queue: Queue;
  caches: () => Iterable<Cache<KubernetesObject>>;
  verdicts: () => ReadonlyMap<string, readonly Verdict[]>;
  writes: () => number;
  leads: () => boolean;
}

const controller = PLURAL;
const TYPE = Registry.PROMETHEUS_CONTENT_TYPE;
export const METRICS_TYPE: string = TYPE;

export class OperatorMetrics {
  readonly #registry = new Registry();
  readonly #reconciles: Counter;
  readonly #errors: Counter;
  readonly #times: Histogram;
  readonly #waits: Histogram;
  readonly #works: Histogram;

  constructor(sources: Sources) {
    const registers = [this.#registry];
    collectDefaultMetrics({ register: this.#registry });
    const counter = (name: string, help: string, labelNames: string[]) =>
      new Counter({ name, help, labelNames, registers });
    const histogram = (name: string, help: string, labelNames: string[]) =>
      new Histogram({
        name,
        help,
        labelNames,
        registers,
        buckets: [0.001, 0.01, 0.03, 0.1, 0.2, 0.5, 1, 5, 30],
      });
    const family = (name: string, help: string, read: () => [Record<string, string>, number][]) => {
      const labelNames = ["controller", "name", "namespace", "state", "reason", "path"];
      const common = { name, help, labelNames, registers };
      // A counter whose value is kept elsewhere is set anew at each scrape, too.
      const fill = function (this: Counter | Gauge) {
        this.reset();
        for (const [labels, value] of read()) this.inc(labels, value);
      };
      if (name.endsWith("_total")) new Counter({ ...common, collect: fill });
      else new Gauge({ ...common, collect: fill });
    };
    this.#reconciles = counter(
      "controller_runtime_reconcile_total",
      "Reconciliations, by result.",
      ["controller", "result"],
    );
    this.#errors = counter(
      "controller_runtime_reconcile_errors_total",
      "Reconciliations that failed.",
      ["controller"],
    );
    this.#times = histogram(
      "controller_runtime_reconcile_time_seconds",
      "Duration of reconciliations.",
      ["controller"],
    );
    this.#waits = histogram(
      "workqueue_queue_duration_seconds",
      "How long a resource waits for its turn.",
      ["name"],
    );
    this.#works = histogram(
      "workqueue_work_duration_seconds",
      "How long the work on a resource takes.",
      ["name"],
    );
    const { queue } = sources;
    const name = { name: controller };
    family("controller_runtime_active_workers", "Resources that are worked on.", () => [
      [{ controller }, queue.busy],
    ]);
    family("workqueue_depth", "Resources that wait for their turn.", () => [[name, queue.depth]]);
    family("workqueue_adds_total", "How often a resource was put into the queue.", () => [
      [name, queue.adds],
    ]);
    family("workqueue_retries_total", "How often work that failed was tried again.", () => [
      [name, queue.retries],
    ]);
    family("leader_election_master_status", "Whether this operator leads.", () => [
      [name, sources.leads() ? 1 : 0],
    ]);
    family("execve_counter_operator_writes_total", "Objects that were applied or deleted.", () => [
      [{}, sources.writes()],
    ]);
    family(
      "execve_counter_operator_watch_silence_seconds",
      "How long nothing has come from a watch.",
      () =>
        [...sources.caches()].map(({ path, heard }) => [
          { path },
          (performance.now() - heard) / 1000,
        ]),
    );
    const byResource = (label: "state" | "reason") => () =>
      [...sources.verdicts()].flatMap(([key, verdicts]) => {
        const [namespace = "", name = ""] = key.split("/");
        const counts = new Map<string, number>();
        for (const { [label]: value } of verdicts) {
          if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
        }
        return [...counts].map(([value, count]): [Record<string, string>, number] => [
          { namespace, name, [label]: value },
          count,
        ]);
      });
    family("execve_counter_operator_nodes", "Nodes, by whether they count.", byResource("state"));
    family(
      "execve_counter_operator_problem_nodes",
      "Nodes, by why they do not count.",
      byResource("reason"),
    );
  }

  observe({ waited, took, result }: Work): void {
    this.#reconciles.inc({ controller, result });
    if (result === "error") this.#errors.inc({ controller });
    this.#times.observe({ controller }, took);
    this.#waits.observe({ name: controller }, waited);
    this.#works.observe({ name: controller }, took);
  }

  render(): Promise<string> {
    return this.#registry.metrics();
  }
}
