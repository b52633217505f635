import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { projectPath, readProjectFile } from "../../support/files.ts";

/** Messages of other programs that the page quotes, too. */
const FOREIGN = ["sudo: npx: command not found"];

/** The text of the sources without comments. */
const SOURCES = ["src", "native"]
  .flatMap((directory) =>
    readdirSync(projectPath(directory), { recursive: true, encoding: "utf8" })
      .filter((file) => /\.(ts|cc|h)$/.test(file))
      .map((file) => readProjectFile(`${directory}/${file}`)),
  )
  .join("\n")
  .replaceAll(/\/\*[\s\S]*?\*\/|(?<!:)\/\/.*/g, "");

/** The messages in the first column of a page's tables. */
function quoted(page: string): string[] {
  return page
    .split("\n")
    .filter((line) => line.startsWith("| "))
    .flatMap((row) => [...(row.split(" | ")[0] ?? "").matchAll(/`([^`]+)`/g)])
    .map(([, message = ""]) => message)
    .filter((message) => message !== "top" && !FOREIGN.includes(message));
}

/** The parts of a message that are the same in all cases: what varies is …, a number or an errno. */
function fixedParts(message: string): string[] {
  return message
    .split(/…|\b\d+\b|\(E[A-Z]+\)/)
    .map((part) => part.trim())
    .filter((part) => part !== "");
}

const missing = (message: string) => fixedParts(message).filter((part) => !SOURCES.includes(part));

test.each(quoted(readProjectFile("docs/troubleshooting.md")))("the program has: %s", (message) => {
  expect(missing(message)).toEqual([]);
});

test("a message that the program does not have is found", () => {
  const page = "| `cannot read … today (EIO)`, `top` | `cannot think` |\n| no lines | 2 |";
  expect(quoted(page)).toEqual(["cannot read … today (EIO)"]);
  expect(missing("cannot read … today (EIO)")).toEqual(["today"]);
});
