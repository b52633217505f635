/** Parses the values of flags; each function throws a UserError where one is not allowed. */
import { isIPv4, isIPv6 } from "node:net";
import { wrong } from "../base/errors.ts";
import { requireLabels, requireName, requireRows } from "../counts/choices.ts";
import type { Label } from "../counts/labels.ts";
import type { Address } from "../http/server.ts";

const UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
const MIN_INTERVAL_MS = 100;
const MAX_INTERVAL_MS = 3_600_000;
const MIN_RETIRE_MS = 1000;
const MAX_RETIRE_MS = 3_600_000_000;

/** "500ms", "5s", "1.5m", "1h" as milliseconds; NaN for anything else. */
function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text);
  return Number(match?.[1]) * (UNITS[match?.[2] ?? ""] ?? Number.NaN);
}

/** A duration from 100ms to 1h, in milliseconds. */
export function parseInterval(text: string): number {
  const duration = parseDuration(text);
  if (!(duration >= MIN_INTERVAL_MS && duration <= MAX_INTERVAL_MS)) {
    throw wrong("--interval", text, "give a duration from 100ms to 1h, like 500ms, 5s or 1m");
  }
  return duration;
}

/** A duration from 1s to 1000h, in milliseconds, or "never". */
export function parseRetireAfter(text: string): number | "never" {
  if (text === "never") return text;
  const duration = parseDuration(text);
  if (!(duration >= MIN_RETIRE_MS && duration <= MAX_RETIRE_MS)) {
    throw wrong("--retire-after", text, "give a duration from 1s to 1000h, like 15m, or never");
  }
  return duration;
}

/** "127.0.0.1:11059", "[::1]:11059", "localhost:0", ":11059". */
export function parseListenAddress(text: string): Address {
  const remedy =
    "give host:port, like 127.0.0.1:11059, [::1]:11059 or :11059; a port is at most 65535";
  const match = /^(?:\[([^\]]+)\]|([^:[\]/\s]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const [, bracketed, plain = ""] = match ?? [];
  // No name has four numbers for labels.
  const noAddress = /^\d+(\.\d+){3}$/.test(plain) && !isIPv4(plain);
  const noBracketed = bracketed !== undefined && !isIPv6(bracketed);
  if (!match || port > 65_535 || noAddress || noBracketed) {
    throw wrong("--web.listen-address", text, remedy);
  }
  return { host: bracketed ?? (plain || undefined), port };
}

/** A path to serve at: "/metrics". */
export function parseTelemetryPath(text: string, taken: readonly string[]): string {
  if (!/^\/[\w\-.~/]*$/.test(text) || new URL(text, "http://localhost").pathname !== text) {
    throw wrong(
      "--web.telemetry-path",
      text,
      "give a path of letters, digits and -._~ between slashes, like /metrics",
    );
  }
  if (taken.includes(text)) {
    throw wrong(
      "--web.telemetry-path",
      text,
      "choose a path that serves nothing else, like /metrics",
    );
  }
  return text;
}

/** "command,user" as labels, after those given before, in the order of LABELS. */
export function parseBy(text: string, before: readonly Label[] = []): Label[] {
  return requireLabels("--by", [...before, ...text.split(",").map((part) => part.trim())]);
}

/** Rows of the breakdown's table. */
export function parseMaxSeries(text: string): number {
  return requireRows("--max-series", /^\d+$/.test(text) ? Number(text) : text);
}

/** Rows of a printed table. */
export function parseTop(text: string): number {
  const rows = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (!(rows >= 1)) throw wrong("--top", text, "give a number from 1 to 99999");
  return rows;
}

/** How many programs may be started. */
export function parseBudget(text: string): number {
  if (!/^\d{1,15}$/.test(text)) {
    throw wrong("--budget", text, "give a number of programs, like 1000");
  }
  return Number(text);
}

/** A directory in bpffs, which need not exist. */
export function parsePins(text: string): string {
  if (text === "") throw wrong("the directory of the pins", text, "give one, or leave it out");
  return text;
}

/** The id of a map, as the meter's first line and bpftool show it. */
export function parseMapId(text: string): number {
  const id = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (!(id >= 1 && id < 2 ** 32)) {
    throw wrong("--map", text, "give the id that the meter's first line names");
  }
  return id;
}

/** "nc,curl" as command names. */
export function parseWatch(text: string): string[] {
  return text.split(",").map((part) => requireName(part.trim()));
}
