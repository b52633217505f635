import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { parse, parseAllDocuments } from "yaml";
import { VERSION } from "../../../src/base/version.ts";
import type { Any } from "../../support/apiserver.ts";
import { projectPath, readProjectFile } from "../../support/files.ts";

const HEAD = `# Made of deploy/operator: to make it anew, run
#   node node_modules/vitest/vitest.mjs run --config test/vitest.config.mts project/helm --update
`;
const read = (path: string) => readProjectFile(`deploy/${path}`);
const values = parse(read("helm/values.yaml"));
const chart = parse(read("helm/Chart.yaml"));

/** A manifest of deploy/operator as a template; each change must find its place. */
function template(file: string, ...changes: [RegExp, string][]): string {
  let text = read(`operator/${file}`).replace(/^(#.*\n)+/, "");
  for (const [place, by] of changes) {
    expect(text).toMatch(place);
    text = text.replaceAll(place, by);
  }
  return HEAD + text;
}

const TEMPLATES: Record<string, string> = {
  "crds/crd.yaml": HEAD + read("operator/crd.yaml").replace(/^(#.*\n)+/, ""),
  "templates/rbac.yaml": template("rbac.yaml", [
    /namespace: execve-counter$/gm,
    "namespace: {{ .Release.Namespace }}",
  ]),
  "templates/deployment.yaml": template(
    "deployment.yaml",
    [/replicas: .*/g, "replicas: {{ .Values.replicas }}"],
    [/image: .*/g, "image: {{ .Values.image }}"],
    [/resources:\n(?: {12}.*\n)+/g, "resources: {{ toJson .Values.resources }}\n"],
    [
      /nodeSelector:\n(?: {8}.*\n)+/g,
      ["nodeSelector", "tolerations", "imagePullSecrets", "priorityClassName"]
        .map((name) => `${name}: {{ toJson .Values.${name} }}\n`)
        .join("      "),
    ],
  ),
};

/** What helm makes of a template that uses no more of its language than these do. */
function render(text: string, given: Any, namespace: string): Any[] {
  const known: Any = { Values: given, Release: { Namespace: namespace } };
  const rendered = text.replaceAll(/{{ (toJson )?\.([\w.]+) }}/g, (_, toJson, path: string) => {
    const value = path.split(".").reduce((at, name) => at[name], known);
    expect(value, path).toBeDefined();
    return toJson ? JSON.stringify(value) : `${value}`;
  });
  expect(rendered).not.toContain("{{");
  return parseAllDocuments(rendered).map((document) => document.toJS());
}

test.each(Object.keys(TEMPLATES))("%s is made of deploy/operator", async (path) => {
  await expect(TEMPLATES[path]).toMatchFileSnapshot(projectPath(`deploy/helm/${path}`));
});

test("the chart has these files alone, and the version of the program", () => {
  const files = readdirSync(projectPath("deploy/helm"), { recursive: true, withFileTypes: true })
    .filter((each) => each.isFile())
    .map(({ name }) => name);
  expect(files.sort()).toEqual(
    ["Chart.yaml", "values.yaml", "crd.yaml", "rbac.yaml", "deployment.yaml"].sort(),
  );
  expect(chart).toMatchObject({ apiVersion: "v2", version: VERSION, appVersion: VERSION });
});

test("with its own values it makes what kustomize makes", () => {
  const made = ["rbac.yaml", "deployment.yaml"].flatMap((file) =>
    render(read(`helm/templates/${file}`), values, "execve-counter"),
  );
  const plain = ["rbac.yaml", "deployment.yaml"].flatMap((file) =>
    parseAllDocuments(read(`operator/${file}`)).map((document) => document.toJS() as Any),
  );
  const pod = made.at(-1).spec.template.spec;
  // What is empty is what a pod has without it.
  for (const name of ["tolerations", "imagePullSecrets", "priorityClassName"]) {
    expect(pod[name]).toHaveLength(0);
    delete pod[name];
  }
  expect(made).toEqual(plain);
  expect(parse(read("helm/crds/crd.yaml"))).toEqual(parse(read("operator/crd.yaml")));
});

test("every value arrives, and so does the namespace", () => {
  const given: Any = {
    ...{ image: "r/x:1", imagePullSecrets: [{ name: "s" }], replicas: 3 },
    ...{ resources: { limits: { memory: "1Gi" } }, nodeSelector: { a: "b" } },
    ...{ tolerations: [{ operator: "Exists" }], priorityClassName: "high" },
  };
  expect(Object.keys(given).sort()).toEqual(Object.keys(values).sort());
  const [deployment] = render(read("helm/templates/deployment.yaml"), given, "other");
  const { containers, ...pod } = deployment.spec.template.spec;
  const { image, resources, replicas, ...rest } = given;
  expect(pod).toMatchObject(rest);
  expect(containers[0]).toMatchObject({ image, resources });
  expect(deployment.spec.replicas).toBe(replicas);
  const bindings = render(read("helm/templates/rbac.yaml"), given, "other").filter(({ kind }) =>
    kind.endsWith("Binding"),
  );
  expect(bindings.map(({ subjects }) => subjects[0].namespace)).toEqual(["other", "other"]);
});
