import { expect, test } from "vitest";
import { reportsTracepointMisses } from "../../../src/kernel/release.ts";

// What the kernel reports cannot be provoked on a kernel that skips nothing: the
// storms under map readers belong to other kernels.
test.each([
  ["5.10.0-33-amd64", false],
  ["6.1.0-18-amd64", false],
  ["6.6.123", false],
  ["6.7.0", true],
  ["6.12.9+bpo-rt-amd64", true],
  ["7.0.0-rc1", true],
])("%s reports the runs of tracepoint programs that it skips: %s", (release, reports) => {
  expect(reportsTracepointMisses(release)).toBe(reports);
});
