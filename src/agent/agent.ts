/** The agent: opens a meter, prints and serves its counts, until told to stop. */
import { isatty } from "node:tty";
import { toJson } from "../base/json.ts";
import { createLog, type Level, type Log } from "../base/log.ts";
import { Lines } from "../base/stdout.ts";
import { printable } from "../base/text.ts";
import { VERSION } from "../base/version.ts";
import { type Snapshot, toPlain } from "../counts/snapshot.ts";
import type { Web } from "../http/server.ts";
import { type MeterOptions, noticesOf, openOwnMeter } from "../kernel/meter.ts";
import { planRestriction } from "../kernel/privileges.ts";
import { read } from "../kernel/reader.ts";
import { inTurn } from "../kernel/watchlist.ts";
import { type Format, format } from "./lines.ts";
import { Retirement } from "./retirement.ts";
import { openWebConfig, startWeb, type WebOptions } from "./routes.ts";
import { Source } from "./source.ts";
import { announce } from "./systemd.ts";
import { WatchFile } from "./watching.ts";

export interface AgentOptions extends Omit<MeterOptions, "log" | "wholeList"> {
  /** The file of the whole watch list; undefined where `watch` is the list to begin with. */
  watchFile?: string | undefined;
  /** Milliseconds between printed lines. */
  interval: number;
  output: Format;
  /** Milliseconds that rows are kept after the end of their container or unit; or for good. */
  retireAfter: number | "never";
  /** Undefined for no HTTP at all. */
  web: WebOptions | undefined;
  /** The user to become once all that needs privileges is done; see planRestriction(). */
  runAs: string | undefined;
  logLevel: Level;
}

/**
 * Counts, prints and serves until `stop` resolves.
 *
 * @param stdout a file descriptor
 * @throws UserError where it cannot start, or where `stdout` has no reader any more
 */
export async function run(
  options: AgentOptions,
  stop: Promise<void>,
  stdout: number,
): Promise<void> {
  const log = createLog(options.logLevel);
  const restrict = planRestriction(options.runAs);
  const config = await openWebConfig(options.web, log);
  const list = await openList(options);
  const meter = openOwnMeter({ ...options, ...listOptions(list), log: log.debug });
  let web: Promise<Web> | undefined;
  const lines = new Lines(stdout);
  const timers: NodeJS.Timeout[] = [];
  let farewell: (() => void) | undefined;
  let started = false;
  try {
    const { name, id } = meter.countersMap;
    const counted = [
      ...(meter.attempts ? ["attempts"] : []),
      ...(options.failures ? ["failures"] : []),
    ];
    const what = counted.length > 0 ? `${counted.join(", ")} and execs` : "execs";
    const where = meter.scope === undefined ? "on this host" : `in control group ${meter.scope}`;
    log.info(`${VERSION} counts ${what} ${where}; map ${name}, id ${id}`);
    for (const notice of noticesOf(meter)) log.warn(notice);
    const retirement = meter.retires ? new Retirement(meter, options.retireAfter, log) : undefined;
    const source = new Source(meter, log, options.pin, retirement);
    if (options.web) {
      web = startWeb(options.web, config, meter, source, list, log);
      if ((await Promise.race([web, stop])) === undefined) return;
    }
    if (list) {
      const take = () => meter.watchOnly(list.names);
      // The programs of reused pins count already, and others may edit their list.
      const change = meter.reused ? await inTurn(log, take) : take();
      log.info(list.summary(meter.reused ? change : { ...change, added: list.names.length }));
    }
    if (meter.replaces) {
      meter.replace();
      log.warn(`counts begin anew, in the place of those pinned at ${meter.replaces}`);
    }
    log.debug(restrict());
    for (const { file, code } of [...(config?.unreadable() ?? []), ...(list?.unreadable() ?? [])]) {
      log.warn(
        `${file} cannot be read again (${code}), so changes to it are ignored: let the user of --run-as read it, with chgrp and chmod, or give --run-as root`,
      );
    }
    started = true;
    if (options.pin !== undefined) {
      const what = meter.reused ? "reuses the counts pinned in" : "pinned in";
      const since = meter.startTime.toISOString();
      const until = meter.pinsOutlive ? "" : ", as long as its bpffs is mounted";
      log.info(`${what} ${options.pin}; counts since ${since}, also while no agent runs${until}`);
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
      // Lines that stdout does not take are left out; the next one covers their time.
      if (lines.stuck !== undefined) {
        if (!leftOut) noteLeftOut(lines.stuck, stdout, log);
        leftOut = true;
        return;
      }
      if (leftOut) log.info("stdout takes lines again");
      leftOut = false;
      const now = source.recent(previous);
      if (!now) return;
      lines.write(format(options.output, previous, now));
      previous = now;
    };
    print();
    timers.push(setInterval(print, options.interval));
    if (retirement) timers.push(setInterval(() => source.retire(), retirement.period));
    list?.follow((names) => meter.watchOnly(names), log);
    farewell = announce(log);
    await Promise.race([stop, lines.broken]);
  } finally {
    farewell?.();
    for (const timer of timers) clearInterval(timer);
    lines.close();
    list?.close();
    if (started) meter.close();
    else discard(meter, log);
    config?.close();
    web?.then(
      (started) => started.close(),
      () => {}, // reported where it was awaited
    );
  }
}

async function openList({ watchFile }: AgentOptions): Promise<WatchFile | undefined> {
  return watchFile === undefined ? undefined : WatchFile.open(watchFile);
}

/** How the meter watches what the file names. */
function listOptions(list: WatchFile | undefined): Partial<MeterOptions> {
  return list ? { watch: list.names, wholeList: true } : {};
}

/** Undoes a start that failed; its reason stays the error, even if something cannot be removed. */
function discard(meter: ReturnType<typeof openOwnMeter>, log: Log): void {
  try {
    meter.discard();
  } catch (error) {
    log.warn(`cannot remove what was pinned: ${(error as Error).message}`);
  }
}

/** Warns that lines are left out; not on a terminal that Ctrl-S has stopped, where it would wait. */
function noteLeftOut(why: string, stdout: number, log: Log): void {
  if (why !== "EAGAIN") log.warn(`stdout takes no lines (${why}): they are left out until it does`);
  else if (!isatty(stdout)) log.warn("stdout is not read: lines are left out until it is");
}

/** Loads, attaches, reads once and returns what would run, as lines. */
export async function check(options: AgentOptions): Promise<string[]> {
  const log = createLog(options.logLevel);
  planRestriction(options.runAs);
  const config = await openWebConfig(options.web, log);
  config?.close();
  const list = await openList(options);
  // Not pinned, so that --check works beside a running meter.
  const meter = openOwnMeter({
    ...{ ...options, ...listOptions(list) },
    ...{ pin: undefined, log: log.debug },
  });
  try {
    for (const notice of noticesOf(meter)) log.warn(notice);
    const now = read(meter);
    const row = (title: string, text: string) => title.padEnd(10) + text;
    return [
      row("version", `${VERSION}, libbpf ${meter.libbpfVersion}, Node.js ${process.version}`),
      ...now.programs.map(({ name, hook, id }) =>
        row("program", `${name}, id ${id}, attached to ${hook}`),
      ),
      ...meter.maps.map(({ name, id }) => row("map", `${name}, id ${id}`)),
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
    meter.close();
  }
}
