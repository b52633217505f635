import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { projectPath, readProjectFile } from "../support/files.ts";
import {
  CLI,
  inMountNamespace,
  MOUNT_TRACEFS,
  result,
  sh,
  uniqueName,
  until,
} from "../support/meter.ts";
import { shellLine } from "../support/script.mjs";

// Real builds, each counted by stat and at the same time by bpftrace. BUILDS=all adds those that
// fetch what they build.
const ALL = process.env.BUILDS === "all";

const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
chmodSync(directory, 0o755);
afterAll(() => rmSync(directory, { recursive: true }));

/** A user whom nothing else on this machine runs as. */
const USER = 1_500_000_000 + process.pid;

/** Where that user builds. */
function place(name: string): string {
  const path = join(directory, name);
  mkdirSync(path);
  chownSync(path, USER, USER);
  return path;
}

/** Runs a shell script there, by stat, as that user. */
function build(path: string, script: string) {
  const { stderr } = result(
    process.execPath,
    [CLI, "stat", "-o", "json", "--", "/bin/sh", "-ec", `cd ${shellLine(path)} && ${script}`],
    {
      env: {
        ...{ PATH: process.env.PATH, HOME: path, LC_ALL: "C", npm_config_update_notifier: "false" },
        ...{ SUDO_UID: `${USER}`, SUDO_GID: `${USER}` },
        // npm may be told by these where its registry is.
        ...Object.fromEntries(
          Object.entries(process.env).filter(([name]) =>
            /proxy|^npm_config|^NODE_EXTRA/i.test(name),
          ),
        ),
      },
      maxBuffer: 1 << 26,
      timeout: 900_000,
    },
  );
  const counted = JSON.parse(stderr.trimEnd().split("\n").at(-1) ?? "");
  expect(counted, stderr).toMatchObject({ exit_code: 0, missed: 0, left_running: 0 });
  const rows = (counted.execs_by as { command: string; execs: number }[]).map(
    ({ command, execs }) => [command, execs] as const,
  );
  return { execs: counted.execs as number, byCommand: Object.fromEntries(rows) };
}

/** The execs of that user by command, as bpftrace counts them from now on. */
class Witness {
  readonly #child: ChildProcess;
  readonly #marker = uniqueName();
  #text = "";

  constructor() {
    const script = `tracepoint:sched:sched_process_exec /uid == ${USER}/ { @[comm] = count(); }
      interval:ms:200 { print(@); }`;
    const words = inMountNamespace(
      `${MOUNT_TRACEFS} && exec ${shellLine("bpftrace", "-f", "json", "-e", script)}`,
    );
    this.#child = spawn(words[0] as string, words.slice(1));
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.on("data", (data) => {
        this.#text += data;
      });
    }
  }

  /** Resolves once it counts: it has seen a program that runs for that. */
  async begin(): Promise<void> {
    writeFileSync(join(directory, this.#marker), "#!/bin/sh\n", { mode: 0o755 });
    await until(
      () => `bpftrace: ${this.#text}`,
      () => {
        result(join(directory, this.#marker), [], { uid: USER, gid: USER });
        return this.#last()?.[this.#marker] !== undefined;
      },
    );
  }

  /** The counts once they have been printed twice more, without those of begin(). */
  async end(): Promise<Record<string, number>> {
    const prints = () => this.#prints().length;
    const before = prints();
    await until("two prints", () => prints() > before + 2);
    this.stop();
    await once(this.#child, "close");
    const { [this.#marker]: _, ...counts } = this.#last() ?? {};
    return counts;
  }

  stop(): void {
    this.#child.kill();
  }

  #prints(): string[] {
    return this.#text.split("\n").filter((line) => line.startsWith('{"type": "map"'));
  }

  #last(): Record<string, number> | undefined {
    const line = this.#prints().at(-1);
    return line && JSON.parse(line).data["@"];
  }
}

/** Counts a build in both ways, and returns how many programs it has started. */
async function compare(path: string, script: string): Promise<number> {
  const witness = new Witness();
  try {
    await witness.begin();
    const { execs, byCommand } = build(path, script);
    const seen = await witness.end();
    expect(byCommand).toEqual(seen);
    const sum = Object.values(seen).reduce((total, count) => total + count, 0);
    expect(execs).toBe(sum);
    console.log(`${script}: ${execs} programs of ${Object.keys(seen).length} names`);
    return execs;
  } finally {
    witness.stop();
  }
}

test("make -j8 of 40 programs in C, with pipelines and scripts", async () => {
  const path = place("programs");
  const names = Array.from({ length: 40 }, (_, i) => `p${i}`);
  writeFileSync(join(path, "main.c"), "int main(void) { return 0; }\n");
  writeFileSync(
    join(path, "Makefile"),
    `all: ${names.join(" ")}\np%: main.c\n\t$(CC) -o $@ $< && ./$@\n\tls | sort | (read -r one; echo $$one) >/dev/null\n`,
  );
  expect(await compare(path, "make -s -j8")).toBeGreaterThan(300);
});

/** GNU grep, as Debian 12 has it. */
const GREP = "pool/main/g/grep/grep_3.8.orig.tar.xz";
const SHA256 = "498d7cc1b4fb081904d87343febb73475cf771e424fb7e6141aff66013abc382";

test.runIf(ALL)("a configure script, and make -j8 of what it has configured", async () => {
  const path = place("grep");
  const debian = sh(projectPath("deploy/archive.sh"), []).trim();
  const answer = await fetch(`${debian}/${GREP}`);
  const archive = Buffer.from(await answer.arrayBuffer());
  expect(createHash("sha256").update(archive).digest("hex")).toBe(SHA256);
  writeFileSync(join(path, "grep.tar.xz"), archive);
  const { status } = result("tar", ["-xJf", "grep.tar.xz", "--strip-components=1"], {
    cwd: path,
    uid: USER,
    gid: USER,
  });
  expect(status).toBe(0);
  expect(await compare(path, "./configure --quiet")).toBeGreaterThan(1000);
  expect(await compare(path, "make -s -j8")).toBeGreaterThan(900);
});

test.runIf(ALL)("npm ci of a package whose installation runs programs", async () => {
  const path = place("npm");
  const { devDependencies } = JSON.parse(readProjectFile("package.json"));
  const { esbuild } = devDependencies as Record<string, string>;
  writeFileSync(
    join(path, "package.json"),
    JSON.stringify({
      ...{ name: "builds", version: "1.0.0", dependencies: { esbuild } },
      scripts: { postinstall: "ls | sort | head -n 1" },
    }),
  );
  build(path, "npm install --package-lock-only --no-audit --no-fund");
  expect(await compare(path, "npm ci --no-audit --no-fund")).toBeGreaterThan(5);
});
