/** What a kernel can do, by its release. */

/**
 * Whether a kernel is of this version or newer.
 *
 * @param kernelRelease as uname(2) has it: "6.1.0-18-amd64"
 */
export function isAtLeast(kernelRelease: string, major: number, minor: number): boolean {
  const [first = 0, second = 0] = kernelRelease.split(".").map((part) => Number.parseInt(part, 10));
  return first > major || (first === major && second >= minor);
}

/**
 * Whether a kernel counts the runs it skips of programs on classic tracepoints,
 * which Linux does from 6.7 on (bpf_prog_inc_misses_counters() in trace_call_bpf()).
 */
export function reportsTracepointMisses(kernelRelease: string): boolean {
  return isAtLeast(kernelRelease, 6, 7);
}
