/** What the values of the flags mean; each function throws a UserError for nonsense. */
import { isIPv6 } from "node:net";
import { ExitCode, UserError } from "./errors.ts";
import { MAX_COMMAND_BYTES } from "./keys.ts";
import type { Address } from "./web.ts";

const UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
const SHORTEST = 100;
const LONGEST = 3_600_000;

/** "500ms", "5s", "1.5m", "1h" as milliseconds, from 100ms to 1h. */
export function parseInterval(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text);
  const duration = Number(match?.[1]) * (UNITS[match?.[2] ?? ""] ?? Number.NaN);
  if (!(duration >= SHORTEST && duration <= LONGEST)) {
    throw wrong("--interval", text, "give a duration from 100ms to 1h, like 500ms, 5s or 1m");
  }
  return duration;
}

/** "127.0.0.1:11059", "[::1]:11059", "localhost:0", ":11059". */
export function parseListenAddress(text: string): Address {
  const remedy =
    "give host:port, like 127.0.0.1:11059, [::1]:11059 or :11059; a port is at most 65535";
  const match = /^(?:\[([^\]]+)\]|([^:[\]/\s]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const bracketed = match?.[1];
  if (!match || port > 65_535 || (bracketed !== undefined && !isIPv6(bracketed))) {
    throw wrong("--web.listen-address", text, remedy);
  }
  return { host: bracketed ?? (match[2] || undefined), port };
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

/** "nc,curl" as command names. */
export function parseWatch(text: string): string[] {
  return text.split(",").map((part) => {
    const name = part.trim();
    if (name === "") {
      throw wrong("--watch", text, "give command names, separated by commas, like nc,curl");
    }
    if (name.includes("/")) {
      throw wrong(
        "--watch",
        name,
        `give the name without its directory: ${name.slice(name.lastIndexOf("/") + 1) || "nc"}`,
      );
    }
    if (name.includes("\ufffd")) {
      throw wrong("--watch", name, "give a name that is valid UTF-8");
    }
    if (Buffer.byteLength(name) > MAX_COMMAND_BYTES) {
      throw wrong(
        "--watch",
        name,
        `the kernel keeps the first ${MAX_COMMAND_BYTES} bytes of a command's name: give those`,
      );
    }
    return name;
  });
}

function wrong(flag: string, value: string, remedy: string): UserError {
  return new UserError(`${flag} cannot be ${JSON.stringify(value)}`, remedy, ExitCode.usage);
}
