import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The absolute path of a file of the project. */
export function projectPath(path: string): string {
  return fileURLToPath(new URL(`../../${path}`, import.meta.url));
}

export function readProjectFile(path: string): string {
  return readFileSync(projectPath(path), "utf8");
}

/** The paths of all files of the project, but for what .gitignore names. */
export function projectFiles(): string[] {
  const ignored = readProjectFile(".gitignore").trim().split("\n").map(glob);
  const walk = (directory: string): string[] =>
    readdirSync(projectPath(directory), { withFileTypes: true }).flatMap((entry) => {
      const path = `${directory}${entry.name}`;
      if (entry.name === ".git" || ignored.some((each) => each.test(path))) return [];
      return entry.isDirectory() ? walk(`${path}/`) : path;
    });
  return walk("");
}

/**
 * What a pattern stands for in .gitignore and .editorconfig, as far as ours go: `*`, `**` and
 * braces. One without a slash is for a name, in whatever directory.
 */
export function glob(pattern: string): RegExp {
  const path = pattern.replace(/^\/|\/$/g, "");
  const expression = path
    .replaceAll(/[.+()[\]]/g, "\\$&")
    .replaceAll(/\*\*|\*/g, (stars) => (stars === "**" ? ".*" : "[^/]*"))
    .replace(/^\{(.*)\}$/, (_, all: string) => `(?:${all.replaceAll(",", "|")})`);
  return new RegExp(`^${pattern.includes("/") ? "" : "(?:.*/)?"}${expression}$`);
}
