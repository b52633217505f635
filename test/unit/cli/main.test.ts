import { expect, test } from "vitest";
import { readProjectFile } from "../../support/files.ts";
import { CLI, result } from "../../support/meter.ts";

const cli = (...args: string[]) => result(process.execPath, [CLI, ...args]);

test.each([
  ["--nonsense"],
  ["nonsense"],
  ["run", "nonsense"],
  ["--interval"],
  ["--interval", "0"],
  ["--interval", "1h1"],
  ["-i", "-5s"],
  ["--interval=NaN"],
  ["--output", "xml"],
  ["--attempts", "maybe"],
  ["--watch", "/usr/bin/nc"],
  ["--watch", ""],
  ["--watch", "\ufffd"],
  ["--watch-file"],
  ["--watch=nc", "--watch-file=/dev/null"],
  ["--no-web", "--web.listen-address", "nonsense"],
  ["--no-web", "--web.telemetry-path", "nonsense"],
  ["--no-web", "--web.listen-address", "127.0.0.1:0"],
  ["--web.systemd-socket", "--no-web"],
  ["--no-web", "--web.telemetry-path", "/m"],
  ["--no-web", "--web.config.file", "/dev/null"],
  ["--web.listen-address", "127.0.0.1"],
  ["--web.listen-address", "300.1.1.1:80"],
  ["--web.telemetry-path", "metrics"],
  ["--web.telemetry-path", "/healthz"],
  ["--web.telemetry-path", "/api/v1/counts"],
  ["--web.config.file"],
  ["--web.config.file", "/nonexistent/web.yml"],
  ["--web.config.file", "/"],
  ["--log.level", "loud"],
  ["--pin", ""],
  ["unpin", ""],
  ["--pin-replace"],
])("%s %s %s is wrong usage: two lines, exit code 2, nothing on stdout", (...args) => {
  const { status, stdout, stderr } = cli(...(args as string[]).filter((arg) => arg !== undefined));
  expect(status).toBe(2);
  expect(stdout).toBe("");
  expect(stderr).toMatch(/^execve-counter: error: .+\nexecve-counter: error: to do: .+\n$/);
});

test.each([
  ["\u009b2J\u202e"],
  ["--\u009b2J\u202e\n"],
  ["watch", "\u009b2J\u202e"],
  ["--output", "\u009b2J\u202e"],
  ["--watch", "\u009b2J\u202e/"],
  ["--web.listen-address", "\u009b2J\u202e"],
  ["--web.config.file", "/nonexistent/\u009b2J\u202e\nx"],
])("of %j %j it is said what is wrong, and nothing comes out as it went in", (...args) => {
  const { status, stdout, stderr } = cli(...args);
  expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
  expect(stderr).toMatch(/^execve-counter: error: .+\nexecve-counter: error: to do: .+\n$/);
  expect(stderr).toContain("\\u{9b}2J\\u{202e}");
  expect(stderr).not.toMatch(/[\u009b\u202e]/);
});

test("a reader that goes away early sees no stack", () => {
  const script = `"$0" "$1" --help | true; "$0" "$1" --version | true`;
  for (let i = 0; i < 5; i++) {
    expect(result("sh", ["-c", script, process.execPath, CLI]).stderr).toBe("");
  }
});

test("--version is package.json's", () => {
  const { version } = JSON.parse(readProjectFile("package.json"));
  expect(cli("--version")).toEqual({ status: 0, stdout: `${version}\n`, stderr: "" });
});

test.each([
  [["--bogus"], "see execve-counter --help"],
  [["top", "--bogus"], "see execve-counter top --help"],
  [["watch", "frob"], "see execve-counter watch --help"],
  [["unpin", "a", "b"], "see execve-counter unpin --help"],
])("%j names the help of its command", (args, remedy) => {
  expect(cli(...args).stderr).toContain(`to do: ${remedy}\n`);
});

test.each([["--help"], ["-h"], ["run", "--help"]])("%s %s lists the flags", (...args) => {
  const { status, stdout, stderr } = cli(...args);
  expect(status).toBe(0);
  expect(stderr).toBe("");
  expect(stdout).toContain("--web.listen-address <host:port>");
  expect(stdout).toContain("--check");
});
