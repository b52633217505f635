import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { projectPath, readProjectFile } from "../../support/files.ts";
import { result } from "../../support/meter.ts";

const scratch = mkdtempSync(join(tmpdir(), "execve-counter-"));
afterAll(() => rmSync(scratch, { recursive: true }));

/** A copy of these files of the project, that a test may change. */
function copyOf(...paths: string[]): string {
  const copy = mkdtempSync(join(scratch, "copy-"));
  for (const path of paths) cpSync(projectPath(path), join(copy, path), { recursive: true });
  return copy;
}

describe("npm's scripts install nothing", () => {
  /** Runs one where dpkg says that these packages are not installed, and all others are. */
  function run(script: string, absent: string[]) {
    const copy = copyOf(
      ...["Makefile", "package.json", "package-lock.json", "binding.gyp", "tsconfig.json"],
      ...["bpf", "native", "src", "test/support"],
    );
    const bin = join(copy, "bin");
    mkdirSync(bin);
    const programs = {
      "dpkg-query": `for name; do :; done
        case " ${absent.join(" ")} " in *" $name "*) exit 1 ;; esac
        echo installed`,
      "apt-get": `touch "${copy}/installed"`,
      sudo: `touch "${copy}/installed"`,
    };
    for (const [name, text] of Object.entries(programs)) {
      writeFileSync(join(bin, name), `#!/bin/sh\n${text}\n`);
      chmodSync(join(bin, name), 0o755);
    }
    const before = readdirSync(copy);
    const env: NodeJS.ProcessEnv = { ...process.env, PATH: `${bin}:${process.env.PATH}` };
    for (const name of ["MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"]) delete env[name];
    const { status, stderr } = result("npm", ["run", "--silent", script], { cwd: copy, env });
    return { status, stderr, made: readdirSync(copy).filter((path) => !before.includes(path)) };
  }

  test.each([
    ["test", ["clang"]],
    ["test", ["strace", "tmux", "openssl"]],
    ["build", ["libbpf-dev", "g++"]],
    ["check", ["llvm"]],
  ])("npm run %s names all that is missing, before it does anything: %s", (script, absent) => {
    const { status, stderr, made } = run(script, absent);
    const [missing, remedy, ...rest] = stderr.split("\n");
    const [what, names] = missing?.split(" packages ") ?? [];
    expect(what).toBe("missing: the Debian");
    expect(names?.split(" ").sort()).toEqual([...absent].sort());
    expect(remedy).toBe(`to do: make ${script}, which installs what is missing`);
    expect(rest).toEqual([expect.stringMatching(/^make: \*\*\* /), ""]);
    expect(status).not.toBe(0);
    expect(made).toEqual([]);
  });

  test("npm run build asks only for what a build needs", () => {
    const { stderr } = run("build", ["strace", "tmux"]);
    expect(stderr).not.toContain("packages");
  });

  test("node_modules are named where they are missing or older", () => {
    const { status, stderr, made } = run("test", []);
    expect(stderr).toContain(
      "missing: node_modules as package-lock.json has it\nto do: make test,",
    );
    expect(status).not.toBe(0);
    expect(made).toEqual([]);
  });
});

describe("npm publish", () => {
  const FIELDS = ["author", "homepage", "repository", "bugs"];
  type Manifest = Record<string, unknown>;
  const manifest: Manifest = JSON.parse(readProjectFile("package.json"));
  const filled: Manifest = {
    author: "somebody",
    homepage: "http://127.0.0.1/",
    repository: { type: "git", url: "git+http://127.0.0.1/some.git" },
    bugs: { url: "http://127.0.0.1/bugs" },
  };

  /** Runs a command where a package has these fields, and nothing in it. */
  function run(fields: Manifest, command: string, args: string[] = [], environment = {}) {
    const copy = copyOf("deploy/prepack.sh");
    const text = JSON.stringify({ ...manifest, private: undefined, ...fields });
    writeFileSync(join(copy, "package.json"), text);
    return result(command, args, { cwd: copy, env: { ...process.env, ...environment } });
  }
  const npm = (command: string, fields: Manifest) =>
    run(fields, "npm", [command, "--dry-run", "--registry=http://127.0.0.1:9/"]);

  test.each(FIELDS)("refuses a blank %s", (field) => {
    for (const blank of ["", undefined, { url: "" }]) {
      const fields = { ...filled, [field]: blank };
      const { status, stderr } = run(fields, "deploy/prepack.sh", [], { npm_command: "publish" });
      expect(stderr).toMatch(`blank in package.json: ${field}\nto do: fill them in`);
      expect(status).not.toBe(0);
    }
  });

  test("names all that are blank", () => {
    const { status, stderr } = npm("publish", { ...filled, author: "", homepage: "" });
    expect(stderr).toContain("blank in package.json: author, homepage\n");
    expect(status).not.toBe(0);
  });

  test("asks no more once they are filled in", () => {
    const { stderr } = npm("publish", filled);
    expect(stderr).not.toContain("blank");
    expect(stderr).toContain("to do: make package");
  });

  test("npm pack does not ask", () => {
    const { stderr } = npm("pack", { ...manifest });
    expect(stderr).not.toContain("blank");
    expect(stderr).toContain("to do: make package");
  });

  test("refuses a tarball too, of which it runs no script, as long as they are blank", () => {
    const isBlank = FIELDS.some((field) => !manifest[field]);
    expect(manifest.private === true).toBe(isBlank);
  });
});
