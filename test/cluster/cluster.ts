import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { Agent, type IncomingMessage, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { projectPath } from "../support/files.ts";
import { sh, uniqueName, until } from "../support/meter.ts";

/** What of an object of the API every test may look at. */
export interface KubernetesObject {
  apiVersion?: string;
  kind?: string;
  metadata: {
    name: string;
    namespace?: string;
    uid?: string;
    deletionTimestamp?: string;
    labels?: Record<string, string>;
  };
}

/** A real Kubernetes with one node, node0, in namespaces of its own: see cluster.sh. */
export class Cluster {
  /** Also the place of its logs; `bin` there has its programs. */
  readonly directory: string;
  readonly #process: ChildProcess;
  readonly #agent: Agent;
  #pid = 0;

  private constructor(groups: readonly string[]) {
    this.directory = join(tmpdir(), uniqueName());
    // It ends with its stdin, however this process ends, and not by the terminal's Ctrl-C.
    this.#process = spawn(projectPath("test/cluster/cluster.sh"), [this.directory, ...groups], {
      stdio: ["pipe", "pipe", "inherit"],
      detached: true,
    });
    this.#agent = new Agent({ keepAlive: true, maxSockets: 40 });
  }

  /**
   * Resolves once the node is ready, half a minute later if the programs were built before.
   *
   * @param groups custom resources that the newest server of them shall serve, with CEL rules,
   *   as "example.org/v1"
   */
  static async up(...groups: string[]): Promise<Cluster> {
    const cluster = new Cluster(groups);
    let stdout = "";
    cluster.#process.stdout?.on("data", (data) => {
      stdout += data;
    });
    const pid = await until(
      "a ready cluster",
      () => {
        if (cluster.#process.exitCode !== null) throw new Error("the cluster did not come up");
        return /^ready (\d+)$/m.exec(stdout)?.[1];
      },
      600_000,
    );
    cluster.#pid = Number(pid);
    return cluster;
  }

  get kubeconfig(): string {
    return join(this.directory, "kubeconfig");
  }

  /** The words before a command that is to run on the node. */
  get onNode(): string[] {
    return ["nsenter", `--target=${this.#pid}`, "--net", "--mount", "--pid", "--"];
  }

  /** Runs a command on the node to its end, which must be a good one, and resolves to its stdout. */
  async run(command: string, args: readonly string[], stdin = ""): Promise<string> {
    const [nsenter = "", ...words] = [...this.onNode, command, ...args];
    // Not at once, as sh() does: fake nodes and what else is in this process go on meanwhile.
    const child = spawn(nsenter, words);
    // It need not read it, nor all of it.
    child.stdin.on("error", () => {}).end(stdin);
    const [stdout, stderr] = [text(child.stdout), text(child.stderr)];
    const [status] = await once(child, "close");
    if (status === 0) return stdout;
    throw new Error(`${command} ${args.join(" ")}: ${status}\n${await stdout}${await stderr}`);
  }

  kubectl(args: readonly string[], stdin?: string): Promise<string> {
    const kubectl = join(this.directory, "bin/kubectl");
    return this.run(kubectl, [`--kubeconfig=${this.kubeconfig}`, ...args], stdin);
  }

  /** Without validation: kubectl is older than some of the fields. */
  async apply(...objects: object[]): Promise<void> {
    const list = JSON.stringify({ apiVersion: "v1", kind: "List", items: objects });
    await this.kubectl(["apply", "--validate=false", "-f", "-"], list);
  }

  /** Asks the API as an administrator; rejects with its message where it refuses. */
  async api<T = KubernetesObject>(
    method: string,
    path: string,
    body?: object,
    type = method === "PATCH" ? "application/merge-patch+json" : "application/json",
  ): Promise<T> {
    const response = await this.#ask(method, path, body, type);
    const answer = await text(response);
    if ((response.statusCode as number) >= 300) throw new Error(`${method} ${path}: ${answer}`);
    return JSON.parse(answer) as T;
  }

  /**
   * Resolves once the newest server of custom resources serves a group it was given, as
   * "example.org/v1", whose definitions have been applied.
   */
  async served(groupVersion: string): Promise<void> {
    const [group, version] = groupVersion.split("/");
    const service = `/apis/apiregistration.k8s.io/v1/apiservices/${version}.${group}`;
    let looks = 0;
    await until(`${groupVersion} being served`, async () => {
      // A change makes kube-apiserver look again; by itself it does so after up to 30 seconds.
      const annotations = { look: `${++looks}` };
      await this.api("PATCH", service, { metadata: { annotations } });
      await sleep(200);
      return this.api("GET", `/apis/${groupVersion}`).catch(() => false);
    });
  }

  /**
   * Calls `changed` for each object of a list, and again whenever one has changed.
   *
   * @returns what ends it
   */
  async watch<T = KubernetesObject>(
    path: string,
    changed: (object: T, event: "ADDED" | "MODIFIED" | "DELETED") => void,
  ): Promise<() => void> {
    const watching = `${path}${path.includes("?") ? "&" : "?"}watch=1`;
    const response = await this.#ask("GET", watching);
    const lines = createInterface(response).on("line", (line) => {
      const { type, object } = JSON.parse(line);
      changed(object, type);
    });
    // A response that is cut off ends its lines, which is all there is to do.
    lines.on("error", () => {});
    return () => response.destroy();
  }

  #ask(method: string, path: string, body?: object, type?: string): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const data = body ? JSON.stringify(body) : "";
      // By itself Node.js says no length where the method is DELETE.
      const length = { "content-length": Buffer.byteLength(data) };
      const headers = { host: "localhost", ...length, ...(body && { "content-type": type }) };
      const options = { socketPath: join(this.directory, "api.sock"), agent: this.#agent };
      request({ ...options, method, path, headers }, resolve)
        .on("error", reject)
        .end(data);
    });
  }

  /**
   * Makes an image of the files below `root` and gives it to the node's containerd.
   *
   * @param config as the OCI's image specification has it
   */
  async loadImage(name: string, root: string, config: object): Promise<void> {
    const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
    try {
      const tar = (from: string, file: string, ...files: string[]) =>
        sh("tar", ["-C", from, "--owner=0", "--group=0", "-cf", join(directory, file), ...files]);
      tar(root, "layer.tar", ".");
      const [sha] = sh("sha256sum", [join(directory, "layer.tar")]).split(" ");
      const write = (file: string, content: object) =>
        writeFileSync(join(directory, file), JSON.stringify(content));
      const architecture = process.arch === "x64" ? "amd64" : process.arch;
      const rootfs = { type: "layers", diff_ids: [`sha256:${sha}`] };
      write("config.json", { architecture, os: "linux", config, rootfs });
      write("manifest.json", [{ Config: "config.json", RepoTags: [name], Layers: ["layer.tar"] }]);
      tar(directory, "image.tar", "manifest.json", "config.json", "layer.tar");
      const ctr = ["-a", join(this.directory, "containerd.sock"), "-n", "k8s.io"];
      const image = join(directory, "image.tar");
      await this.run(join(this.directory, "bin/ctr"), [...ctr, "images", "import", image]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  }

  /** The log of one of its programs so far. */
  log(program: string): string {
    return readFileSync(join(this.directory, "log", `${program}.log`), "utf8");
  }

  /** Ends everything that was started, and resolves once nothing is left of it. */
  async down(): Promise<void> {
    this.#agent.destroy();
    if (this.#process.exitCode !== null) return;
    this.#process.stdin?.end();
    await once(this.#process, "exit");
  }
}
