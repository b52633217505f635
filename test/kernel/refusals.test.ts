import { readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { findMeters } from "../../src/kernel/running.ts";
import { Installation } from "../support/installation.ts";
import { DENY, inMountNamespace, Meter, result } from "../support/meter.ts";

let installed: Installation;

beforeEach(() => {
  installed = new Installation();
});
afterEach(() => installed.remove());

/** Runs `execve-counter --check` behind the words of `wrap`. */
function check(wrap: readonly string[], ...flags: string[]) {
  const [command, ...args] = [...wrap, process.execPath, installed.cli, "--check", ...flags];
  return result(command as string, args);
}

const andRun = (script: string) => `${script} && exec "$0" "$@"`;

const HIDE_TRACEFS = "umount -q -R /sys/kernel/debug /sys/kernel/tracing; true";
const MOUNT_TRACEFS = `${HIDE_TRACEFS} && mount -t tracefs tracefs /sys/kernel/tracing`;

/** As an ordinary user with these capabilities. */
const asNobody = (...capabilities: string[]) => {
  const set = capabilities.map((each) => `+${each}`).join(",");
  const caps = set ? ["--inh-caps", set, "--ambient-caps", set] : ["--inh-caps", "-all"];
  return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ...caps];
};

const deny = (call: "bpf" | "perf_event_open", error: "ENOSYS" | "EPERM" | "EACCES") => [
  DENY,
  call,
  String(constants.errno[error]),
];

function expectRefusal(
  { status, stdout, stderr }: ReturnType<typeof result>,
  exitCode: number,
  what: string,
  remedy: string,
) {
  expect(stderr).toMatch(/^execve-counter: error: .+\nexecve-counter: error: to do: .+\n$/);
  const [first, second] = stderr.split("\n");
  expect(first).toContain(what);
  expect(second).toContain(remedy);
  expect(stdout).toBe("");
  expect(status).toBe(exitCode);
}

/** The raw hook counts, and stderr says why. */
function expectFallback({ status, stdout, stderr }: ReturnType<typeof result>, why: string) {
  expect(stderr).toBe(
    `execve-counter: warn: ${why}: the raw hook counts instead, as with --attempts raw\n`,
  );
  expect(stdout).toMatch(/^program +count_attempts, id \d+, attached to tp_btf\/sys_enter$/m);
  expect(stdout).not.toContain("tracepoint/");
  expect(stdout).toMatch(/\nok\n$/);
  expect(status).toBe(0);
}

test("the installation works before it is damaged", () => {
  const { status, stdout, stderr } = check([]);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout).toMatch(/^program +count_execve, id \d+, attached to tracepoint/m);
  expect(stdout).toMatch(/\nok\n$/);
});

describe("privileges", () => {
  test("an ordinary user is told which capabilities are missing", () => {
    expectRefusal(check(asNobody()), 3, "not permitted", "CAP_BPF and CAP_PERFMON");
  });

  test("root without capabilities is told so too", () => {
    const wrap = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"];
    expectRefusal(check(wrap), 3, "not permitted", "CAP_BPF and CAP_PERFMON");
  });

  test("CAP_BPF without CAP_PERFMON is not enough", () => {
    expectRefusal(check(asNobody("bpf")), 3, "not permitted", "CAP_PERFMON");
  });

  test("two capabilities are enough to count by the raw hook, and a message says so", () => {
    const wrap = [...inMountNamespace(andRun(MOUNT_TRACEFS)), ...asNobody("bpf", "perfmon")];
    expectFallback(check(wrap), "tracefs may not be read (EACCES)");
    const { status, stderr } = check(wrap, "--attempts", "raw");
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  });

  test("the three capabilities are enough where tracefs is mounted", () => {
    const caps = asNobody("bpf", "perfmon", "dac_read_search");
    const { status, stdout, stderr } = check([...inMountNamespace(andRun(MOUNT_TRACEFS)), ...caps]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toMatch(/\nok\n$/);
  });

  test("two are enough to count execs", () => {
    const { status, stdout } = check(asNobody("bpf", "perfmon"), "--attempts", "off");
    expect(status).toBe(0);
    expect(stdout).toMatch(/\nok\n$/);
  });

  test("root of a user namespace is told that it is no more than that", () => {
    const wrap = ["unshare", "--user", "--map-root-user"];
    expectRefusal(check(wrap), 3, "not permitted", "root of the host");
  });

  test("bpf(2) forbidden from above, to root, is told from missing capabilities", () => {
    expectRefusal(check(deny("bpf", "EPERM")), 3, "not permitted", "seccomp");
  });

  test("where perf events are forbidden the raw hook counts, which opens none", () => {
    expectFallback(
      check(deny("perf_event_open", "EACCES")),
      "perf events may not be opened (EACCES)",
    );
  });
});

describe("the kernel", () => {
  test("without BPF", () => {
    expectRefusal(check(deny("bpf", "ENOSYS")), 3, "no BPF", "CONFIG_BPF_SYSCALL");
  });

  test("without perf events", () => {
    expectFallback(
      check(deny("perf_event_open", "ENOSYS")),
      "this kernel has no perf events (ENOSYS)",
    );
  });

  test("without BTF", () => {
    const wrap = inMountNamespace(andRun("mount -t tmpfs tmpfs /sys/kernel/btf"));
    expectRefusal(check(wrap), 3, "no BTF", "CONFIG_DEBUG_INFO_BTF");
  });

  test("without /sys, where the kernel's BTF is", () => {
    const wrap = inMountNamespace(andRun("mount -t tmpfs tmpfs /sys"));
    expectRefusal(check(wrap), 3, "/sys is not mounted", "mount -t sysfs sysfs /sys");
  });

  test("with tracefs not mounted, root mounts it in private", () => {
    const script = `${HIDE_TRACEFS} && "$0" "$@" && ! grep -q ' tracefs ' /proc/self/mounts`;
    const { status, stdout, stderr } = check(inMountNamespace(script));
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toMatch(/\nok\n$/);
  });

  test("with tracefs not mounted, a user who cannot mount it counts by the raw hook", () => {
    const caps = asNobody("bpf", "perfmon", "dac_read_search");
    const wrap = [...inMountNamespace(andRun(HIDE_TRACEFS)), ...caps];
    expectFallback(
      check(wrap),
      "tracefs is not mounted, and the agent cannot mount it for itself (EPERM)",
    );
  });
});

describe("the doctor", () => {
  const doctor = (wrap: readonly string[], ...flags: string[]) => {
    const [command, ...args] = [...wrap, process.execPath, installed.cli, "doctor", ...flags];
    return result(command as string, args);
  };

  test("finds every hook in order here, and names a running meter", async () => {
    const meter = await Meter.start();
    try {
      const newest = Math.max(...findMeters());
      const { status, stdout, stderr } = doctor([]);
      expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
      // The meters of its own tries are not among them.
      const maps = /running meters +maps (.*)$/m.exec(stdout)?.[1]?.split(", ").map(Number) ?? [];
      expect(Math.max(...maps)).toBeLessThanOrEqual(newest);
      for (const hook of ["tracepoint", "raw", "off"]) {
        expect(stdout).toMatch(new RegExp(`^ok +--attempts ${hook} +works$`, "m"));
      }
      expect(stdout).toMatch(new RegExp(`^ok +running meters +maps .*\\b${meter.mapId}\\b`, "m"));
    } finally {
      await meter.stop();
    }
  });

  test("tells an ordinary user what is missing, as JSON too", () => {
    const { status, stdout, stderr } = doctor(asNobody(), "-o", "json");
    expect(status).toBe(3);
    expect(stderr).toContain("the meter cannot run here");
    const findings = JSON.parse(stdout) as { what: string; state: string; remedy: string }[];
    const { state, remedy } = findings.find(({ what }) => what === "capabilities") ?? {};
    expect({ state, remedy }).toEqual({
      ...{ state: "missing", remedy: "run it as root, or with CAP_BPF and CAP_PERFMON" },
    });
  });

  test("says which hook is left where tracefs is out of reach", () => {
    const wrap = [...inMountNamespace(andRun(HIDE_TRACEFS)), ...asNobody("bpf", "perfmon")];
    const { status, stdout } = doctor(wrap);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^note +--attempts tracepoint +tracefs is not mounted/m);
    expect(stdout).toMatch(/^ok +--attempts raw +works$/m);
  });
});

describe("a damaged installation", () => {
  test("without the object", () => {
    rmSync(installed.path("dist/execve_counter.bpf.o"));
    expectRefusal(check([]), 1, "the BPF object is missing", "make build");
  });

  test("with half an object", () => {
    truncateSync(installed.path("dist/execve_counter.bpf.o"), 1500);
    expectRefusal(check([]), 1, "the BPF object cannot be read", "make build");
  });

  test("with an object of nonsense", () => {
    writeFileSync(installed.path("dist/execve_counter.bpf.o"), "nonsense\n".repeat(1000));
    expectRefusal(check([]), 1, "the BPF object cannot be read", "make build");
  });

  test("with an object that the verifier refuses: its own words are in the line", () => {
    const path = installed.path("dist/execve_counter.bpf.o");
    const object = readFileSync(path);
    const callLookup = Buffer.from([0x85, 0, 0, 0, 1, 0, 0, 0]);
    const callNothing = Buffer.from([0x85, 0, 0, 0, 0xff, 0xff, 0, 0]);
    // Every one, because the verifier does not read those that no flag asks for.
    for (let at = object.indexOf(callLookup); at >= 0; at = object.indexOf(callLookup, at)) {
      object.set(callNothing, at);
    }
    writeFileSync(path, object);
    expectRefusal(check([]), 3, "invalid func unknown#65535", "--log.level debug");
  });

  test("without the addon", () => {
    rmSync(installed.path("build/Release/execve_counter.node"));
    expectRefusal(check([]), 1, "the native addon cannot be loaded", "make build");
  });
});

describe("the network", () => {
  test.each(["192.0.2.1:0", "nonexistent.invalid:0"])("%s is no address of ours", (address) => {
    const { stderr, status } = result(process.execPath, [
      installed.cli,
      "--web.listen-address",
      address,
    ]);
    expect(stderr).toContain(`cannot listen on ${address}`);
    expect(status).toBe(1);
  });
});
