import { type ChildProcess, spawn } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { result, sh, uniqueName, until } from "./meter.ts";

/** By its path: not every user's $PATH leads there. */
const RUNC = ["/usr/sbin/runc", "/usr/bin/runc"].find(existsSync) ?? "runc";
const mounts = readFileSync("/proc/self/mounts", "utf8")
  .split("\n")
  .map((line) => line.split(" "))
  .filter(([, , type]) => type === "cgroup" || type === "cgroup2");

/** Whether the pids controller is in a version 1 hierarchy. */
export const version1 = /^[1-9]\d*:([^:]*,)?pids[,:]/m.test(
  readFileSync("/proc/self/cgroup", "utf8"),
);

/** Where the version 1 hierarchy of a controller is mounted, or else the unified one. */
export function mountPoint(controller?: string): string {
  const mount = mounts.find(([, , type, options]) =>
    controller ? options?.split(",").includes(controller) : type === "cgroup2",
  );
  if (!mount?.[1]) throw new Error(`no hierarchy of ${controller ?? "version 2"} is mounted`);
  return mount[1];
}

/** What of a container's configuration a test has a say in; see runc-spec(8). */
export interface Config {
  root?: { path: string; readonly: boolean };
  process: { args: string[]; user?: { uid: number; gid: number } } & Record<string, unknown>;
  mounts?: { destination: string; type: string; source: string; options?: string[] }[];
  linux?: { namespaces?: { type: string }[] } & Record<string, unknown>;
}

/** Real containers, and a directory and cgroups of their own. */
export class Runc {
  /** Every cgroup made here is below this one, in every hierarchy. */
  readonly top = uniqueName();
  readonly directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  /** The root of containers that bring none: busybox. */
  readonly root = join(this.directory, "root");

  constructor() {
    mkdirSync(join(this.root, "bin"), { recursive: true });
    for (const name of ["dev", "proc"]) mkdirSync(join(this.root, name));
    copyFileSync("/bin/busybox", join(this.root, "bin/busybox"));
    symlinkSync("busybox", join(this.root, "bin/sh"));
  }

  call(args: readonly string[]): string {
    return sh(RUNC, this.#args(args));
  }

  /** Runs a container, whose cgroup is below `top`, to its end, and deletes it. */
  run(cgroup: string, config: Config): void {
    this.call(this.#run(cgroup, config));
  }

  /** Starts one, which is deleted when it ends, and returns its name and runc. */
  start(cgroup: string, config: Config): { name: string; child: ChildProcess } {
    const args = this.#run(cgroup, config);
    return { name: args.at(-1) as string, child: spawn(RUNC, this.#args(args)) };
  }

  async remove(): Promise<void> {
    const state = join(this.directory, "state");
    for (const name of existsSync(state) ? readdirSync(state) : []) {
      this.call(["delete", "--force", name]);
    }
    for (const [, mount = ""] of mounts) {
      const path = join(mount, this.top);
      // What has just ended can keep its cgroup busy.
      await until(`the end of ${path}`, () => {
        result("find", [path, "-depth", "-type", "d", "-delete"]);
        return !existsSync(path);
      });
    }
    rmSync(this.directory, { recursive: true });
  }

  #args(args: readonly string[]): string[] {
    return ["--root", join(this.directory, "state"), ...args];
  }

  #run(cgroup: string, { root, process, mounts = [], linux }: Config): string[] {
    const bundle = mkdtempSync(join(this.directory, "bundle-"));
    const config = {
      ociVersion: "1.0.2",
      root: root ?? { path: this.root, readonly: true },
      process: { cwd: "/", user: { uid: 0, gid: 0 }, ...process },
      mounts: [
        { destination: "/proc", type: "proc", source: "proc" },
        { destination: "/dev", type: "tmpfs", source: "tmpfs" },
        ...mounts,
      ],
      linux: {
        namespaces: [{ type: "mount" }, { type: "pid" }],
        ...linux,
        cgroupsPath: join("/", this.top, cgroup),
      },
    };
    writeFileSync(join(bundle, "config.json"), JSON.stringify(config));
    // In a chroot, whose root must be a mount point, there is nothing to pivot.
    return ["run", "--no-pivot", "--bundle", bundle, basename(bundle)];
  }
}
