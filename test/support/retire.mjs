// Opens a pinned meter without attaching anything, lets all rows retire that can, step by step or
// at once, and says so.
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const path = (relative) => fileURLToPath(new URL(`../../${relative}`, import.meta.url));
const { Session, bootTime } = createRequire(import.meta.url)(
  path("build/Release/execve_counter.node"),
);
const [pins, options, mode] = process.argv.slice(2);
const session = new Session(path("dist/execve_counter.bpf.o"), () => {});
session.load({ ...JSON.parse(options), pins, reuse: true });
session.begin(0);
process.stdout.write("began\n");
// Some rows go to rows of the same labels first.
if (mode !== "at once") session.retire(0);
process.stdout.write(`${session.retire(bootTime() + 1)}\n`);
