/** The agent: ties the kernel to what shows the numbers, until told to stop. */
import { hostname } from "node:os";
import { isatty } from "node:tty";
import { toJson } from "../base/json.ts";
import { createLog, type Level, type Log } from "../base/log.ts";
import { Lines } from "../base/stdout.ts";
import { printable, visible } from "../base/text.ts";
import { VERSION } from "../base/version.ts";
import { EXECS_MAP } from "../counts/abi.ts";
import { OTHER } from "../counts/labels.ts";
import { History } from "../counts/rates.ts";
import { type Snapshot, toPlain } from "../counts/snapshot.ts";
import type { Address, Inherited, Page, Web } from "../http/server.ts";
import type { WebConfig } from "../http/settings.ts";
import { type Kernel, type KernelOptions, openKernel } from "../kernel/meter.ts";
import { planRestriction } from "../kernel/privileges.ts";
import { read } from "../kernel/reader.ts";
import { type Format, format } from "./lines.ts";
import { announce } from "./systemd.ts";

export interface WebOptions {
  addresses: readonly (Address | Inherited)[];
  telemetryPath: string;
  /** Of TLS and basic auth; undefined for neither. */
  configFile: string | undefined;
}

export interface AgentOptions extends Omit<KernelOptions, "log"> {
  /** Milliseconds between printed lines. */
  interval: number;
  output: Format;
  /** Undefined for no HTTP at all. */
  web: WebOptions | undefined;
  /** Whom to become once all that needs privileges is done; see planRestriction(). */
  runAs: string | undefined;
  logLevel: Level;
}

/** Paths that --web.telemetry-path cannot take, because they serve something else. */
export const FIXED_PATHS: readonly string[] = [
  "/api/v1/counts",
  "/api/v1/status",
  "/api/v1/history",
  "/-/healthy",
  "/healthz",
  "/-/ready",
  "/readyz",
];

/**
 * Counts, prints and serves until `stop` resolves.
 *
 * @param stdout a file descriptor
 * @throws UserError where it cannot start, or where nobody is there any more to read `stdout`
 */
export async function run(
  options: AgentOptions,
  stop: Promise<void>,
  stdout: number,
): Promise<void> {
  const log = createLog(options.logLevel);
  const restrict = planRestriction(options.runAs);
  const config = await openWebConfig(options.web, log);
  const kernel = openKernel({ ...options, log: log.debug });
  let web: Promise<Web> | undefined;
  const lines = new Lines(stdout);
  let timer: NodeJS.Timeout | undefined;
  let farewell: (() => void) | undefined;
  let started = false;
  try {
    const { name, id } = kernel.countersMap;
    const calls = [
      ...(kernel.attempts ? ["attempts"] : []),
      ...(options.failures ? ["failures"] : []),
    ];
    const what = calls.length > 0 ? `${calls.join(", ")} and execs` : "execs";
    log.info(`${VERSION} counts ${what} on this host; map ${name}, id ${id}`);
    warnOf(kernel, log);
    const source = new Source(kernel, log, options.pin);
    if (options.web) {
      web = startWeb(options.web, config, kernel, source, log);
      if ((await Promise.race([web, stop])) === undefined) return;
    }
    log.debug(restrict());
    for (const { file, code } of config?.unreadable() ?? []) {
      log.warn(
        `${file} cannot be read again (${code}), so what changes in it is not taken over: let the user of --run-as read it, with chgrp and chmod, or give --run-as root`,
      );
    }
    started = true;
    if (options.pin !== undefined) {
      const what = kernel.adopted ? "adopted what is pinned in" : "pinned in";
      const since = kernel.startTime.toISOString();
      const until = kernel.pinsOutlive ? "" : ", as long as its bpffs is mounted";
      log.info(`${what} ${options.pin}; counts since ${since}, also while no agent runs${until}`);
      if (kernel.pinsOutlive === false) {
        log.warn(
          `the bpffs of ${options.pin} is mounted in this mount namespace only, and its pins end with that: mount it on the host, and start again`,
        );
      }
    }

    if (isatty(stdout)) {
      log.info(
        options.pin === undefined
          ? "Ctrl-C stops it"
          : "Ctrl-C ends the agent; execve-counter unpin ends the counting",
      );
    }

    let previous: Snapshot | undefined;
    let leftOut = false;
    const print = () => {
      // Lines that are not taken are not piled up; the next one covers their time.
      if (lines.stuck !== undefined) {
        if (!leftOut) noteLeftOut(lines.stuck, stdout, log);
        leftOut = true;
        return;
      }
      if (leftOut) log.info("stdout takes lines again");
      leftOut = false;
      const now = source.tryRead();
      if (!now) return;
      lines.write(format(options.output, previous, now));
      previous = now;
    };
    print();
    timer = setInterval(print, options.interval);
    farewell = announce(log);
    await Promise.race([stop, lines.broken]);
  } finally {
    farewell?.();
    clearInterval(timer);
    lines.close();
    if (started) kernel.close();
    else discard(kernel, log);
    config?.close();
    web?.then(
      (started) => started.close(),
      () => {}, // reported where it was awaited
    );
  }
}

/** Undoes a start that failed; why it did stays the error, whatever cannot be removed any more. */
function discard(kernel: ReturnType<typeof openKernel>, log: Log): void {
  try {
    kernel.discard();
  } catch (error) {
    log.warn(`what was pinned stays: ${(error as Error).message}`);
  }
}

/** Says that lines are left out; not on a terminal that Ctrl-S has stopped, where it would wait. */
function noteLeftOut(why: string, stdout: number, log: Log): void {
  if (why !== "EAGAIN") log.warn(`stdout takes no lines (${why}): they are left out until it does`);
  else if (!isatty(stdout)) log.warn("nobody reads stdout: lines are left out until somebody does");
}

/** Says what is not as it was asked for, or not exact. */
function warnOf(kernel: Kernel, log: Log): void {
  if (kernel.fallback) {
    log.warn(`${kernel.fallback}: the raw hook counts instead, as with --attempts raw`);
  }
  if (!kernel.reportsMisses) {
    log.warn(
      "this kernel does not report the runs that it skips (Linux does from 6.7 on): if it is fully preemptible, attempts and failures may be counted short",
    );
  }
}

/** Loads, attaches, reads once and returns what would run, as lines. */
export async function check(options: AgentOptions): Promise<string[]> {
  const log = createLog(options.logLevel);
  planRestriction(options.runAs);
  const config = await openWebConfig(options.web, log);
  config?.close();
  // Not pinned, so that it can be asked beside a running meter.
  const kernel = openKernel({ ...options, pin: undefined, log: log.debug });
  try {
    warnOf(kernel, log);
    const now = read(kernel);
    const row = (title: string, text: string) => title.padEnd(10) + text;
    return [
      row("version", `${VERSION}, libbpf ${kernel.libbpfVersion}, Node.js ${process.version}`),
      ...now.programs.map(({ name, hook, id }) =>
        row("program", `${name}, id ${id}, attached to ${hook}`),
      ),
      ...kernel.maps.map(({ name, id }) => row("map", `${name}, id ${id}`)),
      ...(options.pin === undefined ? [] : [row("pins", options.pin)]),
      ...[...now.watched.keys()].map((name) => row("watch", printable(name))),
      row("read", toJson(toPlain(now))),
      ...(options.web?.addresses ?? []).map((address) =>
        row(
          "web",
          `${"fd" in address ? `descriptor ${address.fd}` : `${address.host ?? "every address"}, port ${address.port}`}, ${options.web?.telemetryPath}${config?.protection.tls ? ", TLS" : ""}`,
        ),
      ),
      "ok",
    ];
  } finally {
    kernel.close();
  }
}

/** Reads for everybody, and remembers whether the last read worked. */
class Source {
  /** Of whatever was read, for whomever. */
  readonly history = new History();
  readErrors = 0;
  /** Why the last read failed. */
  failure: string | undefined;
  /** What fell last, of all that only grows. */
  fallen: string | undefined;
  /** Whether there was a word that the table of execs is full. */
  #full = false;
  /** What the last read found. */
  #totals: Record<string, bigint> = {};
  readonly #kernel: Kernel;
  readonly #log: Log;
  readonly #pins: string | undefined;

  constructor(kernel: Kernel, log: Log, pins: string | undefined) {
    this.#kernel = kernel;
    this.#log = log;
    this.#pins = pins;
  }

  tryRead(): Snapshot | undefined {
    try {
      const snapshot = read(this.#kernel);
      this.failure = undefined;
      this.history.add(snapshot);
      this.#noteFull(snapshot);
      this.#noteFallen(snapshot);
      return snapshot;
    } catch (error) {
      this.readErrors++;
      this.failure = (error as Error).message;
      this.#log.error(`cannot read the counters: ${this.failure}`);
      return undefined;
    }
  }

  /** The kernel only adds: what falls was changed by somebody else. */
  #noteFallen({ attempts, execs }: Snapshot): void {
    const totals = { ...attempts, execs };
    for (const [name, count] of Object.entries(totals)) {
      const last = this.#totals[name] ?? 0n;
      if (count >= last) continue;
      this.fallen = `${name} fell from ${last} to ${count}: somebody else edits the maps`;
      this.#log.warn(this.fallen);
    }
    this.#totals = totals;
  }

  #noteFull({ by, tables }: Snapshot): void {
    const table = tables.find(({ name }) => name === EXECS_MAP);
    if (this.#full || by.length === 0 || !table || table.entries < table.capacity) return;
    this.#full = true;
    const more = this.#pins
      ? `end these counts (execve-counter unpin ${this.#pins}), and start again`
      : "start again";
    this.#log.warn(
      `the table of execs by ${by.join()} is full: what it has no row for counts as ${OTHER}; for more rows than ${table.capacity}, ${more} with a larger --max-series`,
    );
  }
}

async function openWebConfig(
  options: WebOptions | undefined,
  log: Log,
): Promise<WebConfig | undefined> {
  if (!options?.configFile) return undefined;
  const path = options.configFile;
  const { WebConfig } = await import("../http/settings.ts");
  return WebConfig.open(path, (error) => {
    if (!error) return log.info(`took over what changed in ${path} or the files it names`);
    log.error(`what was in force stays so: ${error.message}`);
    log.error(`to do: ${error.remedy}`);
  });
}

async function startWeb(
  options: WebOptions,
  config: WebConfig | undefined,
  kernel: Kernel,
  source: Source,
  log: Log,
): Promise<Web> {
  // Loaded only now: counting does not wait for HTTP.
  const { HTML, JSON_TYPE, TEXT, serve } = await import("../http/server.ts");
  const { CONTENT_TYPES, observeProcess, render } = await import("../web/metrics.ts");
  const { readPage } = await import("../web/document.ts");
  const { past, statuses } = await import("../web/status.ts");
  const processMetrics = observeProcess();

  const withSnapshot = <Type extends string>(
    types: readonly Type[],
    show: (snapshot: Snapshot, type: Type) => string | Promise<string>,
  ): Page => ({
    types,
    make: async (type) => {
      const snapshot = source.tryRead();
      return snapshot
        ? { body: await show(snapshot, type as Type) }
        : {
            status: 503,
            type: TEXT,
            body: `${visible(`cannot read the counters: ${source.failure}`)}\n`,
          };
    },
  });
  const json = (make: (snapshot: Snapshot) => object) =>
    withSnapshot([JSON_TYPE], (snapshot) => `${toJson(make(snapshot))}\n`);
  const { html, policy } = readPage(options.telemetryPath);
  const healthy: Page = { types: [TEXT], make: () => ({ body: "healthy\n" }) };
  const ready = withSnapshot([TEXT], () => "ready\n");

  const pages = new Map<string, Page>([
    ["/", { types: [HTML], make: () => ({ body: html, policy }) }],
    ["/api/v1/counts", json(toPlain)],
    ["/api/v1/status", json(statuses(VERSION, hostname(), () => source.fallen))],
    ["/api/v1/history", json((now) => past(source.history, now))],
    ["/-/healthy", healthy],
    ["/healthz", healthy],
    ["/-/ready", ready],
    ["/readyz", ready],
    [
      options.telemetryPath,
      withSnapshot(CONTENT_TYPES, (snapshot, type) => {
        const agent = {
          version: VERSION,
          nodeVersion: process.version,
          libbpfVersion: kernel.libbpfVersion,
          readErrors: source.readErrors,
        };
        return render(type, snapshot, agent, processMetrics);
      }),
    ],
  ]);
  const onError = (error: unknown) => {
    const stack = `${error instanceof Error ? error.stack : error}`;
    for (const line of `cannot answer a request: ${stack}`.split("\n")) log.error(line);
  };
  const protection = config && { protection: () => config.protection };
  const web = await serve(options.addresses, pages, onError, protection);
  const page = options.telemetryPath === "/" ? () => "" : (at: string) => ` and a page at ${at}/`;
  for (const at of web.origins) log.info(`metrics at ${at}${options.telemetryPath}${page(at)}`);
  return web;
}
