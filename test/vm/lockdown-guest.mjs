// Runs inside a test machine whose kernel is locked down: says which flags the meter starts with
// there, and what it counts of known calls.
import { spawn, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

const STORM = "/app/build/test/storm";

function run(...words) {
  const [command, ...args] = words.map(String);
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
  return { status, stdout, stderr };
}
const meter = (...words) => run("/bin/node", "dist/cli.js", ...words);

/** What a meter counts of 20,000 failing calls by execve and 2,000 by execveat, and 40 starts. */
async function counted(...flags) {
  const address = "127.0.0.1:11059";
  const agent = spawn("/bin/node", [
    ...["dist/cli.js", "--interval", "1h", "--web.listen-address", address, "--failures"],
    ...["--by", "command,user,parent", "--watch", "program", ...flags],
  ]);
  let stderr = "";
  agent.stdout.resume();
  agent.stderr.on("data", (data) => {
    stderr += data;
  });
  while (!stderr.includes("metrics at")) {
    if (agent.exitCode !== null) throw new Error(stderr);
    await sleep(50);
  }
  const read = async () => (await fetch(`http://${address}/api/v1/counts`)).json();
  const before = await read();
  run(STORM, "execve", 2, 10_000);
  run(STORM, "execveat", 2, 1000);
  run(STORM, "spawn", 2, 20, "/bin/program");
  run(STORM, "int80", 2, 500);
  const after = await read();
  agent.kill("SIGTERM");
  while (agent.exitCode === null) await sleep(50);
  return { before, after, stderr };
}

const report = { release: release() };
try {
  run("/bin/mount", "-t", "securityfs", "securityfs", "/sys/kernel/security");
  report.lockdown = readFileSync("/sys/kernel/security/lockdown", "utf8");
  report.starts = {};
  for (const flags of [
    "",
    "--attempts raw",
    "--attempts off",
    "--failures",
    "--by command,user,parent",
    "--by container",
  ]) {
    report.starts[flags] = meter("--check", "--no-web", ...flags.split(" ").filter(Boolean));
  }
  report.doctor = meter("doctor");
  if (report.starts["--failures"].status === 0) report.counted = await counted();
} catch (error) {
  report.error = error.stack;
}
writeFileSync(process.env.report, JSON.stringify(report));
process.exit();
