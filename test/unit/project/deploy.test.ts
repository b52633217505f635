import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { LABELS } from "../../../src/counts/labels.ts";
import { dashboard, picturePath } from "../../support/dashboard.ts";
import { projectPath, readProjectFile } from "../../support/files.ts";
import { result } from "../../support/meter.ts";

const PROMTOOL = projectPath("build/test/usr/bin/promtool");
const RULES = ["rules.yml", "kubernetes-rules.yml"]
  .map((file) => readProjectFile(`deploy/prometheus/${file}`))
  .join("\n");

const expressions = [
  ...dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)),
  ...dashboard.annotations.list.map(({ expr }) => expr),
];

const metrics = [
  ...readProjectFile("test/unit/web/golden/metrics.txt").matchAll(/^# TYPE (\S+)/gm),
  ...readProjectFile("src/operator/metrics.ts").matchAll(/"(execve_counter_operator_\w+)"/g),
].map(([, name]) => name as string);

/** The names of ours that a text of PromQL speaks of. */
function named(text: string): string[] {
  const recorded = [...RULES.matchAll(/^ +- record: (\S+)$/gm)].map(([, name]) => name as string);
  return [...text.matchAll(/\b(?:\w+:)?execve_counter_\w+(?::\w+)?/g)]
    .map(([name]) => name)
    .filter((name) => !recorded.includes(name));
}

test.each(["rules.test.yml", "kubernetes-rules.test.yml"])(
  "the rules do in every case what %s says",
  (file) => {
    const { status, stdout, stderr } = result(PROMTOOL, [
      ...["test", "rules", projectPath(`deploy/prometheus/${file}`)],
    ]);
    expect(stdout + stderr).toContain("SUCCESS");
    expect(status).toBe(0);
  },
);

test("every alert has a test in which it fires", () => {
  const tests = ["rules.test.yml", "kubernetes-rules.test.yml"]
    .map((file) => readProjectFile(`deploy/prometheus/${file}`))
    .join("\n");
  const fires = [...tests.matchAll(/alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:/g)];
  const alerts = [...RULES.matchAll(/- alert: (\w+)/g)].map(([, name]) => name);
  expect(alerts.length).toBeGreaterThan(5);
  expect(new Set(fires.map(([, name]) => name))).toEqual(new Set(alerts));
});

test("rules and dashboard speak of metrics that there are", () => {
  expect(named(RULES).length).toBeGreaterThan(5);
  for (const name of named(RULES)) expect(metrics).toContain(name);
  const queries = dashboard.templating.list.map(({ query }) => JSON.stringify(query));
  for (const name of named([...expressions, ...queries].join("\n"))) {
    expect(metrics).toContain(name);
  }
});

test("every query of the dashboard is PromQL", () => {
  expect(expressions.length).toBeGreaterThan(dashboard.panels.length);
  // What Grafana fills in.
  const filled = expressions.map((expr) =>
    expr.replaceAll(/\$__(?:rate_interval|interval|range)/g, "5m"),
  );
  const rules = filled.map((expr, i) => ({ record: `query:${i}`, expr }));
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  const check = (groups: object[]) => {
    const file = join(directory, "rules.yml"); // JSON is YAML
    writeFileSync(file, JSON.stringify({ groups }));
    return result(PROMTOOL, ["check", "rules", file]);
  };
  expect(check([{ name: "dashboard", rules }])).toMatchObject({ status: 0, stderr: "" });
  expect(check([{ name: "broken", rules: [{ record: "a", expr: "sum(" }] }]).status).toBe(1);
  rmSync(directory, { recursive: true });
});

test("each label has a panel, which leaves out what has retired, and of which the docs say what it needs", () => {
  for (const label of LABELS) {
    const expression = expressions.find((expr) => expr.startsWith(`topk(10, sum by (${label}) `));
    expect(expression, label).toContain(`${label}!~"|retired"`);
    expect(readProjectFile("docs/dashboard.md")).toContain(`Needs --by ${label}.`);
  }
});

test("every panel has a number of its own; what finds no room, and what retires, has a panel", () => {
  const ids = dashboard.panels.map(({ id }) => id);
  expect(new Set(ids).size).toBe(ids.length);
  const all = expressions.join("\n");
  for (const name of ["overflow_total", "retired_rows_total", "table_entries"])
    expect(all).toContain(`execve_counter_${name}`);
});

test("panels overlap nowhere", () => {
  const taken = new Set<string>();
  for (const { gridPos } of dashboard.panels) {
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      expect(x).toBeLessThan(24);
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        expect(taken.has(`${x},${y}`)).toBe(false);
        taken.add(`${x},${y}`);
      }
    }
  }
});

test("every panel has its picture on the docs page, and no picture is left over", () => {
  const pictures = (page: string) =>
    [...readProjectFile(`docs/${page}`).matchAll(/!\[(.*?)\]\((.+?)\)/g)].map(
      ([picture]) => picture,
    );
  const panels = dashboard.panels.map((panel) => `![${panel.title}](${picturePath(panel)})`);
  expect(panels.length).toBeGreaterThan(10);
  expect(pictures("dashboard.md")).toEqual(panels);

  const pages = readdirSync(projectPath("docs")).filter((file) => file.endsWith(".md"));
  const shown = pages
    .flatMap(pictures)
    .map((picture) => /\((.+)\)$/.exec(picture)?.[1])
    .filter((path) => path !== "page.png");
  const files = readdirSync(projectPath("docs/pictures")).map((file) => `pictures/${file}`);
  expect(new Set(shown)).toEqual(new Set(files));
});
