// Imported for what it does to this process and those that it starts: others can read what they
// make, and where programs may not be run from $TMPDIR, as on a mount with noexec, it becomes a
// place where they may.
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

process.umask(0o022);
const ours = fileURLToPath(new URL("../../build/tmp", import.meta.url));
mkdirSync(ours, { recursive: true });
process.env.TMPDIR = [tmpdir(), "/var/tmp", ours].find(runsPrograms);

/** @param {string} place */
function runsPrograms(place) {
  const directory = mkdtempSync(join(place, "execve-counter-"));
  const program = join(directory, "true");
  copyFileSync("/bin/true", program);
  const { status } = spawnSync(program);
  rmSync(directory, { recursive: true });
  return status === 0;
}
