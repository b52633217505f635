import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { projectPath, readProjectFile } from "../../support/files.ts";
import { CLI, result } from "../../support/meter.ts";

const PAGES = ["CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md"];
const FORMS = readdirSync(projectPath(".github/ISSUE_TEMPLATE")).map(
  (file) => `.github/ISSUE_TEMPLATE/${file}`,
);
const WORKFLOWS = readdirSync(projectPath(".github/workflows")).map(
  (file) => `.github/workflows/${file}`,
);
/** One for users to copy. */
const SAMPLE = "examples/budget.yml";

/** The targets of the calls of make in a text: `make check test KERNELS=trixie`. */
function targets(text: string): string[] {
  return [...text.matchAll(/\bmake((?: [a-z]+(?:-[a-z]+)*(?![\w=.]))+)/g)].flatMap(([, words]) =>
    (words as string).trim().split(" "),
  );
}

/** What is in code: between back-quotes, or in a shell script outside of its comments. */
function code(path: string): string {
  const text = readProjectFile(path);
  if (!path.endsWith(".md")) return text.replaceAll(/^ *#.*$/gm, "");
  return [...text.matchAll(/`([^`]+)`/g)].map(([, span]) => span).join("\n");
}

interface Step {
  uses?: string;
  run?: string;
  with?: object;
}
interface Job {
  "runs-on": string;
  "timeout-minutes": number;
  strategy?: { matrix: Record<string, unknown[]> };
  steps: Step[];
}
interface Workflow {
  on: object;
  permissions: object;
  concurrency: { group: string };
  jobs: Record<string, Job>;
}

const parsed = (path: string) => ({ path, workflow: parse(readProjectFile(path)) as Workflow });
const workflows = WORKFLOWS.map(parsed);

/** The commands of a job, for all of its matrix. */
function commands({ strategy, steps }: Job): string[] {
  return steps.flatMap(({ run }) => {
    const [, name] = /\$\{\{ matrix\.(\w+) \}\}/.exec(run ?? "") ?? [];
    if (!run || !name) return run ?? [];
    const values = strategy?.matrix[name] ?? [];
    return values.map((value) => run.replace(/\$\{\{.*\}\}/, String(value)));
  });
}
const called = workflows.flatMap(({ workflow }) => Object.values(workflow.jobs).flatMap(commands));

test("every make target that is named there exists", () => {
  const makefile = readProjectFile("Makefile");
  const { scripts } = JSON.parse(readProjectFile("package.json")) as { scripts: object };
  const texts = [...PAGES, ".ci/run"].map(code);
  texts.push(...called, ...Object.values(scripts));
  for (const text of texts) {
    for (const target of targets(text)) expect(makefile).toContain(`\n${target}:`);
  }
  expect(targets(code(".ci/run"))).toEqual(expect.arrayContaining(["check", "fuzz", "test-vm"]));
  expect(targets(code("CONTRIBUTING.md"))).toContain("test-package");
});

describe("the workflows", () => {
  test("call make, and nothing else but what brings make", () => {
    const others = called.filter((command) => !/^make( [\w-]+| [A-Z]+=\w+)+$/.test(command));
    expect(new Set(others)).toEqual(
      new Set([expect.stringMatching(/^apt-get update && apt-get install .* make$/)]),
    );
  });

  test("make together all that must pass before a change lands", () => {
    const made = called.flatMap(targets);
    expect(made).toEqual(expect.arrayContaining(targets(code(".ci/run"))));
  });

  test("try every Node.js that has support, from the oldest that may be used on", () => {
    const { engines } = JSON.parse(readProjectFile("package.json")) as {
      engines: { node: string };
    };
    const versions = workflows.flatMap(
      ({ workflow }) => workflow.jobs.unit?.strategy?.matrix.node ?? [],
    );
    expect(engines.node).toBe(`>=${versions[0]}`);
    expect(versions.at(-1)).toBe("latest");
  });

  test.each([...workflows, parsed(SAMPLE)])(
    "$path may only read, ends in time, and runs once at a time",
    ({ workflow }) => {
      expect(workflow.permissions).toEqual({ contents: "read" });
      expect(workflow.concurrency.group).toBeTruthy();
      for (const job of Object.values(workflow.jobs)) {
        expect(job["timeout-minutes"]).toBeLessThan(360);
        expect(job).not.toHaveProperty("permissions");
        for (const { uses, with: options } of job.steps) {
          if (uses?.startsWith("actions/checkout@")) {
            expect(options).toMatchObject({ "persist-credentials": false });
          }
        }
      }
    },
  );

  test.each([...WORKFLOWS, SAMPLE])(
    "%s pins each action to a commit, and says of which version",
    (path) => {
      const uses = [...readProjectFile(path).matchAll(/^ *- uses: (.*)$/gm)].map(([, use]) => use);
      expect(uses.length).toBeGreaterThan(0);
      for (const use of uses) expect(use).toMatch(/^[\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/);
    },
  );

  test("for users runs this version's package, by options that there are", () => {
    const lines = commands(parsed(SAMPLE).workflow.jobs.build as Job);
    const { version } = JSON.parse(readProjectFile("package.json")) as { version: string };
    expect(lines[0]).toContain(`/execve-counter-${version}.tgz`);
    const words = (lines[1] as string).split(" execve-counter ")[1]?.split(" -- ")[0]?.split(" ");
    const help = result(process.execPath, [CLI, words?.[0] as string, "--help"]).stdout;
    const options = words?.filter((word) => word.startsWith("--")) ?? [];
    expect(options).toEqual(["--compare", "--budget"]);
    for (const option of options) expect(help).toContain(` ${option} <`);
  });
});

describe("the form for a bug", () => {
  interface Field {
    type: string;
    id?: string;
    attributes: { label?: string; description?: string; value?: string; options?: string[] };
    validations?: { required: boolean };
  }
  const form = parse(readProjectFile(".github/ISSUE_TEMPLATE/bug.yml")) as {
    name: string;
    description: string;
    body: Field[];
  };

  test("is one: every field has a label, an id of its own, and must be filled in", () => {
    expect(Object.keys(form)).toEqual(["name", "description", "labels", "body"]);
    const fields = form.body.filter(({ type }) => type !== "markdown");
    for (const { type, id, attributes, validations } of fields) {
      expect(["input", "textarea", "dropdown"]).toContain(type);
      expect(id).toMatch(/^\w+$/);
      expect(attributes.label).toBeTruthy();
      expect(validations).toEqual({ required: true });
    }
    expect(new Set(fields.map(({ id }) => id)).size).toBe(fields.length);
  });

  test("asks for what doctor and --version print, by flags that there are", () => {
    const asked = form.body.map(({ attributes }) => attributes.description ?? "").join("\n");
    expect(asked).toContain("`sudo execve-counter doctor -o json`");
    expect(asked).toContain("`execve-counter --version`");
    const help = (...args: string[]) => result(process.execPath, [CLI, ...args, "--help"]).stdout;
    expect(help("doctor")).toMatch(/-o, --output .*json/);
    expect(help()).toContain("--version");
  });
});

test("every form and workflow is YAML without a key twice", () => {
  for (const path of [...FORMS, ...WORKFLOWS, SAMPLE]) {
    expect(() => parse(readProjectFile(path), { strict: true, uniqueKeys: true })).not.toThrow();
  }
});

test.each(PAGES)("the files and headings that %s names exist", (page) => {
  const text = readProjectFile(page);
  for (const [, target = ""] of text.matchAll(/\]\(([^)]+)\)/g)) {
    const [path, anchor] = target.split("#");
    const linked = readProjectFile(join(dirname(page), path as string));
    const headings = [...linked.matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
      heading
        ?.toLowerCase()
        .replaceAll(/[^\w -]/g, "")
        .replaceAll(" ", "-"),
    );
    if (anchor) expect(headings).toContain(anchor);
  }
  const paths = text.matchAll(/`((?:\.\w+|\w+)(?:\/[\w.-]+)+|\w+\.(?:md|json|toml))(\/?)`/g);
  for (const [, path, directory] of paths) {
    if (directory) readdirSync(projectPath(path as string));
    else readProjectFile(path as string);
  }
});

test("the rooms of CONTRIBUTING are those that there are", () => {
  const rooms = [...readProjectFile("CONTRIBUTING.md").matchAll(/^\| `src\/(\w+)\/` \|/gm)];
  const directories = readdirSync(projectPath("src"), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => name);
  expect(rooms.map(([, room]) => room).sort()).toEqual(directories.sort());
});

test("author and addresses stand in package.json alone", () => {
  for (const path of [
    ...PAGES,
    ...FORMS,
    ...WORKFLOWS,
    SAMPLE,
    "README.md",
    "REUSE.toml",
    "CHANGELOG.md",
  ]) {
    const addresses = [
      ...readProjectFile(path).matchAll(/(?:https?|git):\/\/[^\s)>`]+|\S+@\S+\.\w+/g),
    ]
      .map(([address]) => address)
      .filter((address) => !/^http:\/\/(?:127\.0\.0\.1|localhost)\b/.test(address));
    expect(addresses, path).toEqual([]);
  }
});
