import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { Script } from "node:vm";
import { transformSync } from "esbuild";
import { expect, test } from "vitest";
import { projectPath, readProjectFile } from "../../support/files.ts";

/**
 * The rooms of src/, and those that each may import from beside itself. The data's way is down
 * this table: the kernel is read into counts, which are shown.
 */
const ROOMS: Record<string, string[]> = {
  base: [],
  counts: ["base"],
  kernel: ["counts", "base"],
  http: ["base"],
  web: ["counts", "base"],
  top: ["kernel", "counts", "base"],
  stat: ["kernel", "counts", "base"],
  agent: ["kernel", "http", "web", "counts", "base"],
  operator: ["http", "counts", "base"],
  cli: ["agent", "top", "stat", "operator", "kernel", "http", "counts", "base"],
};
/** Where the command line and the library begin; the library knows no HTTP and no terminal. */
const ENTRIES: Record<string, string[]> = {
  cli: ["base", "cli"],
  index: ["kernel", "counts", "base"],
};

/** The files that know each library: one of the agent, and one of the operator. */
const ONLY: Record<string, string[]> = {
  "@kubernetes/client-node": ["operator/api"],
  commander: ["cli/main"],
  "hash-wasm": ["http/bcrypt"],
  negotiator: ["http/server"],
  "node:http": ["http/server", "operator/api", "operator/agents"],
  "prom-client": ["web/metrics", "operator/metrics"],
  "safe-stable-stringify": ["base/json"],
  yaml: ["http/settings", "operator/manifests"],
};

const sources = readdirSync(projectPath("src"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts") && !file.startsWith("web/browser/"))
  .map((file) => {
    const text = readProjectFile(`src/${file}`);
    const imports = [...text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)].map(
      ([, name]) => name,
    );
    return { name: file.replace(/\.ts$/, ""), text, imports: imports as string[] };
  });
const inRooms = sources.filter(({ name }) => !(name in ENTRIES));
const roomOf = (name: string) => name.split("/")[0] as string;

test("every file of src/ is in a room, and no room is empty", () => {
  const rooms = new Set(inRooms.map(({ name }) => roomOf(name)));
  expect([...rooms].sort()).toEqual(Object.keys(ROOMS).sort());
});

test.each(sources)("$name imports only from rooms that it may", ({ name, imports }) => {
  const room = roomOf(name);
  for (const each of imports) {
    if (each.startsWith(".")) {
      const rooms = ENTRIES[name] ?? [room, ...(ROOMS[room] ?? [])];
      expect(rooms).toContain(roomOf(join(dirname(name), each)));
    } else {
      if (!each.startsWith("node:")) expect(Object.keys(ONLY)).toContain(each);
      expect(ONLY[each] ?? [name]).toContain(name);
    }
  }
});

test("only the kernel loads the addon, and only the command line exits", () => {
  for (const { name, text } of sources) {
    expect(/\.node["`]/.test(text) && name !== "kernel/addon").toBe(false);
    expect(
      /process\.(exit\b|exitCode)/.test(text) && !["cli/main", "base/node"].includes(name),
    ).toBe(false);
  }
});

test("what runs in the browser takes types from here, and how a text is shown", () => {
  const files = readdirSync(projectPath("src/web/browser")).filter((file) => file.endsWith(".ts"));
  const lines = files
    .flatMap((file) => readProjectFile(`src/web/browser/${file}`).match(/^import .*$/gm) ?? [])
    .filter((line) => !/"\.\/\w+\.ts";$/.test(line));
  for (const line of lines) {
    expect(line).toMatch(/^import (type .*|UPlot from "uplot"|.* from "..\/..\/base\/text.ts");$/);
  }
});

test("what Node.js loads is CommonJS, which every Node.js can require", () => {
  const built = readdirSync(projectPath("dist"), { recursive: true, encoding: "utf8" }).filter(
    (file) => file.endsWith(".js") && !file.startsWith("web/browser/"),
  );
  expect(built.sort()).toEqual(sources.map(({ name }) => `${name}.js`).sort());
  for (const file of built) {
    expect(() => new Script(readProjectFile(`dist/${file}`)), file).not.toThrow();
  }
});

test("a Node.js that is too old can read what tells it so", () => {
  for (const file of ["dist/cli.js", "dist/base/node.js"]) {
    const text = readProjectFile(file);
    const as = (target: string) => transformSync(text, { target }).code;
    expect(as("node10"), file).toBe(as("esnext"));
  }
  const [first] = /require\("[^"]+"\)/.exec(readProjectFile("dist/cli.js")) ?? [];
  expect(first).toBe('require("./base/node.js")');
});

/** What of native/ is between Node.js and the rest of it. */
const isAddon = (name: string) => /^(addon|arguments|values|\w+_wrap)\.(cc|h)$/.test(name);

test("only the addon's own files know Node-API, and they know no libbpf", () => {
  const includesOf = (path: string) =>
    [...readProjectFile(path).matchAll(/^#include [<"]([^>"]+)/gm)].map(([, name]) => name);
  /** All that a file of native/ includes, also by the headers beside it. */
  const known = (name: string, seen = new Set<string>()): Set<string> => {
    for (const each of includesOf(`native/${name}`) as string[]) {
      if (seen.has(each)) continue;
      seen.add(each);
      if (existsSync(projectPath(`native/${each}`))) known(each, seen);
    }
    return seen;
  };
  const files = readdirSync(projectPath("native")).filter((name) => /\.(cc|h)$/.test(name));
  expect(files.filter(isAddon)).toContain("addon.cc");
  for (const name of files) {
    const foreign = isAddon(name)
      ? /^(bpf|linux)\//
      : /napi|node|_wrap\.h$|^(arguments|values)\.h$/;
    for (const each of known(name)) expect(each, name).not.toMatch(foreign);
  }
  expect(known("addon.cc")).toContain("napi.h");
  expect(known("session.cc")).toContain("bpf/libbpf.h");
  expect(includesOf("bpf/execve_counter.h")).toEqual([]);
});
