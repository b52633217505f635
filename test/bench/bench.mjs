// Measures what the project promises and prints it as ratios within this run,
// because absolute times move from run to run. Needs root and `make build`.
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus, release } from "node:os";
import { fileURLToPath } from "node:url";

const path = (relative) => fileURLToPath(new URL(`../../${relative}`, import.meta.url));
const { Session } = createRequire(import.meta.url)(path("build/Release/execve_counter.node"));
const METER = path("dist/execve_counter.bpf.o");
const BASELINE = path("build/test/baseline.bpf.o");
const ALL = ["count_execve", "count_execveat", "count_exec"];
const STATS = "/proc/sys/kernel/bpf_stats_enabled";

const storm = (...args) =>
  Number(execFileSync(path("build/test/storm"), args.map(String), { encoding: "utf8" }));

function load(object, programs, keys = ["execve_counter", "execveat_counter"]) {
  const session = new Session(object, () => {});
  session.load(programs);
  for (const key of keys) session.update(key, 0n);
  for (const program of programs) session.attach(program);
  return session;
}

function quantile(values, q) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.round(q * (sorted.length - 1))];
}

const median = (values) => quantile(values, 0.5);
const ratios = (a, b) => a.map((value, i) => value / b[i]);
const spread = (values, digits) =>
  `${median(values).toFixed(digits)} (${quantile(values, 0.25).toFixed(digits)} to ${quantile(values, 0.75).toFixed(digits)})`;

function print(what, figure, goal = "") {
  console.log(`${what.padEnd(52)} ${figure}${goal && `   goal: ${goal}`}`);
}

/** Each round runs every candidate once, in turn, forwards and backwards. */
function inTurn(rounds, candidates) {
  const figures = Object.fromEntries(Object.keys(candidates).map((name) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    const names = Object.keys(candidates);
    for (const name of round % 2 ? names.reverse() : names) figures[name].push(candidates[name]());
  }
  return figures;
}

function nsPerRun() {
  const before = readFileSync(STATS, "utf8");
  writeFileSync(STATS, "1");
  try {
    const measure = (object, program, threads) => () => {
      const session = load(object, [program]);
      storm("execve", threads, 100_000);
      const [{ runTime, runCount }] = session.programs();
      session.close();
      return Number(runTime) / Number(runCount);
    };
    for (const threads of [1, 2]) {
      const { empty, origin, meter } = inTurn(61, {
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
    writeFileSync(STATS, before);
  }
}

/** What a program that is started pays: its attempt and its success, with cold caches. */
function nsPerStart() {
  const before = readFileSync(STATS, "utf8");
  writeFileSync(STATS, "1");
  try {
    const measure = (keys) => () => {
      const session = load(METER, ALL, ["execve_counter", "execveat_counter", ...keys]);
      const time = storm("spawn", 1, 1000, "/bin/true") / 1000;
      const programs = session.programs();
      session.close();
      const ns = (name) => {
        const { runTime, runCount } = programs.find((program) => program.name === name);
        return Number(runTime) / Number(runCount);
      };
      return { time, attempt: ns("count_execve"), success: ns("count_exec") };
    };
    const names = Array.from({ length: 100 }, (_, i) => `comm:${i}`);
    const { one, hundred } = inTurn(11, {
      one: measure(["comm:true"]),
      hundred: measure(["comm:true", ...names]),
    });
    const each = (figures, name) => figures.map((figure) => figure[name]);
    print(
      "µs to start /bin/true and wait for it",
      spread(
        each(one, "time").map((ns) => ns / 1000),
        0,
      ),
    );
    print("  ns of it for the attempt", spread(each(one, "attempt"), 0));
    print("  ns of it for the success, one name watched", spread(each(one, "success"), 0));
    print("  ns of it for the success, 101 watched", spread(each(hundred, "success"), 0));
  } finally {
    writeFileSync(STATS, before);
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

/** What other calls pay: nothing, where no system call is touched. */
function stormRate() {
  const time = (call, programs) => () => {
    const session = load(METER, programs);
    const ns = storm(call, 2, 500_000) / 500_000;
    session.close();
    return ns;
  };
  for (const call of ["execve", "getppid"]) {
    const what = call === "execve" ? "failing execve" : call;
    const { without, off, tracepoint } = inTurn(15, {
      without: time(call, []),
      off: time(call, ["count_exec"]),
      tracepoint: time(call, ALL),
    });
    print(`ns per ${what}, without the meter`, spread(without, 0));
    print(`ns per ${what}, with --attempts off`, spread(off, 0));
    print("  ratio, round by round", spread(ratios(off, without), 3));
    print(`ns per ${what}, with the meter`, spread(tracepoint, 0));
    print("  ratio, round by round", spread(ratios(tracepoint, without), 3));
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

async function serving(use) {
  const child = spawn(process.execPath, [
    path("dist/cli.js"),
    "--web.listen-address",
    "127.0.0.1:0",
  ]);
  let url;
  for await (const data of child.stderr) {
    url = /metrics at (\S+)/.exec(data)?.[1];
    if (url) break;
  }
  try {
    return await use(child.pid, url);
  } finally {
    child.kill("SIGTERM");
    await once(child, "exit");
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

// Without a handler a signal would end this before the sysctl is what it was; with
// one, the storm that the signal ends too makes the measurement throw.
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

console.log(`${release()}, ${cpus().length} CPUs, Node ${process.version}; median (quartiles)\n`);
nsPerRun();
nsPerStart();
lost();
stormRate();
await startTime();
await memory();
await readTime();
callsPerRead();
