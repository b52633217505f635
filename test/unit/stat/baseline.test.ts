import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { ExitCode } from "../../../src/base/errors.ts";
import { toJson } from "../../../src/base/json.ts";
import { readBaseline } from "../../../src/stat/baseline.ts";
import { plain } from "../../../src/stat/report.ts";
import { snapshot } from "../../support/snapshot.ts";

const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
afterAll(() => rmSync(directory, { recursive: true }));

function file(text: string): string {
  const path = join(directory, "before.json");
  writeFileSync(path, text);
  return path;
}

const printed = plain({
  ...{ words: ["make"], outcome: { code: 0, signal: 0, milliseconds: 1 }, left: 0 },
  snapshot: snapshot(),
});

test("what stat has printed is read, after other lines, with any labels", () => {
  const path = file(`make: nothing to do\nexecve-counter: warn: x\n${toJson(printed)}\n`);
  const { by, execs, rows } = readBaseline(path, undefined);
  expect([by, execs]).toEqual([["command", "user", "container"], 21n]);
  expect(rows).toHaveLength(3);
  expect(rows[0]).toEqual({ labels: { command: "sh", user: "root", container: "" }, count: 12n });
  expect(readBaseline(path, by).rows).toEqual(rows);
});

test.each([
  ["of another format", { format: 2 }],
  ["of no format", { format: undefined }],
  ["by no labels", { by: [] }],
  ["by labels of a newer version", { by: ["command", "user", "container", "host"] }],
  ["without a label in a row", { by: ["command", "path"] }],
  ["with a count that is none", { execs: -1 }],
  ["with a fraction", { execs: 1.5 }],
  ["without rows", { execs_by: undefined }],
])("a file %s is refused in a line", (_, changes) => {
  const path = file(toJson({ ...printed, ...changes }));
  expect(() => readBaseline(path, undefined)).toThrow(
    expect.objectContaining({
      message: `${path} is not what this version of stat prints as JSON`,
      exitCode: ExitCode.usage,
    }),
  );
});

test.each(["", "null", "no JSON", "[1]"])("%j is no run of stat", (text) => {
  expect(() => readBaseline(file(text), undefined)).toThrow("is not what this version");
});

test("a file by other labels, and one that is not there, are refused", () => {
  const path = file(toJson(printed));
  expect(() => readBaseline(path, ["command"])).toThrow(
    expect.objectContaining({
      message: `${path} has counts by command,user,container; this start asks for command`,
      remedy: "give --by command,user,container, or leave --by out",
    }),
  );
  expect(() => readBaseline(`${directory}/none`, undefined)).toThrow(
    expect.objectContaining({ message: `cannot read ${directory}/none (ENOENT)`, exitCode: 1 }),
  );
});
