import { expect, test } from "vitest";
import { ExitCode, UserError } from "../../../src/base/errors.ts";
import {
  parseBudget,
  parseBy,
  parseInterval,
  parseListenAddress,
  parseMapId,
  parseMaxSeries,
  parsePins,
  parseRetireAfter,
  parseTelemetryPath,
  parseTop,
  parseWatch,
} from "../../../src/cli/flags.ts";

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
  ["4.example:80", { host: "4.example", port: 80 }],
  ["[::1]:80", { host: "::1", port: 80 }],
  [":65535", { host: undefined, port: 65535 }],
])("%s is a listen address", (text, address) => {
  expect(parseListenAddress(text)).toEqual(address);
});

test.each([
  ...["", "127.0.0.1", "127.0.0.1:", ":", "host:port", ":65536", ":123456", ":-1", "::1:80"],
  ...[
    "300.1.1.1:80",
    "1.2.3.0256:80",
    "[::1]",
    "[nonsense]:80",
    "[::1:80",
    "a/b:80",
    "a b:80",
    "http://localhost:80",
    ":80 ",
  ],
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

test.each(["", ",", " ", "nc,", ",nc", "x".repeat(16), "ä".repeat(8), "/usr/bin/nc", "a/", "a\0"])(
  "the watched name %j is refused",
  (text) => {
    expect(refused(() => parseWatch(text)).message).toContain("a watched name");
  },
);

test("a refused name comes with one to give instead", () => {
  expect(refused(() => parseWatch("/usr/bin/nc")).remedy).toContain("give nc");
  const { remedy } = refused(() => parseWatch("systemd-executor"));
  expect(remedy).toMatch(/keeps 15 bytes .* give systemd-executo$/);
  // Cut after 15 bytes this is no UTF-8.
  expect(refused(() => parseWatch("ä".repeat(8))).remedy).toContain("give those");
});

test("labels come in one order, each once", () => {
  expect(parseBy("command")).toEqual(["command"]);
  expect(parseBy("container, command,user")).toEqual(["command", "user", "container"]);
  expect(parseBy("command", ["user"])).toEqual(["command", "user"]);
  for (const twice of [() => parseBy("user,command,user"), () => parseBy("user", ["user"])]) {
    expect(refused(twice)).toMatchObject({ remedy: "name user once" });
  }
  for (const text of ["", ",", "command,", "pid", "Command"]) {
    expect(refused(() => parseBy(text)).message).toContain("--by");
  }
});

test("a table has room for 16 to 65536 rows", () => {
  expect(parseMaxSeries("16")).toBe(16);
  expect(parseMaxSeries("65536")).toBe(65_536);
  for (const text of ["", "15", "65537", "1e3", "-16", "16.5", " 16", "0x20"]) {
    expect(refused(() => parseMaxSeries(text)).message).toContain("--max-series");
  }
});

test("a table has 1 to 99999 rows to print", () => {
  expect([parseTop("1"), parseTop("99999")]).toEqual([1, 99_999]);
  expect([parseBudget("0"), parseBudget("1000")]).toEqual([0, 1000]);
  for (const text of ["", "-1", "1.5", "1k"]) {
    expect(refused(() => parseBudget(text)).message).toContain("--budget");
  }
  for (const text of ["", "0", "-1", "1.5", "all", "100000"]) {
    expect(refused(() => parseTop(text)).message).toContain("--top");
  }
});

test("rows are kept from a second to a thousand hours, or for good", () => {
  expect(parseRetireAfter("15m")).toBe(900_000);
  expect(["1s", "1000h", "never"].map(parseRetireAfter)).toEqual([1000, 3_600_000_000, "never"]);
  for (const text of ["", "0", "15", "999ms", "1001h", "Never", "-1m", "1d"]) {
    expect(refused(() => parseRetireAfter(text)).message).toContain("--retire-after");
  }
});

test("pins have a directory with a name", () => {
  expect(parsePins("/sys/fs/bpf/x")).toBe("/sys/fs/bpf/x");
  // It would be the current directory.
  expect(refused(() => parsePins("")).message).toContain("the directory of the pins");
});

test("a map's id is a positive number of 32 bits", () => {
  expect(parseMapId("1")).toBe(1);
  expect(parseMapId("4294967295")).toBe(4_294_967_295);
  for (const text of ["", "0", "-1", "4294967296", "execve_counter"]) {
    expect(refused(() => parseMapId(text)).message).toContain("--map");
  }
});
