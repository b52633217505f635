import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { projectPath, readProjectFile } from "./files.ts";
import { sh } from "./meter.ts";

/** A copy of the installed files, readable for all users, that a test may damage. */
export class Installation {
  readonly directory = mkdtempSync(join(tmpdir(), "execve-counter-"));

  constructor() {
    const { packages } = JSON.parse(readProjectFile("package-lock.json")) as {
      packages: Record<string, { dev?: true }>;
    };
    const runtime = Object.keys(packages).filter((path) => path && !packages[path]?.dev);
    for (const path of ["package.json", "dist", "build/Release/execve_counter.node", ...runtime]) {
      cpSync(projectPath(path), this.path(path), { recursive: true });
    }
    // Also where the project was cloned for its owner alone.
    sh("chmod", ["-R", "a+rX", this.directory]);
  }

  path(relative: string): string {
    return join(this.directory, relative);
  }

  get cli(): string {
    return this.path("dist/cli.js");
  }

  remove(): void {
    rmSync(this.directory, { recursive: true });
  }
}
