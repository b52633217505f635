// Opens, loads and attaches a session and forgets it; run as a worker, says so.
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { parentPort } from "node:worker_threads";

const path = (relative) => fileURLToPath(new URL(`../../${relative}`, import.meta.url));
const { Session } = createRequire(import.meta.url)(path("build/Release/execve_counter.node"));

export function open() {
  const session = new Session(path("dist/execve_counter.bpf.o"), () => {});
  session.load({ programs: ["count_execve", "count_execveat", "count_exec"] });
  for (const program of ["count_execve", "count_execveat", "count_exec"]) session.attach(program);
  return session;
}

if (parentPort) {
  const session = open();
  parentPort.postMessage("attached");
  setInterval(() => session.readExecs(), 1000);
}
