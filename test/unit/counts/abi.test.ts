import { expect, test } from "vitest";
import {
  COUNTERS_MAP,
  EXECS_MAP,
  EXECVE_KEY,
  EXECVEAT_KEY,
  FAILURES_MAP,
  GROUPS_MAP,
  MAX_COMMAND_BYTES,
  MAX_SCOPE_BYTES,
  OWNERS_MAP,
  PIN_VERSION,
  SCOPE_MAP,
  STATE_MAP,
  WATCH_FILE_KEY,
  watchedName,
  watchKey,
} from "../../../src/counts/abi.ts";
import { readProjectFile } from "../../support/files.ts";

test("the keys are those of the ABI header", () => {
  const header = readProjectFile("bpf/execve_counter.h");
  const define = (name: string) =>
    new RegExp(`^#define ${name}\\s+"?([^"\\n]+?)"?$`, "m").exec(header)?.[1];
  expect(define("COUNTERS_MAP")).toBe(COUNTERS_MAP);
  expect(define("EXECS_MAP")).toBe(EXECS_MAP);
  expect(define("FAILURES_MAP")).toBe(FAILURES_MAP);
  expect(define("STATE_MAP")).toBe(STATE_MAP);
  expect(define("PIN_VERSION")).toBe(PIN_VERSION);
  expect(define("SCOPE_MAP")).toBe(SCOPE_MAP);
  expect(Number.parseInt(define("SCOPE_PATH_SIZE") ?? "", 10) - 1).toBe(MAX_SCOPE_BYTES);
  expect(define("GROUPS_MAP")).toBe(GROUPS_MAP);
  expect(define("OWNERS_MAP")).toBe(OWNERS_MAP);
  expect(define("KEY_EXECVE")).toBe(EXECVE_KEY);
  expect(define("KEY_EXECVEAT")).toBe(EXECVEAT_KEY);
  expect(WATCH_FILE_KEY).toBe(define("KEY_WATCH_FILE"));
  expect(watchKey("")).toBe(define("KEY_WATCH_PREFIX"));
  expect(Number(define("COMM_SIZE")) - 1).toBe(MAX_COMMAND_BYTES);
  expect(watchKey("x".repeat(MAX_COMMAND_BYTES)).length).toBeLessThan(Number(define("KEY_SIZE")));
});

test("a watched name survives the way into a key and back", () => {
  expect(watchedName(watchKey("nc"))).toBe("nc");
  expect(watchedName(watchKey("comm:"))).toBe("comm:");
  expect(watchedName(EXECVE_KEY)).toBeUndefined();
});
