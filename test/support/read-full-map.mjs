// Fills the map of counters and reads it ten times, for strace; what it writes
// between marks the reads in the trace.
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const path = (relative) => fileURLToPath(new URL(`../../${relative}`, import.meta.url));
const { Session } = createRequire(import.meta.url)(path("build/Release/execve_counter.node"));

const session = new Session(path("dist/execve_counter.bpf.o"), () => {});
session.load({ programs: ["count_exec"] });
for (let i = 0; i < 4096; i++) session.update(`key ${i}`, 1n);
console.log("before the reads");
for (let i = 0; i < 10; i++) {
  if (session.readCounters().length !== 4096) throw new Error("not all entries were read");
}
console.log("after the reads");
session.close();
