import { expect, test } from "vitest";
import { projectPath } from "../support/files.ts";
import { type Counts, sh } from "../support/meter.ts";
import { boot, chosen, LOCKED } from "./machine.ts";

interface Run {
  status: number;
  stdout: string;
  stderr: string;
}

/** What test/vm/lockdown-guest.mjs finds. */
interface Report {
  error?: string;
  release: string;
  lockdown: string;
  starts: Record<string, Run>;
  doctor: Run;
  counted?: { before: Counts; after: Counts };
}

const INITRD = projectPath("build/test/initrd.gz");

test("the image is of this build", () => {
  // Made anew for each run by make test-vm.
  const object = projectPath("dist/execve_counter.bpf.o");
  expect(sh("find", [INITRD, "-newer", object])).not.toBe("");
});

test.each(chosen(LOCKED))("%s", async (name) => {
  const { suite, image, release } = LOCKED[name];
  const words = "lockdown=confidentiality guest=test/vm/lockdown-guest.mjs";
  const report = (await boot(suite, image, INITRD, words)) as Report;
  expect(report.error).toBeUndefined();
  expect(report.release.startsWith(release)).toBe(true);
  expect(report.lockdown).toContain("[confidentiality]");
  const { starts, doctor, counted } = report;

  // The name of a control group is in the kernel's memory.
  const { status, stderr } = starts["--by container"] as Run;
  expect(stderr).toMatch(
    /^.* error: lockdown=confidentiality forbids .*\n.* to do: leave out --cgroup, and container/,
  );
  expect(status).toBe(3);
  expect(starts["--attempts off"]).toMatchObject({ status: 0, stderr: "" });
  expect(doctor.status).toBe(0);
  expect(doctor.stdout).toMatch(/^note +lockdown +confidentiality$/m);
  expect(doctor.stdout).toMatch(
    /^note +--attempts off +works, without the labels container, unit, path$/m,
  );

  const others = ["", "--attempts raw", "--failures", "--by command,user,parent"];
  if (suite === "bullseye") {
    // Which hook calls are made by is in the kernel's memory too, before Linux 5.11.
    for (const flags of others) {
      expect(starts[flags]?.stderr, flags).toContain("lockdown=confidentiality forbids");
      expect(starts[flags]?.status, flags).toBe(3);
    }
    return;
  }
  for (const flags of others) {
    const hidden = "warn: lockdown=confidentiality hides the kernel's tracepoints: the raw hook";
    const { status, stdout, stderr } = starts[flags] as Run;
    if (flags === "--attempts raw") expect(stderr).toBe("");
    else expect(stderr, flags).toContain(hidden);
    expect(stdout, flags).toContain("count_attempts");
    expect(status, flags).toBe(0);
  }
  const { before, after } = counted as NonNullable<typeof counted>;
  const grown = (count: (counts: Counts) => number | undefined) =>
    (count(after) ?? Number.NaN) - (count(before) ?? Number.NaN);
  // The storms, which make 20,000 calls of execve and 1,000 of int $0x80, are four starts more.
  expect(grown(({ execve_counter }) => execve_counter)).toBe(21_044);
  expect(grown(({ attempts }) => attempts?.execveat)).toBe(2000);
  expect(grown(({ execs }) => execs)).toBe(44);
  expect(grown(({ watched }) => watched.program)).toBe(40);
  const row = after.execs_by?.find(({ command }) => command === "program");
  expect(row).toEqual({ command: "program", user: "0", parent: "storm", execs: 40 });
  expect(after.failures?.execve).toEqual({ ENOENT: 21_000 });
  expect(after.failures?.execveat).toEqual({ ENOENT: 2000 });
  expect(after.missed).toBe(0);
});
