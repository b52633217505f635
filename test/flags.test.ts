import { expect, test } from "vitest";
import { ExitCode, UserError } from "../src/errors.ts";
import { parseInterval, parseListenAddress, parseTelemetryPath, parseWatch } from "../src/flags.ts";

function refused(call: () => unknown): UserError {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).exitCode).toBe(ExitCode.usage);
    expect((error as UserError).message).not.toContain("\n");
    return error as UserError;
  }
  throw new Error("nothing was refused");
}

test.each([
  ["100ms", 100],
  ["500ms", 500],
  ["5s", 5000],
  ["1.5m", 90_000],
  ["1h", 3_600_000],
])("the interval %s is %d ms", (text, milliseconds) => {
  expect(parseInterval(text)).toBe(milliseconds);
});

test.each([
  ...["0", "5", "99ms", "0s", "61m", "1h1", "1h1m", "-5s", "NaN", "Infinity", "1e3s", "5 s"],
  ...["5S", "", "s", ".5s", "5s5s", "0x5s", "1000000000000000000000h"],
])("the interval %j is refused", (text) => {
  expect(refused(() => parseInterval(text)).message).toContain("--interval");
});

test.each([
  ["127.0.0.1:11059", { host: "127.0.0.1", port: 11059 }],
  ["localhost:0", { host: "localhost", port: 0 }],
  ["[::1]:80", { host: "::1", port: 80 }],
  [":65535", { host: undefined, port: 65535 }],
])("%s is a listen address", (text, address) => {
  expect(parseListenAddress(text)).toEqual(address);
});

test.each([
  ...["", "127.0.0.1", "127.0.0.1:", ":", "host:port", ":65536", ":123456", ":-1", "::1:80"],
  ...["[::1]", "[nonsense]:80", "[::1:80", "a/b:80", "a b:80", "http://localhost:80", ":80 "],
])("%j is no listen address", (text) => {
  expect(refused(() => parseListenAddress(text)).message).toContain("--web.listen-address");
});

test("a telemetry path starts with a slash, is plain and serves nothing else", () => {
  expect(parseTelemetryPath("/metrics", [])).toBe("/metrics");
  expect(parseTelemetryPath("/", [])).toBe("/");
  expect(parseTelemetryPath("/a/b-c.d_e~", [])).toBe("/a/b-c.d_e~");
  for (const text of ["", "metrics", "/a b", "/a?b", "/a#b", "/a/../b", "//host/x", "/<b>", "/ä"]) {
    expect(refused(() => parseTelemetryPath(text, [])).message).toContain("--web.telemetry-path");
  }
  refused(() => parseTelemetryPath("/healthz", ["/healthz"]));
});

test("watched names are split at commas", () => {
  expect(parseWatch("nc")).toEqual(["nc"]);
  expect(parseWatch("nc,curl")).toEqual(["nc", "curl"]);
  expect(parseWatch("nc, curl ")).toEqual(["nc", "curl"]);
  expect(parseWatch("x".repeat(15))).toEqual(["x".repeat(15)]);
});

test.each(["", ",", " ", "nc,", ",nc", "x".repeat(16), "ä".repeat(8), "/usr/bin/nc", "a/"])(
  "the watched name %j is refused",
  (text) => {
    expect(refused(() => parseWatch(text)).message).toContain("--watch");
  },
);

test("what is refused for its directory or its length comes with what to give instead", () => {
  expect(refused(() => parseWatch("/usr/bin/nc")).remedy).toContain("nc");
  expect(refused(() => parseWatch("systemd-executor")).remedy).toContain("15 bytes");
});
