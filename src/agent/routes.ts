/** What the agent answers over HTTP, path by path. */
import { hostname } from "node:os";
import { listDigest } from "../base/digest.ts";
import { toJson } from "../base/json.ts";
import type { Log } from "../base/log.ts";
import { printable, visible } from "../base/text.ts";
import { VERSION } from "../base/version.ts";
import { type Snapshot, toPlain } from "../counts/snapshot.ts";
import type { WebConfig } from "../http/protection.ts";
import type { Address, Inherited, Page, Web } from "../http/server.ts";
import type { OwnMeter } from "../kernel/meter.ts";
import type { Source } from "./source.ts";
import type { WatchFile } from "./watching.ts";

export interface WebOptions {
  addresses: readonly (Address | Inherited)[];
  telemetryPath: string;
  /** The settings of TLS and basic auth; undefined for neither. */
  configFile: string | undefined;
}

export async function openWebConfig(
  options: WebOptions | undefined,
  log: Log,
): Promise<WebConfig | undefined> {
  if (!options?.configFile) return undefined;
  const path = options.configFile;
  const { WebConfig } = await import("../http/protection.ts");
  return WebConfig.open(path, (error) => {
    if (!error) return log.info(`the changes to ${path} or the files it names are in force`);
    log.error(`the old settings stay in force: ${error.message}`);
    log.error(`to do: ${error.remedy}`);
  });
}

export async function startWeb(
  options: WebOptions,
  config: WebConfig | undefined,
  meter: OwnMeter,
  source: Source,
  list: WatchFile | undefined,
  log: Log,
): Promise<Web> {
  // Loaded only now: counting does not wait for HTTP.
  const { HTML, JSON_TYPE, TEXT, serve } = await import("../http/server.ts");
  const { CONTENT_TYPES, Exposition, observeProcess } = await import("../web/metrics.ts");
  const { readPage } = await import("../web/document.ts");
  const { past, statuses } = await import("../web/status.ts");
  const exposition = new Exposition(observeProcess());

  const withSnapshot = <Type extends string>(
    types: readonly Type[],
    show: (snapshot: Snapshot, type: Type, query: string) => string | Promise<Iterable<string>>,
    read = () => source.tryRead(),
  ): Page => ({
    types,
    make: async (type, query) => {
      const snapshot = read();
      return snapshot
        ? { body: await show(snapshot, type as Type, query) }
        : {
            status: 503,
            type: TEXT,
            body: `${visible(`cannot read the counters: ${source.failure}`)}\n`,
          };
    },
  });
  const json = (make: (snapshot: Snapshot, query: string) => object) =>
    withSnapshot([JSON_TYPE], (snapshot, _, query) => `${toJson(make(snapshot, query))}\n`);
  const { scope } = meter;
  const host = scope === undefined ? hostname() : `${hostname()} ${printable(scope)}`;
  const statusOf = statuses(VERSION, host, () => source.fallen);
  const status = json((snapshot, query) => ({
    ...statusOf(snapshot, query),
    // By which an operator sees that a list has arrived.
    watch_list: listDigest(snapshot.watched.keys()),
  }));
  const { html, policy } = readPage(options.telemetryPath);
  const healthy: Page = { types: [TEXT], make: () => ({ body: "healthy\n" }) };
  const ready = withSnapshot([TEXT], () => "ready\n");

  const pages = new Map<string, Page>([
    ["/", { types: [HTML], make: () => ({ body: html, policy }) }],
    ["/api/v1/counts", json(toPlain)],
    ["/api/v1/status", { ...status, byQuery: true }],
    ["/api/v1/history", json((now) => past(source.history, now))],
    ["/-/healthy", healthy],
    ["/healthz", healthy],
    ["/-/ready", ready],
    ["/readyz", ready],
    [
      options.telemetryPath,
      withSnapshot(
        CONTENT_TYPES,
        (snapshot, type) => {
          const agent = {
            version: VERSION,
            nodeVersion: process.version,
            libbpfVersion: meter.libbpfVersion,
            readErrors: source.readErrors,
            watchFile: list,
          };
          return exposition.render(type, snapshot, agent);
        },
        () => source.tryScrape(),
      ),
    ],
  ]);
  const onError = (error: unknown) => {
    const stack = `${error instanceof Error ? error.stack : error}`;
    for (const line of `cannot answer a request: ${stack}`.split("\n")) log.error(line);
  };
  const protection = config && { protection: () => config.protection };
  const web = await serve(options.addresses, pages, onError, protection);
  const page = options.telemetryPath === "/" ? () => "" : (at: string) => ` and a page at ${at}/`;
  for (const at of web.origins) log.info(`metrics at ${at}${options.telemetryPath}${page(at)}`);
  return web;
}
