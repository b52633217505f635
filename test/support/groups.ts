import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sh, uniqueName } from "./meter.ts";
import { mountPoint, version1 } from "./runc.ts";

/** Control groups where the meter looks for them, and programs that run in them. */
export class Groups {
  readonly #top = join(mountPoint(version1 ? "pids" : undefined), uniqueName());
  readonly #programs = mkdtempSync(join(tmpdir(), "execve-counter-"));

  constructor() {
    mkdirSync(this.#top);
  }

  /** A program that does nothing, or that a shell runs. */
  program(name: string, script?: string): string {
    const text = script === undefined ? "#!/bin/busybox true\n" : `#!/bin/sh\n${script}\n`;
    writeFileSync(this.path(name), text, { mode: 0o755 });
    return name;
  }

  path(program: string): string {
    return join(this.#programs, program);
  }

  /** Runs a program so many times in each of these groups, which it makes where there is none. */
  run(program: string, times: number, ...names: string[]): void {
    const paths = names.map((name) => this.add(name));
    const script = `for path; do echo $$ >"$path/cgroup.procs" || exit
      i=0; while [ $i -lt ${times} ]; do "$0" || exit; i=$((i + 1)); done; done`;
    sh("/bin/sh", ["-c", script, this.path(program), ...paths]);
  }

  /** Makes a group, where there is none, and returns its directory. */
  add(name: string): string {
    const path = join(this.#top, name);
    mkdirSync(path, { recursive: true });
    return path;
  }

  /** Runs a program once in a group, by a user who comes there as that user. */
  async runAs(uid: number, program: string, name: string): Promise<void> {
    const path = join(this.#top, name);
    mkdirSync(path, { recursive: true });
    const script = `read -r go; exec "$0"`;
    const child = spawn("/bin/sh", ["-c", script, program], { uid, stdio: ["pipe", 2, 2] });
    writeFileSync(join(path, "cgroup.procs"), `${child.pid}`);
    child.stdin?.end("go\n");
    const [status] = await once(child, "exit");
    if (status !== 0) throw new Error(`${program} ended with ${status}`);
  }

  /** Removes a group, which has no process any more. */
  end(name: string): void {
    rmdirSync(join(this.#top, name));
  }

  remove(): void {
    const remove = (path: string) => {
      for (const each of readdirSync(path, { withFileTypes: true })) {
        if (each.isDirectory()) remove(join(path, each.name));
      }
      rmdirSync(path);
    };
    remove(this.#top);
    rmSync(this.#programs, { recursive: true });
  }
}
