import { existsSync, mkdirSync, realpathSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { IDaemonSet } from "kubernetes-models/apps/v1/DaemonSet";
import { parse } from "yaml";
import { projectPath, readProjectFile } from "./files.ts";
import { sh } from "./meter.ts";
import type { Config } from "./runc.ts";

/** The DaemonSet, as it is deployed. */
export const daemonSet: IDaemonSet = parse(readProjectFile("deploy/kubernetes/daemonset.yaml"));

const pod = daemonSet.spec?.template?.spec;
export const container = pod?.containers?.[0] as NonNullable<
  NonNullable<typeof pod>["containers"]
>[number];

/** What a container runtime hides from every container that is not privileged, or lets it only read. */
const MASKED = [
  ...["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"],
  ...["/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"],
];
const READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/**
 * What kubelet and containerd make of the DaemonSet: its security context, arguments, host
 * paths and memory, and a root with Node.js and the built project.
 *
 * @param app where the project is installed, readable for all users: the container has no
 *   capability to read files of other owners
 * @param hostPaths what to mount in the place of the manifest's host paths, by the volume's name
 * @param without a capability to leave out, as the manifest calls it
 * @param more arguments to add
 */
export function podConfig(
  root: string,
  app: string,
  hostPaths: Record<string, string>,
  without?: string,
  more: readonly string[] = [],
): Config {
  const { runAsUser, runAsGroup, capabilities, allowPrivilegeEscalation, readOnlyRootFilesystem } =
    container.securityContext ?? {};
  const capable = (capabilities?.add ?? [])
    .filter((name) => name !== without)
    .map((name) => `CAP_${name}`);
  mkdirSync(join(root, "etc"), { recursive: true });
  writeFileSync(
    join(root, "etc/passwd"),
    "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
  );
  const bind = (source: string, destination: string, access: string) => ({
    ...{ destination, source, type: "bind", options: ["bind", "nosuid", "nodev", access] },
  });
  const node = process.execPath;
  const addon = projectPath("build/Release/execve_counter.node");
  return {
    root: { path: root, readonly: readOnlyRootFilesystem === true },
    process: {
      args: ["/bin/node", "/app/dist/cli.js", ...(container.args ?? []), ...more],
      user: { uid: runAsUser as number, gid: runAsGroup as number },
      capabilities: { bounding: capable, effective: capable, permitted: capable },
      noNewPrivileges: allowPrivilegeEscalation === false,
    },
    mounts: [
      {
        destination: "/sys",
        type: "sysfs",
        source: "sysfs",
        options: ["nosuid", "noexec", "nodev", "ro"],
      },
      bind(node, "/bin/node", "ro"),
      bind(app, "/app", "ro"),
      // Debian's own Node.js has parts of itself there.
      ...["/usr/share/nodejs"].filter(existsSync).map((path) => bind(path, path, "ro")),
      ...libraries(node, addon).map((library) => bind(realpathSync(library), library, "ro")),
      ...(container.volumeMounts ?? []).map(({ name, mountPath, readOnly }) =>
        bind(hostPaths[name] as string, mountPath, readOnly ? "ro" : "rw"),
      ),
    ],
    linux: {
      namespaces: ["mount", "pid", "ipc", "uts", "network", "cgroup"].map((type) => ({ type })),
      maskedPaths: MASKED,
      readonlyPaths: READ_ONLY,
      resources: {
        devices: [{ allow: false, access: "rwm" }],
        memory: { limit: bytes(`${container.resources?.limits?.memory}`) },
      },
    },
  };
}

/** The shared libraries that programs need, where the loader finds them. */
export function libraries(...programs: string[]): string[] {
  return [...new Set(sh("ldd", programs).match(/\/\S+\.so\S*(?=$| \()/gm))];
}

/** "256Mi" in bytes. */
export function bytes(quantity: string): number {
  const [, number, unit = ""] = /^(\d+)(Ki|Mi|Gi)$/.exec(quantity) ?? [];
  return Number(number) * 1024 ** (["Ki", "Mi", "Gi"].indexOf(unit) + 1);
}
