import fc from "fast-check";
import { Registry } from "prom-client";
import { expect, test } from "vitest";
import type { Snapshot } from "../../../src/counts/snapshot.ts";
import {
  type Agent,
  CONTENT_TYPES,
  type ContentType,
  Exposition,
  observeProcess,
} from "../../../src/web/metrics.ts";
import { snapshot } from "../../support/snapshot.ts";

const [TEXT, OPEN_METRICS] = CONTENT_TYPES;
const AGENT = {
  ...{ version: "1.2.3", nodeVersion: "v20.0.0", libbpfVersion: "1.1", readErrors: 0 },
  watchFile: { successful: true, successTime: 1_764_000_000.5 },
};
const CGROUP = { path: "/system.slice/cron.service", present: true, recreated: 2n };
const NOTHING = new Registry();

/** The exposition as text, made by one that has made none before. */
async function render(type: ContentType, counts: Snapshot, agent: Agent, process: Registry) {
  return [...(await new Exposition(process).render(type, counts, agent))].join("");
}

// Change the goldens with: node_modules/.bin/vitest run --config test/vitest.config.mts --update
// promtool reads the first in test/kernel/prometheus.test.ts.
test("the exposition is the golden one, as text", async () => {
  const exposition = await render(TEXT, snapshot({ cgroup: CGROUP }), AGENT, NOTHING);
  await expect(exposition).toMatchFileSnapshot("golden/metrics.txt");
});

test("the exposition is the golden one, as OpenMetrics", async () => {
  const exposition = await render(OPEN_METRICS, snapshot({ cgroup: CGROUP }), AGENT, NOTHING);
  await expect(exposition).toMatchFileSnapshot("golden/openmetrics.txt");
  expect(exposition.endsWith("\n# EOF\n")).toBe(true);
});

test("all series are there at 0 before anything happened", async () => {
  const exposition = await render(
    TEXT,
    snapshot({
      attempts: { execve: 0n, execveat: 0n },
      by: [],
      execsBy: [{ labels: {}, count: 0n }],
      watched: new Map([["nc", 0n]]),
    }),
    AGENT,
    NOTHING,
  );
  for (const series of [
    'execve_counter_attempts_total{syscall="execve"} 0',
    'execve_counter_attempts_total{syscall="execveat"} 0',
    'execve_counter_missed_total{program="count_execve"} 0',
    "execve_counter_execs_total 0",
    'execve_counter_watched_total{command="nc"} 0',
  ]) {
    expect(exposition.split("\n")).toContain(series);
  }
});

test("without --watch-file nothing is said of one; a file that is not in force is 0", async () => {
  const of = async (watchFile?: { successful: boolean; successTime: number }) =>
    (await render(TEXT, snapshot(), { ...AGENT, watchFile }, NOTHING)).match(
      /^execve_counter_watch_file.*/gm,
    );
  expect(await of()).toBeNull();
  expect(await of({ successful: false, successTime: 7 })).toEqual([
    "execve_counter_watch_file_last_reload_successful 0",
    "execve_counter_watch_file_last_reload_success_timestamp_seconds 7",
  ]);
});

test("without --cgroup nothing is said of one; one that is gone is 0", async () => {
  const of = async (cgroup?: Snapshot["cgroup"]) =>
    (await render(TEXT, snapshot({ cgroup }), AGENT, NOTHING)).match(/^execve_counter_cgroup.*/gm);
  expect(await of()).toBeNull();
  expect(await of({ path: "/a", present: false, recreated: 0n })).toEqual([
    'execve_counter_cgroup_present{cgroup="/a"} 0',
    'execve_counter_cgroup_recreated_total{cgroup="/a"} 0',
  ]);
});

test("users of one name are one series", async () => {
  const row = (user: string, uid: number, count: bigint) => ({ labels: { user }, uid, count });
  const execsBy = [row("alice", 1000, 7n), row("bob", 1002, 1n), row("alice", 1001, 3n)];
  const exposition = await render(TEXT, snapshot({ by: ["user"], execsBy }), AGENT, NOTHING);
  expect(exposition.match(/^execve_counter_execs_total.*/gm)).toEqual([
    'execve_counter_execs_total{user="alice"} 10',
    'execve_counter_execs_total{user="bob"} 1',
  ]);
});

test("rows are shown once each, in order, however many there are, and renamed users by their new name", async () => {
  const exposition = new Exposition(NOTHING);
  const rows = (user: string) =>
    Array.from({ length: 5000 }, (_, i) => ({
      ...{ labels: { command: `c${i}`, user }, uid: 1000, count: BigInt(i) },
    }));
  for (const user of ["1000", "ünïcode", "alice"]) {
    const execsBy = rows(user);
    for (const count of [1, 511, 512, 513, 1025, 5000]) {
      const counts = snapshot({ by: ["command", "user"], execsBy: execsBy.slice(0, count) });
      const text = [...(await exposition.render(TEXT, counts, AGENT))].join("");
      expect(text.match(/^execve_counter_execs_total.*/gm)).toEqual(
        execsBy.slice(0, count).map(({ labels: { command }, count }) => {
          return `execve_counter_execs_total{command="${command}",user="${user}"} ${count}`;
        }),
      );
    }
  }
});

/** The label values of a family, read back as the exposition format defines it. */
function values(exposition: string, family: string, label: string): string[] {
  const series = new RegExp(`^${family}\\{(?:[^\n]*,)?${label}="((?:[^"\\\\\n]|\\\\.)*)"`, "gm");
  return [...exposition.matchAll(series)].map(([, value]) =>
    (value as string).replaceAll(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped)),
  );
}

/** What the kernel can keep of a command's name, as the addon decodes it. */
const command = fc
  .uint8Array({ minLength: 1, maxLength: 15 })
  .map((bytes) => Buffer.from(bytes.map((byte) => byte || 0x5c)).toString());
const awkward = fc.stringMatching(/^[\\"\n{}=,# a]{1,15}$/);

test("whatever a command is called, its series reads back as it", async () => {
  const names = fc.uniqueArray(fc.oneof(command, awkward), { minLength: 1, maxLength: 50 });
  await fc.assert(
    fc.asyncProperty(names, fc.constantFrom(TEXT, OPEN_METRICS), async (commands, type) => {
      const changes = {
        by: ["command"] as const,
        execsBy: commands.map((name) => ({ labels: { command: name }, count: 1n })),
        watched: new Map(commands.map((name) => [name, 1n])),
      };
      const exposition = await render(type, snapshot(changes), AGENT, NOTHING);
      const family = (name: string) => values(exposition, `${name}_total`, "command");
      expect(family("execve_counter_execs")).toEqual(commands);
      expect(family("execve_counter_watched")).toEqual(commands);
      expect(Buffer.from(exposition).toString()).toBe(exposition); // UTF-8
    }),
  );
});

test("the process is shown, in either format, whichever was asked for before", async () => {
  const process = observeProcess();
  const names = async (type: (typeof CONTENT_TYPES)[number]) =>
    (await render(type, snapshot(), AGENT, process))
      .split("\n")
      .filter((line) => /^(process_cpu_seconds|nodejs_version|process_open_fds)/.test(line))
      .map((line) => line.split(/[ {]/)[0]);
  const text = ["process_cpu_seconds_total", "process_open_fds", "nodejs_version_info"];
  expect(await names(TEXT)).toEqual(text);
  expect(await names(OPEN_METRICS)).toEqual(text);
  expect(await names(TEXT)).toEqual(text);
  expect(await Promise.all([names(OPEN_METRICS), names(TEXT)])).toEqual([text, text]);
});
