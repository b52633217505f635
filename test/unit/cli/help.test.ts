import { describe, expect, test } from "vitest";
import { LABELS } from "../../../src/counts/labels.ts";
import { projectPath, readProjectFile } from "../../support/files.ts";
import { CLI, result } from "../../support/meter.ts";
import { shellLine } from "../../support/script.mjs";

/** The long options of a command, by its help. */
function options(...command: string[]): string[] {
  const { stdout } = result(process.execPath, [CLI, ...command, "--help"]);
  return [...stdout.matchAll(/^ {2}(?:-\w, )?(--[\w.-]+)/gm)].map(([, name]) => name as string);
}

/** The commands below a command, by its help. */
function subcommands(...command: string[]): string[] {
  const { stdout } = result(process.execPath, [CLI, ...command, "--help"]);
  const list = stdout.split("Commands:\n")[1] ?? "";
  return [...list.matchAll(/^ {2}(\w+)/gm)].map(([, name]) => name as string);
}

describe("the manual page", () => {
  const text = readProjectFile("docs/execve-counter.1").replaceAll("\\-", "-");

  test("has the options of the program, and no others", () => {
    const section = text.split(".SH OPTIONS\n")[1]?.split(".SH ")[0] ?? "";
    const found = [...section.matchAll(/^\.TP\n(?:\.\w+ )(?:-\w ", " )?(--[\w.-]+)/gm)];
    expect(found.map(([, name]) => name)).toEqual(options("run"));
  });

  test("has the options of every other command, too", () => {
    const commands = subcommands().filter((name) => name !== "watch");
    const all = [...commands, ...subcommands("watch").map((name) => `watch ${name}`)];
    for (const name of all.flatMap((command) => options(...command.split(" "))))
      expect(text).toMatch(new RegExp(`${name.replaceAll(".", "\\.")}\\b`));
  });

  test("is one that man can show", () => {
    const file = projectPath("docs/execve-counter.1");
    const { status, stderr } = result("groff", ["-man", "-Tutf8", "-ww", "-z", file]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  });
});

/** What each shell offers for the last of the words. */
const SHELLS: Record<string, (file: string, words: string[]) => string> = {
  bash: (file, words) =>
    result("bash", [
      ...["--norc", "-c"],
      `source ${shellLine(file)}
       COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) && _execve_counter && printf '%s\\n' "\${COMPREPLY[@]}"`,
      ...["bash", "execve-counter", ...words],
    ]).stdout,
  zsh: (file, words) =>
    result("zsh", [
      "-f",
      projectPath("test/support/complete.zsh"),
      file,
      "execve-counter",
      ...words,
    ]).stdout,
  fish: (file, words) =>
    result("fish", [
      ...["--no-config", "--command", "source $argv[1]; complete -C $argv[2] | cut -f 1"],
      ...[file, ["execve-counter", ...words].join(" ")],
    ]).stdout,
};

describe.each(Object.keys(SHELLS))("completion in %s", (shell) => {
  const complete = (...words: string[]) =>
    SHELLS[shell]?.(projectPath(`deploy/execve-counter.${shell}-completion`), words)
      .split("\n")
      .filter((line) => line !== "")
      .sort();
  const commands = subcommands();

  test.each(commands.filter((name) => name !== "watch"))("offers the options of %s", (command) => {
    const without = (names: string[] = []) => names.filter((name) => name !== "--version").sort();
    expect(without(complete(command, "--"))).toEqual(without(options(command)));
  });

  test("offers the options of watch", () => {
    const words = subcommands("watch");
    expect(complete("watch", "")?.filter((word) => word !== "--help")).toEqual(words.sort());
    for (const word of words) {
      const offered = complete("watch", word, "--");
      expect(offered).toEqual(options("watch", word).sort());
    }
  });

  test("offers commands first, and values", () => {
    expect(complete("")).toEqual(expect.arrayContaining(commands));
    expect(complete("--")).toEqual(expect.arrayContaining(["--by", "--version"]));
    expect(complete("--attempts", "r")).toEqual(["raw"]);
    expect(complete("run", "--output", "")).toEqual(["json", "text"]);
    expect(complete("--run-as", "nob")).toEqual(["nobody"]);
    expect(complete("--interval", "")).toEqual([]);
  });

  test("offers the labels, and of those only what is not there yet", () => {
    expect(complete("top", "--by", "")).toEqual([...LABELS].sort());
    const [first, ...rest] = LABELS;
    // Some shells offer the whole word, some what follows the comma.
    const words = complete("--by", `${first},`)?.map((word) => word.split(",").at(-1));
    expect(words).toEqual([...rest].sort());
  });
});
