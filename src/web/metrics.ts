/** The exposition: a Snapshot in the formats of Prometheus. */
import { collectDefaultMetrics, type Metric, Registry } from "prom-client";
import type { Breakdown, RowName, Snapshot } from "../counts/snapshot.ts";

/** The formats of /metrics; the first is the default. */
export const CONTENT_TYPES = [
  Registry.PROMETHEUS_CONTENT_TYPE,
  Registry.OPENMETRICS_CONTENT_TYPE,
] as const;
export type ContentType = (typeof CONTENT_TYPES)[number];

/** What a scrape has besides the counts. */
export interface Agent {
  version: string;
  nodeVersion: string;
  libbpfVersion: string;
  /** Reads of the maps that failed since the agent started. */
  readErrors: number;
  /** How --watch-file was read last, and when it was last taken over, in seconds since 1970. */
  watchFile?: { successful: boolean; successTime: number } | undefined;
}

type Sample = [labels: Record<string, string>, value: bigint | number];

interface Family {
  name: string;
  type: "counter" | "gauge";
  help: string;
  samples: (snapshot: Snapshot, agent: Agent) => Sample[];
}

const EXECS = "execve_counter_execs_total";

const FAMILIES: readonly Family[] = [
  {
    name: "execve_counter_attempts_total",
    type: "counter",
    help: "Calls of execve and execveat that entered the kernel, failed ones included.",
    samples: ({ attempts }) =>
      attempts
        ? [
            [{ syscall: "execve" }, attempts.execve],
            [{ syscall: "execveat" }, attempts.execveat],
          ]
        : [],
  },
  {
    name: "execve_counter_missed_total",
    type: "counter",
    help: "Runs of a program that the kernel skipped, where it reports them (recursion_misses).",
    samples: ({ programs }) =>
      programs.flatMap(({ name, misses }) =>
        misses === undefined ? [] : [[{ program: name }, misses]],
      ),
  },
  {
    name: EXECS,
    type: "counter",
    help: "Programs started: calls that succeeded.",
    // Its samples are put in as text.
    samples: () => [],
  },
  {
    name: "execve_counter_overflow_total",
    type: "counter",
    help: "Execs that found no room for a row of their own, and count as other.",
    samples: ({ by, noRoom }) => (by.length > 0 ? [[{}, noRoom]] : []),
  },
  {
    name: "execve_counter_retired_rows_total",
    type: "counter",
    help: "Rows of containers and units that have ended; their execs are in the series retired.",
    samples: ({ retired }) => (retired === undefined ? [] : [[{}, retired]]),
  },
  {
    name: "execve_counter_failures_total",
    type: "counter",
    help: "Calls of execve and execveat that returned an error.",
    samples: ({ failures }) =>
      Object.entries(failures ?? {}).flatMap(([syscall, counts]) =>
        [...counts].map(([errno, count]): Sample => [{ syscall, errno }, count]),
      ),
  },
  {
    name: "execve_counter_checks_total",
    type: "counter",
    help: "Calls of execveat with AT_EXECVE_CHECK that returned 0.",
    samples: ({ checks }) => (checks === undefined ? [] : [[{}, checks]]),
  },
  {
    name: "execve_counter_unfollowed_total",
    type: "counter",
    help: "Calls not followed for lack of room: a late failure may be counted under the other call.",
    samples: ({ unfollowed }) => (unfollowed === undefined ? [] : [[{}, unfollowed]]),
  },
  {
    name: "execve_counter_watched_total",
    type: "counter",
    help: "Execs of a watched command.",
    samples: ({ watched }) => [...watched].map(([command, count]) => [{ command }, count]),
  },
  {
    name: "execve_counter_watch_file_last_reload_successful",
    type: "gauge",
    help: "Whether the file of --watch-file, as it is now, is the watch list.",
    samples: (_, { watchFile }) => (watchFile ? [[{}, watchFile.successful ? 1 : 0]] : []),
  },
  {
    name: "execve_counter_watch_file_last_reload_success_timestamp_seconds",
    type: "gauge",
    help: "When the file of --watch-file was last taken over, in seconds since 1970.",
    samples: (_, { watchFile }) => (watchFile ? [[{}, watchFile.successTime]] : []),
  },
  {
    name: "execve_counter_cgroup_present",
    type: "gauge",
    help: "Whether the control group of --cgroup is there: else nothing counts.",
    samples: ({ cgroup }) => (cgroup ? [[{ cgroup: cgroup.path }, cgroup.present ? 1 : 0]] : []),
  },
  {
    name: "execve_counter_cgroup_recreated_total",
    type: "counter",
    help: "How often the control group of --cgroup was removed and made again.",
    samples: ({ cgroup }) => (cgroup ? [[{ cgroup: cgroup.path }, cgroup.recreated]] : []),
  },
  {
    name: "execve_counter_table_entries",
    type: "gauge",
    help: "Entries in use in a table of the kernel.",
    samples: ({ tables }) => tables.map(({ name, entries }) => [{ table: name }, entries]),
  },
  {
    name: "execve_counter_table_capacity",
    type: "gauge",
    help: "Entries that a table of the kernel has room for.",
    samples: ({ tables }) => tables.map(({ name, capacity }) => [{ table: name }, capacity]),
  },
  {
    name: "execve_counter_start_time_seconds",
    type: "gauge",
    help: "When these counts began, in seconds since 1970.",
    samples: ({ startTime }) => [[{}, startTime.getTime() / 1000]],
  },
  {
    name: "execve_counter_program_attached",
    type: "gauge",
    help: "1 for each program attached to its hook.",
    samples: ({ programs }) => programs.map(({ name, hook }) => [{ program: name, hook }, 1]),
  },
  {
    name: "execve_counter_program_run_count_total",
    type: "counter",
    help: "Runs of a program, while the sysctl kernel.bpf_stats_enabled is 1.",
    samples: ({ programs }) => programs.map(({ name, runCount }) => [{ program: name }, runCount]),
  },
  {
    name: "execve_counter_program_run_time_seconds_total",
    type: "counter",
    help: "Time spent in a program, while the sysctl kernel.bpf_stats_enabled is 1.",
    samples: ({ programs }) =>
      programs.map(({ name, runTime }) => [{ program: name }, Number(runTime) / 1e9]),
  },
  {
    name: "execve_counter_read_duration_seconds",
    type: "gauge",
    help: "How long the read behind this scrape took.",
    samples: ({ readDuration }) => [[{}, readDuration]],
  },
  {
    name: "execve_counter_read_errors_total",
    type: "counter",
    help: "Reads of the kernel's maps that failed since the agent started.",
    samples: (_, { readErrors }) => [[{}, readErrors]],
  },
  {
    name: "execve_counter_build_info",
    type: "gauge",
    help: "1, labelled with versions.",
    samples: (_, { version, nodeVersion, libbpfVersion }) => [
      [{ version, node_version: nodeVersion, libbpf_version: libbpfVersion }, 1],
    ],
  },
];

/**
 * prom-client's metrics of the process (process_*, nodejs_*), collected from the
 * moment this is called; without the three gauges whose names end in _total,
 * which promtool refuses.
 */
export function observeProcess(): Registry {
  const registry = new Registry();
  // Sampled once a second: the default of 10 ms wakes an idle agent too often.
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 1000 });
  for (const name of ["handles", "requests", "resources"]) {
    registry.removeSingleMetric(`nodejs_active_${name}_total`);
  }
  return registry;
}

/** Rows in a piece: few enough to be made in a millisecond or two. */
const PIECE_ROWS = 512;

export class Exposition {
  readonly #process: Registry;

  constructor(process: Registry) {
    this.#process = process;
  }

  /**
   * The whole exposition, of one snapshot, in pieces. Prometheus keeps samples as 64-bit floats, so this is
   * where a count beyond 2^53 is rounded.
   */
  async render(
    contentType: ContentType,
    snapshot: Snapshot,
    agent: Agent,
  ): Promise<Iterable<string>> {
    const text = await this.#withoutRows(contentType, snapshot, agent);
    // No value of a label has a line feed, so this is the family's own line.
    const [type] = /^# TYPE execve_counter_execs.*\n/m.exec(text) as RegExpExecArray;
    const at = text.indexOf(type) + type.length;
    return (function* () {
      yield text.slice(0, at);
      yield* rowsAsText(snapshot.breakdown);
      yield text.slice(at);
    })();
  }

  /** All but the samples of EXECS. */
  #withoutRows(contentType: ContentType, snapshot: Snapshot, agent: Agent): Promise<string> {
    const registry = new Registry<ContentType>();
    registry.setContentType(contentType);
    for (const { name, type, help, samples } of FAMILIES) {
      const values = samples(snapshot, agent).map(([labels, value]) => ({
        labels,
        value: Number(value),
      }));
      // Not prom-client's Counter and Gauge, which look each sample up as they take it:
      // here all are new.
      const family = {
        ...{ name, help, type },
        get() {
          return Promise.resolve({ name: this.name, help, type, values });
        },
      };
      registry.registerMetric(family as unknown as Metric);
    }
    for (const metric of this.#process.getMetricsAsArray()) {
      // A stand-in for each, because rendering OpenMetrics renames counters for good.
      registry.registerMetric(Object.create(metric));
    }
    return registry.metrics();
  }
}

/** The samples of EXECS, in pieces. Rows with the same labels are one. */
function* rowsAsText({ names, counts, namesakes }: Breakdown): Generator<string> {
  let piece = "";
  const sums = new Map<string, bigint>();
  for (let i = 0; i < names.length; i++) {
    const name = names[i] as RowName;
    name.text ??= labelsAsText(name.labels);
    const count = counts[i] as bigint;
    if (namesakes) sums.set(name.text, (sums.get(name.text) ?? 0n) + count);
    else piece += `${EXECS}${name.text} ${Number(count)}\n`;
    if (i % PIECE_ROWS > 0) continue;
    yield piece;
    piece = "";
  }
  for (const [labels, sum] of sums) piece += `${EXECS}${labels} ${Number(sum)}\n`;
  yield piece;
}

/** `{command="sh",user="root"}` */
function labelsAsText(labels: RowName["labels"]): string {
  const pairs = Object.entries(labels).map(([label, value]) => {
    const escaped = value.replace(/[\\"\n]/g, (each) => (each === "\n" ? "\\n" : `\\${each}`));
    return `${label}="${escaped}"`;
  });
  return pairs.length > 0 ? `{${pairs.join()}}` : "";
}
