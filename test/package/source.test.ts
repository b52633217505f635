import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { projectPath } from "../support/files.ts";
import { Meter, result, STORM, sh, uniqueName } from "../support/meter.ts";

const scratch = mkdtempSync(join(tmpdir(), "execve-counter-"));
afterAll(() => rmSync(scratch, { recursive: true }));

test("in a fresh Debian 13, with its own Node.js, the meter is built, counts and is checked", async () => {
  const root = join(scratch, "root");
  sh("cp", ["-a", sh(projectPath("test/package/root.sh"), ["trixie"]).trim(), root]);
  cpSync("/etc/resolv.conf", join(root, "etc/resolv.conf"), { dereference: true });
  for (const path of readdirSync(projectPath(""))) {
    if ([".git", "build", "dist", "node_modules", "prebuilds"].includes(path)) continue;
    cpSync(projectPath(path), join(root, "app", path), { recursive: true });
  }
  // The registry's part, fetched from outside: what is in there asks it for nothing more.
  const warm = join(scratch, "warm");
  mkdirSync(warm);
  for (const file of ["package.json", "package-lock.json"]) {
    cpSync(projectPath(file), join(warm, file));
  }
  sh("npm", ["ci", "--ignore-scripts", "--cache", join(root, "npm")], { cwd: warm });

  const enter = [
    ...["unshare", "--mount", "sh", "-c"],
    `for each in proc sys dev; do mount --rbind /$each "${root}/$each" || exit; done
     exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \\
       npm_config_cache=/npm npm_config_offline=true chroot "${root}" sh -c 'cd /app && exec "$@"' sh "$@"`,
    "sh",
  ];
  const run = (...words: string[]) => {
    const [command, ...args] = [...enter, ...words];
    const { status, stdout, stderr } = result(command as string, args, { timeout: 1_000_000 });
    expect(status, `${words.join(" ")}\n${stdout}${stderr}`).toBe(0);
    return stdout;
  };

  run("apt-get", "-qq", "update");
  run("apt-get", "-qq", "install", "--no-install-recommends", "nodejs", "npm");
  expect(run("make", "build")).toMatch(/ APT .*\bclang\b.*\blibbpf-dev\b/);
  const checked = run("make", "run", "ARGS=--check");
  expect(checked).toContain("libbpf 1.5,");
  expect(checked).toMatch(/\nok\n$/);
  run("make", "check");

  const name = uniqueName();
  cpSync(projectPath("build/test/tiny"), join(scratch, name));
  const meter = await Meter.start(["--failures", "--by", "command", "--watch", name], {
    wrap: [...enter, "sh", "-c", 'exec node "$@"'],
    cli: "dist/cli.js",
  });
  sh(STORM, ["execve", "2", "500000", `/${"x".repeat(300)}`]);
  sh(STORM, ["spawn", "2", "100", join(scratch, name)]);
  const counts = await meter.counts();
  expect(await meter.stop()).toBe(0);
  expect(counts.failures?.execve.ENAMETOOLONG).toBe(1_000_000);
  expect(counts.watched[name]).toBe(200);
  expect(counts.execve_counter).toBeGreaterThanOrEqual(1_000_200);
});
