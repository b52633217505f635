import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { expect, test } from "vitest";
import { projectPath } from "../support/files.ts";
import { type Counts, sh } from "../support/meter.ts";

type Snapshot = Omit<Counts, "missed"> & { missed: Record<string, number> };

interface Report {
  release: string;
  error?: string;
  hooks: Record<
    "tracepoint" | "raw",
    {
      readers: { before: Snapshot; after: Snapshot; log: string };
      pinned: { after: Snapshot; refused?: undefined } | { refused: string; after?: undefined };
    }
  >;
  left: number[];
}

/** Debian's kernels: the suite, the package, and how the kernel is started. */
const KERNELS = [
  { suite: "bullseye", image: "amd64", release: "5.10", append: "" },
  { suite: "bullseye", image: "rt-amd64", release: "5.10", append: "" },
  { suite: "bookworm", image: "cloud-amd64", release: "6.1", append: "preempt=full" },
  { suite: "trixie", image: "cloud-amd64", release: "6.12", append: "" },
  { suite: "trixie", image: "rt-amd64", release: "6.12", append: "" },
  { suite: "sid", image: "cloud-amd64", release: "7.", append: "" },
  { suite: "sid", image: "cloud-amd64", release: "7.", append: "preempt=full" },
].filter(({ suite }) => (process.env.KERNELS ?? suite).split(",").includes(suite));

const INITRD = projectPath("build/test/initrd.gz");

/** Boots a kernel, and returns what the guest reports. */
async function boot(suite: string, image: string, append: string): Promise<Report> {
  const fetched = spawnSync(
    projectPath("test/vm/fetch-kernel.sh"),
    [suite, `linux-image-${image}`],
    { encoding: "utf8" },
  );
  if (fetched.status !== 0) throw new Error(fetched.stderr);
  const machine = spawn("qemu-system-x86_64", [
    ...["-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max", "-m", "2048", "-net", "none"],
    ...["-kernel", fetched.stdout.trim(), "-initrd", INITRD, "-nographic", "-no-reboot"],
    ...["-append", `console=ttyS0 quiet panic=-1 ${append}`],
  ]);
  let output = "";
  machine.stdin.end();
  machine.stdout.on("data", (data) => {
    output += data;
  });
  const patience = setTimeout(() => machine.kill("SIGKILL"), 240_000);
  await once(machine, "close");
  clearTimeout(patience);
  const report = /^REPORT (.*)$/m.exec(output.replaceAll("\r", ""))?.[1];
  if (!report) throw new Error(`no report from ${suite} ${image}:\n${output.slice(-3000)}`);
  return JSON.parse(report);
}

function counts({ attempts, execs, failures, watched, missed, execs_by = [] }: Snapshot) {
  return {
    execve: attempts?.execve ?? Number.NaN,
    execveat: attempts?.execveat ?? Number.NaN,
    execs,
    sum: execs_by.reduce((total, row) => total + row.execs, 0),
    other: execs_by.find(({ command }) => command === "other")?.execs ?? Number.NaN,
    failedExecve: failures?.execve.ENOENT ?? 0,
    failedExecveat: failures?.execveat.ENOENT ?? 0,
    program: watched.program ?? Number.NaN,
    missed,
  };
}

test.each(KERNELS)("$suite's $image $append", async ({ suite, image, release, append }) => {
  const report = await boot(suite, image, append);
  expect(report.error).toBeUndefined();
  expect(report.release.startsWith(release)).toBe(true);
  expect(report.left).toEqual([]);
  const [major = 0, minor = 0] = report.release.split(".").map(Number);
  const newer = (than: [number, number]) =>
    major > than[0] || (major === than[0] && minor >= than[1]);

  // What the guest makes: one call for each storm, 100,000 and 10,000 that fail, 100 starts.
  for (const hook of ["tracepoint", "raw"] as const) {
    const { before, after, log } = report.hooks[hook].readers;
    const first = counts(before);
    const last = counts(after);
    const grown = (name: Exclude<keyof typeof last, "missed">) => last[name] - first[name];
    const missed = (program: string) => (last.missed[program] ?? 0) - (first.missed[program] ?? 0);
    console.log(
      `${report.release} ${append} ${hook}: execve ${grown("execve")}, execveat ${grown("execveat")}, ` +
        `execs ${grown("execs")}, failures ${grown("failedExecve")}, missed ${JSON.stringify(last.missed)}`,
    );

    // Execs are exact everywhere, by any hook.
    expect(grown("execs")).toBe(103);
    expect(last.sum).toBe(last.execs);
    expect(last.other).toBe(last.missed.count_exec);
    expect(grown("program")).toBeLessThanOrEqual(100);
    expect(grown("program") + missed("count_exec")).toBeGreaterThanOrEqual(100);

    if (hook === "raw") {
      expect(log).not.toContain("does not report");
      // Skipped runs of these are of any call at all, on kernels that preempt programs.
      const skipped = missed("count_attempts");
      expect(grown("execve")).toBeLessThanOrEqual(100_103);
      expect(grown("execve")).toBeGreaterThanOrEqual(100_103 - skipped);
      expect(grown("execveat")).toBeGreaterThanOrEqual(10_000 - skipped);
      if (!newer([7, 0])) {
        expect(skipped).toBe(0);
        expect(grown("failedExecve")).toBe(100_000);
        expect(grown("failedExecveat")).toBe(10_000);
      }
    } else if (newer([6, 7])) {
      expect(log).not.toContain("does not report");
      expect(grown("execve") + missed("count_execve")).toBe(100_103);
      expect(grown("execveat") + missed("count_execveat")).toBe(10_000);
      expect(grown("failedExecve")).toBeLessThanOrEqual(100_000);
      const skipped = missed("count_execve_failure");
      expect(grown("failedExecve") + skipped).toBeGreaterThanOrEqual(100_000);
    } else {
      expect(log).toContain("this kernel does not report the runs that it skips");
      expect(last.missed.count_execve).toBeUndefined();
      expect(grown("execve")).toBeLessThanOrEqual(100_103);
      expect(grown("execve")).toBeGreaterThan(50_000);
    }

    const { pinned } = report.hooks[hook];
    if (hook === "tracepoint" && !newer([5, 15])) {
      expect(pinned.refused).toContain("this kernel cannot pin the link of a tracepoint");
      expect(pinned.refused).toContain("use --attempts raw");
    } else {
      if (!pinned.after) throw new Error(pinned.refused);
      const kept = counts(pinned.after);
      const skipped = (program: string) => kept.missed[program] ?? 0;
      const attempts = hook === "raw" ? "count_attempts" : "count_execveat";
      expect(kept.execveat).toBeLessThanOrEqual(100_000);
      if (hook === "tracepoint" && !newer([6, 7])) expect(kept.execveat).toBeGreaterThan(90_000);
      else expect(kept.execveat + skipped(attempts)).toBeGreaterThanOrEqual(100_000);
      expect(kept.program + skipped("count_exec")).toBeGreaterThanOrEqual(100);
      expect(kept.program).toBeLessThanOrEqual(100);
    }
  }
});

test("the image for the machines is of this build", () => {
  // Made anew for each run by make test-vm.
  expect(sh("find", [INITRD, "-newer", projectPath("dist/execve_counter.bpf.o")])).not.toBe("");
});
