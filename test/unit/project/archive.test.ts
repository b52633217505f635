import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { projectPath, readProjectFile } from "../../support/files.ts";
import { result, sh } from "../../support/meter.ts";

const scratch = mkdtempSync(join(tmpdir(), "execve-counter-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const MIRROR = `file:${scratch}/mirror/debian`;
const OTHERS = ["Docker/Docker CE", "Debian/Debian-Security", "Debian/Debian Backports"].map(
  (owner, i) => ({ owner, address: `file:${scratch}/other${i}` }),
);

/** An archive of one package. */
function makeArchive(address: string, owner: string): void {
  const [origin, label] = owner.split("/");
  const packages = `main/binary-${architecture}/Packages`;
  const text = `Package: some\nVersion: 1\nArchitecture: all\nFilename: some.deb\nSize: 1\n`;
  const suite = join(address.slice("file:".length), "dists/stable");
  mkdirSync(join(suite, packages, ".."), { recursive: true });
  writeFileSync(join(suite, packages), text);
  const hash = createHash("sha256").update(text).digest("hex");
  writeFileSync(
    join(suite, "Release"),
    `Origin: ${origin}\nLabel: ${label}\nSuite: stable\nCodename: some\nArchitectures: ${architecture}\n` +
      `Components: main\nDate: Sat, 01 Nov 2025 00:00:00 UTC\nSHA256:\n ${hash} ${text.length} ${packages}\n`,
  );
}

const architecture = sh("dpkg", ["--print-architecture"]).trim();
beforeAll(() => {
  makeArchive(MIRROR, "Debian/Debian");
  for (const { address, owner } of OTHERS) makeArchive(address, owner);
});

const oneLine = (address: string) => `deb [trusted=yes] ${address} stable main\n`;
const deb822 = (address: string) =>
  `Types: deb\nURIs: ${address}\nSuites: stable\nComponents: main\nTrusted: yes\n\n`;

/** The options of a machine whose apt has these sources. */
function machine(sources: Record<string, string>): { env: NodeJS.ProcessEnv } {
  const apt = mkdtempSync(join(scratch, "apt-"));
  for (const directory of ["sources", "lists/partial"]) {
    mkdirSync(join(apt, directory), { recursive: true });
  }
  for (const [name, text] of Object.entries(sources)) {
    writeFileSync(join(apt, "sources", name), text);
  }
  writeFileSync(
    join(apt, "apt.conf"),
    `Dir::Etc::SourceList "/dev/null"; Dir::Etc::SourceParts "${apt}/sources/";
     Dir::State::Lists "${apt}/lists"; Dir::Cache "${apt}"; APT::Sandbox::User "root";`,
  );
  return { env: { ...process.env, APT_CONFIG: join(apt, "apt.conf") } };
}

const SCRIPT = projectPath("deploy/archive.sh");
const others = (format: (address: string) => string) =>
  OTHERS.map(({ address }) => format(address)).join("");

test.each([
  ["lines", { "a.list": others(oneLine) + oneLine(MIRROR) }],
  ["paragraphs", { "a.sources": others(deb822) + deb822(MIRROR) }],
  ["both", { "a.list": others(oneLine), "b.sources": deb822(`${MIRROR}/`) }],
])("Debian's archive is found among others in apt's sources, in %s", (_, sources) => {
  const options = machine(sources);
  const neverUpdated = sh(SCRIPT, [], options);
  expect(neverUpdated).toBe(`${MIRROR}\n`);
  sh("apt-get", ["-qq", "update"], options);
  expect(sh(SCRIPT, [], options)).toBe(`${MIRROR}\n`);
});

test("of a file with several mirrors the first is taken", () => {
  const list = join(scratch, "mirrors.list");
  writeFileSync(list, `# near\n  ${MIRROR}\tpriority:1\n${OTHERS[0]?.address}\tpriority:2\n`);
  const options = machine({ "a.sources": deb822(`mirror+file:${list}`) });
  expect(sh(SCRIPT, [], options)).toBe(`${MIRROR}\n`);
});

test("without one it says so", () => {
  const { status, stdout, stderr } = result(SCRIPT, [], machine({ "a.list": others(oneLine) }));
  expect(stderr).toBe(
    "apt's sources have no archive of Debian\nto do: add one to them, or do this on Debian\n",
  );
  expect(stdout).toBe("");
  expect(status).toBe(1);
});

test("no script names an archive of its own", () => {
  const files = ["Makefile", ".ci", "deploy", "src", "test"].flatMap((path) =>
    statSync(projectPath(path)).isFile()
      ? [path]
      : readdirSync(projectPath(path), { recursive: true, withFileTypes: true })
          .filter((entry) => entry.isFile())
          .map((entry) => join(entry.parentPath, entry.name).slice(projectPath("").length)),
  );
  expect(files).toContain("test/package/root.sh");
  const hosts = /[\w-]+\.(?:debian|ubuntu)\.(?:org|net|com)/;
  expect(files.filter((path) => hosts.test(readProjectFile(path)))).toEqual([]);
});
