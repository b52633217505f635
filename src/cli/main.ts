/** The command line: flags in, exit code out. */
import { setFlagsFromString } from "node:v8";
import { Command, CommanderError, Option } from "commander";
import type { AgentOptions } from "../agent/agent.ts";
import type { Format } from "../agent/lines.ts";
import { FIXED_PATHS } from "../agent/paths.ts";
import { ExitCode, MORE_FILES, UserError } from "../base/errors.ts";
import { createLog, LEVELS, type Level } from "../base/log.ts";
import { cannotPrint, openStdout } from "../base/stdout.ts";
import { printable, visible } from "../base/text.ts";
import { VERSION } from "../base/version.ts";
import { LABELS, type Label } from "../counts/labels.ts";
import type { Address } from "../http/server.ts";
import { endBy } from "../kernel/command.ts";
import { findScope, type Scope } from "../kernel/groups.ts";
import { unpinMeter } from "../kernel/meter.ts";
import type { TopOptions } from "../top/top.ts";
import {
  parseBudget,
  parseBy,
  parseInterval,
  parseListenAddress,
  parseMapId,
  parseMaxSeries,
  parsePins,
  parseRetireAfter,
  parseTelemetryPath,
  parseTop,
  parseWatch,
} from "./flags.ts";
import { npxGone } from "./npx.ts";

// An agent that works for milliseconds a minute gains nothing from optimized code
// or a large young generation; without them, and with a heap that is collected before it
// has grown by more than a third, it needs less memory at work (docs/performance.md).
for (const flag of ["--no-opt", "--semi-space-growth-factor=1", "--heap-growing-percent=30"])
  setFlagsFromString(flag);

interface Flags {
  interval: number;
  output: Format;
  attempts: AgentOptions["attempts"];
  failures?: true;
  by: AgentOptions["by"];
  watch: string[];
  watchFile?: string;
  maxSeries: number;
  retireAfter: AgentOptions["retireAfter"];
  cgroup?: Scope;
  pin?: string;
  pinReplace?: true;
  "web.listenAddress": readonly Address[];
  "web.systemdSocket"?: true;
  "web.telemetryPath": string;
  "web.config.file"?: string;
  web: boolean;
  runAs: string;
  "log.level": Level;
  check?: true;
}

const PIN_DIRECTORY = "/sys/fs/bpf/execve-counter";
const DEFAULT_ADDRESS = "127.0.0.1:11059";
const OPERATOR_ADDRESS = "127.0.0.1:11060";
const OPERATOR_ADDRESSES = [parseListenAddress(OPERATOR_ADDRESS)];
const DEFAULT_ADDRESSES = [parseListenAddress(DEFAULT_ADDRESS)];

function by(): Option {
  return new Option("--by <labels>", `break execs down by any of ${LABELS.join(",")}`).argParser(
    parseBy,
  );
}

function cgroup(): Option {
  return new Option(
    "--cgroup <path>",
    "count only in this control group and those below it",
  ).argParser(findScope);
}

function attempts(): Option {
  return new Option("--attempts <how>", "how to count attempts")
    .choices(["tracepoint", "raw", "off"])
    .default("tracepoint");
}

function interval(what: string, preset: string): Option {
  return new Option("-i, --interval <duration>", `${what}, 100ms to 1h`)
    .default(parseInterval(preset), preset)
    .argParser(parseInterval);
}

function maxSeries(): Option {
  return new Option("--max-series <n>", "room for rows in the breakdown, 16 to 65536")
    .default(1024)
    .argParser(parseMaxSeries);
}

function map(): Option {
  return new Option("--map <id>", "the meter to use, by the map id of its first line").argParser(
    parseMapId,
  );
}

function logLevel(): Option {
  return new Option("--log.level <level>", "debug includes libbpf's messages")
    .choices(LEVELS)
    .default("info");
}

/** Of a command that was done: stat passes on the one of what it has run. */
let exitCode = 0;

const program = new Command("execve-counter")
  .description("Counts every program execution on this host, in the kernel, exactly.")
  .version(VERSION, "--version", "print the version")
  .helpOption("-h, --help", "print this help")
  .helpCommand(false)
  .exitOverride()
  .configureOutput({ outputError: () => {} });

const runCommand = program
  .command("run", { isDefault: true })
  .description("count until stopped (the default command)")
  .helpOption("-h, --help", "print this help")
  .addOption(interval("print period", "5s"))
  .addOption(
    new Option("-o, --output <format>", "how to print").choices(["text", "json"]).default("text"),
  )
  .addOption(attempts())
  .option("--failures", "count failures by errno")
  .addOption(cgroup())
  .addOption(by().default([], "none"))
  .addOption(
    new Option("--watch <names>", "count these commands one by one, comma-separated; repeatable")
      .default([], "none")
      .argParser((text, before: string[]) => [...new Set([...before, ...parseWatch(text)])]),
  )
  .addOption(
    new Option(
      "--watch-file <file>",
      "the whole list of these, a name a line; changes are taken over",
    ).conflicts("watch"),
  )
  .addOption(maxSeries())
  .addOption(
    new Option(
      "--retire-after <duration>",
      "keep rows so long after the end of their container or unit, or never end them",
    )
      .default(parseRetireAfter("15m"), "15m")
      .argParser(parseRetireAfter),
  )
  .addOption(
    new Option("--pin [dir]", `keep counting while no agent runs; in ${PIN_DIRECTORY} by default`)
      .preset(PIN_DIRECTORY)
      .argParser(parsePins),
  )
  .option("--pin-replace", "with --pin: begin anew where what is pinned does not fit")
  .addOption(
    new Option("--web.listen-address <host:port>", "where to serve HTTP; repeatable")
      .default(DEFAULT_ADDRESSES, DEFAULT_ADDRESS)
      .argParser((text, before: readonly Address[]) => [
        ...(before === DEFAULT_ADDRESSES ? [] : before),
        parseListenAddress(text),
      ]),
  )
  .option("--web.systemd-socket", "listen on the sockets that systemd passes, on nothing else")
  .addOption(
    new Option("--web.telemetry-path <path>", "where the metrics are")
      .default("/metrics")
      .argParser((text) => parseTelemetryPath(text, FIXED_PATHS)),
  )
  .option("--web.config.file <file>", "TLS and basic auth, in the format of the exporter toolkit")
  .addOption(
    new Option("--no-web", "no HTTP at all").conflicts([
      ...["web.listenAddress", "web.systemdSocket", "web.telemetryPath", "web.config.file"],
    ]),
  )
  .option("--run-as <user>", "after attaching, become this user; root keeps all", "nobody")
  .addOption(logLevel())
  .option("--check", "load, attach, read once, print what would run, exit")
  .action(async (flags: Flags) => {
    const { interval, output, attempts, failures = false, by, maxSeries } = flags;
    const { retireAfter, watch, watchFile, cgroup, pin, pinReplace = false } = flags;
    if (pinReplace && pin === undefined) {
      throw new UserError("--pin-replace needs --pin", "give both, or none", ExitCode.usage);
    }
    const options: AgentOptions = {
      ...{ interval, output, attempts, failures, by, maxSeries },
      ...{ retireAfter, watch, watchFile, scope: cgroup, pin, pinReplace },
      runAs: runCommand.getOptionValueSource("runAs") === "default" ? undefined : flags.runAs,
      web: flags.web
        ? {
            addresses: flags["web.systemdSocket"]
              ? (await import("../agent/systemd.ts")).inheritedSockets()
              : flags["web.listenAddress"],
            telemetryPath: flags["web.telemetryPath"],
            configFile: flags["web.config.file"],
          }
        : undefined,
      logLevel: flags["log.level"],
    };
    const { check, run } = await import("../agent/agent.ts");
    if (flags.check) {
      await print(await check(options));
    } else {
      await run(options, stopSignal(), openStdout());
    }
  });

const watchCommand = program
  .command("watch")
  .description("edit the commands that the running meter watches")
  .helpOption("-h, --help", "print this help")
  .helpCommand(false)
  .action(() => {
    throw new UserError(
      "watch needs list, add or remove",
      "see execve-counter watch --help",
      ExitCode.usage,
    );
  });

/** A subcommand of watch, with the options that all of them have. */
function watchSubcommand(name: string, description: string): Command {
  return watchCommand
    .command(name)
    .description(description)
    .helpOption("-h, --help", "print this help")
    .addOption(map())
    .addOption(logLevel());
}

interface TopFlags extends Omit<TopOptions, "by" | "cgroup" | "map" | "logLevel"> {
  by?: TopOptions["by"];
  cgroup?: Scope;
  map?: number;
  "log.level": Level;
}

interface WatchFlags {
  map?: number;
  "log.level": Level;
}

watchSubcommand("list", "print the watched commands and their counts")
  .addOption(
    new Option("-o, --output <format>", "how to print").choices(["text", "json"]).default("text"),
  )
  .action(async (flags: WatchFlags & { output: Format }) => {
    const { toJson } = await import("../base/json.ts");
    const { list } = await import("../kernel/watchlist.ts");
    const watched = list(flags.map, createLog(flags["log.level"]));
    await print(
      flags.output === "json"
        ? [toJson(Object.fromEntries(watched))]
        : [...watched].map(([name, count]) => `${printable(name)} ${count}`),
    );
  });

for (const [name, description] of [
  ["add", "watch these commands too, from now on"],
  ["remove", "stop watching these commands"],
] as const) {
  watchSubcommand(name, description)
    .argument("<name...>", "command names")
    .action(async (names: string[], flags: WatchFlags) => {
      const { [name]: edit } = await import("../kernel/watchlist.ts");
      await edit([...new Set(names.flatMap(parseWatch))], flags.map, createLog(flags["log.level"]));
    });
}

program
  .command("top")
  .description("live table, most execs per second first")
  .helpOption("-h, --help", "print this help")
  .addOption(by())
  .addOption(interval("time between two frames", "1s"))
  .addOption(map())
  .addOption(cgroup())
  .addOption(attempts())
  .addOption(maxSeries())
  .addOption(logLevel())
  .action(async ({ "log.level": logLevel, ...flags }: TopFlags) => {
    const { top } = await import("../top/top.ts");
    await top(
      { by: undefined, map: undefined, cgroup: undefined, ...flags, logLevel },
      // These signals, too, must leave the terminal as it was.
      stopSignal(
        ...(process.stdout.isTTY ? (["SIGHUP", "SIGQUIT", "SIGUSR2", "SIGALRM"] as const) : []),
      ),
      openStdout(),
    );
  });

interface StatFlags {
  by?: readonly Label[];
  cgroup?: Scope;
  attempts: AgentOptions["attempts"];
  failures?: true;
  output: Format;
  top: number;
  budget?: number;
  compare?: string;
  maxSeries: number;
  "log.level": Level;
}

program
  .command("stat")
  .description("run a command, count what it and its descendants execute, print a table on stderr")
  .usage("[options] -- <command...>")
  .argument("<command...>", "the command and its arguments, after --")
  .helpOption("-h, --help", "print this help")
  .addOption(by())
  .addOption(cgroup())
  .addOption(attempts())
  .option("--failures", "count failures by errno")
  .addOption(
    new Option("-o, --output <format>", "how to print").choices(["text", "json"]).default("text"),
  )
  .addOption(new Option("--top <n>", "rows of the table to print").default(20).argParser(parseTop))
  .addOption(
    new Option("--budget <n>", "end with 4 where more programs are started").argParser(parseBudget),
  )
  .option("--compare <file>", "show what differs from an earlier run, from its JSON")
  .addOption(
    new Option("--max-series <n>", "room for rows in the breakdown, 16 to 65536")
      .default(16_384)
      .argParser(parseMaxSeries),
  )
  .addOption(logLevel())
  .action(async (words: string[], flags: StatFlags) => {
    if (process.argv.at(-1 - words.length) !== "--") {
      throw new UserError(
        "stat needs -- before the command",
        `give execve-counter stat [options] -- ${words.map(printable).join(" ")}`,
        ExitCode.usage,
      );
    }
    const { stat } = await import("../stat/stat.ts");
    const { "log.level": logLevel, failures = false, by, ...rest } = flags;
    const { lines, code, signal } = await stat(words, { ...rest, failures, by, logLevel });
    await new Promise((resolve) => {
      process.stderr.write(lines.map((line) => `${visible(line)}\n`).join(""), resolve);
    });
    if (signal) endBy(signal);
    exitCode = signal ? 128 + signal : code;
  });

program
  .command("doctor")
  .description("print what this machine offers and what is missing")
  .helpOption("-h, --help", "print this help")
  .addOption(
    new Option("-o, --output <format>", "how to print").choices(["text", "json"]).default("text"),
  )
  .addOption(logLevel())
  .action(async (flags: { output: Format; "log.level": Level }) => {
    const { toJson } = await import("../base/json.ts");
    const { HERE, attempt, canRun, examine } = await import("./doctor.ts");
    const findings = [...examine(HERE), ...attempt(createLog(flags["log.level"]).debug)];
    await print(
      flags.output === "json"
        ? [toJson(findings)]
        : findings.flatMap(({ what, state, found, remedy }) => [
            `${state.padEnd(8)} ${what.padEnd(26)} ${found}`,
            ...(remedy ? [`${" ".repeat(9)}to do: ${remedy}`] : []),
          ]),
    );
    if (!canRun(findings)) {
      throw new UserError(
        "the meter cannot run here",
        "see what is missing, above",
        ExitCode.unable,
      );
    }
  });

program
  .command("unpin")
  .description("end the counting that --pin left, and remove the pins")
  .argument("[dir]", "where it is pinned", parsePins, PIN_DIRECTORY)
  .helpOption("-h, --help", "print this help")
  .addOption(logLevel())
  .action(async (directory: string, flags: { "log.level": Level }) => {
    const log = createLog(flags["log.level"]);
    const removed = unpinMeter(directory, log.debug);
    if (removed.length === 0) log.info(`nothing is pinned in ${directory}`);
    await print(removed.map((path) => `removed ${path}`));
  });

interface OperatorFlags {
  kubeconfig?: string;
  "web.listenAddress": readonly Address[];
  "log.level": Level;
}

function kubeconfig(): Option {
  return new Option(
    "--kubeconfig <file>",
    "how to reach the cluster; by default as kubectl does, or as the pod's service account",
  );
}

const operatorCommand = program
  .command("operator")
  .description("run the meter on the nodes of a Kubernetes cluster, as ExecveCounter resources say")
  .helpOption("-h, --help", "print this help")
  .helpCommand(false)
  .addOption(kubeconfig())
  .addOption(
    new Option("--web.listen-address <host:port>", "where to serve metrics and health; repeatable")
      .default(OPERATOR_ADDRESSES, OPERATOR_ADDRESS)
      .argParser((text, before: readonly Address[]) => [
        ...(before === OPERATOR_ADDRESSES ? [] : before),
        parseListenAddress(text),
      ]),
  )
  .addOption(
    new Option("--log.level <level>", "what to say on stderr").choices(LEVELS).default("info"),
  )
  .action(async (flags: OperatorFlags) => {
    const { operate } = await import("../operator/operator.ts");
    const { kubeconfig, "web.listenAddress": addresses, "log.level": logLevel } = flags;
    await operate({ ...(kubeconfig ? { kubeconfig } : {}), addresses, logLevel }, stopSignal());
  });

operatorCommand
  .command("nodes")
  .description("print which nodes count, and why the others do not")
  .helpOption("-h, --help", "print this help")
  .addOption(kubeconfig())
  .addOption(
    new Option("-o, --output <format>", "how to print").choices(["text", "json"]).default("text"),
  )
  .action(async (_: object, command: Command) => {
    const { toJson } = await import("../base/json.ts");
    const { nodeRows, nodeTable } = await import("../operator/table.ts");
    const { kubeconfig, output } = command.optsWithGlobals<{
      kubeconfig?: string;
      output: Format;
    }>();
    const rows = await nodeRows(kubeconfig);
    await print(output === "json" ? [toJson(rows)] : nodeTable(rows));
  });

program.addHelpText("after", () => `\n${runCommand.helpInformation()}`);

/** Writes lines to the end: a pipe may take them piece by piece. */
function print(lines: readonly string[]): Promise<void> {
  const text = lines.map((line) => `${visible(line)}\n`).join("");
  return new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => (error ? reject(cannotPrint(error)) : resolve()));
  });
}

/** Resolves at the first SIGINT or SIGTERM; a second one ends the process at once. */
function stopSignal(...more: NodeJS.Signals[]): Promise<void> {
  const signals = ["SIGINT", "SIGTERM", ...more] as const;
  return new Promise((resolve) => {
    const stop = () => {
      for (const signal of signals) process.off(signal, stop);
      resolve();
    };
    for (const signal of signals) process.on(signal, stop);
    npxGone().then(stop);
  });
}

/** Two lines on stderr, and the exit code. */
function report(error: unknown): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    const [, taker] = /too many arguments for '(run|watch)'/.exec(error.message) || [];
    const stray = taker === "run" ? runCommand.args[0] : `watch ${watchCommand.args[0]}`;
    const asked = program.commands.find((command) => command.name() === process.argv[2]);
    return report(
      new UserError(
        taker
          ? `there is no command ${stray}`
          : error.message.replace(/^error: /, "").replaceAll("\n", " "),
        `see execve-counter ${asked ? `${asked.name()} ` : ""}--help`,
        ExitCode.usage,
      ),
    );
  }
  const log = createLog("error");
  if (error instanceof UserError) {
    log.error(error.message);
    log.error(`to do: ${error.remedy}`);
    return error.exitCode;
  }
  // Files of the program itself are loaded when they are needed.
  const { code } = error as NodeJS.ErrnoException;
  if (code === "EMFILE" || code === "ENFILE") {
    return report(new UserError("out of file descriptors", MORE_FILES, ExitCode.failed));
  }
  const stack = `${error instanceof Error ? error.stack : error}`;
  for (const line of `this is a bug, please report it: ${stack}`.split("\n")) log.error(line);
  return ExitCode.failed;
}

// Node.js would open a debugger, through which any user of the machine could run code in here.
// Any process of the same user may send the signal, and many run as nobody.
process.on("SIGUSR1", () => {});

// Messages that have no reader are no failure; run() looks after its own stdout.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});

program
  .parseAsync()
  .then(() => exitCode, report)
  .then(process.exit);
