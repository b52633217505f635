import { readdirSync } from "node:fs";
import { Script } from "node:vm";
import { transformSync } from "esbuild";
import { expect, test } from "vitest";
import { projectPath, readProjectFile } from "./support/files.ts";

/** Who may import whom in src/; what is not named here may not be. */
const ARROWS: Record<string, string[]> = {
  cli: [
    ...["agent", "doctor", "kernel", "top", "watch"],
    ...[
      "errors",
      "flags",
      "json",
      "labels",
      "log",
      "node",
      "npx",
      "output",
      "printer",
      "service",
      "text",
      "version",
      "web",
    ],
  ],
  agent: [
    ...[
      "kernel",
      "reader",
      "printer",
      "metrics",
      "web",
      "webconfig",
      "page",
      "privileges",
      "rates",
      "service",
      "status",
    ],
    ...["snapshot", "json", "keys", "labels", "log", "output", "text", "version"],
  ],
  doctor: ["capabilities", "kernel"],
  privileges: ["capabilities", "errors", "kernel"],
  service: ["errors", "kernel", "log", "web"],
  watch: ["kernel", "errors", "keys", "log", "text"],
  kernel: ["capabilities", "errors", "keys", "labels", "pins", "snapshot", "users"],
  pins: ["errors", "keys"],
  reader: ["kernel", "errnos", "keys", "labels", "snapshot"],
  printer: ["json", "snapshot", "text"],
  rates: ["snapshot"],
  status: ["rates", "snapshot"],
  top: ["frame", "log", "output", "privileges", "source", "terminal", "view"],
  source: [
    ...["kernel", "reader", "rates", "frame", "snapshot"],
    ...["errors", "labels", "log", "text"],
  ],
  frame: ["labels", "rates", "snapshot", "text", "view", "width"],
  view: ["labels", "rates", "text"],
  terminal: ["output", "view"],
  width: [],
  metrics: ["snapshot"],
  flags: ["errors", "keys", "labels", "web"],
  web: ["connections", "errors"],
  webconfig: ["errors", "passwords", "web"],
  passwords: ["bcrypt", "errors", "web"],
  bcrypt: [],
  connections: [],
  snapshot: ["keys", "labels"],
  keys: [],
  labels: [],
  errnos: [],
  errors: ["capabilities"],
  capabilities: [],
  users: [],
  json: ["text"],
  log: ["text"],
  node: [],
  npx: [],
  output: ["errors"],
  page: [],
  text: [],
  version: [],
};

/** The one file that knows each library. */
const ONLY: Record<string, string> = {
  commander: "cli",
  "hash-wasm": "bcrypt",
  negotiator: "web",
  "node:http": "web",
  "prom-client": "metrics",
  "safe-stable-stringify": "json",
  yaml: "webconfig",
};

const files = readdirSync(new URL("../src", import.meta.url)).filter((file) => /\.ts$/.test(file));
const sources = files.map((file) => {
  const text = readProjectFile(`src/${file}`);
  const imports = [...text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)].map(([, name]) => name);
  return { name: file.replace(/\.ts$/, ""), text, imports: imports as string[] };
});

test("every file of src/ is drawn, and none that is not there", () => {
  expect(sources.map(({ name }) => name).sort()).toEqual(Object.keys(ARROWS).sort());
});

test.each(sources)("$name imports only what the architecture lets it", ({ name, imports }) => {
  for (const each of imports) {
    if (each.startsWith(".")) {
      expect(ARROWS[name]).toContain(each.replace(/^\.\/(.*)\.ts$/, "$1"));
    } else {
      if (!each.startsWith("node:")) expect(Object.keys(ONLY)).toContain(each);
      expect(ONLY[each] ?? name).toBe(name);
    }
  }
});

test("only the kernel loads the addon, and only the command line exits", () => {
  for (const { name, text } of sources) {
    expect(/\.node["`]/.test(text) && name !== "kernel").toBe(false);
    expect(/process\.(exit\b|exitCode)/.test(text) && !["cli", "node"].includes(name)).toBe(false);
  }
});

test("what runs in the browser takes types from here, and how a text is shown", () => {
  const lines = readProjectFile("src/browser/page.ts").match(/^import .*$/gm) ?? [];
  expect(lines).toEqual([
    'import UPlot from "uplot";',
    'import type { Past, Row, Status } from "../status.ts";',
    'import { escaped, visible } from "../text.ts";',
  ]);
});

test("what Node.js loads is CommonJS, which every Node.js can require", () => {
  const built = readdirSync(projectPath("dist")).filter((file) => file.endsWith(".js"));
  expect(built.sort()).toEqual(sources.map(({ name }) => `${name}.js`).sort());
  for (const file of built) {
    expect(() => new Script(readProjectFile(`dist/${file}`)), file).not.toThrow();
  }
});

test("a Node.js that is too old can read what tells it so", () => {
  for (const file of ["dist/cli.js", "dist/node.js"]) {
    const text = readProjectFile(file);
    const as = (target: string) => transformSync(text, { target }).code;
    expect(as("node10"), file).toBe(as("esnext"));
  }
  const [first] = /require\("[^"]+"\)/.exec(readProjectFile("dist/cli.js")) ?? [];
  expect(first).toBe('require("./node.js")');
});

test("only session.cc knows libbpf, and only addon.cc knows Node-API", () => {
  const includes = (path: string) =>
    [...readProjectFile(path).matchAll(/^#include [<"]([^>"]+)/gm)].map(([, name]) => name);
  expect(includes("native/addon.cc")).toEqual(
    expect.arrayContaining(["napi.h", "session.h", "../bpf/execve_counter.h"]),
  );
  for (const path of ["native/addon.cc", "native/session.h"]) {
    for (const name of includes(path)) expect(name).not.toMatch(/^bpf\/|^linux\//);
  }
  for (const path of ["native/session.cc", "native/session.h"]) {
    for (const name of includes(path)) expect(name).not.toMatch(/napi|node/);
  }
  expect(includes("bpf/execve_counter.h")).toEqual([]);
});
