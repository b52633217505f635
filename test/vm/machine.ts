/** Test machines: Debian's kernels in QEMU, which run a guest that reports. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { projectPath } from "../support/files.ts";

/** Debian's kernels: the suite, the package, and how the kernel is started. */
export const KERNELS = {
  bullseye: { suite: "bullseye", image: "amd64", release: "5.10", append: "" },
  "bullseye-rt": { suite: "bullseye", image: "rt-amd64", release: "5.10", append: "" },
  "bookworm-full": {
    suite: "bookworm",
    image: "cloud-amd64",
    release: "6.1",
    append: "preempt=full",
  },
  trixie: { suite: "trixie", image: "cloud-amd64", release: "6.12", append: "" },
  "trixie-rt": { suite: "trixie", image: "rt-amd64", release: "6.12", append: "" },
  sid: { suite: "sid", image: "cloud-amd64", release: "7.", append: "" },
  "sid-full": { suite: "sid", image: "cloud-amd64", release: "7.", append: "preempt=full" },
  "bullseye-arm64": { suite: "bullseye", image: "arm64", release: "5.10", append: "" },
  "bookworm-arm64": { suite: "bookworm", image: "arm64", release: "6.1", append: "" },
} as const;
/** The same, locked down. */
export const LOCKED = {
  "bullseye-lockdown": { suite: "bullseye", image: "amd64", release: "5.10" },
  "trixie-lockdown": { suite: "trixie", image: "cloud-amd64", release: "6.12" },
} as const;

/** The names in a table that the environment's KERNELS has, or all; @throws Error for an unknown one */
export function chosen<Table extends object>(table: Table): (keyof Table)[] {
  const names = process.env.KERNELS?.split(",") ?? Object.keys(table);
  const stranger = names.find((name) => !(name in KERNELS || name in LOCKED));
  if (stranger) throw new Error(`KERNELS: there is no ${stranger}`);
  return names.filter((name) => name in table) as (keyof Table)[];
}

/** For one boot, in ms: it takes two minutes where another boots at the same time. */
const PATIENCE = 600_000;

/** Whether a kernel's package is for arm64; the others are for x86-64. */
export const isArm = (image: string) => image.endsWith("arm64");

/**
 * Boots the kernel of Debian's package linux-image-`image` with a root file system, and
 * returns what the guest writes to the device that its environment has as `report`. A guest
 * whose kernel panics or locks up, which is the emulation's fault now and then, has no report:
 * that is printed, and it is tried again, twice at most.
 */
export async function boot(
  suite: string,
  image: string,
  initrd: string,
  append: string,
): Promise<unknown> {
  for (let attempt = 1; ; attempt++) {
    const { report, output } = await bootOnce(suite, image, initrd, append);
    if (report) return JSON.parse(report);
    const failed = `no report from ${suite} ${image}:\n${output.slice(-3000)}`;
    if (attempt === 3 || !/Kernel panic|soft lockup/.test(output)) throw new Error(failed);
    console.log(failed);
  }
}

async function bootOnce(suite: string, image: string, initrd: string, append: string) {
  const fetched = spawnSync(
    projectPath("test/vm/fetch-kernel.sh"),
    [suite, `linux-image-${image}`, isArm(image) ? "arm64" : "amd64"],
    { encoding: "utf8" },
  );
  if (fetched.status !== 0) throw new Error(fetched.stderr);
  const directory = mkdtempSync(join(tmpdir(), "execve-counter-"));
  const file = join(directory, "report");
  try {
    // Its processors take turns: with a thread each, under QEMU 7.2, both waited for each other
    // in two guests of some forty, and it took no less time. Without cmpxchg16b, in which one guest
    // in 25 panicked: kernels do without, where it is not there. On arm64, with a cheap way to authenticate pointers instead of the
    // architecture's own, which takes the emulator most of its time.
    const [command, ...board] = isArm(image)
      ? ["qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth-impdef=on"]
      : ["qemu-system-x86_64", "-cpu", "max,-cx16"];
    const [bus, console, report] = isArm(image)
      ? ["pci", "ttyAMA0", "ttyS0"]
      : ["isa", "ttyS0", "ttyS1"];
    const machine = spawn(command as string, [
      ...[...board, "-accel", "tcg,thread=single", "-smp", "2", "-m", "3072", "-net", "none"],
      ...["-kernel", fetched.stdout.trim(), "-initrd", initrd, "-no-reboot"],
      ...["-display", "none", "-monitor", "none", "-serial", "stdio"],
      ...["-chardev", `file,id=report,path=${file}`, "-device", `${bus}-serial,chardev=report`],
      ...["-append", `console=${console} quiet panic=-1 report=/dev/${report} ${append}`],
    ]);
    let output = "";
    machine.stdin.end();
    machine.stdout.on("data", (data) => {
      output += data;
    });
    const patience = setTimeout(() => machine.kill("SIGKILL"), PATIENCE);
    await once(machine, "close");
    clearTimeout(patience);
    return { report: readFileSync(file, "utf8"), output };
  } finally {
    rmSync(directory, { recursive: true });
  }
}
