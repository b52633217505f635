import { describe, expect, test } from "vitest";
import { projectPath, readProjectFile } from "../../support/files.ts";
import { CLI, result } from "../../support/meter.ts";
import { shellLine } from "../../support/script.mjs";

/** The long options of a command, by its help. */
function options(...command: string[]): string[] {
  const { stdout } = result(process.execPath, [CLI, ...command, "--help"]);
  return [...stdout.matchAll(/^ {2}(?:-\w, )?(--[\w.-]+)/gm)].map(([, name]) => name as string);
}

describe("the manual page", () => {
  const text = readProjectFile("docs/execve-counter.1").replaceAll("\\-", "-");

  test("has the options of the program, and no others", () => {
    const section = text.split(".SH OPTIONS\n")[1]?.split(".SH ")[0] ?? "";
    const found = [...section.matchAll(/^\.TP\n(?:\.\w+ )(?:-\w ", " )?(--[\w.-]+)/gm)];
    expect(found.map(([, name]) => name)).toEqual(options("run"));
  });

  test("is one that man can show", () => {
    const file = projectPath("docs/execve-counter.1");
    const { status, stderr } = result("groff", ["-man", "-Tutf8", "-ww", "-z", file]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  });
});

describe("completion in bash", () => {
  /** What is offered for the last of the words. */
  const complete = (...words: string[]) =>
    result("bash", [
      ...["--norc", "-c"],
      `source ${shellLine(projectPath("deploy/execve-counter.bash-completion"))}
       COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) && _execve_counter && printf '%s\\n' "\${COMPREPLY[@]}"`,
      ...["bash", "execve-counter", ...words],
    ])
      .stdout.trim()
      .split("\n");

  test.each([[["run"]], [["top"]], [["doctor"]], [["unpin"]]])(
    "offers the options of %s",
    (command) => {
      const without = (names: string[]) => names.filter((name) => name !== "--version").sort();
      expect(without(complete(...command, "--"))).toEqual(without(options(...command)));
    },
  );

  test("offers the options of watch", () => {
    expect(complete("watch", "add", "--").sort()).toEqual(options("watch", "add").sort());
    expect(complete("watch", "")).toEqual(["list", "add", "remove", "--help"]);
  });

  test("offers commands first, and values", () => {
    expect(complete("")).toEqual(
      expect.arrayContaining(["run", "watch", "top", "doctor", "unpin", "--by"]),
    );
    expect(complete("--attempts", "r")).toEqual(["raw"]);
    expect(complete("run", "--output", "")).toEqual(["text", "json"]);
    expect(complete("--run-as", "nob")).toEqual(["nobody"]);
    expect(complete("--interval", "")).toEqual([""]);
  });
});
