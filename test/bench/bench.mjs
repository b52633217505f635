// Measures what the project promises and prints it as ratios within this run,
// because absolute times move from run to run. Needs root and `make build`.
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync,
  existsSync,
  linkSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { Agent, get } from "node:http";
import { createRequire } from "node:module";
import { cpus, release, tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { openMeter } from "execve-counter";
import { openBrowser } from "../support/browser.mjs";
import { inTerminal, shellLine } from "../support/script.mjs";
import { changeSetting } from "../support/settings.mjs";
import "../support/environment.mjs";

const path = (relative) => fileURLToPath(new URL(`../../${relative}`, import.meta.url));
const { Session } = createRequire(import.meta.url)(path("build/Release/execve_counter.node"));
const METER = path("dist/execve_counter.bpf.o");
const BASELINE = path("build/test/baseline.bpf.o");
const ALL = ["count_execve", "count_execveat", "count_exec"];
/** That of libbpf-tools; Debian 13 gives it another name, for bcc has one too. */
const EXECSNOOP = existsSync("/usr/sbin/execsnoop-libbpf") ? "execsnoop-libbpf" : "execsnoop";
const STATS = "/proc/sys/kernel/bpf_stats_enabled";

const storm = (...args) =>
  Number(execFileSync(path("build/test/storm"), args.map(String), { encoding: "utf8" }));

function load(object, programs, keys = ["execve_counter", "execveat_counter"]) {
  const session = new Session(object, () => {});
  session.load({ programs });
  for (const key of keys) session.insert(key);
  for (const program of programs) session.attach(program);
  return session;
}

function quantile(values, q) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.round(q * (sorted.length - 1))];
}

const median = (values) => quantile(values, 0.5);
const ratios = (a, b) => a.map((value, i) => value / b[i]);
/** The ratio of the medians, and the ratios round by round. */
const ratio = (a, b) => `${(median(a) / median(b)).toFixed(2)}; ${spread(ratios(a, b), 2)}`;
const spread = (values, digits) =>
  `${median(values).toFixed(digits)} (${quantile(values, 0.25).toFixed(digits)} to ${quantile(values, 0.75).toFixed(digits)})`;

function print(what, figure, goal = "") {
  console.log(`${what.padEnd(52)} ${figure}${goal && `   goal: ${goal}`}`);
}

/** Each round runs every candidate once, in turn, forwards and backwards. */
async function inTurn(rounds, candidates) {
  const figures = Object.fromEntries(Object.keys(candidates).map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    const names = Object.keys(candidates);
    for (const name of round % 2 ? names.reverse() : names) {
      figures[name].push(await candidates[name]());
    }
  }
  return figures;
}

async function nsPerRun() {
  const putBack = changeSetting(STATS, "1");
  try {
    const measure = (object, program, threads) => () => {
      const session = load(object, [program]);
      storm("execve", threads, 100_000);
      const [{ runTime, runCount }] = session.programs();
      session.close();
      return Number(runTime) / Number(runCount);
    };
    for (const threads of [1, 2]) {
      const { empty, origin, meter } = await inTurn(61, {
        empty: measure(BASELINE, "empty", threads),
        origin: measure(BASELINE, "origin", threads),
        meter: measure(METER, "count_execve", threads),
      });
      const on = `${threads} thread${threads > 1 ? "s" : ""}`;
      print(`ns per run, ${on}: empty program`, spread(empty, 1));
      print(`ns per run, ${on}: origin, plain add`, spread(origin, 1));
      print(`ns per run, ${on}: execve-counter`, spread(meter, 1));
      print("  ratio to origin, round by round", spread(ratios(meter, origin), 3), "at most 1");
      print("  ratio of the medians", (median(meter) / median(origin)).toFixed(3), "at most 1");
    }
  } finally {
    await putBack();
  }
}

/** What a call costs in all programs, where it is followed to its end and where it is not. */
async function nsOfFailures() {
  const putBack = changeSetting(STATS, "1");
  const measure =
    (failures, calls, ...words) =>
    () => {
      const meter = openMeter({ failures });
      storm(...words);
      const times = meter.read().programs.map(({ runTime }) => Number(runTime));
      meter.close();
      return times.reduce((sum, time) => sum + time) / calls;
    };
  const failing = [100_000, "execve", 1, 100_000];
  const starting = [2000, "spawn", 1, 2000, path("build/test/tiny")];
  try {
    const { fails, failsFollowed, starts, startsFollowed } = await inTurn(15, {
      fails: measure(false, ...failing),
      failsFollowed: measure(true, ...failing),
      starts: measure(false, ...starting),
      startsFollowed: measure(true, ...starting),
    });
    print("ns per failing call, in all programs", spread(fails, 0));
    print("  with --failures", spread(failsFollowed, 0));
    print("ns per start of a program, in all programs", spread(starts, 0));
    print("  with --failures", spread(startsFollowed, 0));
  } finally {
    await putBack();
  }
}

/** The words that run a shell script in a mount namespace with tracefs in it. */
const withTracefs = (script) => [
  ...["unshare", "--mount", "--propagation=unchanged", "sh", "-c"],
  `mount --make-rslave /sys &&
   { mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; } && ${script}`,
];

/** Runs another tool; resolves once it has attached. Its programs are those that came with it. */
async function tool(script, programs) {
  const known = new Set(bpfPrograms().map(({ id }) => id));
  const [command, ...args] = withTracefs(`exec ${script}`);
  const child = spawn(command, args, { stdio: "ignore" });
  const added = () => bpfPrograms().filter(({ id, name }) => !known.has(id) && programs.test(name));
  for (let i = 0; added().length === 0; i++) {
    if (i === 100) {
      child.kill("SIGKILL");
      throw new Error(`${script} has loaded nothing in ten seconds`);
    }
    await sleep(100);
  }
  await sleep(500);
  return {
    /** Nanoseconds in all of its programs, and runs of the one that ran least. */
    cost: () => {
      const ran = added().map((program) => [program.run_time_ns ?? 0, program.run_cnt ?? 0]);
      return {
        time: ran.reduce((sum, [time]) => sum + time, 0),
        runs: Math.min(...ran.map(([, count]) => count)),
      };
    },
    stop: async () => {
      child.kill("SIGKILL"); // SIGINT is lost now and then
      await once(child, "exit");
    },
  };
}

const bpfPrograms = () => JSON.parse(execFileSync("bpftool", ["-j", "prog", "list"]));

/**
 * What an exec costs. The program is as small as a program can be, to leave
 * the caches to what is measured.
 */
async function nsPerStart() {
  const putBack = changeSetting(STATS, "1");
  const STARTS = 2000;
  const start = () => storm("spawn", 1, STARTS, path("build/test/tiny"));
  const measure =
    (by, watched, program = "count_exec") =>
    () => {
      const session = new Session(BASELINE, () => {});
      session.load({ programs: [program], flags: by, rows: 1024 });
      for (let i = 0; i < watched; i++) session.insert(i === 0 ? "comm:tiny" : `comm:${i}`);
      session.attach(program);
      start();
      const [{ runTime, runCount }] = session.programs();
      session.close();
      return Number(runTime) / Number(runCount);
    };
  const other = (script, programs) => async () => {
    const running = await tool(script, programs);
    const first = running.cost();
    start();
    const last = running.cost();
    await running.stop();
    return (last.time - first.time) / (last.runs - first.runs);
  };
  const bpftrace = (hook) =>
    other(
      `bpftrace -e '${hook} { @ = count(); @c[comm] = count(); }'`,
      // By the name of its hook, which newer ones put a "tracepoint_sched_" before.
      /^(tracepoint_sched_)?sched_process_e|^tracepoint_sche$/,
    );
  try {
    const figures = await inTurn(15, {
      empty: measure([], 0, "empty_exec"),
      total: measure([], 0),
      command: measure(["command"], 0),
      user: measure(["user"], 0),
      container: measure(["container"], 0),
      parent: measure(["parent"], 0),
      unit: measure(["unit"], 0),
      path: measure(["path"], 0),
      three: measure(["command", "user", "container"], 0),
      all: measure(["command", "user", "container", "parent", "unit", "path"], 0),
      one: measure(["command"], 1),
      hundred: measure(["command"], 100),
      bpftrace: bpftrace("tracepoint:sched:sched_process_exec"),
      execsnoop: other(EXECSNOOP, /execve/),
    });
    const { empty, total, command, three, all, one, hundred } = figures;
    const { bpftrace: traced, execsnoop } = figures;
    print("ns per exec: empty program", spread(empty, 0));
    print("ns per exec: total", spread(total, 0));
    print("ns per exec: by command", spread(command, 0));
    for (const label of ["user", "container", "parent", "unit", "path"]) {
      print(`ns per exec: by ${label}`, spread(figures[label], 0));
    }
    print("ns per exec: by command,user,container", spread(three, 0));
    print("ns per exec: by all six labels", spread(all, 0));
    print("ns per exec: bpftrace, total and by command", spread(traced, 0));
    print("ns per exec: execsnoop, both its programs", spread(execsnoop, 0));
    print("  by command to bpftrace", ratio(command, traced), "at most 0.5");
    print("  by command to execsnoop", ratio(command, execsnoop));
    print("  three labels to command alone", ratio(three, command), "at most 1.3");
    print("  all six to command alone", ratio(all, command), "at most 1.6");
    print("ns per exec: by command, watching one", spread(one, 0));
    print("ns per exec: by command, watching 100", spread(hundred, 0));
    print("  watching 100 to watching one", ratio(hundred, one), "1");
  } finally {
    await putBack();
  }
}

function lost() {
  for (const [name, object, program] of [
    ["execve-counter", METER, "count_execve"],
    ["origin, plain add", BASELINE, "origin"],
  ]) {
    const session = load(object, [program]);
    storm("execve", 2, 2_000_000);
    const counted = session.lookup("execve_counter");
    const [{ misses }] = session.programs();
    session.close();
    const missing = 4_000_000n - counted - misses;
    print(
      `attempts lost of 4,000,000: ${name}`,
      missing > 0n ? missing : 0n,
      object === METER ? "0" : "",
    );
  }
}

/** What other calls cost: nothing, where no system call is touched. */
async function stormRate() {
  const time = (call, programs) => () => {
    const session = load(METER, programs);
    const ns = storm(call, 2, 500_000) / 500_000;
    session.close();
    return ns;
  };
  for (const call of ["execve", "getppid"]) {
    const what = call === "execve" ? "failing execve" : call;
    const { without, off, tracepoint, raw } = await inTurn(15, {
      without: time(call, []),
      off: time(call, ["count_exec"]),
      tracepoint: time(call, ALL),
      raw: time(call, ["count_attempts", "count_exec"]),
    });
    print(`ns per ${what}, without the meter`, spread(without, 0));
    print(`ns per ${what}, with --attempts off`, spread(off, 0));
    print("  ratio, round by round", spread(ratios(off, without), 3));
    print(`ns per ${what}, with --attempts tracepoint`, spread(tracepoint, 0));
    print("  ratio, round by round", spread(ratios(tracepoint, without), 3));
    print(`ns per ${what}, with --attempts raw`, spread(raw, 0));
    print("  ratio, round by round", spread(ratios(raw, without), 3));
  }
}

/** Milliseconds from spawn until stderr says that the meter counts. */
async function timeToAttached() {
  const start = performance.now();
  const child = spawn(process.execPath, [
    path("dist/cli.js"),
    "--web.listen-address",
    "127.0.0.1:0",
  ]);
  for await (const data of child.stderr) if (`${data}`.includes(" counts ")) break;
  const time = performance.now() - start;
  child.kill("SIGTERM");
  await once(child, "exit");
  return time;
}

async function timeOfNode() {
  const start = performance.now();
  await once(spawn(process.execPath, ["-e", "0"]), "exit");
  return performance.now() - start;
}

async function startTime() {
  const node = [];
  const attached = [];
  for (let i = 0; i < 21; i++) {
    node.push(await timeOfNode());
    attached.push(await timeToAttached());
  }
  print("ms for node -e 0", spread(node, 1));
  print("ms from start to attached", spread(attached, 1));
  print("  ratio, round by round", spread(ratios(attached, node), 2), "at most 3");
}

const residentKiB = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`))[1]);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function serving(use, flags = []) {
  const silent = flags.includes("--no-web");
  const web = silent ? [] : ["--web.listen-address", "127.0.0.1:0"];
  const child = spawn(process.execPath, [path("dist/cli.js"), ...web, ...flags]);
  const last = silent ? /counts \S/ : /metrics at (\S+)/;
  let said = "";
  const ended = once(child, "exit").then(([code, signal]) => {
    throw new Error(`the agent ended with ${code ?? signal}: ${said}`);
  });
  const url = new Promise((resolve) => {
    child.stderr.on("data", (data) => {
      said += data;
      const found = last.exec(said);
      if (found) resolve(found[1]);
    });
  });
  try {
    return await Promise.race([ended, url.then((at) => use(child.pid, at, child))]);
  } finally {
    child.kill("SIGTERM");
    await ended.catch(() => {});
  }
}

async function memory() {
  const bare = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"]);
  const [agent, scraped] = await serving(async (pid, url) => {
    await sleep(3000);
    const before = residentKiB(pid);
    for (let i = 0; i < 500; i++) await (await fetch(url)).text();
    await sleep(1000);
    return [before, residentKiB(pid)];
  });
  const node = residentKiB(bare.pid);
  bare.kill();
  const mib = (kib) => `${(kib / 1024).toFixed(1)} MiB`;
  print("resident: bare node", mib(node));
  print("resident: execve-counter, at rest", mib(agent));
  print("  ratio", (agent / node).toFixed(2), "at most 1.5");
  print("resident: execve-counter, after 500 scrapes", mib(scraped));
  print("  ratio", (scraped / node).toFixed(2));
}

function microseconds(times, call) {
  return Array.from({ length: times }, () => {
    const start = performance.now();
    call();
    return (performance.now() - start) * 1000;
  });
}

async function readTime() {
  for (const keys of [2, 4096]) {
    const session = load(
      METER,
      [],
      Array.from({ length: keys }, (_, i) => `key ${i}`),
    );
    print(
      `µs per read of ${keys} counters`,
      spread(
        microseconds(200, () => session.readCounters()),
        0,
      ),
    );
    session.close();
  }
  await readRows();
  const scrapes = await serving(async (_, url) => {
    const times = [];
    for (let i = 0; i < 300; i++) {
      const start = performance.now();
      await (await fetch(url)).text();
      times.push(performance.now() - start);
    }
    return times;
  });
  print("ms per scrape", spread(scrapes, 2));
}

/** Runs that many programs of different names. */
function startNames(count) {
  const directory = mkdtempSync(`${tmpdir()}/execve-counter-`);
  const names = Array.from({ length: count }, (_, i) => `${directory}/command${i}`);
  try {
    for (const name of names) linkOrCopy(path("build/test/tiny"), name);
    for (let i = 0; i < count; i += 1000) storm("spawn", 1, 1, ...names.slice(i, i + 1000));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const WHO = ["--by", "command,user,container"];

/** A table of 10,000 rows. */
async function readRows() {
  const meter = openMeter({
    ...{ attempts: "off", by: ["command", "user", "container"], maxSeries: 65_536 },
  });
  try {
    await serving(async () => {
      startNames(10_000);
      const reads = microseconds(50, () => meter.read()).map((time) => time / 1000);
      print("ms per read of 10,000 rows into a snapshot", spread(reads, 1), "at most 10");
    }, [...WHO, "--max-series", "65536"]);
  } finally {
    meter.close();
  }
}

/** Puts that many rows into the table by command, user and container of the meter that began last. */
function fillTable(rows) {
  const maps = JSON.parse(execFileSync("bpftool", ["-j", "map", "list"]));
  const update = (map, key, value) => {
    const id = Math.max(...maps.filter(({ name }) => name === map).map((each) => each.id));
    const hex = (bytes) => bytes.toString("hex").replaceAll(/../g, "$& ");
    return `map update id ${id} key hex ${hex(key)} value hex ${hex(value)}`;
  };
  const u64 = (number) => Buffer.from(BigUint64Array.of(BigInt(number)).buffer);
  const padded = (size, bytes, at = 0) => {
    const buffer = Buffer.alloc(size);
    Buffer.from(bytes).copy(buffer, at);
    return buffer;
  };
  const lines = [];
  for (let i = 0; i < rows; i++) {
    // Ten commands in each container.
    const group = 1e9 + Math.floor(i / 10);
    const container = Buffer.from(`${group}`.padStart(64, "ab"), "hex");
    if (i % 10 === 0) lines.push(update("groups", u64(group), padded(296, container, 8)));
    const key = Buffer.concat([u64(group), padded(16, `command${i}`), u64(i % 7)]);
    lines.push(update("execs", key, padded(56, u64(i))));
  }
  const directory = mkdtempSync(`${tmpdir()}/execve-counter-`);
  try {
    writeFileSync(`${directory}/batch`, lines.join("\n"));
    execFileSync("bpftool", ["batch", "file", `${directory}/batch`], {
      stdio: ["ignore", "ignore", "inherit"],
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Milliseconds that all threads of a process have run. */
function ranFor(pid) {
  const tasks = readdirSync(`/proc/${pid}/task`);
  const ran = (task) => readFileSync(`/proc/${pid}/task/${task}/schedstat`, "utf8").split(" ")[0];
  return tasks.reduce((sum, task) => sum + Number(ran(task)), 0) / 1e6;
}

/** Gets a page as Prometheus does, and leaves it compressed; milliseconds. */
async function scrape(url, agent) {
  const start = performance.now();
  const [response] = await once(
    get(url, { headers: { "accept-encoding": "gzip" }, agent }),
    "response",
  );
  if (response.statusCode !== 200) throw new Error(`${response.statusCode}`);
  await once(response.resume(), "end");
  return performance.now() - start;
}

/** What scrapes of large tables take, and how long everything else waits for them. */
async function scrapesAtScale() {
  for (const [rows, goal] of [
    [10_000, 30],
    [65_500, 250],
  ]) {
    const flags = [...WHO, "--max-series", "65536"];
    await serving(async (pid, url) => {
      fillTable(rows);
      const cost = async () => {
        const before = ranFor(pid);
        const time = await scrape(url);
        return [ranFor(pid) - before, time];
      };
      const [first] = await cost();
      print(`ms of CPU for the first scrape of ${rows} rows`, first.toFixed(0));
      const costs = [];
      for (let i = 0; i < 100; i++) costs.push(await cost());
      const took = costs.map(([time]) => time);
      print("  for each other", spread(took, 0));
      print("  for the 99th of 100", quantile(took, 0.99).toFixed(0), `at most ${goal}`);
      const times = costs.map(([, time]) => time);
      print("  ms until it is there", spread(times, 0));
      const resident = residentKiB(pid) / 1024;
      print("  MiB resident afterwards", resident.toFixed(0), rows > 10_000 ? "at most 150" : "");
    }, flags);
    await serving(
      async (_, url, child) => {
        fillTable(rows);
        const healthy = new URL("/-/healthy", url);
        const [, wait] = await Promise.all([scrape(url), sleep(5).then(() => scrape(healthy))]);
        const [answers, lines] = [[], []];
        child.stdout.on("data", () => lines.push(performance.now()));
        let scraping = true;
        const others = (async () => {
          while (scraping) {
            answers.push(await scrape(healthy));
            await sleep(5);
          }
        })();
        const until = performance.now() + 10_000;
        while (performance.now() < until) await scrape(url);
        scraping = false;
        await others;
        const late = lines.slice(1).map((time, i) => time - lines[i] - 500);
        print("  ms until /-/healthy answers during the first scrape", wait.toFixed(0));
        const atMost = (all) => quantile(all, 1).toFixed(0);
        print("  ms until /-/healthy answers meanwhile, at most", atMost(answers), 50);
        print("  ms that a line is late meanwhile, at most", atMost(late), 50);
      },
      [...flags, "--interval", "500ms"],
    );
  }
}

/** Scrapes a second, beside node_exporter with about as many series. */
async function besideNodeExporter() {
  const port = 9199;
  const exporter = spawn("prometheus-node-exporter", [`--web.listen-address=127.0.0.1:${port}`], {
    stdio: "ignore",
  });
  try {
    const theirs = `http://127.0.0.1:${port}/metrics`;
    while (!(await fetch(theirs).catch(() => {}))) await sleep(100);
    const count = async (url) => (await (await fetch(url)).text()).match(/^[a-z]/gm).length;
    await serving(async (_, ours) => {
      const series = await count(theirs);
      fillTable(series - (await count(ours)));
      const agent = new Agent({ keepAlive: true });
      const perSecond = (url) => async () => {
        const times = [];
        for (let i = 0; i < 100; i++) times.push(await scrape(url, agent));
        return 1000 / (times.reduce((sum, time) => sum + time) / times.length);
      };
      const rates = await inTurn(7, { ours: perSecond(ours), theirs: perSecond(theirs) });
      agent.destroy();
      print(`scrapes a second of ${await count(ours)} series`, spread(rates.ours, 0));
      print(`scrapes a second of node_exporter, ${series} series`, spread(rates.theirs, 0));
      print("  ratio, round by round", spread(ratios(rates.ours, rates.theirs), 1), "at least 1.5");
    }, WHO);
  } finally {
    exporter.kill();
  }
}

/** Hundredths of a processor that an idle agent takes. */
async function idle() {
  for (const [what, flags, goal] of [
    ["with HTTP", [], "at most 0.05"],
    ["without", ["--no-web"]],
  ]) {
    await serving(async (pid) => {
      await sleep(5000);
      for (const minute of ["in its first minute", "in its second"]) {
        const [before, start] = [ranFor(pid), performance.now()];
        await sleep(60_000);
        const share = (100 * (ranFor(pid) - before)) / (performance.now() - start);
        print(`% of a processor of an agent ${what}, ${minute}`, share.toFixed(3), goal);
      }
    }, flags);
  }
}

/** Seconds of processor time that a process has had. */
function processorTime(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100; // USER_HZ
}

/** Hundredths of a processor that a process takes over some seconds. */
async function share(pid, seconds) {
  const [time, had] = [performance.now(), processorTime(pid)];
  await sleep(seconds * 1000);
  return ((processorTime(pid) - had) * 100_000) / (performance.now() - time);
}

async function pageCost() {
  for (const [rows, flags] of [
    [1000, []],
    [10_000, ["--max-series", "65536"]],
  ]) {
    await serving(
      async (pid, url) => {
        startNames(rows);
        const without = await share(pid, 20);
        const browser = await openBrowser();
        try {
          const page = await browser.newPage();
          await page.goto(new URL("/", url).href);
          await page.waitForSelector("[data-state=live]");
          const shares = [];
          for (let i = 0; i < 3; i++) shares.push(await share(pid, 20));
          print(`% of a processor for no page, ${rows} rows`, without.toFixed(2));
          print("  and for one", spread(shares, 2), "at most 1 more");
        } finally {
          await browser.close();
        }
      },
      [...WHO, ...flags],
    );
  }
}

/** What top takes on a terminal of 80 by 24, of a meter with 1,000 rows of which 50 move a second. */
async function topTime() {
  const SECONDS = 30;
  const directory = mkdtempSync(`${tmpdir()}/execve-counter-`);
  const names = Array.from({ length: 1000 }, (_, i) => `${directory}/command${i}`);
  for (const name of names) linkOrCopy(path("build/test/tiny"), name);
  const meter = openMeter({ failures: true, by: ["command"], maxSeries: 4096 });
  const top = [process.execPath, path("dist/cli.js"), "top", "--map", meter.map];
  const command = `stty rows 24 cols 80; exec ${shellLine(...top)}`;
  const terminal = inTerminal(command);
  try {
    storm("spawn", 1, 1, ...names);
    let frames = 0;
    const drawn = new Promise((resolve) => {
      terminal.stdout.on("data", (data) => {
        if (`${data}`.includes("\x1b[2H")) frames++;
        if (`${data}`.includes("COMMAND")) resolve();
      });
    });
    await drawn;
    const children = readFileSync(`/proc/${terminal.pid}/task/${terminal.pid}/children`, "utf8");
    await sleep(2000);
    const before = cpuTime(Number(children));
    const start = performance.now();
    for (let i = 0; i < SECONDS; i++) {
      const next = Array.from({ length: 50 }, (_, k) => names[(50 * i + k) % names.length]);
      storm("spawn", 1, 1, ...next);
      await sleep(start + 1000 * (i + 1) - performance.now());
    }
    if (frames < SECONDS) throw new Error(`only ${frames} frames`);
    const share = (cpuTime(Number(children)) - before) / (performance.now() - start);
    print("% of a CPU for top, 1,000 rows, each second", (100 * share).toFixed(2), "at most 2");
  } finally {
    terminal.kill();
    meter.close();
    rmSync(directory, { recursive: true });
  }
}

/** Milliseconds of user and system time, of all threads; see proc(5). */
function cpuTime(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  const ticks = Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));
  return (1000 * (Number(fields[11]) + Number(fields[12]))) / ticks;
}

function linkOrCopy(from, to) {
  try {
    linkSync(from, to);
  } catch {
    copyFileSync(from, to); // on another file system
  }
}

/** bpf() calls that one read of a full map makes, as strace sees them. */
function callsPerRead() {
  const { stderr } = spawnSync(
    "strace",
    ["-f", "--trace=bpf,write", process.execPath, path("test/support/read-full-map.mjs")],
    { encoding: "utf8" },
  );
  const reads = stderr.split("before the reads")[1].split("after the reads")[0];
  print("bpf() calls per read of 4096 counters", reads.match(/\bbpf\(/g).length / 10, "1");
}

/**
 * A build that starts 1,000 programs, under meters that count what it starts. It begins a
 * moment after its meter: a build beside a process that has just worked hard, of whatever
 * kind, takes a tenth longer on some machines.
 */
async function build(what, program) {
  const directory = mkdtempSync(`${tmpdir()}/execve-counter-bench-`);
  const targets = Array.from({ length: 1000 }, (_, i) => `t${i}`).join(" ");
  writeFileSync(`${directory}/Makefile`, `all: ${targets}\n${targets}:\n\t@${program}\n`);
  const script = `sleep 0.3; a=$(date +%s%N); make -s -C ${shellLine(directory)} -j2; b=$(date +%s%N); echo $((b - a)) >${shellLine(directory)}/ns`;
  /** Milliseconds of the build itself. */
  const time = (...words) => {
    const all = [...words, "/bin/sh", "-c", script];
    const { status, stderr } = spawnSync(all[0], all.slice(1), { encoding: "utf8" });
    if (status !== 0) throw new Error(`${words[0]} ended with ${status}: ${stderr}`);
    return Number(readFileSync(`${directory}/ns`)) / 1e6;
  };
  const stat = [process.execPath, path("dist/cli.js"), "stat"];
  const event = "syscalls:sys_enter_execve";
  const strace = ["strace", "-f", "-c", "-e", "trace=execve", "-o", "/dev/null"];
  try {
    const figures = await inTurn(31, {
      bare: () => time("env"),
      again: () => time("env"),
      stat: () => time(...stat, "--"),
      off: () => time(...stat, "--attempts", "off", "--"),
      all: () => time(...stat, "--failures", "--by", "command,parent,path", "--"),
      perf: () => time(...withTracefs('exec "$0" "$@"'), "perf", "stat", "-e", event, "--"),
      execsnoop: async () => {
        const running = await tool(EXECSNOOP, /execve/);
        const spent = time("env");
        await running.stop();
        return spent;
      },
    });
    // Three rounds are enough for what takes thirty times as long.
    figures.strace = (await inTurn(3, { strace: () => time(...strace) })).strace;
    print(`ms of a build that starts 1,000 times ${what}`, spread(figures.bare, 0));
    for (const [name, under, goal] of [
      ["again", "the same again", ""],
      ["stat", "stat", "at most 1.01"],
      ["off", "stat --attempts off", "at most 1.01"],
      ["all", "stat --failures --by command,parent,path", ""],
      ["perf", `perf stat -e ${event}`, ""],
      ["execsnoop", "execsnoop", ""],
      ["strace", "strace -f -c -e trace=execve", ""],
    ]) {
      print(`  ratio, under ${under}`, spread(ratios(figures[name], figures.bare), 3), goal);
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function builds() {
  await build("/bin/true", "/bin/true");
  await build("the smallest program", path("build/test/tiny"));
}

/** Milliseconds from spawn until the command of stat runs, and until stat has ended. */
async function timeOfStat(...flags) {
  const start = performance.now();
  const words = [path("dist/cli.js"), "stat", ...flags, "--", "/bin/echo"];
  const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "ignore"] });
  let begun;
  child.stdout.once("data", () => {
    begun = performance.now() - start;
  });
  await once(child, "close");
  return [begun, performance.now() - start];
}

async function startOfStat() {
  const { node, stat, off } = await inTurn(21, {
    node: timeOfNode,
    stat: () => timeOfStat(),
    off: () => timeOfStat("--attempts", "off"),
  });
  for (const [name, times] of Object.entries({ "": stat, " --attempts off": off })) {
    const [begun, ended] = [0, 1].map((i) => times.map((both) => both[i]));
    print(`ms from start of stat${name} to its command`, spread(begun, 1));
    print("  ratio to node -e 0, round by round", spread(ratios(begun, node), 2), "at most 2");
    print("  ms to its end", spread(ended, 1));
  }
}

console.log(`${release()}, ${cpus().length} CPUs, Node ${process.version}; median (quartiles)\n`);
const PARTS = {
  nsPerRun,
  nsOfFailures,
  nsPerStart,
  lost,
  stormRate,
  startTime,
  memory,
  readTime,
  scrapesAtScale,
  besideNodeExporter,
  idle,
  pageCost,
  callsPerRead,
  topTime,
  builds,
  startOfStat,
};
const only = process.env.ONLY?.split(",") ?? Object.keys(PARTS);
for (const name of only) {
  if (!PARTS[name]) throw new Error(`no part ${name}: ${Object.keys(PARTS).join()}`);
  await PARTS[name]();
}
