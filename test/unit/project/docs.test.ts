import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { LABELS } from "../../../src/counts/labels.ts";
import { projectPath, readProjectFile } from "../../support/files.ts";
import { CLI, result } from "../../support/meter.ts";

const MANUAL = "docs/execve-counter.1";
const PAGES = [
  "README.md",
  ...readdirSync(projectPath("docs"))
    .filter((file) => file.endsWith(".md"))
    .map((file) => `docs/${file}`),
];

/** Flags of other programs that the pages name. */
const FOREIGN_FLAGS = {
  "--all": "kubectl",
  "--build-arg": "podman",
  "--global": "npm",
  "--cgroupns": "docker",
  "--heap-growing-percent": "V8",
  "--ignore-scripts": "npm",
  "--yes": "npx",
  "--no-opt": "V8",
  "--namespace": "helm",
  "--now": "systemctl",
  "--provenance": "npm",
  "--set": "helm",
  "--target": "podman",
  "--semi-space-growth-factor": "V8",
};

const help = (...command: string[]) => result(process.execPath, [CLI, ...command, "--help"]).stdout;
/** Each command with its help. */
const COMMANDS = new Map(
  [
    ...[[], ["run"], ["top"], ["stat"], ["doctor"], ["unpin"]],
    ...[["watch"], ["watch", "list"], ["watch", "add"], ["watch", "remove"]],
    ...[["operator"], ["operator", "nodes"]],
  ].map((command) => [command.join(" "), help(...command)]),
);
const FLAGS = new Set(
  [...COMMANDS.values()].flatMap((text) =>
    [...text.matchAll(/ (--[a-z][\w.-]*)/g)].map(([, name]) => name),
  ),
);
const GOLDEN = readProjectFile("test/unit/web/golden/metrics.txt");
const RULES = ["rules.yml", "kubernetes-rules.yml"]
  .map((file) => readProjectFile(`deploy/prometheus/${file}`))
  .join("\n");
const all = (text: string, pattern: RegExp) =>
  [...text.matchAll(pattern)].map(([, name = ""]) => name);
const METRICS = new Set([
  ...all(GOLDEN, /^# TYPE (\S+)/gm),
  ...all(readProjectFile("src/operator/metrics.ts"), /"(execve_counter_operator_\w+)"/g),
  ...all(RULES, /^ +- record: (\S+)$/gm),
]);
const ALERTS = new Set(all(RULES, /^ +- alert: (\S+)$/gm));
const TARGETS = new Set(all(readProjectFile("Makefile"), /^([a-z][a-z-]*):/gm));

const FENCE = /^```.*\n([\s\S]*?)^```$/gm;
/** The page without its blocks of code. */
const prose = (text: string) => text.replaceAll(FENCE, "");
/** Pieces of code: lines of a block, without comments, and what is in back-quotes. */
const code = (text: string) => [
  ...all(text, FENCE).flatMap((block) =>
    block.split("\n").map((line) => line.replace(/(^|\s)#.*/, "")),
  ),
  ...all(prose(text), /`([^`]+)`/g),
];
/** The anchors of a page's headings, as GitHub makes them. */
const anchors = (text: string) =>
  all(prose(text), /^#+ (.+)$/gm).map((heading) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, "")
      .replaceAll(" ", "-"),
  );

/** The words of a page that name something that there is not. */
function misspelt(page: string, text: string): string[] {
  const pieces = page.endsWith(".md") ? code(text) : text.split("\n");
  const found: string[] = [];
  const expectEach = (words: string[], exists: (word: string) => boolean) =>
    found.push(...words.filter((word) => !exists(word)));
  expectEach(
    all(text, /(?<![\w-])(--[a-z](?:[\w.-]*\w)?)/g),
    (flag) => FLAGS.has(flag) || flag in FOREIGN_FLAGS,
  );
  expectEach(all(text, /((?:\w+:)?\bexecve_counter_\w+(?::\w+)?)/g), (name) => METRICS.has(name));
  expectEach(all(text, /\b(ExecveCounter\w+)/g), (name) => ALERTS.has(name));
  for (const piece of pieces) {
    expectEach(
      all(piece, /(?<![\w./-])((?:src|docs|deploy|examples|test|bpf|native|dist)\/[\w./-]*)/g),
      (path) => existsSync(projectPath(path)),
    );
    for (const words of all(piece, /(?:^|[ (;&])make ([^#;&)]+)/g)) {
      const targets = words
        .replaceAll(/"[^"]*"/g, "")
        .split(" ")
        .filter((word) => /^[a-z][a-z-]*$/.test(word));
      expectEach(
        targets.map((target) => `make ${target}`),
        (target) => TARGETS.has(target.slice(5)),
      );
    }
    for (const words of all(piece, /(?:^|[ /])(?:execve-counter|cli\.js) ([a-z]+(?: [a-z]+)?)/g)) {
      const [first = ""] = words.split(" ");
      const nested = ["watch", "operator"].includes(first);
      expectEach([nested ? words : first], (command) => COMMANDS.has(command));
    }
  }
  if (page.endsWith(".md")) {
    expectEach(all(prose(text), /\]\(([^)]+)\)/g), (link) => {
      if (/^https?:/.test(link)) return true;
      const [path = "", anchor] = link.split("#");
      const target = path === "" ? page : join(dirname(page), path);
      if (target !== page && !existsSync(projectPath(target))) return false;
      return (
        anchor === undefined ||
        anchors(target === page ? text : readProjectFile(target)).includes(anchor)
      );
    });
  }
  return found;
}

const manual = () => readProjectFile(MANUAL).replaceAll("\\-", "-").replaceAll(/\\f./g, "");

test.each(PAGES)("%s names only what there is", (page) => {
  expect(misspelt(page, readProjectFile(page))).toEqual([]);
});

test("the manual page names only what there is", () => {
  expect(misspelt(MANUAL, manual())).toEqual([]);
});

test("a word that names nothing is found, of every kind", () => {
  const block = ["```sh", "make bild # make nothing", "sudo execve-counter tpo --yb user", "```"];
  const page = [
    ...["# Some words", "`--intervals`, --pin, `src/nowhere/`, `make runn check`, `watch`"],
    ...["`execve-counter watch ad`, `execve_counter_exec_total`, `src/cli.ts`"],
    ...["[a](web.md#some-words) [b](#some-words) [c](nowhere.md) [d](../README.md) [e](#no-words)"],
    ...["`node:execve_counter_execs:rate5m`, `ExecveCounterGone`, make do, `dist/cli.js unpin`"],
    ...block,
  ].join("\n");
  expect(misspelt("docs/made-up.md", page).sort()).toEqual(
    [
      ...["--intervals", "--yb", "execve_counter_exec_total", "node:execve_counter_execs:rate5m"],
      ...["ExecveCounterGone", "src/nowhere/", "make runn", "make bild", "watch ad", "tpo"],
      ...["web.md#some-words", "nowhere.md", "#no-words"],
    ].sort(),
  );
  expect(misspelt(MANUAL, ".B --attemps\n.B execve-counter dotcor")).toEqual([
    "--attemps",
    "dotcor",
  ]);
});

test("every flag of another program is still named", () => {
  const text = PAGES.map(readProjectFile).join("\n");
  for (const flag of Object.keys(FOREIGN_FLAGS)) expect(text).toContain(flag);
});

/** The rows of the table below a heading, as cells without back-quotes. */
function table(page: string, heading: string): string[][] {
  const section = readProjectFile(page).split(`\n## ${heading}\n`)[1]?.split("\n## ")[0] ?? "";
  const rows = section.split("\n").filter((line) => line.startsWith("|"));
  return rows.slice(2).map((row) =>
    row
      .slice(1, -1)
      .split("|")
      .map((cell) => cell.trim().replaceAll("`", "")),
  );
}

/** The flags of a command with their defaults, by its help. */
function options(command: string): string[][] {
  // An option's description may go on in the next line.
  const text =
    COMMANDS.get(command)
      ?.split("\nOptions:\n")[1]
      ?.replaceAll(/\n {20,}/g, " ") ?? "";
  return text
    .trim()
    .split("\n")
    .map((line) => {
      const [flags = "", description] = line.trim().split(/ {2,}/);
      const value = /default: "?([^")]+)"?\)/.exec(description ?? "")?.[1];
      return [flags, value ?? ""];
    });
}

test("the options are those of the program, with their defaults", () => {
  const documented = table("docs/options.md", "Options of run");
  expect(documented.map(([flags, value]) => [flags, value])).toEqual(options("run"));
});

test("the options of top are those of the program", () => {
  const documented = table("docs/top.md", "Options").map(([flags]) => flags);
  expect([...documented, "-h, --help"].sort()).toEqual(
    options("top")
      .map(([flags]) => flags)
      .sort(),
  );
});

test("the options of stat are those of the program, with their defaults", () => {
  const documented = table("docs/stat.md", "Options").map(([flags, value]) => [flags, value]);
  // It is the help that does not know the default of --by.
  expect(documented[0]).toEqual(["--by <labels>", "command"]);
  expect(documented.slice(1)).toEqual(options("stat").slice(1, -1));
});

test("the options of the operator are those of the program, with their defaults", () => {
  const documented = table("docs/operator.md", "Options").map(([flags, value]) => [flags, value]);
  // After its options come its commands.
  const lines = options("operator").slice(0, documented.length + 1);
  expect(documented).toEqual(lines.slice(0, -1));
  expect(lines.at(-1)?.[0]).toBe("-h, --help");
});

test("the metrics are those of the program, with types and labels", () => {
  const metrics = [...GOLDEN.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => {
    const [, labels = ""] = new RegExp(`^${name}(?:\\{(.*)\\})? `, "m").exec(GOLDEN) ?? [];
    const some = all(labels, /(\w+)="/g);
    // Of execs any.
    const each = name === "execve_counter_execs_total" ? LABELS : some;
    return [name, type, each.join(", ")];
  });
  const documented = table("docs/metrics.md", "Metrics");
  expect(documented.map(([name, type, labels]) => [name, type, labels])).toEqual(metrics);
});

test("the README is read in two minutes, has the two commands first, and lists every page", () => {
  const lines = readProjectFile("README.md").split("\n");
  expect(lines.length).toBeLessThanOrEqual(130);
  const screen = lines.slice(0, 12).join("\n");
  for (const target of ["run", "test"]) expect(screen).toMatch(new RegExp(`^make ${target} `, "m"));
  for (const page of PAGES.slice(1)) expect(lines.join("\n")).toContain(`](${page})`);
});
