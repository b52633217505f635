import { execFileSync } from "node:child_process";
import { constants, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { Lines } from "../../../src/base/stdout.ts";

test("a line that is far longer than a pipe reaches a reader that keeps up, at once", async () => {
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  const pipe = join(directory, "pipe");
  execFileSync("mkfifo", [pipe]);
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  const lines = new Lines(openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK));
  const line = "x".repeat(4_000_000); // 61 pipes full
  let length = 0;
  lines.write(line);
  expect(lines.stuck).toBe("EAGAIN");
  const start = performance.now();
  const buffer = Buffer.alloc(1 << 20);
  while (length < line.length + 1 && performance.now() - start < 20_000) {
    try {
      length += readSync(reader, buffer);
    } catch {
      await sleep(1); // empty
    }
  }
  expect(length).toBe(line.length + 1);
  expect(buffer.lastIndexOf("\n")).toBeGreaterThanOrEqual(0);
  expect(lines.stuck).toBeUndefined();
  lines.close();
  rmSync(directory, { recursive: true });
});

test("an error after which nothing can be written is reported, with a remedy", async () => {
  const lines = new Lines(openSync("/dev/null", "r"));
  lines.write("x");
  await expect(lines.broken).rejects.toThrow("cannot write to stdout (EBADF)");
});
