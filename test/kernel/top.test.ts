import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { effectiveCapabilities } from "../../src/kernel/capabilities.ts";
import { findMeters } from "../../src/kernel/running.ts";
import { Groups } from "../support/groups.ts";
import { Installation } from "../support/installation.ts";
import {
  BPFTOOL,
  CLI,
  hexKey,
  loadedBy,
  Meter,
  result,
  STORM,
  sample,
  sh,
  uniqueName,
  until,
  untilGone,
} from "../support/meter.ts";
import { inTerminal, shellLine } from "../support/script.mjs";
import { Tmux } from "../support/tmux.ts";

/** The settings of a terminal that no program has taken. */
const AS_FOUND = { alternate: false, cursor: true, wrap: true };
const TAKEN = { alternate: true, cursor: false, wrap: false };

let directory: string;
let meter: Meter;
let terminal: Tmux;
const name = uniqueName();

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  copyFileSync("/bin/true", join(directory, name));
  // With room for what else runs on this machine.
  const room = ["--max-series", "16384"];
  meter = await Meter.start(["--by", "command,user", "--failures", ...room]);
});

beforeEach(() => {
  terminal = new Tmux();
});

afterEach(() => terminal.close());

afterAll(async () => {
  await meter?.stop();
  rmSync(directory, { recursive: true });
});

/** The words of a command line that runs top. */
function top(...args: string[]): string {
  return shellLine(process.execPath, CLI, "top", ...args);
}

function beside(...args: string[]): string {
  return top("--map", `${meter.mapId}`, ...args);
}

function run(times: number, program = name): void {
  sh(STORM, ["spawn", "1", `${times}`, join(directory, program)]);
}

/** The process that the shell in a terminal runs. */
function topPid(): Promise<number> {
  return until("top's process", () => {
    const children = readFileSync(`/proc/${terminal.pid}/task/${terminal.pid}/children`, "utf8");
    return Number(children.trim().split(" ")[0]) || undefined;
  });
}

/** A row's numbers: rates of 1 s, 1 min, since the start, and the count. */
function numbers(line: string): number[] {
  return line.trim().split(/ +/).slice(0, 4).map(Number);
}

const rowOf = (command: string) => new RegExp(` ${command}( |$)`);

describe("beside a running meter", () => {
  test("it shows the same numbers, from the first frame on", async () => {
    run(23);
    sh(STORM, ["execve", "1", "1000"]);
    terminal.type(beside());
    const first = await terminal.line(rowOf(name));
    expect(terminal.modes).toEqual(TAKEN);
    const exposition = await meter.metrics();
    const series = `execve_counter_execs_total{command="${name}",user="root"}`;
    expect(numbers(first).at(-1)).toBe(sample(exposition, series));
    expect(terminal.screen()[0]).toContain(`meter of map ${meter.mapId}`);
    // What the rate since the start is made of.
    const { start_time } = await meter.counts();
    const age = (Date.now() - Date.parse(start_time)) / 1000;
    const [, , start = Number.NaN] = numbers(await terminal.line(rowOf(name)));
    expect(start).toBeGreaterThan(0.5 * (23 / age) - 0.1);
    expect(start).toBeLessThan(2 * (23 / age) + 0.1);

    const before = Number(/failures (\d+)/.exec(await terminal.line(/^failures/))?.[1]);
    sh(STORM, ["execveat", "1", "4321"]);
    await until("the failures", async () => {
      const line = await terminal.line(/^failures/);
      const shown = Number(/failures (\d+)/.exec(line)?.[1]);
      return shown >= before + 4321 && /ENOENT \d/.test(line);
    });
    await until("one sum in both lines", () => {
      const screen = terminal.screen();
      const total = screen.find((line) => line.includes("(all)")) ?? "";
      return screen.some((line) => line.startsWith(`execs ${numbers(total).at(-1)} `));
    });
  });

  test("a storm moves the rates, and its end does", async () => {
    terminal.type(beside());
    const fast = () => numbers(terminal.screen().find((line) => rowOf(name).test(line)) ?? "")[0];
    await terminal.line(rowOf(name));
    const storm = spawn(STORM, ["spawn", "1", "1000000", join(directory, name)]);
    try {
      await until("a rate, of the fastest first, after the sum", () => {
        const rows = terminal.screen();
        const head = rows.findIndex((line) => line.includes("COMMAND"));
        const first = rows[head + 2] ?? "";
        return rowOf(name).test(first) && (numbers(first)[0] ?? 0) > 20;
      });
      await terminal.line(/[▂▃▄▅▆▇█] execs\/s, at most/);
    } finally {
      storm.kill("SIGKILL");
      await once(storm, "exit");
    }
    await until("no rate", () => fast() === 0);
    const [, minute = 0, , count] = numbers(await terminal.line(rowOf(name)));
    expect(minute).toBeGreaterThan(0);
    const series = `execve_counter_execs_total{command="${name}",user="root"}`;
    expect(count).toBe(sample(await meter.metrics(), series));
  });

  test("it loads, attaches and changes nothing", () => {
    const trace = ["--follow-forks", "--trace=bpf,perf_event_open", "--output"];
    const log = join(directory, "trace");
    // A few tables.
    const command = `${beside("--interval", "100ms")} | head -n 200`;
    result("strace", [...trace, log, "sh", "-c", command]);
    const text = readFileSync(log, "utf8");
    expect(text).not.toContain("perf_event_open(");
    const calls = new Set([...text.matchAll(/\bbpf\(BPF_(\w+)/g)].map(([, call]) => call));
    expect([...calls].sort()).toEqual([
      ...["MAP_GET_FD_BY_ID", "MAP_LOOKUP_BATCH", "MAP_LOOKUP_ELEM", "OBJ_GET_INFO_BY_FD"],
      ...["PROG_GET_FD_BY_ID", "PROG_GET_NEXT_ID"],
    ]);
  });

  test("it becomes nobody, keeps the privilege to look for programs, and holds no program", async () => {
    terminal.type(beside());
    await terminal.line(rowOf(name));
    const pid = await topPid();
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    expect(status).toMatch(/^Uid:\t65534\t65534\t65534\t65534$/m);
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    expect(effectiveCapabilities(status)).toBe(1n << 21n);
    expect(loadedBy(pid)).toMatchObject({ prog: [], link: [] });
  });

  test("fewer labels are sums, other labels are refused where the meter is named", async () => {
    const { execs_by = [] } = await meter.counts();
    const root = execs_by.filter(({ user }) => user === "root");
    terminal.type(beside("--by", "user"));
    const shown = numbers(await terminal.line(/ root *$/)).at(-1) as number;
    expect(shown).toBeGreaterThanOrEqual(root.reduce((sum, { execs }) => sum + execs, 0));
    expect(terminal.screen().join("\n")).not.toContain("COMMAND");
    terminal.press("b");
    await terminal.line(/ COMMAND$/);
    terminal.press("b");
    await terminal.line(/COMMAND +USER/);
    terminal.press("q");

    const args = [CLI, "top", "--map", `${meter.mapId}`, "--by", "user,container"];
    const { status, stdout, stderr } = result(process.execPath, args);
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
    expect(stderr).toBe(
      `execve-counter: error: the meter of map ${meter.mapId} does not count by container\n` +
        "execve-counter: error: to do: leave out --map to count with top's own meter, or start the meter with those options\n",
    );
  });

  test("of several meters one must be chosen, with the message of watch", async () => {
    const other = await Meter.start();
    try {
      const { status, stderr } = result(process.execPath, [CLI, "top"]);
      expect(status).toBe(1);
      expect(stderr).toMatch(/\d meters are running/);
      expect(stderr).toContain("by the map that its first line names: --map ");
      const wrong = result(process.execPath, [CLI, "top", "--map", "4294967295"]);
      expect(wrong.status).toBe(1);
      expect(wrong.stderr).toContain("no meter has the map 4294967295");
    } finally {
      await other.stop();
    }
  });

  test("a unit that has ended is a line above the table, and in the sum", async () => {
    const groups = new Groups();
    const other = await Meter.start(["--by", "command,unit", "--retire-after", "1s"]);
    try {
      const program = groups.program(uniqueName());
      terminal.type(top("--map", `${other.mapId}`, "--by", "command"));
      groups.run(program, 23, "a.service");
      expect(numbers(await terminal.line(rowOf(program))).at(-1)).toBe(23);
      groups.end("a.service");
      const line = await terminal.line(
        /^[1-9]\d* rows? of ended containers and units retired, with \d+ execs *$/,
      );
      expect(Number(/with (\d+)/.exec(line)?.[1])).toBeGreaterThanOrEqual(23);
      await terminal.gone(rowOf(program));
      await until("one sum in both lines", () => {
        const screen = terminal.screen();
        const total = screen.find((each) => each.includes("(all)")) ?? "";
        return screen.some((each) => each.startsWith(`execs ${numbers(total).at(-1)} `));
      });
      expect(terminal.screen().some((each) => rowOf("retired").test(each))).toBe(false);
    } finally {
      await other.stop();
      groups.remove();
    }
  });

  test("the end of a meter is reported, and top goes on with the next one", async () => {
    const first = await Meter.start(["--by", "command"]);
    // A directory in which nobody, the user it has become, can read nothing any more.
    const installed = new Installation();
    sh("chmod", ["700", installed.directory]);
    try {
      run(3);
      terminal.type(top("--map", `${first.mapId}`).replace(CLI, installed.cli));
      await terminal.line(rowOf(name));
      run(4); // after the last frame, perhaps
    } finally {
      await first.stop("SIGKILL");
    }
    await terminal.line(/the meter has ended/);
    expect(numbers(await terminal.line(rowOf(name))).at(-1)).toBe(7);
    await sleep(1500);
    expect(terminal.screen()[0]).toContain(`meter of map ${first.mapId}`);
    // A meter without labels cannot take its place.
    const bare = await Meter.start();
    try {
      await terminal.line(/the meter has ended; the meter of map \d+ counts by no label/);
    } finally {
      await bare.stop();
    }
    const next = await Meter.start(["--by", "command,user"]);
    try {
      await terminal.line(new RegExp(`meter of map ${next.mapId}`));
      await terminal.gone(/has ended/);
      run(5);
      await until("the new count", () => {
        const row = terminal.screen().find((line) => rowOf(name).test(line));
        return row !== undefined && numbers(row).at(-1) === 5;
      });
      await untilGone({ prog: [], map: [first.mapId], link: [] });
    } finally {
      await next.stop();
      installed.remove();
    }
  });

  test("a pinned meter that is started again goes on without a hiccup, as it does in between", async () => {
    const mounted = result("mountpoint", ["-q", "/sys/fs/bpf"]).status === 0;
    if (!mounted) sh("mount", ["-t", "bpf", "bpf", "/sys/fs/bpf"]);
    const pins = `/sys/fs/bpf/${uniqueName()}`;
    const flags = ["--by", "command", "--failures", "--pin", pins];
    let pinned = await Meter.start(flags);
    const started = Date.parse((await pinned.counts()).start_time);
    try {
      const args = ["top", "--map", `${pinned.mapId}`, "--interval", "100ms"];
      const child = spawn(process.execPath, [CLI, ...args]);
      let text = "";
      child.stdout.on("data", (data) => {
        text += data;
      });
      child.stderr.on("data", (data) => {
        text += data;
      });
      const counted = (count: number) =>
        until(`${count} runs`, () =>
          new RegExp(` ${count} ${name}\n`).test(text.slice(text.lastIndexOf("execs "))),
        );
      run(3);
      await counted(3);
      await pinned.stop("SIGKILL");
      run(4);
      await counted(7);
      for (let i = 0; i < 3; i++) {
        pinned = await Meter.start(flags);
        run(1);
        await counted(8 + i);
        await pinned.stop(i % 2 ? "SIGKILL" : "SIGTERM");
      }
      // Since the first start, not since the last one.
      const since = /since (\S+)Z/.exec(text.slice(text.lastIndexOf("since ")))?.[1];
      const day = new Date(started).toISOString().slice(0, 11);
      expect(Math.abs(Date.parse(`${day}${since}Z`) - started)).toBeLessThan(3000);
      expect(text).not.toMatch(/ended|cannot/);
      // A program that was taken out of its slot does not count, and is not shown.
      pinned = await Meter.start(flags);
      const slot = ["pinned", `${pins}/v3/next_count_exec`, "key", "0", "0", "0", "0"];
      sh(BPFTOOL, ["map", "delete", ...slot]);
      await until("a failed read", () => /cannot read the counters: .*slot count_exec/.test(text));
      await pinned.stop();
      sh("rm", ["-r", pins]);
      await until("the end", () => text.includes("the meter has ended"));
      child.kill("SIGTERM");
      expect(await once(child, "exit")).toEqual([0, null]);
    } finally {
      await pinned.stop();
      result("rm", ["-rf", pins]);
      if (!mounted) sh("umount", ["/sys/fs/bpf"]);
    }
  });

  test("a meter that cannot be read from the start is an error of two lines", async () => {
    const other = await Meter.start(["--by", "command"]);
    try {
      const map = ["id", String(other.mapId)];
      sh(BPFTOOL, ["map", "delete", ...map, ...hexKey("execveat_counter")]);
      const run = result(process.execPath, [CLI, "top", "--map", `${other.mapId}`]);
      expect(run).toEqual({
        ...{ status: 1, stdout: "" },
        stderr: `execve-counter: error: cannot read the meter of map ${other.mapId}: the key execveat_counter is gone from the map execve_counter\nexecve-counter: error: to do: start that meter again\n`,
      });
    } finally {
      await other.stop();
    }
  });

  test("a count that another process removes is a failed read, which is reported", async () => {
    const other = await Meter.start(["--by", "command"]);
    try {
      terminal.type(top("--map", `${other.mapId}`));
      await terminal.line(/\(all\)/);
      const map = ["id", String(other.mapId)];
      sh(BPFTOOL, ["map", "delete", ...map, ...hexKey("execveat_counter")]);
      await terminal.line(/cannot read the counters: the key execveat_counter is gone/);
    } finally {
      await other.stop();
    }
  });
});

describe("by itself", () => {
  test("it counts from now on, and leaves nothing loaded", async () => {
    const alone = () => findMeters().every((id) => id === meter.mapId);
    // Meters of earlier tests end with a little delay; one that runs on is not of a test.
    await until("no other meter", alone, 20_000).catch(() => {});
    if (!alone()) {
      const { status, stderr } = result(process.execPath, [CLI, "top", "--by", "user,container"]);
      expect({ status, stderr }).toMatchObject({
        status: 1,
        stderr: expect.stringMatching(/\d meters are running/),
      });
      return;
    }
    terminal.type(top("--by", "user,container"));
    await terminal.line(/own meter/);
    expect(terminal.screen().join("\n")).toContain(
      `the meter of map ${meter.mapId} does not count by container`,
    );
    const before = Number(/execs (\d+)/.exec(await terminal.line(/^execs/))?.[1]);
    run(23);
    await until("the runs", () => {
      const line = terminal.screen().find((each) => / root +-$/.test(each));
      return line !== undefined && (numbers(line).at(-1) ?? 0) >= before + 23;
    });
    const pid = await topPid();
    const loaded = loadedBy(pid);
    expect(loaded.prog).toHaveLength(7);
    expect(effectiveCapabilities(readFileSync(`/proc/${pid}/status`, "utf8"))).toBe(0n);
    terminal.press("q");
    await untilGone(loaded);
  });

  /** Runs top as a user who may load programs, but not find those of others; with no account, and no home. */
  async function alone(flags: readonly string[], seen: (text: string, pid: number) => unknown) {
    const installed = new Installation();
    const { HOME, ...env } = process.env;
    const keep = "+bpf,+perfmon,+dac_read_search";
    const words = [
      ...["--reuid=4242", "--regid=4242", "--clear-groups", `--bounding-set=-all,${keep}`],
      ...[`--inh-caps=${keep}`, `--ambient-caps=${keep}`],
      ...[process.execPath, installed.cli, "top", "--interval", "100ms", ...flags],
    ];
    const child = spawn("setpriv", words, { env });
    const ended = once(child, "exit");
    try {
      let text = "";
      for (const stream of [child.stdout, child.stderr]) {
        stream.on("data", (data) => {
          text += data;
        });
      }
      await until("a table", () => text.includes("own meter") && text.endsWith("\n\n"));
      seen(text, child.pid as number);
    } finally {
      child.kill("SIGINT");
      expect(await ended).toEqual([0, null]);
      installed.remove();
    }
  }

  test("a user who may load programs, but not find other meters, gets its own", () =>
    alone([], (text) => {
      expect(text).toContain("only root can find a running meter");
      expect(text).toContain("COMMAND");
    }));

  test.each([
    [["--attempts", "off"], "count_exec", /^execs \d+ {2}none missed$/m],
    [["--attempts", "raw"], "count_attempts", /^execs \d+ {2}attempts \d+/m],
  ] as const)("%j is what run understands by it", (flags, program, totals) =>
    alone(flags, (text, pid) => {
      expect(text).toMatch(totals);
      const { prog } = loadedBy(pid);
      expect(prog).toHaveLength(program === "count_exec" ? 1 : 4);
      const listed = JSON.parse(sh(BPFTOOL, ["-j", "prog", "list"]));
      const names = listed.flatMap((each: { id: number; name: string }) =>
        prog.includes(each.id) ? [each.name] : [],
      );
      expect(names).toContain(program);
    }),
  );
});

describe("keys", () => {
  test("filter, sort and help", async () => {
    terminal.type(beside());
    await terminal.line(rowOf(name));
    const rows = () => {
      const screen = terminal.screen();
      const head = screen.findIndex((line) => line.includes("COMMAND"));
      return screen.slice(head + 2, -1).filter((line) => line !== "");
    };
    terminal.press("/", ...name.slice(0, -1));
    await terminal.line(new RegExp(`^/${name.slice(0, -1)}_`));
    expect(rows()).toHaveLength(1);
    terminal.press("BSpace");
    await terminal.line(new RegExp(`^/${name.slice(0, -2)}_`));
    terminal.press("Enter");
    await terminal.line(/only rows with .*/);
    await terminal.line(/^1 .*quit/);
    expect(rows()).toHaveLength(1);
    terminal.press("Escape");
    await terminal.gone(/rows with/);
    expect(rows().length).toBeGreaterThan(1);

    terminal.press("<");
    await terminal.line(/USER↓/);
    terminal.press("Left", "r");
    await terminal.line(/COMMAND↑/);
    const commands = rows().map((line) => line.trim().split(/ +/)[4] as string);
    expect(commands).toEqual(commands.toSorted().reverse());
    terminal.press("?");
    await terminal.line(/^Keys/);
    terminal.press("h");
    await terminal.line(/COMMAND/);
  });

  test("pause: the numbers stand still, and are right after it", async () => {
    terminal.type(beside());
    await terminal.line(rowOf(name));
    terminal.press("Space");
    await terminal.line(/paused/);
    const before = terminal.screen();
    run(23);
    await sleep(2500);
    expect(terminal.screen()).toEqual(before);
    terminal.press("p");
    await terminal.gone(/paused/);
    const series = `execve_counter_execs_total{command="${name}",user="root"}`;
    const count = sample(await meter.metrics(), series);
    await until("the runs", async () => numbers(await terminal.line(rowOf(name))).at(-1) === count);
    // The rates of the minute have them all the while.
    expect(numbers(await terminal.line(rowOf(name)))[1]).toBeGreaterThan(0);
  });

  test("scroll through more rows than there is room for", async () => {
    const names = Array.from({ length: 40 }, (_, i) => `${name.slice(0, 10)}_${10 + i}`);
    for (const each of names) {
      copyFileSync("/bin/true", join(directory, each));
      run(1, each);
    }
    terminal.type(beside("--interval", "1h"));
    await terminal.line(/^1-\d+ of \d+/);
    terminal.press("End");
    const last = await terminal.line(/^\d+-(\d+) of \1 /);
    terminal.press("PageUp");
    await terminal.gone(new RegExp(`^${last}`));
    terminal.press("Home");
    await terminal.line(/^1-\d+ of/);
    terminal.press("Down", "Down", "Up");
    await terminal.line(/^2-\d+ of/);
  });
});

describe("the terminal", () => {
  test("is drawn at the size that it has", async () => {
    terminal.type(beside());
    await terminal.line(rowOf(name));
    for (const [columns, rows] of [
      [40, 10],
      [1, 1],
      [200, 60],
      [80, 24],
    ] as const) {
      terminal.resize(columns, rows);
      if (columns > 10) {
        await until(`a table of ${columns} by ${rows}`, () => {
          const screen = terminal.screen();
          return screen.length === rows && screen.at(-1)?.includes("quit") && screen;
        });
        await terminal.line(/COMMAND/);
      }
    }
    expect(terminal.screen()[0]).toContain("since");
    terminal.press("q");
    await until("the end", () => !terminal.modes.alternate);
  });

  test.each([
    [{ NO_COLOR: "1" }, false],
    [{ NO_COLOR: "" }, true],
  ])("with %j", async (env, colored) => {
    terminal.close();
    terminal = new Tmux(80, 24, env);
    terminal.type(beside());
    await terminal.line(/execs\/s, at most/);
    const screen = terminal.screen(true).join("\n");
    expect(screen.includes("\x1b[32m")).toBe(colored);
  });

  test("without UTF-8 has ASCII only, and a terminal that can do nothing has plain tables", async () => {
    terminal.close();
    terminal = new Tmux(80, 24, { LC_ALL: "C" });
    terminal.type(beside());
    await terminal.line(/^[_.~=+*#-]+ execs\/s, at most/);
    expect(terminal.screen().join("")).toMatch(/^[\x20-\x7e]*$/);
    terminal.press("q");
    await until("the end", () => !terminal.modes.alternate);
    terminal.type(`clear; TERM=dumb ${beside("--interval", "1h", "--by", "user")}`);
    await terminal.line(/ other$/);
    expect(terminal.modes).toEqual(AS_FOUND);
    expect(terminal.screen(true).join("")).not.toContain("\x1b");
    terminal.press("C-c");
    await terminal.line(/\^C\$$/);
  });

  test("is not disturbed by names, whatever they are", async () => {
    const names = [
      "\x1b[2J\x1b[31m",
      "a\nb\rc",
      "漢字🚀é",
      "e\u0301\u0301",
      "שלום",
      "\x1b]0;t\x07",
    ];
    const other = await Meter.start(["--by", "command,user"]);
    const before = terminal.modes;
    try {
      for (const each of names) {
        copyFileSync("/bin/true", join(directory, each));
        run(2, each);
      }
      terminal.type(top("--map", `${other.mapId}`));
      await terminal.line(/COMMAND/);
      for (const shown of [
        "\\u{1b}[2J\\u{1b}[31m",
        "a\\u{a}b\\u{d}c",
        "漢字🚀é",
        "שלום",
        "\\u{1b}]0;t\\u{7}",
      ]) {
        terminal.press("Home");
        const row = await until(shown, () => {
          const found = terminal.screen().find((line) => line.includes(` ${shown}`));
          if (!found) terminal.press("Down");
          return found;
        });
        expect(row).toMatch(/ root *$/);
      }
      const rows = terminal.screen().filter((line) => / root *$/.test(line));
      expect(rows.length).toBeGreaterThan(3);
      terminal.press("q");
      await until("the end", () => !terminal.modes.alternate);
      expect(terminal.modes).toEqual(before);
    } finally {
      await other.stop();
    }
  });

  /** Starts top from a shell; what it returns sees that the terminal is as it was before. */
  async function started(command = beside()): Promise<() => Promise<void>> {
    terminal.resize(120, 24);
    terminal.type(`stty -g; ${command}; echo "status $?"`);
    await terminal.line(rowOf(name));
    expect(terminal.modes).toEqual(TAKEN);
    return async () => {
      await until("the other screen", () => !terminal.modes.alternate);
      terminal.type("stty -g");
      const settings = await until("both settings", () => {
        const lines = terminal.screen().filter((line) => /^[\da-f]+(:[\da-f]+)+$/.test(line));
        return lines.length === 2 && lines;
      });
      expect(settings[1]).toBe(settings[0]);
      expect(terminal.modes).toEqual(AS_FOUND);
    };
  }

  test.each([["q"], ["C-c"]])("is as it was found after %s", async (key) => {
    const asFound = await started();
    terminal.press(key);
    await asFound();
    await terminal.line(/status 0$/);
  });

  test.each(["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR2", "SIGALRM"] as const)(
    "is as it was found after %s",
    async (signal) => {
      const asFound = await started();
      process.kill(await topPid(), signal);
      await asFound();
      await terminal.line(/status 0$/);
    },
  );

  test("is as it was found after a crash, and shows why", async () => {
    const crash = join(directory, "crash.cjs");
    const now = join(directory, "now");
    writeFileSync(
      crash,
      `setInterval(() => { if (require("fs").existsSync(${JSON.stringify(now)})) throw new Error("provoked"); }, 50);`,
    );
    sh("chmod", ["755", directory]);
    const asFound = await started(
      beside().replace(shellLine(CLI), shellLine("--require", crash, CLI)),
    );
    writeFileSync(now, "");
    await asFound();
    await terminal.line(/Error: provoked/);
    await terminal.line(/status 1$/);
  });

  test.each(["C-z", "SIGTSTP", "SIGSTOP"] as const)(
    "is the shell's after %s, and drawn again with fg, at the size that it has then",
    async (how) => {
      const asFound = await started();
      const pid = await topPid();
      if (how === "C-z") terminal.press(how);
      else process.kill(pid, how);
      await terminal.line(/Stopped/);
      expect(readFileSync(`/proc/${pid}/status`, "utf8")).toMatch(/^State:\s+T/m);
      if (how !== "SIGSTOP") expect(terminal.modes).toEqual(AS_FOUND);
      terminal.resize(100, 20);
      terminal.type("fg");
      await until("top again", () => {
        const screen = terminal.screen();
        return screen.length === 20 && screen[19]?.includes("quit") && terminal.modes.alternate;
      });
      await terminal.line(rowOf(name));
      expect(terminal.modes).toEqual(TAKEN);
      terminal.press("?");
      await terminal.line(/^Keys/); // keys come one by one again
      terminal.press("q");
      await asFound();
    },
  );

  test("without keys is drawn all the same, until a signal", async () => {
    const asFound = await started(`${beside()} < /dev/null`);
    await until("a rate", async () => {
      run(1);
      return (numbers(await terminal.line(rowOf(name)))[0] ?? 0) > 0;
    });
    terminal.press("C-c");
    await asFound();
  });

  test("that is gone ends it", async () => {
    terminal.type(`${beside()}`);
    await terminal.line(rowOf(name));
    const pid = await topPid();
    const other = new Tmux();
    terminal.close();
    terminal = other;
    await until("the end", () => result("kill", ["-0", `${pid}`]).status !== 0);
  });

  test("that Ctrl-S has stopped gets no frames piled up", async () => {
    const command = `stty rows 24 cols 80; exec ${beside("--interval", "100ms")} < /dev/null`;
    const script = inTerminal(command);
    const ended = once(script, "exit");
    let shown = "";
    script.stdout.on("data", (data) => {
      shown += data;
    });
    try {
      await until("frames", () => shown.split("\x1b[1H").length > 5);
      script.stdin.write("\x13"); // Ctrl-S
      await until("no more frames", async () => {
        const before = shown.length;
        await sleep(500);
        return shown.length === before;
      });
      const before = shown.length;
      await sleep(2000);
      script.stdin.write("\x11"); // Ctrl-Q
      await until("frames again", () => shown.length > before);
      // Of twenty frames what fitted, and the first that was drawn after it.
      expect(shown.length - before).toBeLessThan(5000);
    } finally {
      script.stdin.write("\x11\x03"); // Ctrl-Q, Ctrl-C
    }
    expect(await ended).toEqual([0, null]);
  });
});

describe("printed", () => {
  test("the first table comes at once, and there are no escape sequences", async () => {
    const child = spawn("/bin/sh", ["-c", `exec ${beside("--interval", "1h")}`]);
    let text = "";
    child.stdout.on("data", (data) => {
      text += data;
    });
    try {
      await until("a table", () => text.endsWith("\n\n"));
      expect(text).toContain(`meter of map ${meter.mapId}`);
      expect(text).toMatch(new RegExp(` ${name} +root$`, "m"));
      expect(text).not.toContain("\x1b");
    } finally {
      child.kill("SIGTERM");
    }
    expect(await once(child, "exit")).toEqual([0, null]);
  });

  test("it ends with the process that reads it", () => {
    const command = `${beside("--interval", "100ms")} | head -n 1`;
    const line = `${command}; echo "status \${PIPESTATUS[0]}"`;
    const env = { ...process.env, LC_ALL: "C.UTF-8" }; // that of this machine may not be there
    const { stdout, stderr } = result("bash", ["-c", line], { env });
    expect(stdout.split("\n")).toHaveLength(3);
    expect(stdout).toContain("status 0");
    expect(stderr).toBe("");
  });
});

test.each([
  [["--by", "pid"], /--by cannot be "pid"/],
  [["--interval", "1ms"], /--interval cannot be "1ms"/],
  [["--map", "x"], /--map cannot be "x"/],
  [["nonsense"], /too many arguments|no command/],
] as const)("execve-counter top %j is wrong usage", (words, message) => {
  const { status, stdout, stderr } = result(process.execPath, [CLI, "top", ...words]);
  expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
  expect(stderr).toMatch(message);
  expect(stderr.trimEnd().split("\n")).toHaveLength(2);
});
