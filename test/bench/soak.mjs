// Storms without a pause while the meter is scraped every second, and says at the end
// whether it lost a call, grew, or kept a file descriptor. Needs root and `make build`.
//
//   node soak.mjs <minutes>
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { setPriority, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import "../support/environment.mjs";

const path = (relative) => fileURLToPath(new URL(`../../${relative}`, import.meta.url));
const minutes = Number(process.argv[2]);
if (!(minutes > 0)) throw new Error("usage: node soak.mjs <minutes>");

/** Two threads of failing calls, then two that start a program; a round takes seconds. */
const [CALLS, STARTS] = [1_000_000, 500];

const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
const name = `soak${process.pid}`;
copyFileSync(path("build/test/tiny"), join(directory, name));

const meter = spawn(process.execPath, [
  ...[path("dist/cli.js"), "--web.listen-address", "127.0.0.1:0", "--interval", "1s"],
  ...["--failures", "--by", "command,user,container", "--watch", name, "--output", "json"],
]);
let lines = 0;
let talk = "";
meter.stdout.on("data", (data) => {
  lines += `${data}`.split("\n").length - 1;
});
meter.stderr.on("data", (data) => {
  talk += data;
});
const ended = once(meter, "exit");
while (!talk.includes("metrics at ")) await sleep(50);
const url = /metrics at (\S+)/.exec(talk)[1];

let rounds = 0;
const until = performance.now() + minutes * 60_000;
/** Gives way to other work on this machine. */
const storm = async (...args) => {
  const child = spawn(path("build/test/storm"), args.map(String));
  setPriority(child.pid, 19);
  const [status] = await once(child, "exit");
  if (status !== 0) throw new Error(`storm ${args.join(" ")}: ${status}`);
};
const storms = (async () => {
  while (performance.now() < until) {
    await storm("execveat", 2, CALLS);
    await storm("spawn", 2, STARTS, join(directory, name));
    rounds++;
  }
})();

const scrape = async () => {
  const start = performance.now();
  const text = await (await fetch(url)).text();
  const value = (series) => Number(text.split(`\n${series} `)[1].split("\n", 1)[0]);
  return {
    took: performance.now() - start,
    rss: value("process_resident_memory_bytes") / 2 ** 20,
    fds: value("process_open_fds"),
    attempts: value('execve_counter_attempts_total{syscall="execveat"}'),
    failures: value('execve_counter_failures_total{syscall="execveat",errno="ENOENT"}'),
    watched: value(`execve_counter_watched_total{command="${name}"}`),
    readErrors: value("execve_counter_read_errors_total"),
  };
};
const samples = [];
while (performance.now() < until) {
  samples.push(await scrape());
  await sleep(1000);
}
await storms;
const last = await scrape();
meter.kill("SIGTERM");
const [status] = await ended;
rmSync(directory, { recursive: true });

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
// The first tenth is for warming up.
const warm = samples.slice(Math.ceil(samples.length / 10));
const third = Math.ceil(warm.length / 3);
const [first, end] = [warm.slice(0, third), warm.slice(-third)];
const rss = [first, end].map((part) => median(part.map((each) => each.rss)));
const fds = [first, end].map((part) => Math.max(...part.map((each) => each.fds)));
const took = warm.map((each) => each.took);
const expected = { calls: rounds * 2 * CALLS, starts: rounds * 2 * STARTS };

console.log(`minutes                      ${minutes}`);
console.log(`scrapes, lines               ${samples.length}, ${lines}`);
console.log(`failing calls made, counted  ${expected.calls}, ${last.attempts}`);
console.log(`  of which failed            ${last.failures}`);
console.log(`programs started, counted    ${expected.starts}, ${last.watched}`);
console.log(
  `resident MiB, first third, last third   ${rss.map((each) => each.toFixed(1)).join(", ")}`,
);
console.log(
  `  least, most                ${Math.min(...warm.map((each) => each.rss)).toFixed(1)}, ${Math.max(...warm.map((each) => each.rss)).toFixed(1)}`,
);
console.log(`file descriptors, likewise   ${fds.join(", ")}`);
console.log(
  `ms a scrape, median, most    ${median(took).toFixed(1)}, ${Math.max(...took).toFixed(1)}`,
);
console.log(`failed reads                 ${last.readErrors}`);

const flat = rss[1] <= rss[0] * 1.05 && fds[1] <= fds[0];
// Others may call execveat too, systemd for one; hardly so that it fails with ENOENT.
const exact =
  last.attempts >= expected.calls &&
  last.failures === expected.calls &&
  last.watched === expected.starts;
console.log(exact && flat && status === 0 ? "exact, and flat" : "NOT exact, or not flat");
process.exit(exact && flat && status === 0 ? 0 : 1);
