import { expect, test } from "vitest";
import { readProjectFile } from "../../support/files.ts";
import { CLI, result } from "../../support/meter.ts";

const readme = readProjectFile("README.md");

/** The rows of the table under a heading, as cells without back-quotes. */
function table(heading: string): string[][] {
  const section = readme.split(`\n## ${heading}\n`)[1]?.split("\n## ")[0] ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("|"));
  return rows.slice(2).map((row) =>
    row
      .slice(1, -1)
      .split("|")
      .map((cell) => cell.trim().replaceAll("`", "")),
  );
}

test("the options are those of the program, with their defaults", () => {
  const { stdout } = result(process.execPath, [CLI, "run", "--help"]);
  // An option's description may go on in the next line.
  const help = stdout.split("\nOptions:\n")[1]?.replaceAll(/\n {20,}/g, " ") ?? "";
  const options = help
    .trim()
    .split("\n")
    .map((line) => {
      const [flags, description] = line.trim().split(/ {2,}/);
      const value = /default: "?([^")]+)"?\)/.exec(description ?? "")?.[1];
      return [flags, value ?? ""];
    });
  expect(table("Options").map(([flags, value]) => [flags, value])).toEqual(options);
});

test("the metrics are those of the program, with types and labels", () => {
  const exposition = readProjectFile("test/unit/web/golden/metrics.txt");
  const metrics = [...exposition.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => {
    const [, labels = ""] = new RegExp(`^${name}(?:\\{(.*)\\})? `, "m").exec(exposition) ?? [];
    return [name, type, [...labels.matchAll(/(\w+)="/g)].map(([, label]) => label).join(", ")];
  });
  expect(table("Metrics").map(([name, type, labels]) => [name, type, labels])).toEqual(metrics);
});

test("the files and make targets it names exist", () => {
  const headings = [...readme.matchAll(/^#+ (.+)$/gm)].map(([, text]) => text as string);
  const anchors = headings.map((text) => `#${text.toLowerCase().replaceAll(" ", "-")}`);
  for (const [, target = ""] of readme.matchAll(/\]\(([^)]+)\)/g)) {
    if (target.startsWith("#")) expect(anchors).toContain(target);
    else readProjectFile(target);
  }
  const makefile = readProjectFile("Makefile");
  // In code: after a back-quote, or at the start of a line of a block.
  const targets = [...readme.matchAll(/(?:`|^|\$ )make ([a-z]+)/gm)].map(([, target]) => target);
  expect(targets).toContain("run");
  for (const target of targets) expect(makefile).toContain(`\n${target}:`);
});

test("it can be read in a few minutes", () => {
  expect(readme.split("\n").length).toBeLessThanOrEqual(170);
});
