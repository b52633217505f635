import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { parse, parseAllDocuments, stringify } from "yaml";
import { VERSION } from "../../../src/base/version.ts";
import { REASONS } from "../../../src/operator/nodes.ts";
import { CRD, SPEC, STATUS } from "../../../src/operator/resource.ts";
import { statusOf } from "../../../src/operator/status.ts";
import type { Any } from "../../support/apiserver.ts";
import { projectPath, readProjectFile } from "../../support/files.ts";
import { complaints } from "../../support/manifests.ts";
import { CLI, result } from "../../support/meter.ts";
import { resource } from "../../support/operator.ts";

const HEAD = `# Made of src/operator/resource.ts: to make it anew, run
#   node node_modules/vitest/vitest.mjs run --config test/vitest.config.mts project/operator --update
`;
const docs = readProjectFile("docs/operator.md");
const read = (file: string): Any[] =>
  parseAllDocuments(readProjectFile(`deploy/operator/${file}`)).map((each) => each.toJS());
const [deployment] = read("deployment.yaml");

test("crd.yaml is what the sources have", async () => {
  const text = HEAD + stringify(CRD, { lineWidth: 0, aliasDuplicateObjects: false });
  await expect(text).toMatchFileSnapshot(projectPath("deploy/operator/crd.yaml"));
});

test("the manifests are what the API's schemas say", async () => {
  const all = ["crd.yaml", "namespace.yaml", "rbac.yaml", "deployment.yaml"].flatMap(read);
  expect(await complaints(all)).toEqual(all.map(() => ""));
  const { resources, namespace } = parse(readProjectFile("deploy/operator/kustomization.yaml"));
  expect(resources).toEqual(["crd.yaml", "namespace.yaml", "rbac.yaml", "deployment.yaml"]);
  expect(readProjectFile("deploy/operator/namespace.yaml")).toBe(
    readProjectFile("deploy/kubernetes/namespace.yaml"),
  );
  expect(namespace).toBe(read("namespace.yaml")[0].metadata.name);
});

/** Every schema below one, with its path. */
function schemas(schema: Any, path = ""): [string, Any][] {
  const below = Object.entries(schema.properties ?? {}).flatMap(([name, each]) =>
    schemas(each, `${path}.${name}`),
  );
  return [[path, schema], ...below, ...(schema.items ? schemas(schema.items, `${path}[]`) : [])];
}

test("every field is described, by a sentence, and is bounded", () => {
  for (const [path, schema] of schemas({ properties: { spec: SPEC, status: STATUS } })) {
    if (path === "") continue;
    if (!path.endsWith("[]")) expect(schema.description, path).toMatch(/^[A-Z].*\.$/s);
    if (schema.type === "array" && path.startsWith(".spec")) {
      expect(schema.maxItems, path).toBeGreaterThan(0);
    }
    if (schema.additionalProperties) expect(schema.maxProperties, path).toBeGreaterThan(0);
  }
});

test("a watched name has no character that an agent refuses", () => {
  const { maxLength, pattern } = SPEC.properties.watch.items;
  const is = (name: string) => new RegExp(pattern).test(name) && name.length <= maxLength;
  for (const name of ["nc", "n c", "ä", "a".repeat(15)]) expect(is(name), name).toBe(true);
  for (const name of [
    "",
    "a/b",
    "#a",
    " a",
    "a ",
    "\0",
    "a\0b",
    "\ufffd",
    "a\ufffd",
    "a\nb",
    "\u001b",
  ]) {
    expect(is(name), JSON.stringify(name)).toBe(false);
  }
});

test("the docs have every field with its default, every condition and every reason", () => {
  const rows = docs.split("\n").filter((line) => line.startsWith("| `"));
  const names = rows.flatMap((row) =>
    [...(row.split(" | ")[0] ?? "").matchAll(/`(\w+)`/g)].map(([, name]) => name as string),
  );
  const conditions = statusOf({
    ...{ resource: resource(), verdicts: [], daemonSets: [], now: new Date() },
    ...{ conflicts: [], fights: [] },
    monitoring: ["True", "", ""],
    watchList: ["True", "", ""],
  }).conditions?.map(({ type }) => type);
  for (const name of [...Object.keys(SPEC.properties), ...(conditions ?? [])]) {
    expect(names).toContain(name);
  }
  for (const reason of Object.keys(REASONS)) expect(names).toContain(reason);
  for (const [name, schema] of Object.entries(SPEC.properties as Record<string, Any>)) {
    const { default: preset } = schema;
    if (preset === undefined || typeof preset === "object") continue;
    expect(rows.join("\n")).toContain(`| \`${name}\` | \`${preset}\` |`);
  }
});

test("the Deployment runs the command, as nobody, and is asked where it answers", () => {
  const [container] = deployment.spec.template.spec.containers;
  expect(container.image).toBe(`execve-counter-operator:${VERSION}`);
  const { stdout } = result(process.execPath, [CLI, ...container.args.slice(0, 1), "--help"]);
  const [, flag = "", address] = /^(--[\w.-]+)=(.+)$/.exec(container.args[1]) ?? [];
  expect(stdout).toContain(`${flag} `);
  expect(address).toBe(`:${container.ports[0].containerPort}`);
  expect(container.livenessProbe.httpGet.path).toBe("/healthz");
  expect(container.readinessProbe.httpGet.path).toBe("/readyz");
  expect(deployment.spec.template.spec.securityContext.runAsNonRoot).toBe(true);
  expect(container.securityContext.capabilities).toEqual({ drop: ["ALL"] });
  const labels = deployment.spec.template.metadata.labels;
  // The agents' network policies admit pods of this label.
  expect(labels).toEqual({ "app.kubernetes.io/name": "execve-counter-operator" });
});

test("the image has the client that package.json asks for, which the agent's has not", () => {
  const { peerDependencies, peerDependenciesMeta, dependencies, devDependencies } = JSON.parse(
    readProjectFile("package.json"),
  );
  const [[name, range]] = Object.entries(peerDependencies) as [[string, string]];
  expect(peerDependenciesMeta).toEqual({ [name]: { optional: true } });
  expect(devDependencies[name]).toBe(range);
  expect(dependencies[name]).toBeUndefined();
  const stages = readProjectFile("deploy/container/Containerfile")
    .split(/^FROM /m)
    .slice(1);
  const having = stages.filter((stage) => stage.includes(`${name}@${range}`));
  expect(having.map((stage) => /AS (\S+)/.exec(stage)?.[1])).toEqual(["install-operator"]);
  expect(stages.at(-1)).not.toContain("operator");
});

test("without the client it says what to do", () => {
  const hook = join(mkdtempSync(join(tmpdir(), "execve-counter-")), "hook.js");
  writeFileSync(
    hook,
    `const Module = require("node:module");
    const resolve = Module._resolveFilename;
    Module._resolveFilename = function (name, ...more) {
      if (name === "@kubernetes/client-node") {
        throw Object.assign(new Error(), { code: "MODULE_NOT_FOUND" });
      }
      return resolve.call(this, name, ...more);
    };`,
  );
  const args = ["--require", hook, CLI, "operator", "nodes"];
  const { status, stderr } = result(process.execPath, args);
  rmSync(dirname(hook), { recursive: true });
  expect(stderr).toBe(
    "execve-counter: error: @kubernetes/client-node cannot be loaded (MODULE_NOT_FOUND)\n" +
      "execve-counter: error: to do: use the operator's image, or run npm install @kubernetes/client-node@1 beside execve-counter\n",
  );
  expect(status).toBe(3);
});
