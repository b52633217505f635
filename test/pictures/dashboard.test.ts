import { execFile } from "node:child_process";
import { randomBytes, randomInt } from "node:crypto";
import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { LABELS } from "../../src/counts/labels.ts";
import { openBrowser } from "../support/browser.mjs";
import { dashboard, type Panel, picturePath } from "../support/dashboard.ts";
import { projectPath } from "../support/files.ts";
import { Groups } from "../support/groups.ts";
import { Meter, STORM } from "../support/meter.ts";
import { withPrometheus } from "../support/prometheus.ts";
import { Runc } from "../support/runc.ts";
import { shellLine } from "../support/script.mjs";
import { changeSetting } from "../support/settings.mjs";
import { Fleet } from "./fleet.ts";
import { drawScreens } from "./screens.ts";

const MINUTES = Number(process.env.MINUTES);
/** Seconds between scrapes, and between the points of a graph. */
const STEP = 2;
const RANGE = MINUTES * 60;
/** So that a container that ends retires in time to be seen. */
const RETIRE = ["--retire-after", "1s"];
const FLAGS = ["--failures", "--by", LABELS.join(), "--watch", "su,passwd,nc", ...RETIRE];

test("every panel of the dashboard has something to show, and is drawn", async () => {
  const putBack = changeSetting("/proc/sys/kernel/bpf_stats_enabled", "1");
  const runc = new Runc();
  const groups = new Groups();
  const fleet = await Fleet.start();
  const meter = await Meter.start(FLAGS);
  try {
    const { host } = new URL(meter.origin);
    const scrape = {
      ...{ job_name: "execve-counter", scrape_interval: `${STEP}s` },
      static_configs: [
        { targets: [host], labels: { instance: "localhost" } },
        { targets: [fleet.host], labels: { instance: "operator" } },
      ],
    };
    await withPrometheus(scrape, async (_, prometheus) => {
      const start = Date.now() / 1000;
      // The build is over then, and all the load has begun.
      const seen = sleep(RANGE * 1000 * 0.6).then(() => drawScreens(meter));
      await Promise.all([load(runc, groups, fleet), seen]);
      await draw(prometheus, start + RANGE);
    });
  } finally {
    await putBack();
    await meter.stop();
    await fleet.close();
    await runc.remove();
    groups.remove();
  }
});

/** Ordinary work of a small server: of several users and units, with a build and some mistakes. */
async function load(runc: Runc, groups: Groups, fleet: Fleet): Promise<void> {
  for (const name of ["date", "sleep", "wget"])
    symlinkSync("busybox", join(runc.root, "bin", name));
  const start = performance.now();
  /** How much of the time has gone by. */
  const gone = () => (performance.now() - start) / 1000 / RANGE;
  const every = async (seconds: number, work: () => Promise<void>, from = 0, until = 1) => {
    await sleep(from * RANGE * 1000);
    while (gone() < until) {
      await work();
      await sleep(seconds * randomInt(500, 1500));
    }
  };
  const container = (seconds: number, script: string, from: number, until: number) => {
    const id = randomBytes(32).toString("hex");
    const loop = `while :; do ${script}; /bin/sleep ${seconds}; done`;
    return every(
      1,
      async () => {
        const { name } = runc.start(`system.slice/docker-${id}.scope`, {
          process: { args: ["/bin/sh", "-c", loop] },
        });
        await sleep((until - gone()) * RANGE * 1000);
        runc.call(["kill", name, "KILL"]);
      },
      from,
      until,
    );
  };
  const unit = (name: string) => groups.add(`system.slice/${name}.service`);
  await Promise.all([
    every(1, async () => fleet.step(gone())),
    // A cron job, a web server's scripts, a backup.
    every(15, () => shell("root", "date; ls /etc | sort", unit("cron"))),
    every(0.5, () =>
      shell("www-data", "grep -c : /etc/passwd; sed -n 1p /etc/group", unit("apache2")),
    ),
    every(3, () => shell("backup", "sha256sum /etc/default/* | gzip", unit("backup"))),
    // A build.
    every(0.1, () => shell("nobody", "echo 'int i;' | cc -x c -c -o /dev/null -"), 0.4, 0.6),
    container(1, "/bin/date", 0.05, 1),
    container(0.3, "/bin/date; /bin/wget --help", 0.5, 0.9),
    // Found in the fourth directory; a file that may not be run; one that is gone.
    every(1, () => shell("root", "env true")),
    every(0.3, () => shell("www-data", "env /etc/passwd || true")),
    every(0.5, () => run(STORM, ["execve", "2", "20"]), 0.7, 0.75),
    // What is watched.
    every(RANGE / 12, () => run("su", ["-s", "/bin/sh", "-c", "true", "nobody"]), 0.2),
    every(RANGE / 5, () => run("passwd", ["--status", "root"]), 0.3),
  ]);
}

async function run(command: string, args: string[]): Promise<void> {
  // A server's $PATH, whatever this one's is.
  const PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  await promisify(execFile)(command, args, { env: { PATH } });
}

function shell(user: string, script: string, group?: string): Promise<void> {
  const words = ["setpriv", `--reuid=${user}`, "--clear-groups", "sh", "-c", script];
  const join = group ? `echo $$ >${shellLine(`${group}/cgroup.procs`)}; ` : "";
  return run("sh", ["-c", `${join}exec ${shellLine(...words)}`]);
}

/** Evaluates every panel's expressions up to `end` as Grafana does, and saves its picture. */
async function draw(prometheus: string, end: number): Promise<void> {
  const to = Math.floor(end / STEP) * STEP;
  const from = to - RANGE;
  const api = async (path: string, parameters: Record<string, string>) => {
    const response = await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(parameters)}`);
    const { data } = (await response.json()) as { data: unknown };
    expect(response.status).toBe(200);
    return data;
  };

  /** The variables, as they are with "All" chosen. */
  const variables: Record<string, string> = {
    ...{ __interval: `${STEP}s`, __rate_interval: `${4 * STEP}s`, __range: `${RANGE}s` },
  };
  const fill = (text: string) =>
    text.replaceAll(/\$(\w+)/g, (_, name) => variables[name] ?? expect.fail(`no $${name}`));
  for (const { name, type, query } of dashboard.templating.list) {
    if (type !== "query") continue;
    const [, selector = "", label] =
      /^label_values\((.+), (\w+)\)$/.exec((query as { query: string }).query) ?? [];
    const values = await api(`label/${label}/values`, { "match[]": fill(selector) });
    variables[name] = (values as string[]).join("|");
  }

  const series = async ({ expr, legendFormat }: Panel["targets"][number]) => {
    const parameters = { query: fill(expr), start: `${from}`, end: `${to}`, step: `${STEP}` };
    const { result } = (await api("query_range", parameters)) as {
      result: { metric: Record<string, string>; values: [number, string][] }[];
    };
    const times = Array.from({ length: RANGE / STEP + 1 }, (_, i) => from + i * STEP);
    return result.map(({ metric, values }) => {
      const known = new Map(values.map(([time, value]) => [time, Number(value)]));
      const at = (time: number) => known.get(time) ?? Number.NaN;
      return {
        name: legendFormat.replaceAll(/\{\{(\w+)\}\}/g, (_, label) => metric[label] ?? ""),
        times: times.map((time) => time * 1000),
        values: times.map((time) => (Number.isFinite(at(time)) ? at(time) : null)),
      };
    });
  };

  const browser = await openBrowser();
  try {
    const page = await browser.newPage({ deviceScaleFactor: 2 });
    await page.setContent("<!doctype html>");
    await page.addStyleTag({ path: projectPath("build/test/grafana.css") });
    await page.addScriptTag({ path: projectPath("build/test/grafana.js") });
    for (const panel of dashboard.panels) {
      const drawn = (await Promise.all(panel.targets.map(series))).flat();
      expect(drawn.flatMap(({ values }) => values).some((value) => value !== null)).toBe(true);
      // Of 24 columns of a window of 1200 pixels, and of rows of 30, with gaps of 8.
      const { w, h } = panel.gridPos;
      const size = { width: w * 50 - 8, height: h * 38 - 8 };
      await page.setViewportSize(size);
      const range = { from: from * 1000, to: to * 1000 };
      await page.evaluate((what) => (globalThis as unknown as Drawer).draw(what), {
        ...{ panel, series: drawn, ...range, ...size },
      });
      await page.locator("canvas").first().waitFor();
      // Until nothing moves.
      let before = Buffer.of();
      let now = Buffer.from(await page.screenshot());
      while (!now.equals(before)) [before, now] = [now, Buffer.from(await page.screenshot())];
      const file = projectPath(`docs/${picturePath(panel)}`);
      writeFileSync(file, now);
      await run("pngquant", ["--force", "--strip", "--output", file, "64", file]);
    }
  } finally {
    await browser.close();
  }
}

/** What grafana.mjs gives its page. */
interface Drawer {
  draw(what: object): void;
}
