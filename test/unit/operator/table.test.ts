import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { GROUP } from "../../../src/operator/resource.ts";
import { nodeRows, nodeTable } from "../../../src/operator/table.ts";
import { ApiServer, refuse } from "../../support/apiserver.ts";
import { node, pod, resource } from "../../support/operator.ts";

let server: ApiServer;
const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
const kubeconfig = join(directory, "kubeconfig");

beforeAll(async () => {
  server = await ApiServer.start();
  const config = {
    "current-context": "here",
    contexts: [{ name: "here", context: { cluster: "here", user: "me" } }],
    clusters: [{ name: "here", cluster: { server: server.url } }],
    users: [{ name: "me", user: {} }],
  };
  writeFileSync(kubeconfig, JSON.stringify(config));
});

afterAll(() => {
  server.close();
  rmSync(directory, { recursive: true });
});

test("it has each node of each resource, and what to do about each reason", async () => {
  for (const each of [node("a"), node("b\u202e"), node("w", { "kubernetes.io/os": "windows" })]) {
    server.put(`/api/v1/nodes/${each.metadata.name}`, each);
  }
  const at = `/apis/${GROUP}/v1alpha1/namespaces/meters/execvecounters`;
  server.put(`${at}/fleet`, resource());
  const put = (each: ReturnType<typeof pod>) =>
    server.put(`/api/v1/namespaces/meters/pods/${each.metadata.name}`, each);
  put(pod("a"));
  // Neither is an agent.
  put(pod("a", undefined, "unpin"));
  const gone = pod("a", undefined, "canary");
  put({ ...gone, metadata: { ...gone.metadata, deletionTimestamp: "x", finalizers: ["x"] } });
  expect(nodeTable(await nodeRows(kubeconfig))).toEqual([
    "RESOURCE      NODE       STATE        REASON    MESSAGE",
    "meters/fleet  a          counting",
    "meters/fleet  b\\u{202e}  starting",
    "meters/fleet  w          unsupported  NotLinux  windows",
    "NotLinux: it runs no Linux",
  ]);
  server.put(`${at}/second`, resource({}, "second"));
  put(pod("a", undefined, "meter", "second"));
  const rows = (await nodeRows(kubeconfig)).filter(({ node }) => node === "a");
  expect(rows.map(({ reason, message }) => `${reason}: ${message}`)).toEqual([
    "Shared: meters/second counts there, too",
    "Shared: meters/fleet counts there, too",
  ]);
});

test.each([
  [404, "install the resource's definition: kubectl apply -k deploy/operator"],
  [403, "give the operator its rights: kubectl apply -k deploy/operator"],
  [500, "see whether kubectl reaches the cluster"],
])("an answer %s is explained", async (code, remedy) => {
  server.fault = () => refuse(code, "Some");
  await expect(nodeRows(kubeconfig)).rejects.toMatchObject({ name: "UserError", remedy });
});

test("what an agent says moves no terminal", () => {
  const said = {
    state: "failing",
    reason: "Failing",
    message: "\u001b[2J\u001b]0;x\u0007",
  } as const;
  expect(nodeTable([{ resource: "a/b", node: "n", ...said }])[1]).toBe(
    "a/b       n     failing  Failing  \\u{1b}[2J\\u{1b}]0;x\\u{7}",
  );
});
