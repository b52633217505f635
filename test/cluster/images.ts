import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { projectPath, readProjectFile } from "../support/files.ts";
import { Installation } from "../support/installation.ts";
import { STORM, sh } from "../support/meter.ts";
import { libraries } from "../support/pod.ts";
import type { Cluster } from "./cluster.ts";

/** The tag of the image in deploy/kubernetes, and the name that containerd gives it. */
export const IMAGE = `execve-counter:${JSON.parse(readProjectFile("package.json")).version}`;

/**
 * Loads what deploy/container/Containerfile makes, with the machine's Node.js and the built
 * project in the place of what it downloads.
 *
 * @param names of the image, each of which differs from the others by its label alone
 */
export function loadAgent(cluster: Cluster, ...names: string[]): Promise<void> {
  return load(cluster, names, []);
}

/** The same, with what the operator's image has besides: it can be either. */
export function loadOperator(cluster: Cluster, ...names: string[]): Promise<void> {
  return load(cluster, names, ["deploy", ...clientPackages()]);
}

/** The client of Kubernetes, and what it needs, as package-lock.json has them. */
function clientPackages(): string[] {
  const { packages } = JSON.parse(readProjectFile("package-lock.json"));
  const found = new Set<string>();
  const find = (name: string, from: string): void => {
    for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf("node_modules/") - 1))) {
      const path = `${at ? `${at}/` : ""}node_modules/${name}`;
      if (packages[path]) {
        if (found.has(path)) return;
        found.add(path);
        for (const each of Object.keys(packages[path].dependencies ?? {})) find(each, path);
        return;
      }
      if (at === "") return;
    }
  };
  find("@kubernetes/client-node", "");
  return [...found].filter((path) => !path.includes("@types/"));
}

/** @param more paths of the project that the installed package has not */
async function load(cluster: Cluster, names: string[], more: string[]): Promise<void> {
  const file = readProjectFile("deploy/container/Containerfile");
  // Of several images the agent's is the last.
  const words = (instruction: string): string[] =>
    JSON.parse(file.split(`\n${instruction} `).at(-1)?.split("\n")[0] as string);
  const root = mkdtempSync(join(tmpdir(), "execve-counter-"));
  const installed = new Installation();
  try {
    copy(root, process.execPath, "/usr/local/bin/node");
    const package_ = "/opt/node_modules/execve-counter";
    cpSync(installed.directory, join(root, package_), { recursive: true });
    for (const path of more) {
      cpSync(projectPath(path), join(root, package_, path), { recursive: true });
    }
    sh("chmod", ["-R", "a+rX", root]);
    copyLibraries(root, process.execPath, installed.path("build/Release/execve_counter.node"));
    // Debian's own Node.js has parts of itself there.
    for (const path of ["/usr/share/nodejs"].filter(existsSync)) {
      cpSync(path, join(root, path), { recursive: true });
    }
    mkdirSync(join(root, "etc"));
    const users = ["root:x:0:0::/root:/bin/sh", "nobody:x:65534:65534::/:/bin/false", ""];
    writeFileSync(join(root, "etc/passwd"), users.join("\n"));
    for (const name of names) {
      await cluster.loadImage(`docker.io/library/${name}`, root, {
        Entrypoint: words("ENTRYPOINT"),
        Cmd: words("CMD"),
        Env: ["PATH=/usr/local/bin:/usr/bin:/bin"],
        Labels: { name },
      });
    }
  } finally {
    installed.remove();
    rmSync(root, { recursive: true });
  }
}

/** Loads an image with a shell, /bin/true and test/support/storm.c, that runs one of them. */
export async function loadStorm(cluster: Cluster, name: string, run = "/bin/sh"): Promise<void> {
  const root = mkdtempSync(join(tmpdir(), "execve-counter-"));
  try {
    copy(root, "/bin/busybox");
    for (const command of ["sh", "true"]) symlinkSync("busybox", join(root, "bin", command));
    copy(root, STORM, "/bin/storm");
    copyLibraries(root, STORM);
    await cluster.loadImage(name, root, { Entrypoint: [run] });
  } finally {
    rmSync(root, { recursive: true });
  }
}

function copy(root: string, file: string, to = file): void {
  mkdirSync(join(root, dirname(to)), { recursive: true });
  copyFileSync(file, join(root, to));
}

function copyLibraries(root: string, ...programs: string[]): void {
  for (const library of libraries(...programs)) copy(root, library);
}

export const MANIFESTS = projectPath("deploy/kubernetes");
