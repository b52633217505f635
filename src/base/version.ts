import { readFileSync } from "node:fs";
import { join } from "node:path";

const manifest = readFileSync(join(__dirname, "../../package.json"), "utf8");

/** The version of this package, from package.json. */
export const VERSION: string = JSON.parse(manifest).version;
