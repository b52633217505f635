// Runs test/fuzz/addon.mjs under AddressSanitizer, in one process after the other, each from the
// next seed: see make fuzz. No process may die, leak, or leave anything in the kernel.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const path = (relative) => fileURLToPath(new URL(`../../${relative}`, import.meta.url));

await drive();

/** Runs one process after the other, each from the next seed, for as long as asked. */
async function drive() {
  const end = performance.now() + 1000 * Number(process.env.SECONDS || 60);
  let number = Number(process.env.SEED || Date.now() % 2 ** 20);
  const maps = [];
  const done = { processes: 0, sequences: 0, calls: 0 };
  do {
    const cwd = mkdtempSync(join(tmpdir(), "execve-counter-"));
    // Stopped in the middle of its work, Node.js leaks much of its own.
    const stop = number % 3 === 0;
    // What is mounted and pinned is so in a namespace, and goes with it.
    const { status, signal, stdout, stderr } = spawnSync(
      "unshare",
      [
        ...["--mount", "--propagation=private", "env", `LD_PRELOAD=${process.env.LIBASAN}`],
        `ASAN_OPTIONS=detect_leaks=${stop ? 0 : 1}`,
        ...[
          process.execPath,
          "--expose-gc",
          path("test/fuzz/addon.mjs"),
          `${number}`,
          ...(stop ? ["stop"] : []),
        ],
      ],
      { cwd, encoding: "utf8", timeout: 300_000, maxBuffer: 2 ** 28 },
    );
    // It dies itself now and then, of a thread that is just ending; that is no verdict.
    if (stderr.includes("LeakSanitizer has encountered a fatal error")) {
      rmSync(cwd, { recursive: true });
      continue;
    }
    if (status !== 0) {
      throw new Error(
        `${stdout}${stderr}\nended by ${signal ?? status}, with its last calls in ${cwd}; ` +
          `again: make fuzz SECONDS=1 SEED=${number}`,
      );
    }
    maps.push(...readFileSync(join(cwd, "maps"), "utf8").trim().split("\n").map(Number));
    rmSync(cwd, { recursive: true });
    const [sequences, calls] = JSON.parse(stdout);
    done.processes++;
    done.sequences += sequences;
    done.calls += calls;
    number++;
  } while (performance.now() < end);
  if (done.processes === 0) throw new Error("no process has run to its end");
  await expectGone(maps);
  console.log({ ...done, maps: maps.length, nextSeed: number });
}

/** A program holds its maps, and a link its program: without the maps all is gone. */
async function expectGone(maps) {
  const { Follower } = createRequire(import.meta.url)(path("build/Release/execve_counter.node"));
  const isLeft = (id) => {
    try {
      new Follower(path("dist/execve_counter.bpf.o"), () => {}, id).close();
      return true;
    } catch (error) {
      return error.errno !== constants.errno.ENOENT;
    }
  };
  // The kernel frees with a little delay.
  for (let patience = 20; maps.some(isLeft); patience--) {
    if (patience === 0) throw new Error(`still loaded: the maps ${maps.filter(isLeft)}`);
    await sleep(500);
  }
}
