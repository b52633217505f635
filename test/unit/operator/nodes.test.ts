import fc from "fast-check";
import { expect, test } from "vitest";
import {
  classify,
  countsOf,
  matches,
  problemsOf,
  REASONS,
  refusalOf,
  type Seen,
  tolerates,
  type Verdict,
} from "../../../src/operator/nodes.ts";
import { MAX_EXAMPLES, MAX_PROBLEMS } from "../../../src/operator/resource.ts";
import type { Node, Pod } from "../../../src/operator/types.ts";
import { node, pod, resource } from "../../support/operator.ts";

const NOW = Date.parse("2026-01-01T00:10:00Z");
const LONG_AGO = "2026-01-01T00:00:00Z";

/** A pod whose agent has ended with these last lines. */
function ended(message: string, more: { reason?: string; exitCode?: number } = {}): Pod {
  const terminated = { exitCode: 3, reason: "Error", message, ...more };
  return pod("a", {
    containerStatuses: [
      {
        ready: false,
        state: { waiting: { reason: "CrashLoopBackOff" } },
        lastState: { terminated },
      },
    ],
  });
}
const log = (what: string) =>
  ended(
    `execve-counter: warn: x\nexecve-counter: error: ${what}\nexecve-counter: error: to do: y\n`,
  );
const waiting = (reason: string) =>
  pod("a", { containerStatuses: [{ ready: false, state: { waiting: { reason, message: "m" } } }] });
const running = [pod("a")];
const ready = node("a");

const CASES: [string, Node, Partial<Seen>, string, string?][] = [
  ["a pod that is ready", ready, { pods: running }, "counting"],
  ["Windows", node("a", { "kubernetes.io/os": "windows" }), {}, "unsupported", "NotLinux"],
  [
    "another machine",
    node("a", { "kubernetes.io/arch": "s390x" }),
    {},
    "unsupported",
    "UnsupportedArch",
  ],
  ["a virtual kubelet", node("a", { type: "virtual-kubelet" }), {}, "unsupported", "Virtual"],
  [
    "Fargate",
    node("a", { "eks.amazonaws.com/compute-type": "fargate" }),
    {},
    "unsupported",
    "Virtual",
  ],
  ["a node that is down", node("a", {}, "Unknown"), { pods: running }, "failing", "Silent"],
  ["no pod yet", ready, { missing: 1000 }, "starting"],
  ["no pod for long", ready, { missing: 100_000 }, "failing", "NoPod"],
  ["a pod that may not be", ready, { refusal: "violates PodSecurity" }, "failing", "NotPermitted"],
  [
    "a pod without room",
    ready,
    {
      pods: [
        pod("a", {
          conditions: [{ type: "PodScheduled", status: "False", message: "Insufficient cpu" }],
        }),
      ],
    },
    "failing",
    "NoRoom",
  ],
  [
    "an evicted pod",
    ready,
    { pods: [pod("a", { phase: "Failed", reason: "Evicted" })] },
    "failing",
    "NoRoom",
  ],
  [
    "a pod that failed",
    ready,
    { pods: [pod("a", { phase: "Failed", reason: "Other" })] },
    "failing",
    "Failing",
  ],
  ["no image", ready, { pods: [waiting("ImagePullBackOff")] }, "failing", "ImagePull"],
  ["no container", ready, { pods: [waiting("CreateContainerError")] }, "failing", "NotPermitted"],
  ["a container that is being made", ready, { pods: [waiting("ContainerCreating")] }, "starting"],
  [
    "no BTF",
    ready,
    { pods: [log("this kernel has no BTF: there is no /sys/kernel/btf/vmlinux")] },
    "failing",
    "NoBTF",
  ],
  [
    "no BPF",
    ready,
    { pods: [log("this kernel has no BPF (load: ENOSYS)")] },
    "failing",
    "KernelTooOld",
  ],
  [
    "a verifier that refuses",
    ready,
    { pods: [log("the kernel refuses the program (load count_exec: EINVAL)")] },
    "failing",
    "KernelTooOld",
  ],
  [
    "no right",
    ready,
    { pods: [log("not permitted to use BPF (load: EPERM)")] },
    "failing",
    "NotPermitted",
  ],
  [
    "other pins",
    ready,
    { pods: [log("another execve-counter uses the pins in /pins/a")] },
    "failing",
    "Pinned",
  ],
  ["no memory", ready, { pods: [log("out of memory (load: ENOMEM)")] }, "failing", "OutOfMemory"],
  [
    "a killed agent",
    ready,
    { pods: [ended("", { reason: "OOMKilled", exitCode: 137 })] },
    "failing",
    "OutOfMemory",
  ],
  [
    "another end",
    ready,
    { pods: [log("cannot listen on :11059 (EADDRINUSE)")] },
    "failing",
    "Failing",
  ],
  [
    "a pod that is not ready",
    ready,
    { pods: [pod("a", { startTime: LONG_AGO })] },
    "failing",
    "Silent",
  ],
  ["another resource", ready, { pods: running, other: "b/c" }, "counting", "Shared"],
  ["two pods", ready, { pods: [...running, pod("a", {}, "canary")] }, "counting", "Shared"],
  ["an agent that is silent", ready, { pods: running, answer: "silent" }, "counting", "Silent"],
  [
    "a full table",
    ready,
    { pods: running, answer: { full: true, list: "" } },
    "counting",
    "TableFull",
  ],
];

test.each(CASES)("%s", (_, where, seen, state, reason) => {
  const verdict = classify(where, resource(), { pods: [], ...seen }, NOW);
  expect(verdict).toMatchObject({ node: "a", state });
  expect(verdict.reason).toBe(reason);
});

test("a refusal counts while it is new, and after it no pod was made", () => {
  const at = (ms: number) => new Date(NOW - ms).toISOString();
  const events = [{ message: "violates PodSecurity", lastTimestamp: at(60_000) }];
  const made = (ms: number) => {
    const one = pod("a");
    return { ...one, metadata: { ...one.metadata, creationTimestamp: at(ms) } };
  };
  const refusal = "violates PodSecurity";
  expect(refusalOf(events, [], NOW)).toBe(refusal);
  expect(refusalOf(events, [made(90_000)], NOW)).toBe(refusal);
  expect(refusalOf(events, [made(90_000), made(30_000)], NOW)).toBeUndefined();
  expect(refusalOf(events, [], NOW + 3_600_000)).toBeUndefined();
  expect(refusalOf([{ message: "no time", lastTimestamp: null }], [], NOW)).toBeUndefined();
});

test("in a crash loop the reason stays, whether it waits or runs, until it runs for long", () => {
  const lastState = { terminated: { exitCode: 3, message: "this kernel has no BTF" } };
  const reason = (state: object, ready = false) => {
    const status = { startTime: LONG_AGO, containerStatuses: [{ ready, state, lastState }] };
    return classify(node("a"), resource(), { pods: [pod("a", status)] }, NOW).reason;
  };
  const since = (ms: number) => ({ running: { startedAt: new Date(NOW - ms).toISOString() } });
  expect(reason({ waiting: { reason: "CrashLoopBackOff" } })).toBe("NoBTF");
  expect(reason(since(5000))).toBe("NoBTF");
  expect(reason(since(100_000))).toBe("Silent");
  expect(reason(since(5000), true)).toBe("Silent");
});

test("what the spec leaves out is excluded", () => {
  const seen = { pods: [] };
  const state = (where: Node, spec: Parameters<typeof resource>[0]) =>
    classify(where, resource(spec), seen, NOW);
  expect(state(ready, { nodeSelector: { pool: "b" } })).toMatchObject({
    state: "excluded",
    reason: "Selector",
  });
  const nodeAffinity = [
    { matchExpressions: [{ key: "pool", operator: "In" as const, values: ["a", "b"] }] },
  ];
  expect(state(ready, { nodeAffinity })).toMatchObject({ state: "excluded", reason: "Selector" });
  expect(state(node("a", { pool: "b" }), { nodeAffinity }).state).toBe("starting");
  const tainted = { ...ready, spec: { taints: [{ key: "gpu", effect: "NoSchedule" }] } };
  expect(state(tainted, { tolerations: [] })).toMatchObject({
    reason: "Tainted",
    message: "gpu:NoSchedule",
  });
  expect(state(tainted, {}).state).toBe("starting");
  const cordoned = {
    ...ready,
    spec: { taints: [{ key: "node.kubernetes.io/unschedulable", effect: "NoSchedule" }] },
  };
  expect(state(cordoned, { tolerations: [] }).state).toBe("starting");
});

test("every reason is found somewhere above, and says what to do", () => {
  const found = new Set([
    ...CASES.flatMap(([, , , , reason]) => reason ?? []),
    "Selector",
    "Tainted",
  ]);
  expect([...found].sort()).toEqual(Object.keys(REASONS).sort());
});

test("the message is what the agent said failed", () => {
  const seen = { pods: [log("this kernel has no BTF: there is no /sys/kernel/btf/vmlinux")] };
  expect(classify(ready, resource(), seen, NOW).message).toBe(
    "this kernel has no BTF: there is no /sys/kernel/btf/vmlinux",
  );
});

test("expressions and tolerations are as the scheduler has them", () => {
  const is = (operator: string, values: string[], labels: Record<string, string>) =>
    matches({ key: "k", operator, values }, labels);
  expect(is("In", ["a"], { k: "a" })).toBe(true);
  expect(is("In", ["a"], {})).toBe(false);
  expect(is("NotIn", ["a"], {})).toBe(true);
  expect(is("NotIn", ["a"], { k: "a" })).toBe(false);
  expect(is("Exists", [], { k: "" })).toBe(true);
  expect(is("DoesNotExist", [], { k: "" })).toBe(false);
  expect(is("Gt", ["3"], { k: "4" })).toBe(true);
  expect(is("Gt", ["3"], { k: "3" })).toBe(false);
  expect(is("Lt", ["3"], { k: "x" })).toBe(false);
  const taint = { key: "k", value: "v", effect: "NoSchedule" };
  expect(tolerates({ operator: "Exists" }, taint)).toBe(true);
  expect(tolerates({}, taint)).toBe(false);
  expect(tolerates({ key: "k", value: "v" }, taint)).toBe(true);
  expect(tolerates({ key: "k", value: "w" }, taint)).toBe(false);
  expect(tolerates({ key: "k", operator: "Exists", effect: "NoExecute" }, taint)).toBe(false);
});

test("however many nodes there are, the problems stay few, and no node is lost", () => {
  const verdicts = fc.array(
    fc.record({
      node: fc.string({ minLength: 1, maxLength: 20 }),
      state: fc.constantFrom("counting", "starting", "failing", "unsupported", "excluded"),
      reason: fc.constantFrom(...Object.keys(REASONS), undefined),
      message: fc.string({ maxLength: 300 }),
    }),
    { maxLength: 300 },
  ) as fc.Arbitrary<Verdict[]>;
  fc.assert(
    fc.property(verdicts, (all) => {
      const { eligible, counting, starting, failing, unsupported, excluded } = countsOf(all);
      expect(eligible + unsupported + excluded).toBe(all.length);
      expect(counting + starting + failing).toBe(eligible);
      const problems = problemsOf(all);
      expect(problems.length).toBeLessThanOrEqual(MAX_PROBLEMS);
      for (const { examples, nodes } of problems) {
        expect(examples.length).toBe(Math.min(nodes, MAX_EXAMPLES));
      }
      const counted = problems.reduce((sum, { nodes }) => sum + nodes, 0);
      const due = all.filter(
        ({ reason, state }) => reason && state !== "excluded" && state !== "unsupported",
      );
      expect(counted).toBe(due.length);
    }),
  );
});
