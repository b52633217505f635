import { expect, test } from "vitest";
import { glob, projectFiles, readProjectFile } from "../../support/files.ts";

const files = projectFiles();
/** Those that are text and written by hand. */
const texts = files
  .filter((path) => !/\.png$|^package-lock\.json$|^LICENSES\//.test(path))
  .map((path) => [path, readProjectFile(path)] as const);

/** The sections of a file in the form of .editorconfig, by their patterns, in their order. */
const sections = readProjectFile(".editorconfig")
  .split(/^\[(?=.*\]$)/m)
  .slice(1)
  .map((section) => {
    const [pattern = "", ...lines] = section.split("\n");
    const settings = lines.filter((line) => line.includes(" = ")).map((line) => line.split(" = "));
    return { pattern: glob(pattern.slice(0, -1)), settings: Object.fromEntries(settings) };
  });

/** What it says of a file. */
function editorconfig(path: string): Record<string, string> {
  const all = sections.filter(({ pattern }) => pattern.test(path));
  return Object.assign({}, ...all.map(({ settings }) => settings));
}

test("a pattern stands for what it does in .gitignore and .editorconfig", () => {
  const matches = (pattern: string, ...paths: string[]) =>
    paths.filter((path) => glob(pattern).test(path));
  const paths = ["a.c", "b/a.c", "b/c/a.c", "b.c", "a.cc"];
  expect(matches("*", ...paths)).toEqual(paths);
  expect(matches("**", ...paths)).toEqual(paths);
  expect(matches("a.c", ...paths)).toEqual(["a.c", "b/a.c", "b/c/a.c"]);
  expect(matches("/a.c", ...paths)).toEqual(["a.c"]);
  expect(matches("b/*.c", ...paths)).toEqual(["b/a.c"]);
  expect(matches("b/**", ...paths)).toEqual(["b/a.c", "b/c/a.c"]);
  expect(matches("{b.c,*.cc}", ...paths)).toEqual(["b.c", "a.cc"]);
  expect(files).toEqual(expect.arrayContaining(["Makefile", ".ci/run", "src/cli.ts"]));
  expect(files.filter((path) => /^(node_modules|dist|build|\.git)\//.test(path))).toEqual([]);
});

test(".editorconfig says what the formatters do", () => {
  const { formatter } = JSON.parse(readProjectFile(".biome.json"));
  expect(editorconfig("src/cli.ts")).toMatchObject({
    indent_style: formatter.indentStyle,
    indent_size: "2", // Biome's own
    max_line_length: `${formatter.lineWidth}`,
  });
  const style = (path: string, name: string) =>
    new RegExp(`^${name}: (.*)$`, "m").exec(readProjectFile(path))?.[1];
  for (const path of ["bpf/execve_counter.bpf.c", "bpf/vmlinux.h", "test/support/restricted.cc"]) {
    expect(style(".clang-format", "UseTab")).toBe("ForContinuationAndIndentation");
    expect(editorconfig(path)).toMatchObject({
      indent_style: "tab",
      indent_size: style(".clang-format", "IndentWidth"),
      max_line_length: style(".clang-format", "ColumnLimit"),
    });
  }
  expect(style("native/.clang-format", "BasedOnStyle")).toBe("Google");
  expect(editorconfig("native/session.cc")).toMatchObject({
    indent_style: "space",
    indent_size: "2",
    max_line_length: style("native/.clang-format", "ColumnLimit"),
  });
  expect(editorconfig("Makefile").indent_style).toBe("tab");
});

test("every text is as .editorconfig has it", () => {
  for (const [path, text] of texts) {
    const tabs = editorconfig(path).indent_style === "tab";
    // A comment's next line begins with a star, a macro's may have nothing but a backslash.
    const wrong = tabs ? /^ +[^ *\\].*/m : /^ *\t.*/m;
    expect(wrong.exec(text)?.[0], path).toBeUndefined();
    expect(/.*[ \t\r]$/m.exec(text)?.[0], path).toBeUndefined();
    if (text) expect(text.slice(-2), path).toMatch(/[^\n]\n/);
  }
});

test("every script of the shell is indented by tabs", () => {
  const scripts = texts.filter(([, text]) => /^#!.*\b(ba)?sh$/m.test(text.split("\n")[0] ?? ""));
  expect(scripts.length).toBeGreaterThan(5);
  for (const [path] of scripts) expect(editorconfig(path).indent_style, path).toBe("tab");
});

/** The entries of REUSE.toml, of which the last one that is for a file is taken. */
const entries = readProjectFile("REUSE.toml")
  .split("[[annotations]]\n")
  .slice(1)
  .map((entry) => {
    const value = (name: string) => new RegExp(`^${name} = (.*)$`, "m").exec(entry)?.[1] ?? '""';
    const patterns: string | string[] = JSON.parse(value("path"));
    return {
      // Without a slash, too, they begin where REUSE.toml is.
      patterns: [patterns].flat().map((pattern) => glob(`/${pattern}`)),
      license: JSON.parse(value("SPDX-License-Identifier")) as string,
      copyright: JSON.parse(value("SPDX-FileCopyrightText")) as string,
    };
  });
const annotation = (path: string) =>
  entries.findLast(({ patterns }) => patterns.some((pattern) => pattern.test(path)));

test("every file has a license and a copyright, which are those of LICENSE", () => {
  const license = readProjectFile("LICENSE");
  const [, holder] = /^Copyright \(c\) (.*)$/m.exec(license) ?? [];
  const [, dual] = /\(SPDX: (.*)\)/.exec(license) ?? [];
  const { license: main } = JSON.parse(readProjectFile("package.json"));
  expect([main, dual]).toEqual(["MIT", "MIT OR GPL-2.0-only"]);
  for (const path of files) {
    const inKernel = path.startsWith("bpf/") || path.endsWith(".bpf.c");
    const expected = { license: inKernel ? dual : main, copyright: holder };
    expect(annotation(path), path).toMatchObject(expected);
  }
});

test("a file that names its license names the same", () => {
  const heads = texts.flatMap(([path, text]) => {
    const tag = "SPDX-License-" + "Identifier"; // in two, or reuse lint takes it for one
    const [, license] = new RegExp(`^\\W*${tag}: (.*?)(?: \\*/)?$`, "m").exec(text) ?? [];
    return license && !path.endsWith(".test.ts") ? [[path, license] as const] : [];
  });
  expect(heads.length).toBeGreaterThan(10);
  for (const [path, license] of heads) expect(annotation(path)?.license, path).toBe(license);
});

test("LICENSES/ has the text of each license, and of no other", () => {
  const named = entries.flatMap(({ license }) => license.split(" OR "));
  const kept = files.filter((path) => path.startsWith("LICENSES/"));
  expect(kept.sort()).toEqual([...new Set(named)].map((id) => `LICENSES/${id}.txt`).sort());

  const words = (text: string) => text.split(/\s+/).filter(Boolean).join(" ");
  const mit = words(readProjectFile("LICENSES/MIT.txt")).split("Permission is hereby")[1];
  expect(mit?.length).toBeGreaterThan(900);
  expect(words(readProjectFile("LICENSE"))).toContain(mit);
  expect(readProjectFile("LICENSES/GPL-2.0-only.txt")).toMatch(
    /^\s*GNU GENERAL PUBLIC LICENSE\s+Version 2, June 1991\n[\s\S]*\bEND OF TERMS AND CONDITIONS\n/,
  );
});
