import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { projectPath, readProjectFile } from "../../support/files.ts";
import { result } from "../../support/meter.ts";

let directory: string;

beforeAll(() => {
  mkdirSync(projectPath("build/tmp"), { recursive: true });
  directory = mkdtempSync(projectPath("build/tmp/types-"));
  mkdirSync(join(directory, "node_modules"));
  symlinkSync(projectPath("."), join(directory, "node_modules/execve-counter"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const USE = `
const meter: Meter = openMeter({ by: ["command"], watch: ["nc"] });
const { execs, attempts, watched }: Snapshot = meter.read();
const count: bigint = execs + (attempts?.execve ?? 0n) + (watched.get("nc") ?? 0n);
const ids: number[] = findMeters();
try {
  openMeter({ map: ids[0] ?? 0 }).close();
} catch (error) {
  if (error instanceof UserError) console.log(error.remedy, error.exitCode, count);
}
`;
const NAMES = "{ findMeters, type Meter, openMeter, type Snapshot, UserError }";

/** What the compiler says of a file that uses the library. */
function compile(file: string, text: string) {
  writeFileSync(join(directory, file), text);
  const flags = ["--noEmit", "--strict", "--target", "es2023", "--module", "nodenext"];
  const types = ["--types", "node", "--typeRoots", projectPath("node_modules/@types")];
  const tsc = projectPath("node_modules/typescript/bin/tsc");
  return result(process.execPath, [tsc, ...flags, ...types, "--ignoreConfig", file], {
    cwd: directory,
  });
}

test.each(["mts", "cts"])("a program in .%s has its types", (extension) => {
  const text = `import ${NAMES} from "execve-counter";${USE}`;
  expect(compile(`use.${extension}`, text)).toMatchObject({ status: 0, stdout: "" });
});

test("and is told of an option that there is not", () => {
  const text = 'import { openMeter } from "execve-counter";\nopenMeter({ interval: 5 });\n';
  const { status, stdout } = compile("wrong.mts", text);
  expect(status).not.toBe(0);
  expect(stdout).toContain("interval");
});

test("docs/api.md has every name that the library has, and no other", () => {
  const text = readProjectFile("src/index.ts");
  const api = readProjectFile("docs/api.md");
  const exported = [
    ...[...text.matchAll(/^export (?:type )?\{([^}]+)\}/gm)].flatMap(
      ([, names = ""]) => names.match(/\w+/g) ?? [],
    ),
    ...[...text.matchAll(/^export (?:function|interface) (\w+)/gm)].map(([, name]) => name),
  ];
  expect(exported.length).toBeGreaterThan(8);
  const documented = [...api.matchAll(/^#+ `(\w+)/gm)].map(([, name]) => name);
  expect([...documented].sort()).toEqual([...exported].sort());
  for (const name of ["MeterOptions", "RunningMeterOptions", "Meter", "Snapshot"]) {
    const source = name === "Snapshot" ? readProjectFile("src/counts/snapshot.ts") : text;
    const [, body = ""] =
      new RegExp(`^export interface ${name} \\{\\n(.*?)^\\}`, "ms").exec(source) ?? [];
    const members = [...body.matchAll(/^ {2}(?:readonly )?(\w+)[?(:]/gm)].map(
      ([, member]) => member,
    );
    expect(members.length, name).toBeGreaterThan(1);
    const [, section = ""] =
      new RegExp(`^#+ \`${name}\`\\n(.*?)(?=^#|$(?![\\s\\S]))`, "ms").exec(api) ?? [];
    const rows = [...section.matchAll(/^\| `(\w+)/gm)].map(([, row]) => row);
    expect(rows, name).toEqual(members);
  }
});
