import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { projectPath } from "./files.ts";
import { result } from "./meter.ts";

interface Manifest {
  apiVersion: string;
  kind: string;
}

const moduleOf = ({ apiVersion, kind }: Manifest) =>
  apiVersion.startsWith("monitoring.coreos.com/")
    ? `@kubernetes-models/prometheus-operator/${apiVersion}/${kind}`
    : `kubernetes-models/${apiVersion}/${kind}`;

/**
 * What the API's schemas have against each of the manifests: its fields' names by the
 * compiler, because a schema allows fields that it does not know, and their values by the
 * schema.
 */
export async function complaints(manifests: object[]): Promise<string[]> {
  const directory = mkdtempSync(projectPath("build/manifests-"));
  const files = (manifests as Manifest[]).map((manifest, i) => {
    const type = `import type { I${manifest.kind} } from ${JSON.stringify(moduleOf(manifest))};\n`;
    const text = `${type}export const manifest: I${manifest.kind} = ${JSON.stringify(manifest)};\n`;
    writeFileSync(join(directory, `${i}.ts`), text);
    return `${i}.ts`;
  });
  const compilerOptions = {
    ...{ noEmit: true, strict: true, skipLibCheck: true, types: [] },
    ...{ module: "esnext", moduleResolution: "bundler" },
  };
  writeFileSync(join(directory, "tsconfig.json"), JSON.stringify({ compilerOptions, files }));
  const { stdout } = result(projectPath("node_modules/.bin/tsc"), ["--pretty", "false"], {
    cwd: directory,
  });
  rmSync(directory, { recursive: true });
  return Promise.all(
    (manifests as Manifest[]).map(async (manifest, i) => {
      const names = stdout.split("\n").filter((line) => line.startsWith(`${i}.ts(`));
      const { [manifest.kind]: Model } = await import(/* @vite-ignore */ moduleOf(manifest));
      try {
        new (Model as new (data: object) => { validate(): void })(manifest).validate();
      } catch (error) {
        names.push((error as Error).message);
      }
      return names.join("\n");
    }),
  );
}
