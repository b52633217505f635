import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { projectPath } from "./files.ts";
import { freePort, until } from "./meter.ts";

const PROMETHEUS = projectPath("build/test/usr/bin/prometheus");

export type Query = (
  promql: string,
) => Promise<{ metric: Record<string, string>; value: number }[]>;

/** An entry of Prometheus's scrape_configs. */
export type Scrape = { job_name: string } & Record<string, unknown>;

/** Runs a Prometheus that scrapes this, until `use`, which gets its origin too, is done. */
export async function withPrometheus(
  scrape: Scrape,
  use: (query: Query, origin: string) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  const config = join(directory, "prometheus.yml"); // JSON is YAML
  const global = { scrape_interval: "1s", evaluation_interval: "1s" };
  writeFileSync(config, JSON.stringify({ global, scrape_configs: [scrape] }));
  const address = `127.0.0.1:${await freePort()}`;
  const prometheus = spawn(
    PROMETHEUS,
    [
      `--config.file=${config}`,
      `--storage.tsdb.path=${join(directory, "data")}`,
      `--web.listen-address=${address}`,
    ],
    { stdio: "ignore" },
  );
  const ended = once(prometheus, "exit");
  const query: Query = async (promql) => {
    const url = `http://${address}/api/v1/query?query=${encodeURIComponent(promql)}`;
    const { data } = (await (await fetch(url)).json()) as {
      data: { result: { metric: Record<string, string>; value: [number, string] }[] };
    };
    return data.result.map(({ metric, value }) => ({ metric, value: Number(value[1]) }));
  };
  try {
    await until(
      "a first scrape",
      async () => {
        if (prometheus.exitCode !== null) throw new Error("Prometheus ended by itself");
        return (await query("up").catch(() => []))[0]?.value === 1;
      },
      60_000,
    );
    await use(query, `http://${address}`);
  } finally {
    prometheus.kill("SIGTERM");
    await ended;
    rmSync(directory, { recursive: true });
  }
}
