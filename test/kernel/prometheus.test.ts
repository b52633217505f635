import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { IPodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import fc from "fast-check";
import { Registry } from "prom-client";
import { expect, test } from "vitest";
import { parse } from "yaml";
import { CONTENT_TYPES, Exposition } from "../../src/web/metrics.ts";
import { makeCertificates } from "../support/certificates.ts";
import { projectPath, readProjectFile } from "../support/files.ts";
import { Meter, result, STORM, sample, sh, uniqueName, until } from "../support/meter.ts";
import { type Query, type Scrape, withPrometheus } from "../support/prometheus.ts";
import { snapshot } from "../support/snapshot.ts";
import { BAD, GOOD, SECRET } from "../support/webconfigs.ts";

const PROMTOOL = projectPath("build/test/usr/bin/promtool");

/**
 * What promtool has to say, but for its rule against the word "counter" in a
 * name: that is the project's own.
 */
function promtool(exposition: string): string[] {
  const { status, stderr } = spawnSync(PROMTOOL, ["check", "metrics"], {
    input: exposition,
    encoding: "utf8",
  });
  const complaints = stderr.split("\n").filter((line) => line !== "");
  // 3 is promtool's exit code for rules of style, 1 for what it cannot parse.
  expect(status).toBe(complaints.length === 0 ? 0 : 3);
  return complaints.filter(
    (line) => !/^execve_counter_\w+ metric name should not include type 'counter'$/.test(line),
  );
}

test("promtool accepts the golden exposition", () => {
  expect(promtool(readProjectFile("test/unit/web/golden/metrics.txt"))).toEqual([]);
});

test("promtool accepts what the meter serves, and would complain of anything else", async () => {
  const meter = await Meter.start(["--watch", "nc,curl"]);
  try {
    const exposition = await meter.metrics();
    expect(promtool(exposition)).toEqual([]);
    expect(promtool(`${exposition}# TYPE other_total gauge\nother_total 1\n`)).toHaveLength(2);
  } finally {
    await meter.stop();
  }
});

test("the meter serves every format over HTTP", async () => {
  const meter = await Meter.start();
  try {
    expect(await meter.metrics({ accept: "application/openmetrics-text" })).toMatch(/\n# EOF\n$/);
    expect(await meter.metrics()).not.toContain("# EOF");
    const response = await meter.get("/metrics", { "accept-encoding": "gzip" });
    expect(response.headers.get("content-encoding")).toBe("gzip");
    for (const path of ["/-/healthy", "/healthz", "/-/ready", "/readyz"]) {
      expect((await meter.get(path)).status).toBe(200);
    }
    const page = await meter.get("/");
    expect(page.headers.get("content-type")).toBe("text/html; charset=utf-8");
    const html = await page.text();
    const links = [...html.matchAll(/<a href="([^"]+)"/g)].map(([, path]) => `/${path}`);
    expect(links).toContain("/metrics");
    for (const path of links) expect((await meter.get(path)).status).toBe(200);
  } finally {
    await meter.stop();
  }
});

test("a telemetry path of one's own replaces /metrics", async () => {
  const meter = await Meter.start(["--web.telemetry-path", "/other"]);
  try {
    expect((await meter.get("/metrics")).status).toBe(404);
    expect(await (await meter.get("/other")).text()).toContain("execve_counter_");
  } finally {
    await meter.stop();
  }
});

test("scrapes leak no file descriptor, and read what is there now", async () => {
  const meter = await Meter.start();
  try {
    const fds = async () => sample(await meter.metrics(), "process_open_fds");
    await meter.metrics();
    const before = await fds();
    for (let i = 0; i < 200; i++) await meter.metrics();
    expect(await fds()).toBeLessThanOrEqual(before);
    const series = 'execve_counter_attempts_total{syscall="execveat"}';
    const count = sample(await meter.metrics(), series);
    sh(STORM, ["execveat", "1", "23"]);
    const counted = sample(await meter.metrics(), series) - count;
    expect(counted).toBeGreaterThanOrEqual(23);
    expect(counted).toBeLessThan(123);
  } finally {
    await meter.stop();
  }
});

/** A job that scrapes `host`; `more` are further settings. */
function scrape(host: string, job: string, more: object = {}): Scrape {
  return { job_name: job, static_configs: [{ targets: [host] }], ...more };
}

test("a real Prometheus scrapes the meter and answers a rate() of a storm", async () => {
  const meter = await Meter.start();
  const job = uniqueName();
  const attempts = `execve_counter_attempts_total{job="${job}",syscall="execve"}`;
  try {
    await withPrometheus(scrape(new URL(meter.origin).host, job), async (query) => {
      // Four waves, so that scrapes fall between them and rate() has a slope to see.
      for (let i = 0; i < 4; i++) {
        sh(STORM, ["execve", "2", "250000"]);
        await sleep(1000);
      }
      const { attempts: counted } = await meter.counts();
      await until("the count in Prometheus", async () => {
        const [sample] = await query(attempts);
        return sample !== undefined && sample.value >= (counted?.execve ?? Number.NaN);
      });
      const [rate] = await query(`rate(${attempts}[30s])`);
      expect(rate?.value).toBeGreaterThan(2_000_000 / 30 / 4);
      expect(rate?.value).toBeLessThan(2_000_000);
    });
  } finally {
    await meter.stop();
  }
});

test("promtool takes and refuses the same files for --web.config.file", () => {
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  try {
    makeCertificates(directory);
    const check = (text: string) => {
      const file = join(directory, "web.yml");
      writeFileSync(file, text);
      return [text, result(PROMTOOL, ["check", "web-config", file]).status];
    };
    for (const text of GOOD) expect(check(text)).toEqual([text, 0]);
    for (const [text] of BAD) expect(check(text)).toEqual([text, 1]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("a real Prometheus scrapes over TLS, with a certificate of its own and a password", async () => {
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  const file = (name: string) => join(directory, name);
  makeCertificates(directory);
  writeFileSync(
    file("web.yml"),
    `tls_server_config:
  cert_file: server.pem
  key_file: server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.pem
basic_auth_users: { prometheus: ${SECRET} }
`,
  );
  const meter = await Meter.start(["--web.config.file", file("web.yml")]);
  const job = uniqueName();
  try {
    const how = {
      scheme: "https",
      basic_auth: { username: "prometheus", password: "secret" },
      tls_config: {
        ca_file: file("ca.pem"),
        cert_file: file("client.pem"),
        key_file: file("client.key"),
      },
    };
    await withPrometheus(scrape(new URL(meter.origin).host, job, how), async (query) => {
      await until(
        "a count",
        async () => (await query(`execve_counter_attempts_total{job="${job}"}`)).length === 2,
      );
    });
  } finally {
    expect(await meter.stop()).toBe(0);
    rmSync(directory, { recursive: true });
  }
});

test("Prometheus and promtool read back every name that a command can have", async () => {
  const command = fc
    .uint8Array({ minLength: 1, maxLength: 15 })
    .map((bytes) => Buffer.from(bytes.map((byte) => byte || 0x0a)).toString());
  const commands = [...new Set(fc.sample(command, 1000))];
  const pieces = await new Exposition(new Registry()).render(
    CONTENT_TYPES[0],
    snapshot({
      by: ["command"],
      execsBy: commands.map((name, i) => ({ labels: { command: name }, count: BigInt(i) })),
    }),
    { version: "1.2.3", nodeVersion: "v20.0.0", libbpfVersion: "1.1", readErrors: 0 },
  );
  const exposition = [...pieces].join("");
  expect(promtool(exposition)).toEqual([]);
  const server = createServer((_, response) => {
    response.setHeader("content-type", CONTENT_TYPES[0]).end(exposition);
  }).listen(0, "127.0.0.1");
  try {
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const job = uniqueName();
    await withPrometheus(scrape(`127.0.0.1:${port}`, job), async (query) => {
      const samples = await query(`execve_counter_execs_total{job="${job}"}`);
      const read = new Map(samples.map(({ metric, value }) => [metric.command, value]));
      expect(read).toEqual(new Map(commands.map((name, i) => [name, i])));
    });
  } finally {
    server.close();
  }
});

test("under the PodMonitor a series has the meter's labels, the node and nothing of the pod", async () => {
  const server = createServer((_, response) => {
    response.setHeader("content-type", CONTENT_TYPES[0]);
    response.end(readProjectFile("test/unit/web/golden/metrics.txt"));
  }).listen(0, "127.0.0.1");
  const { spec, metadata }: IPodMonitor = parse(
    readProjectFile("deploy/kubernetes/podmonitor.yaml"),
  );
  const [endpoint] = spec?.podMetricsEndpoints ?? [];
  const own = (endpoint?.relabelings ?? []).map(({ sourceLabels, targetLabel, ...rest }) => ({
    ...{ ...(sourceLabels && { source_labels: sourceLabels }), ...rest },
    ...(targetLabel && { target_label: targetLabel }),
  }));
  const jobLabel = `__meta_kubernetes_pod_label_${spec?.jobLabel?.replaceAll(/\W/g, "_")}`;
  // What the operator puts before them: generatePodMonitorConfig() in its source.
  const operators = [
    ...[
      ["namespace", "namespace"],
      ["container", "pod_container_name"],
      ["pod", "pod_name"],
    ].map(([label, meta]) => ({
      ...{ source_labels: [`__meta_kubernetes_${meta}`], target_label: label },
    })),
    { target_label: "job", replacement: `${metadata?.namespace}/${metadata?.name}` },
    { source_labels: [jobLabel], target_label: "job", regex: "(.+)", replacement: "$1" },
    { target_label: "endpoint", replacement: endpoint?.port },
  ];
  try {
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const labels = {
      __meta_kubernetes_namespace: "execve-counter",
      __meta_kubernetes_pod_container_name: "execve-counter",
      __meta_kubernetes_pod_name: "execve-counter-x7k2p",
      __meta_kubernetes_pod_node_name: "node-1",
      [jobLabel]: "execve-counter",
    };
    const scraped = (relabel_configs: object[]) => ({
      ...{ job_name: uniqueName(), metrics_path: endpoint?.path, relabel_configs },
      static_configs: [{ targets: [`127.0.0.1:${port}`], labels }],
    });
    const containers = async (query: Query) => {
      const samples = await query("execve_counter_execs_total");
      return samples.map(({ metric: { command, user, __name__, ...rest } }) => rest);
    };
    const common = {
      ...{ job: "execve-counter", namespace: "execve-counter", endpoint: "metrics" },
      instance: "node-1",
    };
    await withPrometheus(scraped([...operators, ...own]), async (query) => {
      const all = await containers(query);
      expect(all).toHaveLength(3);
      expect(all).toEqual(
        expect.arrayContaining([
          common,
          { ...common, container: "other" },
          { ...common, container: "0123456789abcdef".repeat(4) },
        ]),
      );
    });
    // Else the container of every exec would be the meter's.
    await withPrometheus(scraped(operators), async (query) => {
      const all = await containers(query);
      expect(all.map(({ container }) => container)).toEqual(Array(3).fill("execve-counter"));
    });
  } finally {
    server.close();
  }
});
