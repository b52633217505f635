import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { projectPath } from "../../support/files.ts";
import { until } from "../../support/meter.ts";
import { changeSetting } from "../../support/settings.mjs";

const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
const setting = join(directory, "setting");
const value = () => readFileSync(setting, "utf8");
afterAll(() => rmSync(directory, { recursive: true }));

test("a setting of the machine is put back as it was", async () => {
  writeFileSync(setting, "|before %s\n");
  const putBack = changeSetting(setting, "after");
  expect(value()).toBe("after");
  await putBack();
  expect(value()).toBe("|before %s\n");
});

test.each(["SIGINT", "SIGKILL"] as const)("also when %s ends the test", async (signal) => {
  writeFileSync(setting, "before\n");
  const script = `import { changeSetting } from ${JSON.stringify(projectPath("test/support/settings.mjs"))};
    changeSetting("${setting}", "after");
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: "inherit",
    detached: true,
  });
  await until("the change", () => value() === "after");
  process.kill(-(child.pid as number), signal); // as a terminal does: all of its group
  await until("what was before", () => value() === "before\n");
});
