// Runs inside a test machine with systemd: does to the service what an administrator does,
// and reports what came of it.
import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const METER = "http://127.0.0.1:11059";
const USER = "1000";
const DROP_INS = "/etc/systemd/system/execve-counter.service.d";

function run(command, ...args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: "utf8" });
  return { status, output: `${stdout}${stderr}${error ?? ""}` };
}
const systemctl = (...args) => run("systemctl", ...args);
const storm = () => run("storm", "execveat", "1", "10000");
const show = () =>
  Object.fromEntries(
    systemctl("show", "execve-counter", "-p", "ActiveState,NRestarts,MainPID,Result,NotifyAccess")
      .output.trim()
      .split("\n")
      .map((line) => line.split("=")),
  );
const get = async (path) =>
  (await fetch(METER + path, { headers: { connection: "close" } })).text();
const counts = async () => JSON.parse(await get("/api/v1/counts"));

async function until(what, check) {
  for (let i = 0; i < 600; i++) {
    const value = await check();
    if (value) return value;
    await sleep(200);
  }
  throw new Error(
    `waited in vain: ${what}; ${JSON.stringify(show())}\n${systemctl("status", "execve-counter").output}`,
  );
}

async function plain() {
  // As Debian's kernels have it, on which CAP_PERFMON alone then opens no perf event.
  writeFileSync("/proc/sys/kernel/perf_event_paranoid", "3");
  const started = systemctl("start", "execve-counter");
  // start returns once READY=1 was said.
  const state = show();
  const before = await counts();
  storm();
  const after = await counts();
  const tasks = `/proc/${state.MainPID}/task`;
  const threads = readdirSync(tasks).map((id) => readFileSync(`${tasks}/${id}/status`, "utf8"));
  return {
    started,
    state,
    before,
    after,
    threads,
    log: systemctl("status", "execve-counter").output,
  };
}

async function watchdog() {
  writeFileSync("/proc/sys/kernel/perf_event_paranoid", "2");
  mkdirSync(DROP_INS, { recursive: true });
  writeFileSync(`${DROP_INS}/watchdog.conf`, "[Service]\nWatchdogSec=12\nRestartSec=1\n");
  systemctl("daemon-reload");
  systemctl("restart", "execve-counter");
  const { MainPID } = show();
  await sleep(25_000);
  const alive = show();
  process.kill(Number(MainPID), "SIGSTOP");
  const restarted = await until("a restart", () => {
    const now = show();
    return now.MainPID !== MainPID && now.ActiveState === "active" ? now : undefined;
  });
  return { first: MainPID, alive, restarted, metrics: await get("/metrics") };
}

async function pinned() {
  cpSync("/root/pin.conf", `${DROP_INS}/pin.conf`);
  systemctl("daemon-reload");
  const started = systemctl("restart", "execve-counter");
  storm();
  const first = await counts();
  systemctl("stop", "execve-counter");
  const stopped = show();
  storm();
  systemctl("start", "execve-counter");
  const second = await counts();
  systemctl("stop", "execve-counter");
  return { started, first, stopped, second, unpinned: run("execve-counter", "unpin") };
}

async function activated() {
  rmSync(DROP_INS, { recursive: true });
  writeFileSync("/etc/default/execve-counter", 'EXECVE_COUNTER_FLAGS="--web.systemd-socket"');
  systemctl("daemon-reload");
  const started = systemctl("start", "execve-counter.socket");
  const before = show();
  const first = await counts();
  // A client that asks while there is no agent gets an answer of the next.
  const restart = systemctl("restart", "--no-block", "execve-counter");
  const second = await until("the next meter", async () => {
    const answer = await counts().catch(() => undefined);
    return answer?.start_time !== first.start_time ? answer : undefined;
  });
  return { started, before, first, restart, second };
}

/**
 * Three starts each in units of every kind, which end before anyone scrapes: what the first scrape
 * shows of each, and what there is once all have retired.
 */
async function retirement() {
  cpSync("/bin/true", "/usr/local/bin/program");
  const script = "program; program; program";
  const job = `ExecStart=/bin/sh -c "${script}"\n`;
  const user = `user@${USER}.service`;
  const runtime = `/run/user/${USER}`;
  for (const [path, text] of [
    ["system/job@.service", `[Service]\nType=oneshot\n${job}`],
    ["user/own.service", `[Service]\nType=oneshot\n${job}`],
    // There is no logind, which makes this directory for a user who lingers.
    [
      `system/${user}.d/alone.conf`,
      `[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=${runtime}\n`,
    ],
    [
      `system/user-runtime-dir@${USER}.service.d/alone.conf`,
      `[Service]\nExecStart=\nExecStop=\nExecStart=/usr/bin/install -d -m 0700 -o ${USER} -g ${USER} ${runtime}\n`,
    ],
  ]) {
    const file = `/etc/systemd/${path}`;
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
  appendFileSync("/etc/passwd", `lingers:x:${USER}:${USER}::/:/bin/sh\n`);
  appendFileSync("/etc/group", `lingers:x:${USER}:\n`);
  const flags = "--by unit,command --retire-after 1s --interval 1h";
  writeFileSync("/etc/default/execve-counter", `EXECVE_COUNTER_FLAGS="${flags}"`);
  systemctl("stop", "execve-counter.socket");
  systemctl("daemon-reload");
  systemctl("restart", "execve-counter");
  const series = async () => {
    const rows = [
      ...(await get("/metrics")).matchAll(/^execve_counter_execs_total\{(.*)\} (\d+)$/gm),
    ];
    return rows.map(([, labels, value]) => ({ labels, execs: Number(value) }));
  };

  await series(); // from now on rows wait for a scrape
  const asUser = ["--reuid", USER, "--regid", USER, "--clear-groups", "env"];
  const runs = [
    run("systemd-run", "--unit=transient.service", "/bin/sh", "-c", script),
    systemctl("start", "job@one.service"),
    run("systemd-run", "--scope", "--unit=some.scope", "/bin/sh", "-c", script),
    run(
      "systemd-run",
      "--scope",
      "--slice=outer-inner",
      "--unit=deep.scope",
      "/bin/sh",
      "-c",
      script,
    ),
    systemctl("start", user),
    run(
      "setpriv",
      ...asUser,
      `XDG_RUNTIME_DIR=${runtime}`,
      "systemctl",
      "--user",
      "start",
      "own.service",
    ),
    systemctl("stop", user, "outer.slice"),
  ].filter(({ status }) => status !== 0);
  await sleep(5000); // longer than --retire-after, and no scrape
  const first = await series();
  const gone = (labels) => /"(transient|job@one|own)\.service"|"(some|deep)\.scope"/.test(labels);
  const last = await until("all to retire", async () => {
    const now = await series();
    return now.some(({ labels }) => gone(labels)) ? undefined : now;
  });
  return { failed: runs, first, last, execs: (await counts()).execs };
}

const report = {};
try {
  report.user = run("systemd-sysusers").output;
  report.security = run("systemd-analyze", "security", "execve-counter.service").output;
  report.plain = await plain();
  report.watchdog = await watchdog();
  report.pinned = await pinned();
  report.activated = await activated();
  report.retirement = await retirement();
} catch (error) {
  report.error = `${error.stack}\n${run("journalctl", "--unit=execve-counter", "--no-pager").output}`;
}
writeFileSync("/dev/ttyS1", JSON.stringify(report));
